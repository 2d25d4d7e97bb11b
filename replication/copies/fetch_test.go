package copies

import (
	"context"
	"errors"
	"io"
	"slices"
	"testing"
	"time"

	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

// nopStream is a handler that says nothing until quit closes.
func nopStream(quit <-chan struct{}) network.StreamHandler {
	return func(s network.Stream) {
		go func() { _, _ = io.Copy(io.Discard, s) }()
		<-quit
		_ = s.Reset()
	}
}

func TestE5_NodeThatHoldsNothingReads(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, 2, "a", "b", "a")
	cl.nodes[2].Weight = -1
	cl.start()
	for _, n := range []int{0, 1, 7, 8, 9, 40} {
		f := newFile(n, 50_000)
		cl.peers[0].store(t, f)
		for _, p := range cl.peers {
			if err := p.read(t.Context(), f); err != nil {
				t.Errorf("%d chunks: %v", n, err)
			}
		}
	}
	if cl.peers[2].disk.reads.Load() != 0 {
		t.Error("it read its own disk: it holds something")
	}
}

func TestP4_SecondReadIsLocalWhereReadsAreCached(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, 1, "a", "b")
	cl.nodes[1].Weight = -1
	cl.caching = true
	cl.start()
	f := newFile(20, 10_000)
	cl.peers[0].store(t, f)
	if err := cl.peers[1].read(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	cl.peers[1].wg.Wait() // the commit of the cache
	cl.peers[1].lane.cutFrom(cl.peers[0].id(), true)
	if err := cl.peers[1].read(t.Context(), f); err != nil {
		t.Error(err)
	}
	if cl.peers[1].disk.Has(f.root) {
		t.Error("a cached block counts as kept")
	}
}

// Parts that are here come from here, in order with what is not.
func TestP4_MixedLocalAndRemote(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, 1, "a", "b")
	cl.nodes[1].Weight = -1
	cl.start()
	f := newFile(40, 1000)
	cl.peers[0].store(t, f)
	batch := cl.peers[1].disk.newBatch(true)
	for i, b := range f.blocks {
		if i%3 == 0 || i > 9 && i < 14 {
			if err := batch.Add(t.Context(), b); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := batch.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := cl.peers[1].read(t.Context(), f); err != nil {
		t.Error(err)
	}
}

func TestT7_CorruptBlockIsFetchedElsewhere(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, 2, "a", "b", "a")
	cl.nodes[2].Weight = -1
	cl.start()
	f := newFile(20, 20_000)
	cl.peers[0].store(t, f)
	near := cl.peers[0] // of the reader's site: asked first
	near.disk.set(func(d *memDisk) { d.badFor[f.blocks[11].Cid()] = true })
	if err := cl.peers[2].read(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	if !cl.peers[2].log.has("peer sent a corrupt block") {
		t.Error("nobody was told")
	}
	if cl.peers[1].disk.reads.Load() == 0 {
		t.Error("the other holder was not asked")
	}
}

func TestP4_CutDuringFetchGoesOnElsewhere(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, 2, "a", "b", "a")
	cl.nodes[2].Weight = -1
	cl.start()
	f := newFile(60, 200<<10)
	cl.peers[0].store(t, f)
	reader, seen := cl.peers[2], 0
	for b, err := range reader.Blocks(t.Context(), f.root, f.cids()) {
		if err != nil {
			t.Fatal(err)
		}
		if b.Cid() != f.blocks[seen].Cid() {
			t.Fatalf("block %d is another one", seen)
		}
		if seen++; seen == 10 {
			reader.lane.cutFrom(cl.peers[0].id(), true)
		}
	}
	if seen != len(f.blocks) || cl.peers[1].disk.reads.Load() == 0 {
		t.Errorf("%d blocks of %d; the other holder read %d", seen, len(f.blocks), cl.peers[1].disk.reads.Load())
	}
	// No block came twice: the two disks read each once, but for what was under way at the cut.
	if n := cl.peers[0].disk.reads.Load() + cl.peers[1].disk.reads.Load(); n > int64(len(f.blocks)+2*windowBlocks+4) {
		t.Errorf("%d blocks were read for %d", n, len(f.blocks))
	}
}

