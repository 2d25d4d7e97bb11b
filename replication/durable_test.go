package replication

import (
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// hangingFS is a disk whose syncs wait while it is hung, and may fail then.
type hangingFS struct {
	vfs.FS
	mu   sync.Mutex
	cond sync.Cond // on mu
	hung bool
	err  error // of syncs, from now on
}

func newHangingFS() *hangingFS {
	f := &hangingFS{FS: vfs.Default}
	f.cond.L = &f.mu
	return f
}

func (f *hangingFS) hang(hung bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hung = hung
	f.cond.Broadcast()
}

func (f *hangingFS) breakDown(err error) {
	f.mu.Lock()
	f.err = err
	f.mu.Unlock()
	f.hang(false)
}

func (f *hangingFS) pass() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.hung {
		f.cond.Wait()
	}
	return f.err
}

func (f *hangingFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	file, err := f.FS.Create(name, c)
	return &hangingFile{file, f}, err
}

func (f *hangingFS) ReuseForWrite(old, name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	file, err := f.FS.ReuseForWrite(old, name, c)
	return &hangingFile{file, f}, err
}

type hangingFile struct {
	vfs.File
	fs *hangingFS
}

func (f *hangingFile) Sync() error                  { return errors.Join(f.fs.pass(), f.File.Sync()) }
func (f *hangingFile) SyncData() error              { return errors.Join(f.fs.pass(), f.File.SyncData()) }
func (f *hangingFile) SyncTo(n int64) (bool, error) { return false, f.Sync() }

// leaderOf makes a node of that site lead, and returns it.
func (v *village) leaderOf(site string) int {
	v.Helper()
	l := -1
	v.until("a leader in "+site, func() bool {
		if l = v.leader(); v.members[l].conf.Site == site {
			return true
		}
		v.members[l].db.TransferLeadership(v.ctx())
		return false
	})
	return l
}

// A leader that was elected a moment ago has heard from nobody yet. That does not make
// the other site dead: until SiteLive has passed it waits for it.
func TestL3_NewLeaderWaitsForTheOtherSite(t *testing.T) {
	t.Parallel()
	const siteLive = 4 * time.Second
	v := newVillage(t, func(_ int, c *Config) { c.SiteLive = siteLive }, "berlin", "berlin", "paris")
	l := v.leaderOf("berlin")
	paris := slices.IndexFunc(v.members, func(m *member) bool { return m.conf.Site == "paris" })
	// Calls to it hang: that proves nothing. (Where they fail it is known to be gone.)
	v.hush(paris)
	v.put(l, "behind", "x") // so that leadership goes to who has it
	start := time.Now()
	v.ok(v.members[l].db.TransferLeadership(v.ctx()))
	next := v.leaderOf("berlin")
	if next == l {
		t.Fatal("the same leader")
	}
	v.put(next, "a", "1")
	if d := time.Since(start); d < siteLive {
		t.Errorf("acknowledged %s after the election, with one site", d)
	}
}

// A disk that hangs does not stop its node's heartbeats, which need none. Its site
// counts as dead all the same, and as live once it has caught up.
func TestL3_HangingDiskIsADeadSite(t *testing.T) {
	t.Parallel()
	disk := newHangingFS()
	v := newVillage(t, func(i int, c *Config) {
		c.SiteLive, c.WriteTimeout = time.Second, 20*time.Second
		if c.Site == "paris" {
			c.FS = disk
		}
	}, "berlin", "berlin", "paris")
	defer disk.hang(false)
	l := v.leaderOf("berlin")
	disk.hang(true)
	for range 3 {
		v.put(l, "a", "1")
	}
	disk.hang(false)
	v.put(l, "b", "2")
	v.until("paris to have it", func() bool { _, ok := get(v.members[2].db, "b"); return ok })
}

