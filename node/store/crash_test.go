package store

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
)

// A journal is what a test has been promised.
type journal struct {
	mu    sync.Mutex
	acked []blocks.Block
}

func (j *journal) add(blks ...blocks.Block) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.acked = append(j.acked, blks...)
}

func (j *journal) list() []blocks.Block {
	j.mu.Lock()
	defer j.mu.Unlock()
	return append([]blocks.Block(nil), j.acked...)
}

// work does a bit of everything a store does, noting what is acknowledged and going on after errors.
func work(t testing.TB, s *Store, j *journal) {
	for i := range 4 {
		fresh, shared := rawBlock(random(3000+i, uint64(i))), rawBlock(random(2000, uint64(100+i/2)))
		if add(t.Context(), s, Kept, fresh, shared) == nil {
			j.add(fresh, shared)
		}
		add(t.Context(), s, Cached, rawBlock(random(1000, uint64(200+i))))
	}
}

// verify opens a store on fs and checks every promise, then that it still works.
func verify(t testing.TB, fs vfs.FS, acked []blocks.Block, when string) {
	t.Helper()
	c := testConfig(t, fs)
	c.PackSize = 8000
	s, err := Open(t.Context(), c)
	if err != nil {
		t.Errorf("%s: %v", when, err)
		return
	}
	for _, blk := range acked {
		if got, err := s.Block(t.Context(), blk.Cid()); err != nil || !bytes.Equal(got.RawData(), blk.RawData()) || !s.Has(blk.Cid()) {
			t.Errorf("%s: acknowledged block %s: %v", when, blk.Cid(), err)
		}
	}
	for _, k := range []Kind{Kept, Cached} {
		for d := range s.indexed(t, k) {
			if _, err := s.Block(t.Context(), cidOf(cid.Raw, d)); err != nil {
				t.Errorf("%s: indexed block: %v", when, err)
			}
		}
	}
	if err := add(t.Context(), s, Kept, rawBlock(random(4000, 99))); err != nil {
		t.Errorf("%s: the store does not go on: %v", when, err)
	}
	closed := make(map[string]bool) // where a sync failed, what follows the last good block is left as it is
	for _, k := range []Kind{Kept, Cached} {
		for id := range s.nextPack {
			r, _, err := s.index.pack(k, id)
			if err != nil {
				t.Fatal(err)
			}
			closed[packDir(k)+"/"+packName(id)] = r.flags&retired != 0
		}
	}
	if err := s.Close(); err != nil {
		t.Errorf("%s: %v", when, err)
	}
	for _, k := range []Kind{Kept, Cached} {
		carBlocksExcept(t, fs, "/data/store", k, closed)
	}
}

func TestT4_KilledBetweenAnySteps(t *testing.T) {
	t.Parallel()
	type moment struct {
		fs    *vfs.MemFS
		acked []blocks.Block
		when  string
	}
	var moments []moment
	var mu sync.Mutex
	var j journal
	rng := rand.New(rand.NewPCG(1, 2))
	mem := vfs.NewCrashableMem()
	disk := &faultFS{FS: mem}
	disk.set(func(op, file string) fault {
		mu.Lock()
		defer mu.Unlock()
		for _, percent := range []int{0, 60} {
			acked := j.list() // before the clone: what is acknowledged later need not be in it
			fs := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rng})
			moments = append(moments, moment{fs, acked, fmt.Sprintf("killed before %s %s, %d%% written", op, file, percent)})
		}
		return fine
	})
	c := testConfig(t, disk)
	c.PackSize = 8000
	s := open(t, c)
	work(t, s, &j)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	disk.set(nil)
	if len(j.list()) != 8 || len(moments) < 100 {
		t.Fatalf("%d blocks acknowledged in %d steps", len(j.list()), len(moments)/2)
	}
	for _, m := range moments {
		verify(t, m.fs, m.acked, m.when)
	}
}

func TestT4_AnyStepFailing(t *testing.T) {
	t.Parallel()
	for _, f := range []fault{failed, happened} {
		steps := 0
		for n := 0; n <= steps; n++ {
			steps = max(steps, failStep(t, f, n))
		}
		if steps < 30 {
			t.Errorf("only %d steps", steps)
		}
	}
}

// failStep does the work with step n on packs failing, and verifies what was promised. It returns
// the number of steps.
func failStep(t *testing.T, f fault, n int) int {
	mem := vfs.NewCrashableMem()
	disk := &faultFS{FS: mem}
	c := testConfig(t, disk)
	c.PackSize = 8000
	c.Logger = nil
	s := open(t, c)
	var mu sync.Mutex
	step := 0
	when := "no step"
	disk.set(func(op, file string) fault {
		if !isPack(file) && !strings.HasSuffix(file, "/packs/") && !strings.HasSuffix(file, "/cache/") {
			return fine
		}
		mu.Lock()
		defer mu.Unlock()
		step++
		if step == n {
			when = fmt.Sprintf("step %d, %s %s, fault %d", n, op, file, f)
			return f
		}
		return fine
	})
	var j journal
	work(t, s, &j)
	again := rawBlock(random(3000, 0)) // the first of work's blocks: now it must be possible
	if err := add(t.Context(), s, Kept, again); err != nil {
		t.Errorf("%s: the store does not go on: %v", when, err)
	}
	j.add(again)
	crashed := mem.CrashClone(vfs.CrashCloneCfg{})
	if err := s.Close(); err != nil {
		t.Errorf("%s: %v", when, err)
	}
	disk.set(nil)
	verify(t, crashed, j.list(), when+", then a crash")
	verify(t, mem, j.list(), when)
	return step
}
