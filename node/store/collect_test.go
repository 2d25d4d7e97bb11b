package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
)

// keepOnly makes a Collection's Live of blocks.
func keepOnly(blks ...blocks.Block) func(context.Context, func(cid.Cid)) error {
	return func(_ context.Context, keep func(cid.Cid)) error {
		for _, b := range blks {
			keep(b.Cid())
		}
		return nil
	}
}

// rawBlocks are n blocks of a size that depend on seed.
func rawBlocks(n, size int, seed uint64) (out []blocks.Block) {
	for i := range n {
		out = append(out, rawBlock(random(size, seed+uint64(i))))
	}
	return out
}

func smallPacks(t testing.TB, fs vfs.FS) Config {
	c := testConfig(t, fs)
	c.PackSize = 8000
	return c
}

func nextEpoch(t testing.TB, s *Store) uint32 {
	t.Helper()
	e := s.Epoch() + 1
	if err := s.SetEpoch(e); err != nil {
		t.Fatal(err)
	}
	return e
}

func checkHeld(t testing.TB, s *Store, held bool, when string, blks ...blocks.Block) {
	t.Helper()
	for i, b := range blks {
		got, err := s.Block(t.Context(), b.Cid())
		if s.Has(b.Cid()) != held {
			t.Errorf("%s: block %d held: %t, want %t", when, i, !held, held)
		}
		if held && (err != nil || !bytes.Equal(got.RawData(), b.RawData())) {
			t.Errorf("%s: block %d: %v", when, i, err)
		}
	}
}

func TestT6_CollectFreesWhatNothingRefersTo(t *testing.T) {
	t.Parallel()
	for _, memory := range []int{0, 16} { // in one pass, and in many
		t.Run(fmt.Sprint(memory), func(t *testing.T) {
			t.Parallel()
			mem := vfs.NewMem()
			s := open(t, smallPacks(t, mem))
			live, dead := rawBlocks(20, 700, 0), rawBlocks(60, 700, 100)
			all := append(append([]blocks.Block(nil), live...), dead...)
			rand.New(rand.NewPCG(1, 1)).Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
			if err := add(t.Context(), s, Kept, all...); err != nil {
				t.Fatal(err)
			}
			before := packBytes(t, mem, Kept)
			r := collector{store: s, memory: memory, live: make(map[uint64]int64), Collection: Collection{Before: s.Epoch() + 1, Live: keepOnly(live...)}}
			if err := r.run(t.Context()); err != nil {
				t.Fatal(err)
			}
			if r.done.Condemned < 55 || r.done.Bytes != int64(700*r.done.Condemned) || r.done.Packs == 0 {
				t.Errorf("collected %+v", r.done)
			}
			if after := packBytes(t, mem, Kept); after > before*2/3 {
				t.Errorf("packs have %d bytes, had %d", after, before)
			}
			checkHeld(t, s, true, "after collecting", live...)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = open(t, smallPacks(t, mem))
			checkHeld(t, s, true, "opened again", live...)
			carBlocks(t, mem, "/data/store", Kept)
			if err := add(t.Context(), s, Kept, dead...); err != nil {
				t.Fatal(err)
			}
			checkHeld(t, s, true, "added again", dead...)
		})
	}
}

func packBytes(t testing.TB, fs vfs.FS, k Kind) (total int64) {
	t.Helper()
	dir := path.Join("/data/store", packDir(k))
	names, err := fs.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		info, err := fs.Stat(path.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		total += info.Size()
	}
	return total
}

// Who adds a block, or meets it again, has until the epoch after next to refer to it.
func TestT6_FreshBlocksStay(t *testing.T) {
	t.Parallel()
	mem := vfs.NewCrashableMem()
	s := open(t, smallPacks(t, mem))
	old, met := rawBlock(random(500, 1)), rawBlock(random(500, 2))
	if err := add(t.Context(), s, Kept, old, met); err != nil {
		t.Fatal(err)
	}
	e := nextEpoch(t, s)
	fresh := rawBlock(random(500, 3))
	if err := add(t.Context(), s, Kept, fresh, met); err != nil {
		t.Fatal(err)
	}
	s = afterCrash(t, mem) // what was acknowledged is noted on disk
	if s.Epoch() != e {
		t.Errorf("epoch %d after a crash, want %d", s.Epoch(), e)
	}
	if _, err := s.Collect(t.Context(), Collection{Before: e, Live: keepOnly()}); err != nil {
		t.Fatal(err)
	}
	checkHeld(t, s, true, "an epoch later", fresh, met)
	checkHeld(t, s, false, "an epoch later", old)
	if _, err := s.Collect(t.Context(), Collection{Before: e + 1, Live: keepOnly()}); err != nil {
		t.Fatal(err)
	}
	checkHeld(t, s, false, "two epochs later", fresh, met)
}

