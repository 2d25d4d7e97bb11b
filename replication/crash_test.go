package replication

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/raft"
)

func TestL10_NoLedgerNoStart(t *testing.T) {
	t.Parallel()
	lane := newTestLane(t)
	c := testConfig(t, lane, t.TempDir()+"/ledger", "berlin")
	if _, err := Open(t.Context(), c); !errors.Is(err, ErrNoLedger) {
		t.Errorf("nothing created: got %v", err)
	}
	if err := Create(c, true); err != nil {
		t.Fatal(err)
	}
	if err := Create(c, true); !errors.Is(err, ErrExists) {
		t.Errorf("created twice: got %v", err)
	}
	if err := os.RemoveAll(c.Dir + "/log"); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), c); !errors.Is(err, ErrNoLedger) {
		t.Errorf("log is gone: got %v", err)
	}
	if err := os.RemoveAll(c.Dir); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), c); !errors.Is(err, ErrNoLedger) {
		t.Errorf("all is gone: got %v", err)
	}
}

// A voter loses its disk and keeps its key. It does not start; and if somebody makes it a
// new empty ledger all the same, it gets no say: with its vote a node that lacks what it
// had acknowledged would lead, and that would be lost.
func TestL10_WipedVoter(t *testing.T) {
	t.Parallel()
	v := newVillage(t, nil, "berlin", "berlin", "berlin")
	v.lead(0)
	const wiped, behind = 1, 2
	v.cutOff(behind, true)
	v.put(0, "acknowledged", "x")
	v.stop(0)
	v.stop(wiped)
	m := v.members[wiped]
	v.ok(os.RemoveAll(m.conf.Dir))
	if _, err := Open(t.Context(), m.conf); !errors.Is(err, ErrNoLedger) {
		t.Errorf("Open without a ledger: %v", err)
	}
	v.ok(Create(m.conf, false))
	v.start(wiped)
	v.cutOff(behind, false)
	db := v.members[behind].db
	v.until("its vote to be refused", func() bool {
		db.greeter.mu.Lock()
		defer db.greeter.mu.Unlock()
		return db.greeter.refused[m.id().String()] == errWiped.Error()
	})
	v.start(0)
	v.ok(db.ReadIndex(v.ctx()))
	if _, ok := get(db, "acknowledged"); !ok {
		t.Error("what was acknowledged is lost")
	}
	if _, ok := get(m.db, "acknowledged"); ok {
		t.Error("it was filled while it has a vote")
	}
}

// Once a wiped voter was replaced, it may come back without a vote and be filled.
func TestL10_WipedVoterComesBack(t *testing.T) {
	t.Parallel()
	v := newVillage(t, func(_ int, c *Config) { c.ReplaceAfter, c.SiteLive = time.Second, time.Second },
		"berlin", "berlin", "berlin", "berlin")
	v.put(0, "a", "1")
	l := v.leader()
	wiped := slices.IndexFunc(v.members, func(m *member) bool { return m != v.members[l] && v.members[l].db.hasVote(m.id()) })
	v.stop(wiped)
	v.ok(os.RemoveAll(v.members[wiped].conf.Dir))
	v.ok(Create(v.members[wiped].conf, false))
	v.start(wiped)
	v.until("it to be filled", func() bool { _, ok := get(v.members[wiped].db, "a"); return ok })
}

