package copies

import (
	"errors"
	"io"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	blocks "github.com/ipfs/go-block-format"
	"github.com/libp2p/go-libp2p/core/network"
)

// failAt makes a node fail at the n-th block it adds.
func (p *testPeer) failAt(n int32, fail func()) {
	var added atomic.Int32
	p.disk.set(func(d *memDisk) {
		d.onAdd = func(blocks.Block) {
			if added.Add(1) == n {
				fail()
			}
		}
	})
}

// peersOf are an upload's peers in its row, and the nodes outside.
func (cl *testCluster) peersOf(u *Upload) (row, outside []*testPeer) {
	for _, p := range cl.peers {
		switch {
		case p.Copies == u.c:
		case u.tried[p.id()]:
			row = append(row, p)
		default:
			outside = append(outside, p)
		}
	}
	return row, outside
}

// A peer that fails in the middle is replaced by a node outside the row, which gets the beginning from
// this node's disk.
func TestP1_PeerIsReplacedInTheMiddle(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func(t *testing.T, cl *testCluster, p *testPeer){
		"cut off": func(t *testing.T, cl *testCluster, p *testPeer) {
			p.failAt(5, func() { cl.peers[0].lane.cutFrom(p.id(), true) })
		},
		"full": func(t *testing.T, cl *testCluster, p *testPeer) {
			p.disk.set(func(d *memDisk) { d.room = 5 << 20 })
		},
		"its sync fails": func(t *testing.T, cl *testCluster, p *testPeer) {
			p.disk.set(func(d *memDisk) { d.syncErr = errors.New("input/output error") })
		},
		"no progress": func(t *testing.T, cl *testCluster, p *testPeer) {
			hang := make(chan struct{})
			t.Cleanup(func() { close(hang) })
			p.failAt(5, func() { <-hang })
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cl := newCluster(t, 2, "a", "b", "b")
			cl.timing.progress = 2 * time.Second
			cl.timing.beat = 200 * time.Millisecond
			cl.start()
			u, err := cl.peers[0].Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer u.Abort()
			row, outside := cl.peersOf(u)
			fail(t, cl, row[0])
			f := newFile(40, 1<<20)
			for _, b := range f.blocks {
				if err := u.Add(t.Context(), b); err != nil {
					t.Fatal(err)
				}
			}
			placed, err := u.Commit(t.Context(), f.root)
			if want := ids(cl.peers[0], outside[0]); err != nil || !slices.Equal(acksOf(placed), want) {
				t.Fatalf("acknowledged by %v, want %v: %v", acksOf(placed), want, err)
			}
			if !outside[0].disk.holds(f) {
				t.Error("acknowledged what it does not hold")
			}
			if size := u.tape.size(); size != 0 {
				t.Errorf("%d bytes on the tape", size)
			}
		})
	}
}

// Where this node's own disk cannot give the beginning, a peer that has it durable does; where nobody
// can, the upload fails.
func TestP1_ReplacedFromAPeer(t *testing.T) {
	t.Parallel()
	for name, both := range map[string]bool{"the other peer has it": false, "nobody has it": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cl := newCluster(t, 2, "c", "a", "b", "b")
			cl.nodes[0].Weight = -1
			cl.start()
			here := cl.peers[0]
			here.disk.set(func(d *memDisk) { d.cacheErr = errors.New("input/output error") })
			u, err := here.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer u.Abort()
			row, outside := cl.peersOf(u)
			if len(row) != 2 || len(outside) != 1 {
				t.Fatalf("%d in the row, %d outside", len(row), len(outside))
			}
			for i, p := range row {
				if i == 1 || both {
					p.failAt(20, func() { here.lane.cutFrom(p.id(), true) })
				}
			}
			f := newFile(40, 1<<20)
			for _, b := range f.blocks {
				if err = u.Add(t.Context(), b); err != nil {
					break
				}
			}
			var placed Placed
			if err == nil {
				placed, err = u.Commit(t.Context(), f.root)
			}
			if both {
				if !errors.Is(err, ErrNotDurable) {
					t.Errorf("got %v, %v", placed, err)
				}
				return
			}
			if want := ids(row[0], outside[0]); err != nil || !slices.Equal(acksOf(placed), want) || !outside[0].disk.holds(f) {
				t.Errorf("acknowledged by %v, want %v: %v", acksOf(placed), want, err)
			}
		})
	}
}

