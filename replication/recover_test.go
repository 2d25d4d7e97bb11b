package replication

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"
)

// A cluster of three loses two for good. The copy of the third becomes a cluster of one
// with all it had, new nodes join it, and those of before are refused: they say so, stop,
// and do not start again.
func TestL10_Recover(t *testing.T) {
	t.Parallel()
	v := newVillage(t, nil, "berlin", "paris", "rome")
	for i := range 30 {
		v.put(i%3, fmt.Sprint("k", i), "x")
	}
	for _, m := range v.members {
		v.ok(m.db.ReadIndex(v.ctx()))
	}
	keep := v.follower()
	want := dump(v.members[keep].db)
	for i := range v.members {
		v.stop(i)
	}
	start := time.Now()
	got, err := Recover(v.members[keep].conf)
	v.ok(err)
	if got.Number != 1 || got.Applied == 0 || got.Last < got.Applied || got.LastTerm < got.AppliedTerm ||
		len(got.Servers) != 3 || got.LastTime.After(start) || start.Sub(got.LastTime) > patience {
		t.Errorf("got %+v", got)
	}
	for _, s := range got.Servers {
		if !s.Voter || !slices.ContainsFunc(v.members, func(m *member) bool { return m.id() == s.ID }) {
			t.Errorf("server %+v", s)
		}
	}
	again, err := Recover(v.members[keep].conf)
	v.ok(err)
	if diff := cmp.Diff(got, again); diff != "" {
		t.Errorf("repeated: %s", diff)
	}
	db := v.alone(keep)
	v.ok(db.ReadIndex(v.ctx()))
	if diff := cmp.Diff(want, dump(db)); diff != "" {
		t.Error(diff)
	}
	v.put(keep, "after", "x")
	if n := db.Status().Recovery; n != 1 {
		t.Errorf("status says recovery %d", n)
	}
	// A majority of before comes back. It elects a leader at first, but no longer than
	// until it meets the recovered node.
	var stopped []int
	for i, m := range v.members {
		if i != keep {
			v.start(i)
			stopped = append(stopped, i)
			defer func() { m.db = nil }()
		}
	}
	for _, i := range stopped {
		v.leftBehind(i)
	}
	v.put(keep, "goes on", "x")
	if n := len(db.Status().Servers); n != 1 {
		t.Errorf("%d servers", n)
	}
	// A new node gets the lineage with the ledger.
	n := v.join("madrid", false)
	v.until("the new node to vote", func() bool { return v.count(db.Status(), true) == 2 })
	v.put(n, "joined", "x")
	if got, want := v.members[n].db.kin.lineage(), db.kin.lineage(); got != want || got.number != 1 {
		t.Errorf("lineage %v, want %v", got, want)
	}
	if got := *v.members[n].db.machine.shown.Load(); got != db.kin.lineage() {
		t.Errorf("its state says %v", got)
	}
	if _, err := Recover(v.members[stopped[0]].conf); err != nil {
		t.Errorf("recovering the other half: %v", err)
	}
}

// alone starts a node as if it knew of no other.
func (v *village) alone(i int) *DB {
	v.Helper()
	db, err := Open(v.ctx(), v.members[i].conf)
	v.ok(err)
	db.SetServers([]Server{{ID: v.members[i].id(), Site: v.members[i].conf.Site}})
	v.members[i].db = db
	return db
}

// leftBehind waits until a node says that the cluster was recovered without it, and
// closes it. It does not open again.
func (v *village) leftBehind(i int) {
	v.Helper()
	m := v.members[i]
	select {
	case err := <-m.db.Fatal():
		if e, ok := errors.AsType[*RecoveredError](err); !ok || e.Number < e.Here {
			v.Errorf("node %d: %v", i, err)
		}
	case <-time.After(patience):
		v.Fatalf("node %d goes on", i)
	}
	v.ok(m.db.Close())
	m.db = nil
	if _, err := Open(v.ctx(), m.conf); err == nil {
		v.Errorf("node %d opened again", i)
	} else if _, ok := errors.AsType[*RecoveredError](err); !ok {
		v.Errorf("node %d opened again: %v", i, err)
	}
}

// join makes a new member that waits to be added by the others that run, which list
// themselves and it.
func (v *village) join(site string, bootstrap bool, edit ...func(*Config)) int {
	v.Helper()
	lane := newTestLane(v)
	m := &member{lane: lane, conf: testConfig(v, lane, fmt.Sprintf("%s/new%d", v.dir, len(v.members)), site)}
	for _, e := range edit {
		e(&m.conf)
	}
	running := []Server{{ID: m.id(), Site: site}}
	for _, o := range v.members {
		o.lane.host.Peerstore().AddAddrs(m.id(), lane.host.Addrs(), time.Hour)
		lane.host.Peerstore().AddAddrs(o.id(), o.lane.host.Addrs(), time.Hour)
		if o.db != nil {
			running = append(running, Server{ID: o.id(), Site: o.conf.Site})
		}
	}
	v.ok(Create(m.conf, bootstrap))
	db, err := Open(v.ctx(), m.conf)
	v.ok(err)
	m.db = db
	v.members = append(v.members, m)
	for _, o := range v.members {
		if o.db != nil {
			o.db.SetServers(running)
		}
	}
	return len(v.members) - 1
}