// A disk that fills up in the middle of a commit, at whatever byte, stops the node and
// nothing else: with room again it opens and has all it acknowledged (T8, L11).
func TestL11_DiskFullInACommit(t *testing.T) {
	t.Parallel()
	for _, room := range []int64{1, 100, 1000, 3333, 4096, 5000, 10001} {
		t.Run(fmt.Sprint(room), func(t *testing.T) {
			t.Parallel()
			mem := crashableDisk(t)
			disk := &fullFS{FS: mem}
			disk.left.Store(1 << 40)
			v := newVillage(t, func(_ int, c *Config) { c.FS, c.Dir, c.WriteTimeout = disk, "/data/ledger", 10*time.Second }, "berlin")
			want := make(map[string]string)
			disk.left.Store(room)
			db := v.members[0].db
			for i := 0; ; i++ {
				key, value := fmt.Sprintf("k%04d", i), strings.Repeat("v", 300)
				err := db.Update(v.ctx(), func(tx *Tx) error { tx.Put([]byte(key), []byte(value)); return nil })
				if err == nil {
					want[key] = value
					continue
				}
				if !errors.Is(err, ErrUnknown) && !errors.Is(err, ErrNoQuorum) && !errors.Is(err, ErrClosed) {
					t.Errorf("Update: %v", err)
				}
				break
			}
			if err := <-db.Fatal(); err == nil || !strings.Contains(err.Error(), syscall.ENOSPC.Error()) {
				t.Errorf("fatal: %v", err)
			}
			db.Close()
			conf := v.members[0].conf
			v.members[0].db = nil
			for name, after := range map[string]*vfs.MemFS{
				"killed": mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(1, 1))}),
				"power":  mem.CrashClone(vfs.CrashCloneCfg{}),
			} {
				conf.FS = after
				again, err := Open(t.Context(), conf)
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				v.ok(again.ReadIndex(v.ctx()))
				got := dump(again)
				for key, value := range want {
					if got[key] != value {
						t.Errorf("%s: %s was acknowledged, and is lost", name, key)
					}
				}
				if len(got) > len(want)+1 {
					t.Errorf("%s: %d keys, %d were acknowledged", name, len(got), len(want))
				}
				v.ok(again.Close())
			}
		})
	}
}

// fullFS has room for so many bytes; what does not fit is cut, as disks do.
type fullFS struct {
	vfs.FS
	left atomic.Int64
}

func (f *fullFS) wrap(file vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return &fullFile{file, f}, nil
}

func (f *fullFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return f.wrap(f.FS.Create(name, c))
}

func (f *fullFS) ReuseForWrite(old, name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return f.wrap(f.FS.ReuseForWrite(old, name, c))
}

type fullFile struct {
	vfs.File
	fs *fullFS
}

func (f *fullFile) Write(p []byte) (int, error) {
	if left := f.fs.left.Add(-int64(len(p))); left < 0 {
		fits := max(0, int64(len(p))+left)
		f.fs.left.Store(0)
		n, err := f.File.Write(p[:fits])
		return n, errors.Join(syscall.ENOSPC, err)
	}
	return f.File.Write(p)
}

// An interrupted Create leaves nothing that counts as a ledger, and can be repeated.
func TestL10_CreateIsAllOrNothing(t *testing.T) {
	t.Parallel()
	lane := newTestLane(t)
	for stop := int64(1); ; stop++ {
		mem := crashableDisk(t)
		fs := &failingFS{FS: mem}
		fs.left.Store(stop)
		c := testConfig(t, lane, "/data/ledger", "berlin")
		c.FS = fs
		err := Create(c, true)
		if err == nil {
			t.Logf("%d writes and syncs", stop)
			return
		}
		c.FS = mem.CrashClone(vfs.CrashCloneCfg{})
		if _, err := Open(t.Context(), c); !errors.Is(err, ErrNoLedger) {
			t.Fatalf("stopped at %d: Open: %v", stop, err)
		}
		if err := Create(c, true); err != nil {
			t.Fatalf("stopped at %d: again: %v", stop, err)
		}
	}
}

var errDisk = errors.New("disk is broken")

// failingFS fails every write, sync and rename after the first so many. Zero left
// from the start means that nothing fails.
type failingFS struct {
	vfs.FS
	left atomic.Int64
	on   atomic.Bool
	each func() // called before each, if not nil
}

func (f *failingFS) fails() error {
	if f.each != nil {
		f.each()
	}
	if f.left.Load() > 0 && f.left.Add(-1) == 0 {
		f.on.Store(true)
	}
	if f.on.Load() {
		return errDisk
	}
	return nil
}

func (f *failingFS) wrap(file vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return &failingFile{file, f}, nil
}

