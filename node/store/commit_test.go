package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	blocks "github.com/ipfs/go-block-format"
)

// afterCrash opens a store on what a power cut would leave of mem now.
func afterCrash(t testing.TB, mem *vfs.MemFS) *Store {
	t.Helper()
	return open(t, testConfig(t, mem.CrashClone(vfs.CrashCloneCfg{})))
}

func TestT4_DurableBeforeAcknowledged(t *testing.T) {
	t.Parallel()
	mem := vfs.NewCrashableMem()
	disk := &faultFS{FS: mem}
	var packSyncs atomic.Int64
	disk.set(func(op, path string) fault {
		if op == "sync" && isPack(path) {
			packSyncs.Add(1)
		}
		return fine
	})
	s := open(t, testConfig(t, disk))
	for i := range 20 {
		blk := rawBlock(random(5000, uint64(i)))
		packs := packSyncs.Load()
		if err := add(t.Context(), s, Kept, blk); err != nil {
			t.Fatal(err)
		}
		if packSyncs.Load() == packs {
			t.Errorf("batch %d acknowledged without a sync of its pack", i)
		}
		crashed := afterCrash(t, mem)
		if _, err := crashed.Block(t.Context(), blk.Cid()); err != nil || !crashed.Has(blk.Cid()) {
			t.Errorf("batch %d after a crash: %v", i, err)
		}
	}
}

// The index on disk may be behind the packs by so many bytes and so long, and no more.
func TestT4_IndexFollowsThePacks(t *testing.T) {
	t.Parallel()
	mem := vfs.NewCrashableMem()
	disk := &faultFS{FS: mem}
	synced := make(chan struct{}, 1000)
	disk.set(func(op, path string) fault {
		if op == "sync" && strings.HasSuffix(path, ".log") {
			synced <- struct{}{}
		}
		return fine
	})
	s := open(t, testConfig(t, disk))
	for len(synced) > 0 {
		<-synced
	}
	const size, n = 1 << 20, 2*indexEvery>>20 + 1
	for i := range n {
		if err := add(t.Context(), s, Kept, rawBlock(random(size, uint64(i)))); err != nil {
			t.Fatal(err)
		}
	}
	if got := len(synced); got < 2 || got > n/2 {
		t.Errorf("%d syncs of the index for %d commits, %d MiB in all", got, n, n)
	}
	if err := add(t.Context(), s, Kept, rawBlock(random(size, n))); err != nil {
		t.Fatal(err)
	}
	for !indexedToEnd(t, mem.CrashClone(vfs.CrashCloneCfg{})) {
		<-synced // by itself, in time
	}
}

// indexedToEnd tells whether the index on fs knows the first pack to its end.
func indexedToEnd(t *testing.T, fs vfs.FS) bool {
	t.Helper()
	x, err := openIndex(fs, "/data/store/index", nil, slog.New(slog.DiscardHandler), make(chan error, 1))
	if err != nil {
		t.Fatal(err)
	}
	defer x.close()
	info, err := fs.Stat("/data/store/packs/" + packName(1))
	if err != nil {
		t.Fatal(err)
	}
	r, _, err := x.pack(Kept, 1)
	if err != nil || r.indexed > info.Size() {
		t.Fatalf("index on disk knows the pack up to %d of %d: %v", r.indexed, info.Size(), err)
	}
	return r.indexed == info.Size()
}

// hold makes every sync of a pack wait. reached gets a value when one does, and free lets all go on.
func hold(disk *faultFS) (reached <-chan struct{}, free func()) {
	at, gate := make(chan struct{}, 100), make(chan struct{})
	disk.set(func(op, path string) fault {
		if op == "sync" && isPack(path) {
			at <- struct{}{}
			<-gate
		}
		return fine
	})
	return at, sync.OnceFunc(func() { close(gate) })
}

