package replication

import (
	"context"
	"errors"
	"fmt"
	"runtime/pprof"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"
)

// A node whose disk fails says so once, stops beating, answers nothing as applied,
// and closes; the others go on.
func TestL11_FailingDisk(t *testing.T) {
	t.Parallel()
	for _, who := range []string{"leader", "follower"} {
		t.Run(who, func(t *testing.T) {
			t.Parallel()
			var disks [3]*failingFS
			v := newVillage(t, func(i int, c *Config) {
				disks[i] = &failingFS{FS: vfs.Default}
				c.FS = disks[i]
				c.WriteTimeout = 10 * time.Second
			}, "berlin", "paris", "rome")
			v.put(0, "before", "x")
			i := v.leader()
			if who == "follower" {
				i = v.follower()
			}
			bad, other := v.members[i], (i+1)%3
			disks[i].on.Store(true)
			result := make(chan error, 1)
			go func() {
				result <- bad.db.Update(v.ctx(), func(tx *Tx) error { tx.Put([]byte("lost?"), nil); return nil })
			}()
			select {
			case err := <-bad.db.Fatal():
				if err == nil || !strings.Contains(err.Error(), errDisk.Error()) {
					t.Errorf("fatal: %v", err)
				}
			case <-time.After(patience):
				t.Fatal("the failing disk went unnoticed")
			}
			if err := <-result; err == nil {
				// Then it must have happened: the others have it.
				v.ok(v.members[other].db.ReadIndex(v.ctx()))
				if _, ok := get(v.members[other].db, "lost?"); !ok {
					t.Error("acknowledged, and not there")
				}
			} else if !errors.Is(err, ErrUnknown) && !errors.Is(err, ErrNoQuorum) && !errors.Is(err, ErrClosed) {
				t.Errorf("Update: %v", err)
			}
			v.until("the others to go on", func() bool {
				return v.members[other].db.Update(v.ctx(), func(tx *Tx) error { tx.Put([]byte("after"), nil); return nil }) == nil
			})
			if err := bad.db.Update(v.ctx(), func(tx *Tx) error { tx.Put([]byte("no"), nil); return nil }); err == nil {
				t.Error("an Update on the failed copy went through")
			}
			v.ok(bad.db.Close())
			bad.db = nil
		})
	}
}

// An entry that this program does not know stops the replica, it is not skipped (L9).
func TestL9_UnknownOperationStopsTheReplica(t *testing.T) {
	t.Parallel()
	v := newVillage(t, nil, "berlin")
	db := v.members[0].db
	v.put(0, "before", "x")
	p := encodeProposal(&proposal{seq: 1, writes: []write{{op: 9, key: []byte("k")}}})
	entry := append(entryHeader(1), appendGroup(nil, "n", 1, 1, [][]byte{p})...)
	go db.leader.await(v.ctx(), db.raft.Apply(entry, time.Second))
	select {
	case err := <-db.Fatal():
		if !errors.Is(err, ErrNewerVersion) {
			t.Errorf("got %v", err)
		}
	case <-time.After(patience):
		t.Fatal("the replica went on")
	}
	// Asked by another node it does not even reach the log.
	if status, _ := db.leader.answer(v.ctx(), "n", append([]byte{askPropose}, entry[2:]...)); status != statusRefused {
		t.Errorf("status %d", status)
	}
}

// Close leaves no goroutine of the ledger, though Views and Watches were running.
func TestCloseLeavesNothing(t *testing.T) {
	label := fmt.Sprint("ledger-", time.Now().UnixNano())
	var v *village
	var viewed, watched error
	inView, leave := make(chan struct{}), make(chan struct{})
	pprof.Do(t.Context(), pprof.Labels("village", label), func(ctx context.Context) {
		v = newVillage(t, nil, "berlin", "paris", "rome")
		v.put(0, "a", "1")
		db := v.members[0].db
		done := make(chan struct{}, 2)
		go func() {
			viewed = db.View(func(tx *Tx) error {
				close(inView)
				<-leave
				if value, ok := tx.Get([]byte("a")); !ok || string(value) != "1" {
					return fmt.Errorf("the View's snapshot is gone: %q", value)
				}
				return nil
			})
			done <- struct{}{}
		}()
		synced := make(chan struct{})
		go func() {
			for c, err := range db.Watch(ctx, nil) {
				if c.Kind == Synced {
					close(synced)
				}
				watched = err
			}
			done <- struct{}{}
		}()
		<-inView
		<-synced
		closed := make(chan error, 1)
		go func() { closed <- db.Close() }()
		v.until("new calls to be refused", func() bool {
			return errors.Is(db.View(func(*Tx) error { return nil }), ErrClosed)
		})
		select {
		case <-closed:
			t.Error("Close did not wait for the View")
		default:
		}
		close(leave)
		v.ok(<-closed)
		<-done
		<-done
		v.members[0].db = nil
		v.close()
	})
	if viewed != nil || !errors.Is(watched, ErrClosed) {
		t.Errorf("View: %v, Watch: %v", viewed, watched)
	}
	v.until("no goroutine of the ledger to be left", func() bool {
		var b strings.Builder
		pprof.Lookup("goroutine").WriteTo(&b, 1)
		for _, stack := range strings.Split(b.String(), "\n\n") {
			if strings.Contains(stack, label) && (strings.Contains(stack, "valise/replication") && !strings.Contains(stack, "TestCloseLeaves") ||
				strings.Contains(stack, "hashicorp/raft") || strings.Contains(stack, "pebble")) {
				return false
			}
		}
		return true
	})
}