func (f *failingFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if err := f.fails(); err != nil {
		return nil, err
	}
	return f.wrap(f.FS.Create(name, c))
}
func (f *failingFS) ReuseForWrite(old, name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return f.wrap(f.FS.ReuseForWrite(old, name, c))
}
func (f *failingFS) OpenDir(name string) (vfs.File, error) { return f.wrap(f.FS.OpenDir(name)) }
func (f *failingFS) Rename(old, name string) error {
	if err := f.fails(); err != nil {
		return err
	}
	return f.FS.Rename(old, name)
}

type failingFile struct {
	vfs.File
	fs *failingFS
}

func (f *failingFile) Write(p []byte) (int, error) {
	if err := f.fs.fails(); err != nil {
		return 0, err
	}
	return f.File.Write(p)
}

func (f *failingFile) Sync() error {
	if err := f.fs.fails(); err != nil {
		return err
	}
	return f.File.Sync()
}
func (f *failingFile) SyncData() error { return f.Sync() }
func (f *failingFile) SyncTo(n int64) (bool, error) {
	if err := f.fs.fails(); err != nil {
		return false, err
	}
	return f.File.SyncTo(n)
}

// A state whose log is gone is not opened as if nothing were missing, though an empty log
// is what a snapshot leaves.
func TestL6_LostLog(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		shows, snapshot, ahead uint64
		ok                     bool
	}{
		"nothing yet":                        {0, 0, 0, true},
		"no snapshot":                        {9, 0, 0, false},
		"the snapshot has it":                {9, 9, 0, true},
		"more than the snapshot":             {9, 8, 0, false},
		"it was newer than the one received": {9, 5, 9, true},
	} {
		mem := crashableDisk(t)
		conf := testConfig(t, newTestLane(t), "/data/ledger", "berlin")
		conf.FS = mem
		if err := Create(conf, false); err != nil {
			t.Fatal(err)
		}
		f := &folder{fs: mem, dir: conf.Dir, fatal: newFatal(testLogger(t))}
		st := must(f.openState(must(f.current())))
		var err error
		if c.snapshot > 0 {
			err = coverAhead(st, &raft.SnapshotMeta{Index: c.snapshot, Term: 1, Configuration: onlyVoter(conf.ID.String())}, c.ahead)
		}
		if err := errors.Join(err, st.pdb.Set(keyApplied, encodeApplied(c.shows, 1), pebble.Sync), st.pdb.Close()); err != nil {
			t.Fatal(err)
		}
		db, err := Open(t.Context(), conf)
		if (err == nil) != c.ok || err != nil && !errors.Is(err, errCorrupt) {
			t.Errorf("%s: got %v", name, err)
		}
		if err == nil {
			db.Close()
		}
	}
}

// A node that was killed and starts alone knows what it knew a moment before.
func TestL6_StateIsSoonOnDisk(t *testing.T) {
	t.Parallel()
	v, mem := one(t, nil)
	v.put(0, "revoked", "x")
	conf := v.members[0].conf
	want := v.members[0].db.machine.applied.Load()
	until(t, "the state to reach the disk", func() bool {
		f := &folder{fs: mem.CrashClone(vfs.CrashCloneCfg{}), dir: conf.Dir, fatal: newFatal(testLogger(t))}
		name, err := f.current()
		v.ok(err)
		st, err := f.openState(name)
		v.ok(err)
		defer st.pdb.Close()
		index, _, err := readApplied(st.pdb)
		v.ok(err)
		return index >= want
	})
}

// What was acknowledged is there after a crash that drops all that was not synced.
func TestL6_CrashLosesNothing(t *testing.T) {
	t.Parallel()
	v, mem := one(t, nil)
	want := make(map[string]string)
	for i := range 50 {
		key := fmt.Sprintf("k%02d", i)
		v.put(0, key, "x")
		want[key] = "x"
		if i%10 == 0 {
			crashed := v.members[0].conf
			crashed.FS = mem.CrashClone(vfs.CrashCloneCfg{})
			db, err := Open(t.Context(), crashed)
			v.ok(err)
			v.ok(db.ReadIndex(v.ctx()))
			if diff := cmp.Diff(want, dump(db)); diff != "" {
				t.Fatalf("after %d: %s", i, diff)
			}
			v.ok(db.Close())
		}
	}
}