func TestT5_HitOnUnsyncedBlockWaits(t *testing.T) {
	t.Parallel()
	mem := vfs.NewCrashableMem()
	disk := &faultFS{FS: mem}
	s := open(t, testConfig(t, disk))
	reached, free := hold(disk)
	defer free()
	blk := rawBlock(random(5000, 1))

	first := make(chan error, 1)
	go func() { first <- add(context.Background(), s, Kept, blk) }()
	<-reached // written, and its sync is under way

	if s.Has(blk.Cid()) {
		t.Error("Has is true before the block is durable")
	}
	if _, err := s.Block(t.Context(), blk.Cid()); err != nil {
		t.Errorf("block under way: %v", err)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	b := s.NewBatch(Kept)
	if err := b.Add(t.Context(), blk); err != nil {
		t.Fatal(err)
	}
	if err := b.Commit(cancelled); !errors.Is(err, context.Canceled) {
		t.Errorf("hit committed while its block is not durable: %v", err)
	}
	if crashed := afterCrash(t, mem); crashed.Has(blk.Cid()) {
		t.Error("the block survives although its sync is held: the test proves nothing")
	}
	second := make(chan error, 1)
	b = s.NewBatch(Kept)
	if err := b.Add(t.Context(), blk); err != nil {
		t.Fatal(err)
	}
	go func() { second <- b.Commit(context.Background()) }()
	free()
	if err := errors.Join(<-first, <-second); err != nil {
		t.Fatal(err)
	}
	if crashed := afterCrash(t, mem); !crashed.Has(blk.Cid()) {
		t.Error("block is gone after a crash")
	}
}

func TestT4_OneSyncServesMany(t *testing.T) {
	t.Parallel()
	disk := &faultFS{FS: vfs.NewMem()}
	s := open(t, testConfig(t, disk))
	reached, free := hold(disk)
	defer free()
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := add(context.Background(), s, Kept, rawBlock(random(100, 0))); err != nil {
			t.Error(err)
		}
	})
	<-reached
	for i := range 19 {
		b := s.NewBatch(Kept)
		if err := b.Add(t.Context(), rawBlock(random(100, uint64(i+1)))); err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			if err := b.Commit(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
	free()
	wg.Wait()
	if got := 1 + len(reached); got != 2 {
		t.Errorf("20 batches took %d syncs, want 2", got)
	}
}

func TestT4_FailedSyncClosesThePack(t *testing.T) {
	t.Parallel()
	for _, f := range []fault{failed, happened} {
		t.Run(fmt.Sprint(f), func(t *testing.T) {
			t.Parallel()
			mem := vfs.NewCrashableMem()
			disk := &faultFS{FS: mem}
			s := open(t, testConfig(t, disk))
			before, lost, after := rawBlock(random(9000, 1)), rawBlock(random(9000, 2)), rawBlock(random(9000, 3))
			if err := add(t.Context(), s, Kept, before); err != nil {
				t.Fatal(err)
			}
			var once sync.Once
			var written sync.Map
			disk.set(func(op, path string) (out fault) {
				if op == "write" && isPack(path) {
					written.Store(path, true)
				}
				if op == "sync" && isPack(path) {
					once.Do(func() { out = f })
				}
				return out
			})
			if err := add(t.Context(), s, Kept, lost); !errors.Is(err, errInjected) {
				t.Fatalf("commit with a failed sync: %v", err)
			}
			written.Clear()
			if s.Has(lost.Cid()) {
				t.Error("a block whose sync failed counts as held")
			}
			for _, blk := range []blocks.Block{after, lost} {
				if err := add(t.Context(), s, Kept, blk); err != nil {
					t.Fatalf("the store does not go on: %v", err)
				}
			}
			if _, again := written.Load("/data/store/packs/" + packName(1)); again {
				t.Error("the pack was written again after its sync failed")
			}
			crashed := afterCrash(t, mem)
			for i, blk := range []blocks.Block{before, after, lost} {
				if _, err := crashed.Block(t.Context(), blk.Cid()); err != nil {
					t.Errorf("block %d after a crash: %v", i, err)
				}
			}
			if err := add(t.Context(), crashed, Kept, rawBlock(random(10, 4))); err != nil {
				t.Fatal(err)
			}
			if p := crashed.active[Kept]; p.id == 1 {
				t.Error("the closed pack is used again after a restart")
			}
		})
	}
}

func TestT4_FailedWriteFailsOnlyThatBlock(t *testing.T) {
	t.Parallel()
	disk := &faultFS{FS: vfs.NewMem()}
	s := open(t, testConfig(t, disk))
	b := s.NewBatch(Kept)
	good := rawBlock(random(9000, 1))
	if err := b.Add(t.Context(), good); err != nil {
		t.Fatal(err)
	}
	disk.set(func(op, path string) fault {
		if op == "write" && isPack(path) {
			return failed
		}
		return fine
	})
	bad := rawBlock(random(9000, 2))
	if err := b.Add(t.Context(), bad); !errors.Is(err, errInjected) {
		t.Fatalf("add with a failing write: %v", err)
	}
	disk.set(nil)
	if err := b.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !s.Has(good.Cid()) || s.Has(bad.Cid()) {
		t.Errorf("held: good %t, bad %t", s.Has(good.Cid()), s.Has(bad.Cid()))
	}
	if err := add(t.Context(), s, Kept, bad); err != nil {
		t.Fatal(err)
	}
}

func TestT8_FullDiskRefusesAndGoesOn(t *testing.T) {
	t.Parallel()
	for _, op := range []string{"write", "sync", "create"} {
		t.Run(op, func(t *testing.T) {
			t.Parallel()
			mem := vfs.NewCrashableMem()
			disk := &faultFS{FS: mem, err: fmt.Errorf("%s: %w", op, syscall.ENOSPC)}
			c := testConfig(t, disk)
			c.PackSize = 20_000
			s := open(t, c)
			kept := rawBlock(random(15_000, 1))
			if err := add(t.Context(), s, Kept, kept); err != nil {
				t.Fatal(err)
			}
			disk.set(func(o, path string) fault {
				if o == op && isPack(path) {
					return failed
				}
				return fine
			})
			for range 3 {
				if err := add(t.Context(), s, Kept, rawBlock(random(15_000, 2))); !errors.Is(err, ErrNoSpace) {
					t.Fatalf("on a full disk: %v, want ErrNoSpace", err)
				}
			}
			disk.set(nil)
			refused := rawBlock(random(15_000, 2))
			if err := add(t.Context(), s, Kept, refused); err != nil {
				t.Fatalf("with room again: %v", err)
			}
			crashed := afterCrash(t, mem)
			if !crashed.Has(kept.Cid()) || !crashed.Has(refused.Cid()) {
				t.Error("an acknowledged block is gone")
			}
		})
	}
}

func TestT8_ReserveIsKept(t *testing.T) {
	t.Parallel()
	var free atomic.Int64
	c := testConfig(t, vfs.NewMem())
	c.Reserve = 1 << 20
	c.Free = func() (int64, error) { return free.Load(), nil }
	s := open(t, c)
	free.Store(1<<20 + 6000)
	blk := rawBlock(random(5000, 1))
	b := s.NewBatch(Kept)
	if err := b.Add(t.Context(), blk); err != nil {
		t.Fatal(err)
	}
	// Free does not see what is not written out yet.
	if err := b.Add(t.Context(), rawBlock(random(5000, 2))); !errors.Is(err, ErrNoSpace) {
		t.Errorf("add past the reserve: %v, want ErrNoSpace", err)
	}
	if err := b.Commit(t.Context()); err != nil {
		t.Errorf("the batch is not usable after a refusal: %v", err)
	}
	free.Store(0)
	if err := add(t.Context(), s, Kept, blk); err != nil {
		t.Errorf("a block already held needs no room: %v", err)
	}
	free.Store(2 << 20)
	if err := add(t.Context(), s, Kept, rawBlock(random(5000, 2))); err != nil {
		t.Errorf("with room again: %v", err)
	}
}

func TestT5_TwoWritersOfOneBlockWriteItOnce(t *testing.T) {
	t.Parallel()
	s := openMem(t)
	blk := rawBlock(random(50_000, 1))
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			if err := add(t.Context(), s, Kept, blk); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := s.active[Kept].written; got > 51_000 {
		t.Errorf("pack has %d bytes for one block of 50,000", got)
	}
}

func TestT6_CachedBlocksAreNeverHits(t *testing.T) {
	t.Parallel()
	mem := vfs.NewCrashableMem()
	s := open(t, testConfig(t, mem))
	blk := rawBlock(random(5000, 1))
	if err := add(t.Context(), s, Cached, blk); err != nil {
		t.Fatal(err)
	}
	if s.Has(blk.Cid()) {
		t.Error("a cached block counts as a copy")
	}
	if _, err := s.Block(t.Context(), blk.Cid()); err != nil {
		t.Errorf("cached block: %v", err)
	}
	cached := s.active[Cached].written
	if err := add(t.Context(), s, Kept, blk); err != nil {
		t.Fatal(err)
	}
	if s.active[Kept] == nil || s.active[Kept].written < 5000 || !s.Has(blk.Cid()) {
		t.Error("a cached block spared a kept one's writing")
	}
	if err := add(t.Context(), s, Cached, blk); err != nil {
		t.Fatal(err)
	}
	if s.active[Cached].written != cached {
		t.Error("a block already here was cached again")
	}
	if crashed := afterCrash(t, mem); !crashed.Has(blk.Cid()) {
		t.Error("the kept block is gone after a crash")
	}
}

func TestT5_CondemnedBlocksAreNotHeld(t *testing.T) {
	t.Parallel()
	s := openMem(t)
	blk := rawBlock(random(5000, 1))
	if err := add(t.Context(), s, Kept, blk); err != nil {
		t.Fatal(err)
	}
	d, _ := digestOf(blk.Cid())
	condemn(t, s, d)
	if s.Has(blk.Cid()) {
		t.Error("a condemned block counts as held")
	}
	was := s.active[Kept].written
	if err := add(t.Context(), s, Kept, blk); err != nil {
		t.Fatal(err)
	}
	if s.active[Kept].written == was || !s.Has(blk.Cid()) {
		t.Error("a condemned block was a hit")
	}
}