func TestL3_LiveSite(t *testing.T) {
	t.Parallel()
	const within = 3 * time.Second
	c, now := newContacts(), time.Now()
	c.now = func() time.Time { return now }
	sleep := func(d time.Duration) { now = now.Add(d) }
	live := func(term, index uint64) bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.live("p", term, index, within)
	}
	check := func(what string, got, want bool) {
		t.Helper()
		if got != want {
			t.Errorf("%s: live %v", what, got)
		}
	}
	c.leads(1)
	check("nothing heard by a new leader", live(1, 10), true)
	sleep(within)
	c.leads(1)
	check("nothing heard for SiteLive", live(1, 11), false)
	c.note("p", 1, now, 5)
	check("answers, owes 10", live(1, 11), false)
	c.note("p", 1, now, 10)
	check("has what it owed", live(1, 12), true)
	sleep(within - time.Millisecond)
	c.note("p", 1, now, 11)
	check("owes 12, not for too long", live(1, 13), true)
	sleep(time.Millisecond)
	check("owes 12 for too long", live(1, 13), false)
	c.note("p", 1, now, 13)
	sleep(2 * within)
	c.note("p", 1, now, 0)
	check("an idle hour is nobody's debt", live(1, 14), true)
	sleep(2 * within)
	c.leads(2)
	check("a new term", live(2, 15), true)
	sleep(within)
	check("and nothing heard in it", live(2, 15), false)
}

// A leader whose disk hangs and then fails closes, though more read indexes were asked
// of it meanwhile than raft takes in.
func TestL11_CloseWithReadIndexesWaiting(t *testing.T) {
	t.Parallel()
	var disks [3]*hangingFS
	v := newVillage(t, func(i int, c *Config) {
		disks[i] = newHangingFS()
		c.FS = disks[i]
	}, "berlin", "paris", "rome")
	l := v.leader()
	m, f := v.members[l], v.members[(l+1)%3]
	db := m.db
	disks[l].hang(true)
	go db.Update(v.ctx(), func(tx *Tx) error { tx.Put([]byte("a"), nil); return nil })
	var asked sync.WaitGroup
	taken := make(chan struct{}, 1000)
	for range cap(taken) { // until raft takes no more
		asked.Go(func() { db.raft.VerifyLeader(); taken <- struct{}{} })
	}
	v.until("raft to be full", func() bool {
		n := len(taken)
		pause(v.ctx(), 200*time.Millisecond)
		return n >= 64 && n < cap(taken) && n == len(taken)
	})
	asked.Go(func() {
		c := newCaller(f.lane, f.db.greeter)
		defer c.close()
		c.ask(v.ctx(), m.id(), sealFrame(append(frame(askReadIndex, 1), askNow)), nil)
	})
	v.until("the question to be waiting", func() bool {
		db.responder.mu.Lock()
		defer db.responder.mu.Unlock()
		return db.responder.open[f.id()] > 0
	})
	disks[l].breakDown(errDisk)
	<-db.Fatal()
	closed := make(chan error, 1)
	go func() { closed <- db.Close() }()
	m.db = nil
	select {
	case err := <-closed:
		v.ok(err)
	case <-time.After(patience):
		t.Fatal("Close waits for ever")
	}
	asked.Wait()
}

// A new leader that cannot dial a server need not wait for SiteLive to believe it gone;
// an answer not long ago counts for more than a failed dial.
func TestL3_UnreachableSite(t *testing.T) {
	t.Parallel()
	c, now := newContacts(), time.Now()
	c.now = func() time.Time { return now }
	live := func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.live("p", 1, 10, 3*time.Second)
	}
	c.leads(1)
	c.failed("p")
	if !live() {
		t.Error("one failed dial was enough")
	}
	now = now.Add(unreachableAfter)
	c.failed("p")
	if live() {
		t.Error("dials go on failing, and it is live")
	}
	c.alive("p")
	now = now.Add(unreachableAfter)
	if !live() {
		t.Error("it answered, and is not live")
	}
	c.failed("p")
	now = now.Add(2 * unreachableAfter)
	if !live() {
		t.Error("it answered a moment ago: a failed dial is no proof")
	}
}

// The leader dies, alone at its site. The other site goes on at once: it need not wait
// for SiteLive, since nobody takes its calls.
func TestL3_WritesResumeWhenTheLeadersSiteDies(t *testing.T) {
	t.Parallel()
	v := newVillage(t, func(_ int, c *Config) { c.SiteLive = 2 * patience }, "berlin", "berlin", "paris")
	paris := v.leaderOf("paris")
	v.put(0, "before", "x")
	start := time.Now()
	v.stop(paris)
	v.put(0, "after", "x")
	t.Logf("writes resumed after %s", time.Since(start))
}

// Handing over where nobody can take over ends by itself, and the leader goes on.
func TestHandOverToNobody(t *testing.T) {
	t.Parallel()
	v := newVillage(t, nil, "berlin")
	if err := v.members[0].db.TransferLeadership(v.ctx()); err == nil {
		t.Error("handed over to nobody")
	}
	v.put(0, "goes on", "x")
}