func TestL6_RestartReplaysNothing(t *testing.T) {
	t.Parallel()
	v := newVillage(t, nil, "berlin")
	for i := range 100 {
		v.put(0, fmt.Sprint("k", i), "x")
	}
	v.stop(0)
	v.start(0)
	db := v.members[0].db
	if n := len(dump(db)); n != 100 {
		t.Errorf("%d keys before any entry was applied, want 100", n)
	}
	v.ok(db.ReadIndex(v.ctx()))
	// The new leader's own empty entry, and what elections and sites add.
	if n := db.Status().Entries; n > 5 {
		t.Errorf("%d entries were applied again", n)
	}
}

// everySnapshot makes snapshots that keep no log behind them.
func everySnapshot(c *Config) {
	c.SnapshotEvery, c.TrailingLogs, c.SnapshotInterval = 20, 1, 20*time.Millisecond
}

func TestL6_SnapshotThenCrash(t *testing.T) {
	t.Parallel()
	v, mem := one(t, everySnapshot)
	for i := range 100 {
		v.put(0, fmt.Sprintf("k%03d", i), "x")
	}
	db := v.members[0].db
	v.until("a snapshot and a short log", func() bool {
		v.put(0, "more", "x")
		first, _ := db.log.FirstIndex()
		return first > 50
	})
	want := dump(db)
	crashed := v.members[0].conf
	crashed.FS = mem.CrashClone(vfs.CrashCloneCfg{})
	again, err := Open(t.Context(), crashed)
	v.ok(err)
	defer again.Close()
	v.ok(again.ReadIndex(v.ctx()))
	if diff := cmp.Diff(want, dump(again)); diff != "" {
		t.Error(diff)
	}
}

// A node that is so far behind that the log is gone gets a snapshot; its Views and
// Watches go over to it, and it goes on from there.
func TestL7_SnapshotInstall(t *testing.T) {
	t.Parallel()
	v := newVillage(t, func(_ int, c *Config) { everySnapshot(c) }, "berlin", "paris", "rome")
	v.put(0, "gone", "x")
	f := v.follower()
	db := v.members[f].db
	v.ok(db.ReadIndex(v.ctx()))
	old, err := db.states.acquire() // as a long View would
	v.ok(err)
	snap := old.pdb.NewSnapshot()
	v.cutOff(f, true)
	l := v.leader()
	v.until("another leader", func() bool { l = v.leader(); return l != f })
	v.ok(v.members[l].db.Update(v.ctx(), func(tx *Tx) error { tx.Delete([]byte("gone")); return nil }))
	last := db.raft.LastIndex()
	i := 0
	v.until("the log to be cut", func() bool {
		v.put(l, fmt.Sprint("k", i), "x")
		i++
		first, _ := v.members[l].db.log.FirstIndex()
		return first > last+10
	})
	v.cutOff(f, false)
	v.ok(db.ReadIndex(v.ctx()))
	if diff := cmp.Diff(dump(v.members[l].db), dump(db)); diff != "" {
		t.Error(diff)
	}
	if st, _ := db.states.acquire(); st == old {
		t.Error("no snapshot was installed")
	} else {
		db.states.release(st)
	}
	// The old state serves its last reader, then its folder goes.
	if index, _, err := readApplied(snap); err != nil || index == 0 {
		t.Errorf("old state: %d, %v", index, err)
	}
	v.ok(snap.Close())
	db.states.release(old)
	v.until("the old folder to go", func() bool {
		_, err := os.Stat(db.folder.path(old.name))
		return errors.Is(err, os.ErrNotExist)
	})
	v.put(f, "after", "x")
	v.stop(f)
	v.start(f)
	v.ok(v.members[f].db.ReadIndex(v.ctx()))
	v.ok(v.members[l].db.ReadIndex(v.ctx()))
	if diff := cmp.Diff(dump(v.members[l].db), dump(v.members[f].db)); diff != "" {
		t.Error(diff)
	}
}