func TestT6_NothingIsFreedWhenTheMarkFails(t *testing.T) {
	t.Parallel()
	s := open(t, smallPacks(t, vfs.NewMem()))
	blks := rawBlocks(5, 500, 1)
	if err := add(t.Context(), s, Kept, blks...); err != nil {
		t.Fatal(err)
	}
	_, err := s.Collect(t.Context(), Collection{Before: 9, Live: func(context.Context, func(cid.Cid)) error { return errInjected }})
	if !errors.Is(err, errInjected) {
		t.Errorf("collect: %v", err)
	}
	checkHeld(t, s, true, "after a failed mark", blks...)
}

// Uploads go on beside collections. What an upload was told is durable stays as long as the epoch it
// began in allows, although the same blocks are garbage all the time.
func TestT6_UploadsBesideCollections(t *testing.T) {
	t.Parallel()
	s := open(t, smallPacks(t, vfs.NewMem()))
	blks := rawBlocks(400, 300, 1)
	var swept atomic.Uint32 // the Before of the collection that began last
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for w := range 4 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(w), 7))
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				epoch := s.Epoch()
				mine := []blocks.Block{blks[rng.IntN(len(blks))], blks[rng.IntN(len(blks))]}
				if err := add(context.Background(), s, Kept, mine...); err != nil {
					t.Error(err)
					return
				}
				for _, b := range mine {
					got, err := s.Block(context.Background(), b.Cid())
					good := err == nil && bytes.Equal(got.RawData(), b.RawData()) && s.Has(b.Cid())
					if !good && swept.Load() <= epoch {
						t.Errorf("upload of epoch %d lost a block: %v", epoch, err)
						return
					}
				}
			}
		})
	}
	var freed int
	for freed < 300 && t.Context().Err() == nil {
		e := nextEpoch(t, s)
		swept.Store(e - 1)
		done, err := s.Collect(t.Context(), Collection{Before: e - 1, Live: keepOnly(), Erase: e%2 == 0})
		if err != nil {
			t.Fatal(err)
		}
		freed += done.Condemned
	}
	close(stop)
	wg.Wait()
}

// collectWork collects twice, once erasing, in a store with garbage in several packs.
func collectWork(t testing.TB, s *Store, live []blocks.Block) error {
	var errs []error
	for i := range 2 {
		e := s.Epoch() + 1
		errs = append(errs, s.SetEpoch(e))
		_, err := s.Collect(t.Context(), Collection{Before: e, Live: keepOnly(live...), Erase: i == 1})
		errs = append(errs, err)
	}
	_, err := s.EvictCache(t.Context(), 0)
	return errors.Join(append(errs, err)...)
}

// garbageStore returns a disk whose store has live blocks among garbage and cached ones.
func garbageStore(t testing.TB) (mem *vfs.MemFS, live []blocks.Block) {
	t.Helper()
	mem = vfs.NewCrashableMem()
	s := open(t, smallPacks(t, mem))
	live = rawBlocks(6, 900, 0)
	for i, b := range live {
		if err := add(t.Context(), s, Kept, append(rawBlocks(4, 900, uint64(100+10*i)), b)...); err != nil {
			t.Fatal(err)
		}
	}
	if err := add(t.Context(), s, Cached, rawBlocks(12, 900, 500)...); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return mem, live
}

func TestT6_KilledBetweenAnySteps(t *testing.T) {
	t.Parallel()
	mem, live := garbageStore(t)
	type moment struct {
		fs   *vfs.MemFS
		when string
	}
	var moments []moment
	var mu sync.Mutex
	rng := rand.New(rand.NewPCG(3, 4))
	disk := &faultFS{FS: mem}
	s := open(t, smallPacks(t, disk))
	disk.set(func(op, file string) fault {
		mu.Lock()
		defer mu.Unlock()
		for _, percent := range []int{0, 60} {
			fs := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rng})
			moments = append(moments, moment{fs, fmt.Sprintf("killed before %s %s, %d%% written", op, file, percent)})
		}
		return fine
	})
	if err := collectWork(t, s, live); err != nil {
		t.Fatal(err)
	}
	disk.set(nil)
	if len(moments) < 60 {
		t.Fatalf("only %d moments", len(moments))
	}
	for _, m := range moments {
		verifyCollected(t, m.fs, live, m.when)
	}
}