// A peer whose word comes while the upload waits for its client is replaced without waiting for more.
func TestP1_PeerIsReplacedWhileTheClientIsSlow(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, 2, "a", "b", "b").start()
	for _, p := range cl.peers[1:] {
		p.lane.h.SetStreamHandler(testProtocol(pushProtocol), func(s network.Stream) {
			w := newWire(s, time.Minute, wordBuffer, wordBuffer)
			_ = writeStatus(w.w, status{store: p.disk.ID()})
			_, _ = io.ReadFull(s, make([]byte, 10)) // until it is under way
			_ = writeStatus(w.w, status{code: codeNoSpace, store: p.disk.ID()})
			_ = s.Close()
		})
	}
	u, err := cl.peers[0].Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer u.Abort()
	if err := u.Add(t.Context(), newFile(1, 1000).blocks[0]); err != nil {
		t.Fatal(err)
	}
	eventually(t, "both were tried and refused", func() bool { return errors.Is(u.hopeless(), ErrNoSpace) })
}

// The cluster grew while a file was uploaded to its only node: one copy is not enough any more.
func TestP3_ClusterGrowsDuringAnUpload(t *testing.T) {
	t.Parallel()
	for name, reached := range map[string]bool{"the newcomer takes a copy": true, "it cannot be reached": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cl := newCluster(t, 2, "a").start()
			cl.peers[0].beginEpochs(t, 1)
			u, err := cl.peers[0].Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer u.Abort()
			f := newFile(30, 1<<20)
			for _, b := range f.blocks {
				if err := u.Add(t.Context(), b); err != nil {
					t.Fatal(err)
				}
			}
			fresh := cl.add("b")
			cl.open(1)
			fresh.beginEpochs(t, 5)
			fresh.lane.cutFrom(cl.peers[0].id(), !reached)
			placed, err := u.Commit(t.Context(), f.root)
			if !reached {
				if !errors.Is(err, ErrNotDurable) {
					t.Errorf("got %v, %v", placed, err)
				}
				return
			}
			if want := ids(cl.peers...); err != nil || !slices.Equal(acksOf(placed), want) || !fresh.disk.holds(f) {
				t.Fatalf("acknowledged by %v: %v", acksOf(placed), err)
			}
			cl.peers[0].record(t, placed)
			if got := cl.peers[0].holdersOf(t, f.root); !slices.Equal(got, ids(cl.peers...)) {
				t.Errorf("holders %v", got)
			}
		})
	}
}

func TestTapeRejoins(t *testing.T) {
	t.Parallel()
	tape, follows, late := newTape(), &lane{}, &lane{}
	tape.join(follows)
	f := newFile(3, 1000)
	for _, b := range f.blocks {
		if err := tape.add(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	tape.end()
	idle := func() error { return nil }
	if _, err := tape.next(t.Context(), follows, 2, idle); err != nil { // two are passed
		t.Fatal(err)
	}
	if tape.rejoin(late, 1) {
		t.Error("a block that is gone")
	}
	if got := tape.names(1, 2); !slices.Equal(got, f.cids()[1:3]) {
		t.Errorf("names %v", got)
	}
	if !tape.rejoin(late, 2) {
		t.Fatal("a block that is there")
	}
	tape.leave(follows)
	for at := 2; at <= len(f.blocks); at++ {
		b, err := tape.next(t.Context(), late, at, idle)
		if err != nil || at < len(f.blocks) && b != f.blocks[at] || at == len(f.blocks) && b != nil {
			t.Errorf("block %d: %v, %v", at, b, err)
		}
	}
	if tape.size() != 0 || len(tape.names(len(f.blocks), 1)) != 0 {
		t.Error("something is left")
	}
}