// receive feeds a snapshot of from to the store of to, as raft does, up to and
// including Close; Restore is not called.
func receive(t *testing.T, from, to *DB, meta *raft.SnapshotMeta) {
	t.Helper()
	st, err := from.states.acquire()
	if err != nil {
		t.Fatal(err)
	}
	defer from.states.release(st)
	sink, err := to.snapshots.Create(1, meta.Index, meta.Term, meta.Configuration, meta.ConfigurationIndex, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := writeStream(sink, st.pdb); err != nil {
		t.Fatal(err)
	}
	if err := sink.Close(); err != nil {
		t.Fatal(err)
	}
}

// A kill between a received snapshot's Close and its Restore: the state is the
// snapshot's, the log that ends before it is emptied, and nothing is skipped.
func TestL6_KillBetweenCloseAndRestore(t *testing.T) {
	t.Parallel()
	source := newVillage(t, nil, "berlin")
	for i := range 200 {
		source.put(0, fmt.Sprintf("s%03d", i), "x")
	}
	v, mem := one(t, nil)
	v.put(0, "old", "x")
	db, from := v.members[0].db, source.members[0].db
	index, term := from.machine.applied.Load(), from.machine.term.Load()+5
	meta := &raft.SnapshotMeta{Index: index, Term: term, Configuration: db.raft.GetConfiguration().Configuration(), ConfigurationIndex: 1}
	receive(t, from, db, meta)
	want := dump(from)
	crashed := v.members[0].conf
	crashed.FS = mem.CrashClone(vfs.CrashCloneCfg{})
	again, err := Open(t.Context(), crashed)
	v.ok(err)
	defer func() { again.Close() }()
	if diff := cmp.Diff(want, dump(again)); diff != "" {
		t.Error(diff)
	}
	if first, _ := again.log.FirstIndex(); first != 0 && first <= index {
		t.Errorf("the old log survives from %d on", first)
	}
	v.ok(again.Update(v.ctx(), func(tx *Tx) error { tx.Put([]byte("new"), nil); return nil }))
	if at := again.machine.applied.Load(); at <= index {
		t.Errorf("the log goes on at %d, the snapshot was at %d", at, index)
	}
	names, err := crashed.FS.List(crashed.Dir)
	v.ok(err)
	states := 0
	for _, name := range names {
		if strings.HasPrefix(name, statePrefix) {
			states++
		}
	}
	if states != 1 {
		t.Errorf("folders: %v", names)
	}
}

// What is sent says what it is: the index, term and configuration of the present
// state, though the snapshot that raft listed is older.
func TestL7_StreamDescribesItself(t *testing.T) {
	t.Parallel()
	v := newVillage(t, nil, "berlin", "paris")
	v.put(0, "a", "1")
	db := v.members[v.leader()].db
	v.ok(db.raft.Snapshot().Error())
	listed := must(db.snapshots.List())[0]
	for i := range 20 {
		v.put(0, fmt.Sprint("later", i), "x")
	}
	v.ok(db.ReadIndex(v.ctx()))
	meta, r, err := db.snapshots.Open(listed.ID)
	v.ok(err)
	defer r.Close()
	index, term, err := readStream(r, func(key, value []byte) error { return nil })
	v.ok(err)
	if meta.Index != index || meta.Term != term || index < listed.Index+20 {
		t.Errorf("meta %d/%d, stream %d/%d, listed %d", meta.Index, meta.Term, index, term, listed.Index)
	}
	if diff := cmp.Diff(db.raft.GetConfiguration().Configuration(), meta.Configuration); diff != "" {
		t.Error(diff)
	}
	// A stream that is not what raft takes it for is refused.
	st := must(db.states.acquire())
	defer db.states.release(st)
	sink := must(db.snapshots.Create(1, index+1000, term, meta.Configuration, 1, nil))
	v.ok(writeStream(sink, st.pdb))
	if err := sink.Close(); !errors.Is(err, errStream) {
		t.Errorf("another index: got %v", err)
	}
}

// An old log that reaches beyond the snapshot but is another history is emptied too.
func TestL6_LogAgainstSnapshot(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		first, last uint64
		term        uint64
		empty       bool
	}{
		"ends before the snapshot":         {1, 5, 1, true},
		"same history":                     {1, 20, 2, false},
		"other history":                    {1, 20, 1, true},
		"continues behind it":              {11, 20, 2, false},
		"leaves a gap":                     {12, 20, 2, true},
		"nothing":                          {0, 0, 0, true},
		"ends at the snapshot, other term": {1, 10, 1, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			mem := vfs.NewMem()
			f := &folder{fs: mem, dir: "/l", fatal: newFatal(testLogger(t))}
			if err := f.create("x", false); err != nil {
				t.Fatal(err)
			}
			pdb := must(f.openLog())
			defer pdb.Close()
			s := must(newLogStore(pdb, f.fatal))
			for i := c.first; i > 0 && i <= c.last; i++ {
				if err := s.StoreLog(&raft.Log{Index: i, Term: c.term}); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.cutAgainst(10, 2); err != nil {
				t.Fatal(err)
			}
			if last, _ := s.LastIndex(); (last == 0) != c.empty {
				t.Errorf("last index %d, want empty %v", last, c.empty)
			}
			reopened := must(newLogStore(pdb, f.fatal))
			if reopened.first != s.first || reopened.last != s.last {
				t.Errorf("reopened: %d-%d, want %d-%d", reopened.first, reopened.last, s.first, s.last)
			}
		})
	}
}