func TestP4_DHTNamesWhoTheLedgerDoesNot(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, 1, "a", "b")
	var holder peer.ID
	cl.find = func(context.Context, cid.Cid) ([]peer.ID, error) { return []peer.ID{"nobody", holder}, nil }
	cl.start()
	holder = cl.peers[0].id()
	f := newFile(5, 1000)
	batch := cl.peers[0].disk.newBatch(false)
	for _, b := range f.blocks {
		_ = batch.Add(t.Context(), b)
	}
	if err := batch.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := cl.peers[1].read(t.Context(), f); err != nil {
		t.Error(err)
	}
}

func TestBlocksNotFound(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, 2, "a", "b").start()
	f := newFile(12, 1000)
	cl.peers[0].store(t, f)
	for _, p := range cl.peers {
		p.disk.set(func(d *memDisk) { delete(d.kept, f.blocks[9].Cid()) })
	}
	seen := 0
	var last error
	for b, err := range cl.peers[0].Blocks(t.Context(), f.root, f.cids()) {
		if err != nil {
			last = err
			continue
		}
		if b.Cid() != f.blocks[seen].Cid() {
			t.Fatalf("block %d is another one", seen)
		}
		seen++
	}
	if !errors.Is(last, ErrNotFound) || seen != 9 {
		t.Errorf("%d blocks, then %v", seen, last)
	}
	for _, err := range cl.peers[1].Blocks(t.Context(), f.root, nil) {
		t.Errorf("nothing asked, got %v", err)
	}
}

// A reader that stops early, or whose context ends, leaves nothing behind.
func TestBlocksStopEarly(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, 1, "a", "b")
	cl.nodes[1].Weight = -1
	cl.start()
	f := newFile(40, 100<<10)
	cl.peers[0].store(t, f)
	for range cl.peers[1].Blocks(t.Context(), f.root, f.cids()) {
		break
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var last error
	for _, err := range cl.peers[1].Blocks(ctx, f.root, f.cids()) {
		cancel()
		last = err
	}
	if !errors.Is(last, context.Canceled) {
		t.Errorf("got %v", last)
	}
	eventually(t, "the streams end", func() bool {
		cl.peers[0].mu.Lock()
		defer cl.peers[0].mu.Unlock()
		return len(cl.peers[0].open) == 0
	})
}

// A local block that cannot be read is fetched from others.
func TestT7_UnreadableHereIsFetched(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, 2, "a", "b").start()
	f := newFile(10, 1000)
	cl.peers[0].store(t, f)
	cl.peers[0].disk.set(func(d *memDisk) { delete(d.kept, f.blocks[4].Cid()) })
	if err := cl.peers[0].read(t.Context(), f); err != nil {
		t.Error(err)
	}
}

func TestServeRefusesAfterClose(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, 1, "a", "b")
	cl.nodes[1].Weight = -1
	cl.start()
	f := newFile(1, 1000)
	cl.peers[0].store(t, f)
	_ = cl.peers[0].Close()
	if err := cl.peers[1].read(t.Context(), f); !errors.Is(err, ErrNotFound) {
		t.Errorf("got %v", err)
	}
	if _, err := cl.peers[0].upload(t.Context(), f); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v", err)
	}
}