// verifyCollected checks that a collection that was cut short has lost nothing, and that another one
// finishes its work.
func verifyCollected(t *testing.T, fs vfs.FS, live []blocks.Block, when string) {
	t.Helper()
	s := open(t, smallPacks(t, fs))
	checkHeld(t, s, true, when, live...)
	if err := collectWork(t, s, live); err != nil {
		t.Errorf("%s, then collected again: %v", when, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	verify(t, fs, live, when+", then collected again")
}

func TestT6_AnyStepFailing(t *testing.T) {
	t.Parallel()
	for _, f := range []fault{failed, happened} {
		steps := 1
		for n := 1; n <= steps; n++ {
			steps = max(steps, failCollectStep(t, f, n))
		}
		if steps < 15 {
			t.Errorf("only %d steps", steps)
		}
	}
}

func failCollectStep(t *testing.T, f fault, n int) int {
	mem, live := garbageStore(t)
	disk := &faultFS{FS: mem}
	s := open(t, smallPacks(t, disk))
	var mu sync.Mutex
	step, when := 0, "no step"
	disk.set(func(op, file string) fault {
		if !isPack(file) && !strings.HasSuffix(file, "/packs/") && !strings.HasSuffix(file, "/cache/") {
			return fine
		}
		mu.Lock()
		defer mu.Unlock()
		if step++; step == n {
			when = fmt.Sprintf("step %d, %s %s, fault %d", n, op, file, f)
			return f
		}
		return fine
	})
	_ = collectWork(t, s, live) // it may fail, and must lose nothing
	crashed := mem.CrashClone(vfs.CrashCloneCfg{})
	checkHeld(t, s, true, when, live...)
	if err := s.Close(); err != nil {
		t.Errorf("%s: %v", when, err)
	}
	disk.set(nil)
	verifyCollected(t, crashed, live, when+", then a crash")
	verifyCollected(t, mem, live, when)
	return step
}

// A deletion that is to be proven takes nothing for live by mistake.
func TestT6_ErasingIsExact(t *testing.T) {
	t.Parallel()
	s := open(t, testConfig(t, vfs.NewMem()))
	live, dead := rawBlocks(50, 30, 0), rawBlocks(2000, 30, 1000)
	if err := add(t.Context(), s, Kept, append(dead, live...)...); err != nil {
		t.Fatal(err)
	}
	r := collector{store: s, memory: 512, live: make(map[uint64]int64), Collection: Collection{Before: 1, Live: keepOnly(live...), Erase: true}}
	if err := r.run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := len(s.indexed(t, Kept)); n != len(live) || r.done.Condemned != len(dead) {
		t.Errorf("%d blocks are left, %d were condemned", n, r.done.Condemned)
	}
	checkHeld(t, s, true, "erased", live...)
}

func TestT6_ErasedBytesAreGone(t *testing.T) {
	t.Parallel()
	mem := vfs.NewMem()
	s := open(t, testConfig(t, mem)) // one pack, never rewritten here
	secret, live := rawBlock(random(5000, 1)), rawBlock(random(50_000, 2))
	if err := add(t.Context(), s, Kept, secret, live); err != nil {
		t.Fatal(err)
	}
	file := "/data/store/packs/" + packName(1)
	on := func() bool { return bytes.Contains(readAll(t, mem, file), secret.RawData()[1000:1100]) }
	if _, err := s.Collect(t.Context(), Collection{Before: 1, Live: keepOnly(live)}); err != nil {
		t.Fatal(err)
	}
	checkHeld(t, s, false, "condemned", secret)
	if !on() {
		t.Error("bytes are gone already: the test proves nothing")
	}
	if _, err := s.Collect(t.Context(), Collection{Before: 1, Live: keepOnly(live), Erase: true}); err != nil {
		t.Fatal(err)
	}
	if on() {
		t.Error("bytes are still on the disk")
	}
	checkHeld(t, s, true, "erased beside it", live)
	if names := carBlocks(t, mem, "/data/store", Kept); len(names) != 1 {
		t.Errorf("%d blocks in the pack", len(names))
	}
	if err := add(t.Context(), s, Kept, secret); err != nil {
		t.Fatal(err)
	}
	checkHeld(t, s, true, "added again", secret)
}

func TestT6_CacheIsEvictedWhole(t *testing.T) {
	t.Parallel()
	mem := vfs.NewMem()
	s := open(t, smallPacks(t, mem))
	cached, kept := rawBlocks(30, 900, 0), rawBlocks(3, 900, 100)
	if err := errors.Join(add(t.Context(), s, Cached, cached...), add(t.Context(), s, Kept, kept...)); err != nil {
		t.Fatal(err)
	}
	was := packBytes(t, mem, Cached)
	freed, err := s.EvictCache(t.Context(), was/2)
	if err != nil || freed == 0 {
		t.Fatalf("freed %d: %v", freed, err)
	}
	if now := packBytes(t, mem, Cached); now > was/2+8000 || now == 0 {
		t.Errorf("cache has %d bytes, had %d", now, was)
	}
	if _, err := s.Block(t.Context(), cached[0].Cid()); !errors.Is(err, ErrNotFound) {
		t.Errorf("oldest cached block: %v", err)
	}
	if _, err := s.Block(t.Context(), cached[29].Cid()); err != nil {
		t.Errorf("newest cached block: %v", err)
	}
	if _, err := s.EvictCache(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if now := packBytes(t, mem, Cached); now != 0 {
		t.Errorf("cache has %d bytes after all was evicted", now)
	}
	checkHeld(t, s, true, "cache evicted", kept...)
	if err := add(t.Context(), s, Cached, cached[0]); err != nil {
		t.Fatal(err)
	}
}

// A reader that has found a block keeps it while its pack is rewritten.
func TestT6_ReadersBesideARewrite(t *testing.T) {
	t.Parallel()
	s := open(t, smallPacks(t, vfs.NewMem()))
	var live []blocks.Block
	for i := range 10 {
		live = append(live, rawBlock(random(900, uint64(i))))
		if err := add(t.Context(), s, Kept, append(rawBlocks(6, 900, uint64(100+10*i)), live[i])...); err != nil {
			t.Fatal(err)
		}
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := s.Block(context.Background(), live[i%len(live)].Cid()); err != nil {
					t.Errorf("read beside a rewrite: %v", err)
					return
				}
			}
		})
	}
	done, err := s.Collect(t.Context(), Collection{Before: 1, Live: keepOnly(live...)})
	close(stop)
	wg.Wait()
	if err != nil || done.Packs < 5 {
		t.Errorf("collected %+v: %v", done, err)
	}
}