// A damaged or cut stream is refused, and nothing is switched.
func TestL7_DamagedStream(t *testing.T) {
	t.Parallel()
	v := newVillage(t, nil, "berlin")
	for i := range 50 {
		v.put(0, fmt.Sprint("k", i), "value")
	}
	db := v.members[0].db
	st, err := db.states.acquire()
	v.ok(err)
	defer db.states.release(st)
	var whole strings.Builder
	v.ok(writeStream(&whole, st.pdb))
	if size, err := streamSize(st.pdb); err != nil || size != int64(whole.Len()) {
		t.Errorf("streamSize says %d, %v; it is %d", size, err, whole.Len())
	}
	before, err := db.folder.current()
	v.ok(err)
	for name, data := range map[string]string{
		"cut":          whole.String()[:whole.Len()-1],
		"cut inside":   whole.String()[:whole.Len()/2],
		"a bit flips":  whole.String()[:whole.Len()/2] + string(whole.String()[whole.Len()/2]^1) + whole.String()[whole.Len()/2+1:],
		"longer":       whole.String() + "x",
		"next version": whole.String()[:len(streamMagic)] + "\x02" + whole.String()[len(streamMagic)+1:],
	} {
		sink := must(db.snapshots.Create(1, 1000, 9, raft.Configuration{}, 1, nil))
		_, err := io.Copy(sink, strings.NewReader(data))
		if err == nil {
			err = sink.Close()
		} else {
			sink.Cancel()
		}
		if err == nil {
			t.Errorf("%s: was taken", name)
		}
	}
	if now, err := db.folder.current(); err != nil || now != before {
		t.Errorf("CURRENT went from %s to %s (%v)", before, now, err)
	}
	v.put(0, "goes on", "x")
}

// A log that a snapshot has emptied is somebody's all the same: without its CURRENT it is not made anew.
func TestL10_AnEmptiedLogIsNotMadeAnew(t *testing.T) {
	t.Parallel()
	c := testConfig(t, newTestLane(t), t.TempDir()+"/ledger", "berlin")
	if err := Create(c, false); err != nil { // waits to be added: its log stays empty
		t.Fatal(err)
	}
	db, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(c.Dir + "/" + nameCurrent); err != nil {
		t.Fatal(err)
	}
	if err := Create(c, true); !errors.Is(err, ErrExists) {
		t.Errorf("created over it: got %v", err)
	}
}
