package copies

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"

	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
)

// A collecting is a node's collection between finding what is live and freeing the rest.
type collecting struct {
	epoch uint32
	live  map[cid.Cid]bool
}

// A life is a cluster in which files that share blocks are uploaded, recorded, forgotten and collected,
// one step at a time in any order.
type life struct {
	t       *testing.T
	cl      *testCluster
	rng     *rand.Rand
	files   []testFile
	open    []*Upload
	upload  map[*Upload]testFile
	sent    map[*Upload]int // blocks added
	placed  []Placed
	sweeps  map[*testPeer]*collecting
	keepers map[*testPeer]*keeper
	freed   int
	lapsed  int
	counted int
}

func newLife(t *testing.T, seed uint64) *life {
	cl := newCluster(t, 2+int(seed%2), "a", "b", "b") // with three wanted, one may be late
	cl.start()
	l := &life{
		t: t, cl: cl, rng: rand.New(rand.NewPCG(seed, 6)), upload: make(map[*Upload]testFile), sent: make(map[*Upload]int),
		sweeps: make(map[*testPeer]*collecting), keepers: make(map[*testPeer]*keeper),
	}
	var leaves []blocks.Block
	for i := range 5 {
		leaves = append(leaves, blockOf([]byte{byte(seed), byte(i)}, cid.Raw))
	}
	for i := range 5 { // any two share some blocks
		var f testFile
		links := []byte("links")
		for _, b := range []blocks.Block{leaves[i], leaves[(i+1)%5], leaves[(i+3)%5]} {
			f.blocks = append(f.blocks, b)
			links = append(links, b.Cid().Bytes()...)
		}
		root := blockOf(links, cid.DagCBOR)
		f.root, f.blocks = root.Cid(), append(f.blocks, root)
		l.files = append(l.files, f)
	}
	for _, p := range cl.peers {
		l.keepers[p] = newKeeper(p.Copies)
	}
	return l
}

func (l *life) peer() *testPeer { return l.cl.peers[l.rng.IntN(len(l.cl.peers))] }

func (l *life) step() (what string) {
	p := l.peer()
	switch l.rng.IntN(8) {
	case 0: // an upload that ends some time
		u, err := p.Begin(l.t.Context())
		if err != nil {
			l.t.Fatal(err)
		}
		l.upload[u] = l.files[l.rng.IntN(len(l.files))]
		l.open = append(l.open, u)
		return "begin"
	case 1, 2: // its next block, or the rest and its commit
		if len(l.open) == 0 {
			return "nothing"
		}
		i := l.rng.IntN(len(l.open))
		u := l.open[i]
		rest := l.upload[u].blocks[l.sent[u]:]
		if len(rest) > 0 && l.rng.IntN(2) == 0 {
			if err := u.Add(l.t.Context(), rest[0]); err != nil {
				l.t.Fatal(err)
			}
			l.sent[u]++
			return "a block"
		}
		l.open = slices.Delete(l.open, i, i+1)
		for _, b := range rest {
			if err := u.Add(l.t.Context(), b); err != nil {
				l.t.Fatal(err)
			}
		}
		placed, err := u.Commit(l.t.Context(), l.upload[u].root)
		if err != nil {
			l.t.Fatal(err)
		}
		l.placed = append(l.placed, placed)
		return "commit"
	case 3: // its record
		if len(l.placed) == 0 {
			return "nothing"
		}
		i := l.rng.IntN(len(l.placed))
		placed := l.placed[i]
		if n := len(placed.Copies); n > 2 || n == 2 && l.rng.IntN(4) == 0 { // one was not waited for
			late := l.rng.IntN(n)
			placed.Copies, placed.need = slices.Delete(slices.Clone(placed.Copies), late, late+1), 1
		}
		l.placed = slices.Delete(l.placed, i, i+1)
		err := p.led.Update(l.t.Context(), func(tx ledgerTx) error { return p.Record(tx, placed) })
		if errors.Is(err, ErrLapsed) {
			l.lapsed++
			return "lapsed"
		}
		if err != nil {
			l.t.Fatal(err)
		}
		return "record"
	case 4:
		if l.rng.IntN(2) == 0 {
			p.forget(l.t, l.files[l.rng.IntN(len(l.files))].root)
			return "forget"
		}
		k := l.keepers[p]
		clear(k.failed)
		k.pass(l.t.Context())
		return "keeper"
	default:
		return l.collect(p)
	}
}

// collect is half of a node's collection.
func (l *life) collect(p *testPeer) string {
	if sweep := l.sweeps[p]; sweep != nil {
		l.freed += p.disk.collect(sweep.epoch-1, sweep.live)
		delete(l.sweeps, p)
		return fmt.Sprintf("sweep before %d", sweep.epoch-1)
	}
	epoch, err := p.BeginEpoch(l.t.Context(), p.disk)
	if err != nil {
		l.t.Fatal(err)
	}
	live := make(map[cid.Cid]bool)
	for root := range p.liveAt(l.t) {
		for _, f := range l.files {
			if f.root == root {
				for _, b := range f.blocks {
					live[b.Cid()] = true
				}
			}
		}
	}
	l.sweeps[p] = &collecting{epoch, live}
	return fmt.Sprintf("epoch %d", epoch)
}

// check says what is wrong: a holder of a recorded root without all of its blocks.
func (l *life) check() error {
	for _, f := range l.files {
		err := l.cl.ledger.View(func(tx scanner) error {
			ids, err := l.cl.peers[0].Holders(tx, f.root)
			if errors.Is(err, ErrNotRecorded) {
				return nil
			}
			if err != nil {
				return err
			}
			if len(ids) == 0 {
				return errors.New("a root without a holder")
			}
			for i, p := range l.cl.peers {
				if slices.Contains(ids, p.id()) && !p.disk.holds(f) {
					return fmt.Errorf("node %d is a holder without blocks", i)
				}
			}
			l.counted += len(ids)
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Whatever the order of uploads, records, deletions, healing and collections: who the ledger calls a
// holder has all blocks.
func TestT6_NothingLiveIsCollected(t *testing.T) {
	t.Parallel()
	var freed, lapsed atomic.Int64
	t.Cleanup(func() {
		if freed.Load() == 0 || lapsed.Load() == 0 {
			t.Errorf("dull lives: %d blocks freed, %d uploads lapsed", freed.Load(), lapsed.Load())
		}
	})
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			l := newLife(t, seed)
			var steps []string
			for range 400 {
				steps = append(steps, l.step())
				if err := l.check(); err != nil {
					t.Fatalf("%v after %q", err, steps[max(0, len(steps)-40):])
				}
			}
			for _, u := range l.open {
				u.Abort()
			}
			freed.Add(int64(l.freed))
			lapsed.Add(int64(l.lapsed))
			if l.counted == 0 {
				t.Error("a dull life without copies")
			}
		})
	}
}