// A peer that is in neither raft's configuration nor the list gets its streams reset.
func TestL10_StrangersAreDropped(t *testing.T) {
	t.Parallel()
	v := newVillage(t, nil, "berlin")
	m, stranger := v.members[0], newTestLane(t)
	stranger.host.Peerstore().AddAddrs(m.id(), m.lane.host.Addrs(), time.Hour)
	ask := func() error {
		c := newCaller(stranger, strangers(t))
		defer c.close()
		_, _, err := c.ask(v.ctx(), m.id(), sealFrame(append(frame(askReadIndex, 1), askNow)), nil)
		return err
	}
	if err := ask(); err == nil {
		t.Error("a stranger got a read index")
	}
	s, err := stranger.Dial(v.ctx(), m.id(), protoRaft)
	v.ok(err)
	if _, err := s.Read(make([]byte, 1)); err == nil {
		t.Error("a stranger got raft's ear")
	}
	m.db.SetServers(append(v.servers(), Server{ID: stranger.host.ID(), Site: "rome"}))
	v.ok(ask())
	m.db.SetServers(v.servers())
	v.until("it to be dropped again", func() bool { return ask() != nil })
	// A member may only speak for itself.
	g := appendGroup(nil, "somebody else", 1, 1, [][]byte{encodeProposal(&proposal{seq: 1})})
	if status, _ := m.db.leader.answer(v.ctx(), m.id(), append([]byte{askPropose}, g...)); status != statusRefused {
		t.Errorf("spoke for another: status %d", status)
	}
}

// steadyFolders lets folders be synced still: where they cannot be, Pebble panics in
// a goroutine of its own.
type steadyFolders struct{ *failingFS }

func (f steadyFolders) OpenDir(name string) (vfs.File, error) { return f.FS.OpenDir(name) }

// A disk that fails while the ledger opens makes Open say so, at whatever write it
// happens, and does not wait for ever (L11).
func TestL11_OpenOnAFailingDisk(t *testing.T) {
	t.Parallel()
	lane := newTestLane(t)
	mem := crashableDisk(t)
	c := testConfig(t, lane, "/data/ledger", "berlin")
	c.FS = mem
	if err := Create(c, true); err != nil {
		t.Fatal(err)
	}
	for stop, opened := int64(1), false; !opened; stop++ {
		disk := &failingFS{FS: mem.CrashClone(vfs.CrashCloneCfg{})}
		disk.left.Store(stop)
		c.FS = steadyFolders{disk}
		result := make(chan error, 1)
		go func() {
			db, err := Open(t.Context(), c)
			if err == nil {
				opened = true
				err = db.Close()
			}
			result <- err
		}()
		select {
		case err := <-result:
			if !opened && !errors.Is(err, errDisk) && !strings.Contains(err.Error(), errDisk.Error()) {
				t.Errorf("stopped at %d: %v", stop, err)
			}
		case <-time.After(patience):
			t.Fatalf("stopped at %d: Open waits for ever", stop)
		}
	}
}

// A log record that this program cannot read stops the copy, not the whole process:
// raft would panic.
func TestL11_UnreadableLog(t *testing.T) {
	t.Parallel()
	c := testConfig(t, newTestLane(t), t.TempDir()+"/ledger", "berlin")
	if err := Create(c, true); err != nil {
		t.Fatal(err)
	}
	f := &folder{fs: vfs.Default, dir: c.Dir, fatal: newFatal(testLogger(t))}
	pdb := must(f.openLog())
	err := errors.Join(must(newLogStore(pdb, f.fatal)).StoreLog(&raft.Log{Index: 2, Term: 1}),
		pdb.Set(logKey(1), []byte{logVersion + 1, 0, 0, 0, 0}, pebble.Sync), pdb.Close())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), c); !errors.Is(err, ErrNewerVersion) {
		t.Errorf("got %v", err)
	}
}