func TestFilter_ForgetsNothing(t *testing.T) {
	t.Parallel()
	f := newFilter(10_000)
	name := func(i int) digest { return digest(random(32, uint64(i))) }
	for i := range 10_000 {
		f.add(name(i))
	}
	wrong := 0
	for i := range 20_000 {
		switch has := f.has(name(i)); {
		case i < 10_000 && !has:
			t.Fatalf("digest %d is forgotten", i)
		case i >= 10_000 && has:
			wrong++
		}
	}
	if wrong > 200 {
		t.Errorf("%d of 10,000 others taken for known", wrong)
	}
}

// Whoever meets a block while it is being condemned writes it anew.
func TestT5_DoomedBlocksAreNoHits(t *testing.T) {
	t.Parallel()
	s := openMem(t)
	blk := rawBlock(random(500, 1))
	if err := add(t.Context(), s, Kept, blk); err != nil {
		t.Fatal(err)
	}
	d, _ := digestOf(blk.Cid())
	if got := s.doom([]entry{{digest: d}}); len(got) != 1 {
		t.Fatalf("%d blocks doomed", len(got))
	}
	b := s.NewBatch(Kept)
	defer b.Abort()
	if err := b.Add(t.Context(), blk); err != nil {
		t.Fatal(err)
	}
	if len(b.needs) != 1 {
		t.Error("a block that is being condemned was a hit")
	}
	s.pardon()
	if got := s.doom([]entry{{digest: d}}); len(got) != 0 {
		t.Error("a block that waits for its round was doomed")
	}
}