func TestP4_RanksNearestFirst(t *testing.T) {
	t.Parallel()
	site := map[peer.ID]string{"me": "a", "near": "a", "slow": "b", "fast": "b", "dead": "a", "new": "b"}
	r := newRanks()
	r.measured("near", 20e6, 40e6, 1<<20)
	r.measured("fast", 1e6, 2e6, 1<<20)
	r.measured("slow", 1e6, 900e6, 1<<20)
	r.failed("dead")
	got := []peer.ID{"slow", "dead", "fast", "near", "new"}
	r.nearest(got, site, "me")
	if want := []peer.ID{"near", "new", "fast", "slow", "dead"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	r.answered("dead")
	if r.down("dead") {
		t.Error("still down")
	}
}

// A leavingLane has its caller go away during a dial.
type leavingLane struct {
	Lane
	leave context.CancelFunc
}

func (l leavingLane) Dial(ctx context.Context, _ peer.ID, _ string) (network.Stream, error) {
	l.leave()
	<-ctx.Done()
	return nil, ctx.Err()
}

// A reader that goes away while a holder is dialled says nothing of the holder.
func TestP4_ReaderThatGoesAwayBlamesNobody(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, 1, "a", "b")
	cl.nodes[1].Weight = -1
	cl.start()
	f := newFile(3, 1000)
	cl.peers[0].store(t, f)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	reader := cl.peers[1]
	reader.cfg.Lane = leavingLane{reader.lane, cancel}
	if err := reader.read(ctx, f); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if reader.ranks.down(cl.peers[0].id()) {
		t.Error("the holder is taken for dead")
	}
}

// A peer that sends a byte now and then makes no progress (P4): the next holder is asked.
func TestP4_TricklingPeerIsGivenUp(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, 2, "a", "b", "a")
	cl.nodes[2].Weight = -1
	cl.timing.progress = 300 * time.Millisecond
	cl.start()
	f := newFile(3, 100_000)
	cl.peers[0].store(t, f)
	near := cl.peers[0] // of the reader's site: asked first
	near.host.SetStreamHandler(testProtocol(fetchProtocol), func(s network.Stream) {
		defer func() { _ = s.Reset() }()
		data := carOf(t, f.blocks)
		_, err := s.Write(data[:len(carHeader)])
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for _, b := range data[len(carHeader):] {
			if err != nil {
				return
			}
			<-tick.C
			_, err = s.Write([]byte{b})
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := cl.peers[2].read(ctx, f); err != nil {
		t.Error(err)
	}
}

// Close ends the reads under way, too.
func TestCloseEndsReads(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, 1, "a", "b")
	cl.nodes[1].Weight = -1
	cl.timing.dial = time.Minute
	cl.start()
	f := newFile(3, 1000)
	cl.peers[0].store(t, f)
	quit, asked := make(chan struct{}), make(chan struct{}, 8)
	defer close(quit)
	cl.peers[0].host.SetStreamHandler(testProtocol(fetchProtocol), func(s network.Stream) {
		asked <- struct{}{}
		nopStream(quit)(s)
	})
	reader, done := cl.peers[1], make(chan error, 1)
	go func() { done <- reader.read(t.Context(), f) }()
	<-asked
	_ = reader.Close()
	if err := <-done; !errors.Is(err, ErrClosed) {
		t.Errorf("got %v", err)
	}
	if err := reader.read(t.Context(), f); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// What a peer sends is taken only as far as it was asked for, in that order; the rest comes from others.
func TestP4_WrongAnswersAreNotTaken(t *testing.T) {
	t.Parallel()
	f, other := newFile(3, 1000), newFile(1, 1000)
	swapped := slices.Clone(f.blocks)
	swapped[0], swapped[1] = swapped[1], swapped[0]
	for name, answer := range map[string][]blocks.Block{
		"another order": swapped,
		"too many":      append(slices.Clone(f.blocks), other.blocks...),
		"none":          nil,
		"too few":       f.blocks[:2],
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cl := newCluster(t, 2, "a", "b", "a")
			cl.nodes[2].Weight = -1
			cl.start()
			cl.peers[0].store(t, f)
			cl.peers[0].host.SetStreamHandler(testProtocol(fetchProtocol), func(s network.Stream) {
				w := newWire(s, time.Minute, wordBuffer, blockBuffer)
				_, _ = readWants(w.r)
				_, _ = w.w.Write(append(carOf(t, answer), 0))
				_ = writeStatus(w.w, status{code: codeOK})
				_ = s.Close()
			})
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			if err := cl.peers[2].read(ctx, f); err != nil {
				t.Error(err)
			}
		})
	}
}