// Two halves are recovered apart, against all advice. As soon as they meet one of them
// stops, whichever asks.
func TestL10_TwoRecoveriesMeet(t *testing.T) {
	t.Parallel()
	v := newVillage(t, nil, "berlin", "paris", "rome")
	for i := range v.members {
		v.stop(i)
	}
	for i := range 2 {
		_, err := Recover(v.members[i].conf)
		v.ok(err)
		v.cutOff(i, true)
		v.alone(i)
		v.put(i, fmt.Sprint("half", i), "x")
	}
	lower, higher := 0, 1
	if v.members[0].db.kin.lineage().compare(v.members[1].db.kin.lineage()) > 0 {
		lower, higher = 1, 0
	}
	for i := range 3 {
		v.cutOff(i, false)
	}
	// The one that stays asks the other: that one learns it from being asked.
	db := v.members[higher].db
	v.members[lower].db.SetServers(v.servers())
	_, _, err := db.caller.ask(v.ctx(), v.members[lower].id(), sealFrame(append(frame(askReadIndex, 1), askNow)), nil)
	if !errors.Is(err, errNotSent) {
		t.Errorf("got %v", err)
	}
	v.leftBehind(lower)
	v.put(higher, "goes on", "x")
}

// A copy that was left behind can be recovered all the same, and then it is the later one.
func TestL10_RecoverWhatWasLeftBehind(t *testing.T) {
	t.Parallel()
	v := newVillage(t, nil, "berlin", "paris", "rome")
	for i := range v.members {
		v.stop(i)
	}
	_, err := Recover(v.members[0].conf)
	v.ok(err)
	v.alone(0)
	v.start(1)
	v.leftBehind(1)
	got, err := Recover(v.members[1].conf)
	v.ok(err)
	if got.Number != 2 {
		t.Errorf("recovery %d", got.Number)
	}
	v.alone(1)
	v.put(1, "a", "1")
	v.members[0].db.SetServers(v.servers())
	v.members[1].db.caller.ask(v.ctx(), v.members[0].id(), sealFrame(append(frame(askReadIndex, 1), askNow)), nil)
	v.leftBehind(0)
}

func TestL10_NothingToRecover(t *testing.T) {
	t.Parallel()
	v := newVillage(t, nil, "berlin")
	if _, err := Recover(v.members[0].conf); err == nil {
		t.Error("recovered a running node")
	}
	v.stop(0)
	if _, err := Recover(v.members[0].conf); !errors.Is(err, ErrWhole) {
		t.Errorf("the only voter: got %v", err)
	}
	c := testConfig(t, newTestLane(t), t.TempDir()+"/ledger", "berlin")
	if _, err := Recover(c); !errors.Is(err, ErrNoLedger) {
		t.Errorf("no folder: got %v", err)
	}
	v.ok(Create(c, false))
	if _, err := Recover(c); !errors.Is(err, ErrNoLedger) {
		t.Errorf("never added: got %v", err)
	}
	v.start(0)
	v.put(0, "a", "1")
}

// Killed between any two writes, a Recover has happened or not, and can be repeated. The
// same with a log that a snapshot has emptied.
func TestL10_RecoverIsAllOrNothing(t *testing.T) {
	t.Parallel()
	for name, edit := range map[string]func(*Config){"log": func(*Config) {}, "short log": everySnapshot} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			mem := crashableDisk(t)
			v := newVillage(t, func(i int, c *Config) {
				edit(c)
				if i == 2 {
					c.FS, c.Dir = mem, "/data/ledger"
				}
			}, "berlin", "paris", "rome")
			for i := range 60 {
				v.put(i%3, fmt.Sprintf("k%02d", i), "x")
			}
			v.ok(v.members[2].db.ReadIndex(v.ctx()))
			want := dump(v.members[2].db)
			for i := range v.members {
				v.stop(i)
			}
			// What a crash would leave, before each write and sync: in turn with and
			// without what was not synced.
			var mu sync.Mutex
			var left []*vfs.MemFS
			conf := v.members[2].conf
			disk := mem.CrashClone(vfs.CrashCloneCfg{})
			conf.FS = &failingFS{FS: disk, each: func() {
				mu.Lock()
				defer mu.Unlock()
				left = append(left, disk.CrashClone(vfs.CrashCloneCfg{
					UnsyncedDataPercent: 100 * (len(left) % 2), RNG: rand.New(rand.NewPCG(1, 1))}))
			}}
			first, err := Recover(conf)
			v.ok(err)
			t.Logf("%d crashes", len(left))
			left = append(left, disk)
			for at, crashed := range left {
				if at%3 != 0 && at < len(left)-6 { // what Recover itself writes comes last
					continue
				}
				conf.FS = crashed
				got, err := Recover(conf)
				if err != nil {
					t.Fatalf("crash %d: again: %v", at, err)
				}
				if diff := cmp.Diff(first, got); diff != "" {
					t.Errorf("crash %d: %s", at, diff)
				}
				if at%15 != 0 && at < len(left)-1 {
					continue
				}
				db, err := Open(t.Context(), conf)
				v.ok(err)
				db.SetServers([]Server{{ID: conf.ID, Site: conf.Site}})
				v.ok(db.ReadIndex(v.ctx()))
				if diff := cmp.Diff(want, dump(db)); diff != "" {
					t.Errorf("crash %d: %s", at, diff)
				}
				if s := db.Status(); len(s.Servers) != 1 || !s.Servers[0].Voter {
					t.Errorf("crash %d: %+v", at, s.Servers)
				}
				v.ok(db.Close())
			}
		})
	}
}
