package store

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	car "github.com/ipld/go-car/v2"
)

// carBlocks reads every pack in fs with another CAR reader, which verifies every block, and returns
// the names of those that are not fillers.
func carBlocks(t testing.TB, fs vfs.FS, root string, k Kind) map[cid.Cid]bool {
	t.Helper()
	return carBlocksExcept(t, fs, root, k, nil)
}

func carBlocksExcept(t testing.TB, fs vfs.FS, root string, k Kind, except map[string]bool) map[cid.Cid]bool {
	t.Helper()
	dir := path.Join(root, packDir(k))
	names, err := fs.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[cid.Cid]bool)
	for _, name := range names {
		if strings.HasSuffix(name, ".bad") || except[packDir(k)+"/"+name] {
			continue
		}
		f, err := fs.Open(path.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		r, err := car.NewBlockReader(f)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if r.Version != 1 || len(r.Roots) != 1 {
			t.Errorf("%s: version %d, %d roots", name, r.Version, len(r.Roots))
		}
		for {
			blk, err := r.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if !isFiller(blk.RawData()) {
				out[blk.Cid()] = true
			}
		}
	}
	return out
}

func TestT4_PacksAreCARs(t *testing.T) {
	t.Parallel()
	c := testConfig(t, vfs.Default)
	c.Dir = t.TempDir()
	c.PackSize = 2 << 20
	s := open(t, c)
	sealed, blks := sealAll(t, scopeKey("a"), random(6<<20, 1))
	if err := add(t.Context(), s, Kept, blks...); err != nil {
		t.Fatal(err)
	}
	if err := add(t.Context(), s, Cached, rawBlock(random(100, 2))); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	names, _ := vfs.Default.List(c.Dir + "/packs")
	if len(names) < 3 {
		t.Errorf("6 MiB in packs of 2 MiB are %d packs", len(names))
	}
	kept := carBlocks(t, vfs.Default, c.Dir, Kept)
	for _, blk := range blks {
		if !kept[blk.Cid()] {
			t.Errorf("block %s is in no pack", blk.Cid())
		}
	}
	if cached := carBlocks(t, vfs.Default, c.Dir, Cached); len(cached) != 1 || len(kept) != sealed.Chunks+1 {
		t.Errorf("%d kept, %d cached blocks", len(kept), len(cached))
	}
}

// tornStore returns a file system with one acknowledged block, the path of its pack, and the pack's
// bytes.
func tornStore(t testing.TB) (mem *vfs.MemFS, kept blocks.Block, file string, data []byte) {
	t.Helper()
	mem = vfs.NewMem()
	s := open(t, testConfig(t, mem))
	kept = rawBlock(random(300, 1))
	if err := add(t.Context(), s, Kept, kept); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	file = "/data/store/packs/" + packName(1)
	return mem, kept, file, readAll(t, mem, file)
}