// A full pack whose last round is still to come is not deleted for looking empty.
func TestT6_APackThatWaitsStays(t *testing.T) {
	t.Parallel()
	disk := &faultFS{FS: vfs.NewMem()}
	s := open(t, smallPacks(t, disk))
	if err := add(t.Context(), s, Kept, rawBlock(random(100, 1))); err != nil {
		t.Fatal(err)
	}
	reached, free := hold(disk)
	defer free()
	blk := rawBlock(random(7000, 2))
	added := make(chan error, 1)
	go func() { added <- add(context.Background(), s, Kept, blk) }()
	<-reached
	next := s.NewBatch(Kept) // begins another pack
	if err := next.Add(t.Context(), rawBlock(random(7000, 3))); err != nil {
		t.Fatal(err)
	}
	if packs, err := s.closedPacks(Kept); err != nil || len(packs) != 1 {
		t.Fatalf("%d closed packs: %v", len(packs), err)
	}
	if _, err := s.dropPack(t.Context(), Kept, 1); err != nil {
		t.Fatal(err)
	}
	free()
	if err := errors.Join(<-added, next.Commit(t.Context())); err != nil {
		t.Fatal(err)
	}
	checkHeld(t, s, true, "after its round", blk)
}

func TestT6_MovedBlocksKeepTheirEpoch(t *testing.T) {
	t.Parallel()
	s := open(t, smallPacks(t, vfs.NewMem()))
	blk := rawBlock(random(500, 1))
	if err := add(t.Context(), s, Kept, append([]blocks.Block{blk}, rawBlocks(20, 500, 10)...)...); err != nil {
		t.Fatal(err)
	}
	e := nextEpoch(t, s)
	d, _ := digestOf(blk.Cid())
	was, _, _ := s.index.find(Kept, d)
	if err := add(t.Context(), s, Kept, rawBlocks(20, 500, 100)...); err != nil { // another pack is active
		t.Fatal(err)
	}
	if _, err := s.Collect(t.Context(), Collection{Before: e, Live: keepOnly(blk)}); err != nil {
		t.Fatal(err)
	}
	if now, _, _ := s.index.find(Kept, d); now.pack == was.pack || now.epoch != was.epoch {
		t.Errorf("moved from %+v to %+v", was, now)
	}
}

// The index on disk may be behind when blocks are erased: what comes after them in the pack must not
// be cut off for their sake.
func TestT6_KilledWhileErasingFreshBlocks(t *testing.T) {
	t.Parallel()
	mem := vfs.NewCrashableMem()
	disk := &faultFS{FS: mem}
	s := open(t, testConfig(t, disk))
	dead, live := rawBlock(random(3000, 1)), rawBlock(random(3000, 2))
	if err := add(t.Context(), s, Kept, dead, live); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var moments []*vfs.MemFS
	disk.set(func(op, file string) fault {
		if isPack(file) {
			mu.Lock()
			defer mu.Unlock()
			for seed := range uint64(8) {
				moments = append(moments, mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: rand.New(rand.NewPCG(seed, 1))}))
			}
		}
		return fine
	})
	if _, err := s.Collect(t.Context(), Collection{Before: 1, Live: keepOnly(live), Erase: true}); err != nil {
		t.Fatal(err)
	}
	disk.set(nil)
	if len(moments) == 0 {
		t.Fatal("nothing was written")
	}
	for i, fs := range moments {
		checkHeld(t, open(t, testConfig(t, fs)), true, fmt.Sprintf("moment %d", i), live)
	}
}

// What an upload has added stays until its batch ends, however many epochs that takes; then it can be
// touched, and has the two epochs that every upload has.
func TestT6_LongUploads(t *testing.T) {
	t.Parallel()
	s := open(t, smallPacks(t, vfs.NewMem()))
	early, other := rawBlock(random(500, 1)), rawBlock(random(500, 2))
	if err := add(t.Context(), s, Kept, other); err != nil {
		t.Fatal(err)
	}
	b := s.NewBatch(Kept)
	if err := b.Add(t.Context(), early); err != nil {
		t.Fatal(err)
	}
	if err := add(t.Context(), s, Kept, rawBlock(random(500, 3))); err != nil { // has early's round run
		t.Fatal(err)
	}
	collect := func() {
		t.Helper()
		e := nextEpoch(t, s)
		if _, err := s.Collect(t.Context(), Collection{Before: e - 1, Live: keepOnly()}); err != nil {
			t.Fatal(err)
		}
	}
	for range 4 {
		collect()
	}
	checkHeld(t, s, true, "batch is open", early, other)
	if held, err := b.Touch(rawBlock(random(500, 9)).Cid()); held || err != nil {
		t.Errorf("touched what is not here: %v", err)
	}
	if held, err := b.Touch(early.Cid()); !held || err != nil {
		t.Fatal(held, err)
	}
	if err := b.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	collect()
	checkHeld(t, s, true, "an epoch later", early)
	checkHeld(t, s, false, "an epoch later", other)
	collect()
	checkHeld(t, s, false, "two epochs later", early)
}