func readAll(t testing.TB, fs vfs.FS, path string) []byte {
	t.Helper()
	f, err := fs.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	data, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func overwrite(t testing.TB, fs vfs.FS, path string, data []byte) {
	t.Helper()
	f, err := fs.Create(path, diskWrites)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.Write(bytes.Clone(data)) // Write may change its argument
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestT4_TornTailAtEveryByte(t *testing.T) {
	t.Parallel()
	mem, kept, file, good := tornStore(t)
	last := rawBlock(random(60, 2))
	whole := append(sectionHead(last.Cid(), 60), last.RawData()...)
	for cut := 0; cut <= len(whole); cut++ {
		overwrite(t, mem, file, append(bytes.Clone(good), whole[:cut]...))
		s := open(t, testConfig(t, mem))
		if !s.Has(kept.Cid()) {
			t.Fatalf("torn at %d: the acknowledged block is gone", cut)
		}
		if got, want := s.Has(last.Cid()), cut == len(whole); got != want {
			t.Fatalf("torn at %d: the last block is held: %t", cut, got)
		}
		next := rawBlock(random(50, uint64(cut+10)))
		if err := add(t.Context(), s, Kept, next); err != nil {
			t.Fatalf("torn at %d: %v", cut, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if names := carBlocks(t, mem, "/data/store", Kept); !names[kept.Cid()] || !names[next.Cid()] {
			t.Fatalf("torn at %d: pack has %v", cut, names)
		}
		s = open(t, testConfig(t, mem))
		for _, blk := range []blocks.Block{kept, next} {
			if _, err := s.Block(t.Context(), blk.Cid()); err != nil {
				t.Fatalf("torn at %d, opened again: %v", cut, err)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		resetIndex(t, mem, good)
	}
}

// resetIndex lets the next Open see the pack as indexed up to the end of good.
func resetIndex(t testing.TB, mem vfs.FS, good []byte) {
	t.Helper()
	s := open(t, testConfig(t, mem))
	r := recovery{store: s, kind: Kept, id: 1}
	if err := r.index(nil, int64(len(good)), 0); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func FuzzRecoverTail(f *testing.F) {
	blk := rawBlock(random(100, 9))
	whole := append(sectionHead(blk.Cid(), 100), blk.RawData()...)
	f.Add([]byte{})
	f.Add([]byte{0})
	f.Add(whole)
	f.Add(whole[:len(whole)-1])
	f.Add(append(bytes.Clone(whole), whole[:50]...))
	f.Add(bytes.Repeat([]byte{0xff}, 300))
	f.Add(append([]byte{0x80, 0x80, 0x00}, whole...))
	f.Add(bytes.Repeat([]byte{0}, 129))
	mem, kept, file, good := tornStore(f)
	f.Fuzz(func(t *testing.T, tail []byte) {
		overwrite(t, mem, file, append(bytes.Clone(good), tail...))
		s, err := Open(t.Context(), Config{Dir: "/data/store", FS: mem})
		if err != nil {
			t.Fatal(err)
		}
		for k := range s.indexed(t, Kept) {
			if _, err := s.Block(t.Context(), cidOf(cid.Raw, k)); err != nil {
				t.Errorf("indexed block: %v", err)
			}
		}
		if !s.Has(kept.Cid()) {
			t.Error("the acknowledged block is gone")
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		carBlocks(t, mem, "/data/store", Kept)
		forgetRecovered(t, mem, kept, good)
	})
}

// forgetRecovered removes from the index everything but kept.
func forgetRecovered(t testing.TB, mem vfs.FS, kept blocks.Block, good []byte) {
	t.Helper()
	s, err := Open(t.Context(), Config{Dir: "/data/store", FS: mem})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	d, _ := digestOf(kept.Cid())
	for k := range s.indexed(t, Kept) {
		if k != d {
			if err := s.index.db.Delete(blockKey(Kept, k), nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	r := recovery{store: s, kind: Kept, id: 1}
	if err := r.index(nil, int64(len(good)), 0); err != nil {
		t.Fatal(err)
	}
}

// indexed returns all blocks of a kind in the index.
func (s *Store) indexed(t testing.TB, k Kind) map[digest]place {
	t.Helper()
	out := make(map[digest]place)
	it, err := s.index.db.NewIter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer it.Close()
	prefix := blockKey(k, digest{})[:4]
	for it.First(); it.Valid(); it.Next() {
		if d, ok := bytes.CutPrefix(it.Key(), prefix); ok {
			p, _, err := s.index.find(k, digest(d))
			if err != nil {
				t.Fatal(err)
			}
			out[digest(d)] = p
		}
	}
	return out
}

func TestL11_IndexThatCannotBeWrittenIsFatalNotDeadly(t *testing.T) {
	t.Parallel()
	mem := vfs.NewCrashableMem()
	disk := &faultFS{FS: mem}
	s := open(t, testConfig(t, disk))
	kept := rawBlock(random(500, 1))
	if err := add(t.Context(), s, Kept, kept); err != nil {
		t.Fatal(err)
	}
	disk.set(func(op, file string) fault {
		if strings.Contains(file, "/index/") && op == "sync" {
			return failed
		}
		return fine
	})
	late := rawBlock(random(500, 2)) // durable in its pack, so it may be acknowledged
	acked := add(t.Context(), s, Kept, late) == nil
	if err := <-s.Fatal(); err == nil { // though nobody writes any more
		t.Error("no reason given")
	}
	if err := add(t.Context(), s, Kept, rawBlock(random(500, 3))); err == nil {
		t.Error("acknowledged after the index died")
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if crashed := afterCrash(t, mem); !crashed.Has(kept.Cid()) || acked && !crashed.Has(late.Cid()) {
		t.Error("an acknowledged block is gone")
	}
}

func TestT4_LostIndexIsRebuiltFromPacks(t *testing.T) {
	t.Parallel()
	c := testConfig(t, vfs.Default)
	c.Dir = t.TempDir()
	c.PackSize = 2 << 20
	s := open(t, c)
	data := random(6<<20, 1)
	sealed := put(t, s, scopeKey("a"), data)
	id := s.ID()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(c.Dir + "/index"); err != nil {
		t.Fatal(err)
	}
	s = open(t, c)
	if s.ID() != id {
		t.Error("the store has another name")
	}
	if !bytes.Equal(readBack(t, s, sealed), data) {
		t.Error("content differs")
	}
}

func TestT4_DamageIsNotOverwritten(t *testing.T) {
	t.Parallel()
	c := testConfig(t, vfs.Default)
	c.Dir = t.TempDir()
	s := open(t, c)
	kept := rawBlock(random(300, 1))
	if err := add(t.Context(), s, Kept, kept); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(c.Dir, "packs", packName(1))
	good := readAll(t, vfs.Default, file)
	if err := errors.Join(os.Truncate(file, int64(len(good)+maxCut+1)), os.RemoveAll(c.Dir+"/index")); err != nil {
		t.Fatal(err)
	}
	s = open(t, c)
	if !s.Has(kept.Cid()) {
		t.Error("the block before the damage is gone")
	}
	if err := add(t.Context(), s, Kept, rawBlock(random(10, 5))); err != nil {
		t.Fatal(err)
	}
	if got := readAll(t, vfs.Default, file); !bytes.Equal(got[:len(good)], good) || bytes.ContainsFunc(got[len(good):], func(r rune) bool { return r != 0 }) {
		t.Error("the damaged pack was written to")
	}
}

func TestOpen_Refusals(t *testing.T) {
	t.Parallel()
	mem, _, _, _ := tornStore(t)
	s := open(t, testConfig(t, mem))
	if _, err := Open(t.Context(), testConfig(t, mem)); !errors.Is(err, ErrInUse) {
		t.Errorf("second open: %v, want ErrInUse", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := mem.Remove("/data/store/ID"); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), testConfig(t, mem)); err == nil {
		t.Error("a store that lost its name got a new one")
	}
	if _, err := Open(t.Context(), Config{}); err == nil {
		t.Error("no folder named: opened")
	}
}
