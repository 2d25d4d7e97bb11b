package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
)

// A mapSource yields blocks from memory and notes what it was asked for.
type mapSource struct {
	mu     sync.Mutex
	blocks map[cid.Cid][]byte
	asked  [][]cid.Cid
	taken  int
	stuck  bool // waits for the context instead of yielding raw blocks
}

func newMapSource(blks []blocks.Block) *mapSource {
	s := &mapSource{blocks: make(map[cid.Cid][]byte)}
	for _, b := range blks {
		s.blocks[b.Cid()] = bytes.Clone(b.RawData())
	}
	return s
}

func (s *mapSource) Blocks(ctx context.Context, want []cid.Cid) iter.Seq2[blocks.Block, error] {
	return func(yield func(blocks.Block, error) bool) {
		s.mu.Lock()
		s.asked = append(s.asked, want)
		s.mu.Unlock()
		for _, c := range want {
			if s.stuck && c.Type() == cid.Raw {
				<-ctx.Done()
				yield(nil, ctx.Err())
				return
			}
			s.mu.Lock()
			data, ok := s.blocks[c]
			s.taken++
			s.mu.Unlock()
			if !ok {
				yield(nil, ErrNotFound)
				return
			}
			blk, err := blocks.NewBlockWithCid(data, c)
			if !yield(blk, err) {
				return
			}
		}
	}
}

func (s *mapSource) windows() (sizes []int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.asked[1:] { // after the manifest
		sizes = append(sizes, len(w))
	}
	return sizes
}

func TestFile_IsAReader(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, 999, 1000, 1001, 20_000} {
		data := random(n, 1)
		sealed, blks := sealSmall(t, data, 1000)
		s := openMem(t)
		if err := add(t.Context(), s, Kept, blks...); err != nil {
			t.Fatal(err)
		}
		for name, src := range map[string]Source{"store": s, "other": newMapSource(blks)} {
			f := openFile(t, src, sealed)
			if f.Size() != int64(n) {
				t.Errorf("size %d, want %d", f.Size(), n)
			}
			if err := iotest.TestReader(struct {
				io.ReadSeeker
				io.ReaderAt
			}{f, f}, data); err != nil {
				t.Errorf("%d bytes from %s: %v", n, name, err)
			}
			if _, err := f.Seek(int64(n/3), io.SeekStart); err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			if w, err := f.WriteTo(&out); w != int64(n-n/3) || err != nil || !bytes.Equal(out.Bytes(), data[n/3:]) {
				t.Errorf("%d bytes from %s, WriteTo: %d, %v", n, name, w, err)
			}
		}
	}
}

func TestT3_SmallRangeTouchesOneChunk(t *testing.T) {
	t.Parallel()
	data := random(40_000, 1)
	sealed, blks := sealSmall(t, data, 2000)
	for name, read := range map[string]func(f *File, p []byte, off int64) error{
		"Read": func(f *File, p []byte, off int64) error {
			if _, err := f.Seek(off, io.SeekStart); err != nil {
				return err
			}
			_, err := io.ReadFull(f, p)
			return err
		},
		"ReadAt": func(f *File, p []byte, off int64) error { _, err := f.ReadAt(p, off); return err },
	} {
		src := newMapSource(blks)
		f := openFile(t, src, sealed)
		off := f.outline.held[0].offsets[5] + 10
		p := make([]byte, 1000)
		if err := read(f, p, off); err != nil || !bytes.Equal(p, data[off:off+1000]) {
			t.Errorf("%s: %v", name, err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]int{1}, src.windows()); diff != "" || src.taken != 2 {
			t.Errorf("%s took %d blocks in windows %v", name, src.taken, src.windows())
		}
	}
}

func TestFile_WindowsGrow(t *testing.T) {
	t.Parallel()
	sealed, blks := sealSmall(t, random(200_000, 1), 1000)
	src := newMapSource(blks)
	if n, err := io.Copy(io.Discard, openFile(t, src, sealed)); n != sealed.Size || err != nil {
		t.Fatal(n, err)
	}
	want := []int{1, 4, 16}
	for left := sealed.Chunks - 21; left > 0; left -= 64 {
		want = append(want, min(64, left))
	}
	if diff := cmp.Diff(want, src.windows()); diff != "" {
		t.Errorf("windows (-want +got):\n%s", diff)
	}
}

func TestFile_ReadsAheadWithinBounds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		sealed, blks := sealSmall(t, random(40_000, 1), 1000)
		src := newMapSource(blks)
		f, err := OpenFile(t.Context(), sealed.Root, sealed.Key, src)
		if err != nil {
			t.Fatal(err)
		}
		p := make([]byte, f.outline.held[0].offsets[2]) // two chunks: the second window is begun
		if _, err := io.ReadFull(f, p); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // everything that reads ahead has come to rest
		if got, most := src.taken-1, 2+aheadDepth+1; got != most {
			t.Errorf("two chunks read, %d fetched, want %d", got, most)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Read(p); !errors.Is(err, ErrClosed) {
			t.Errorf("read after close: %v", err)
		}
		if _, err := f.ReadAt(p, 0); !errors.Is(err, ErrClosed) {
			t.Errorf("read at after close: %v", err)
		}
	})
}

func TestFile_CloseStopsWhatIsUnderWay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		sealed, blks := sealSmall(t, random(5000, 1), 1000)
		src := newMapSource(blks)
		src.stuck = true
		f, err := OpenFile(t.Context(), sealed.Root, sealed.Key, src)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := f.Read(make([]byte, 10)); err == nil {
				t.Error("read from a source that yields nothing")
			}
		})
		wg.Go(func() {
			if _, err := f.ReadAt(make([]byte, 10), 100); err == nil {
				t.Error("read at from a source that yields nothing")
			}
		})
		synctest.Wait()
		if err := f.Close(); err != nil {
			t.Error(err)
		}
		wg.Wait()
	})
}

func TestFile_ConcurrentReadAt(t *testing.T) {
	t.Parallel()
	data := random(300_000, 1)
	sealed, blks := sealSmall(t, data, 10_000)
	s := openMem(t)
	if err := add(t.Context(), s, Kept, blks...); err != nil {
		t.Fatal(err)
	}
	f := openFile(t, s, sealed)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			p := make([]byte, 35_000)
			for i := range 30 {
				off := (g*7919 + i*104729*13) % (len(data) - len(p))
				if _, err := f.ReadAt(p, int64(off)); err != nil || !bytes.Equal(p, data[off:off+len(p)]) {
					t.Errorf("at %d: %v", off, err)
				}
			}
		})
	}
	wg.Go(func() {
		if got, err := io.ReadAll(f); err != nil || !bytes.Equal(got, data) {
			t.Errorf("sequential read beside ReadAt: %v", err)
		}
	})
	wg.Wait()
}

// A repairing source has good copies of everything elsewhere.
type repairing struct {
	Source
	good *mapSource
}

func (r repairing) Refetch(_ context.Context, c cid.Cid) (blocks.Block, error) {
	return blocks.NewBlockWithCid(r.good.blocks[c], c)
}

func TestT7_CorruptBlockIsNamedOrFetchedElsewhere(t *testing.T) {
	t.Parallel()
	data := random(6000, 1)
	sealed, blks := sealSmall(t, data, 1000)
	for victim, blk := range blks {
		s := openMem(t)
		if err := add(t.Context(), s, Kept, blks...); err != nil {
			t.Fatal(err)
		}
		flipOnDisk(t, s, blk.Cid())
		if _, err := s.Block(t.Context(), blk.Cid()); !errors.Is(err, ErrCorrupt) || errors.Is(err, ErrNotFound) {
			t.Errorf("corrupt block %d: %v, want ErrCorrupt", victim, err)
		}
		broken := newMapSource(blks)
		broken.blocks[blk.Cid()][7] ^= 1
		for name, src := range map[string]Source{"store": s, "other": broken} {
			got, err := readFile(t, sealed, src)
			if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), blk.Cid().String()) {
				t.Errorf("%s with block %d corrupt: %v", name, victim, err)
			}
			if victim < sealed.Chunks && !strings.Contains(err.Error(), fmt.Sprintf("chunk %d ", victim)) {
				t.Errorf("%s: chunk %d is not named: %v", name, victim, err)
			}
			if !bytes.HasPrefix(data, got) {
				t.Errorf("%s with block %d corrupt: wrong bytes came", name, victim)
			}
			got, err = readFile(t, sealed, repairing{src, newMapSource(blks)})
			if err != nil || !bytes.Equal(got, data) {
				t.Errorf("%s with block %d corrupt and a good copy elsewhere: %v", name, victim, err)
			}
		}
	}
}

func readFile(t *testing.T, sealed Sealed, src Source) ([]byte, error) {
	f, err := OpenFile(t.Context(), sealed.Root, sealed.Key, src)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}

// flipOnDisk changes one bit of a block's bytes in its pack.
func flipOnDisk(t *testing.T, s *Store, c cid.Cid) {
	t.Helper()
	d, err := digestOf(c)
	if err != nil {
		t.Fatal(err)
	}
	k, p, err := s.locate(d)
	if err != nil {
		t.Fatal(err)
	}
	f, err := s.fs.OpenReadWrite(s.fs.PathJoin(s.dir, packDir(k), packName(p.pack)), diskWrites)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	at := p.offset + int64(p.length)/2
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
}

func TestFile_SourceFails(t *testing.T) {
	t.Parallel()
	data := random(6000, 1)
	sealed, blks := sealSmall(t, data, 1000)
	missing := newMapSource(blks)
	delete(missing.blocks, blks[2].Cid())
	got, err := readFile(t, sealed, missing)
	if !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "chunk 2 ") || !bytes.HasPrefix(data, got) {
		t.Errorf("chunk 2 missing: %v", err)
	}
	// What was missing may have come meanwhile.
	f := openFile(t, missing, sealed)
	if _, err := io.ReadAll(f); err == nil {
		t.Error("read past a missing chunk")
	}
	missing.blocks[blks[2].Cid()] = blks[2].RawData()
	rest, err := io.ReadAll(f)
	if err != nil || !bytes.HasSuffix(data, rest) || len(rest) == 0 {
		t.Errorf("read on once the chunk came: %d bytes, %v", len(rest), err)
	}
	if _, err := OpenFile(t.Context(), blks[0].Cid(), sealed.Key, missing); !errors.Is(err, ErrManifest) {
		t.Errorf("a chunk opened as a file: %v", err)
	}
	if _, err := OpenFile(t.Context(), sealed.Root, [32]byte{}, missing); !errors.Is(err, ErrWrongKey) {
		t.Errorf("wrong key: %v", err)
	}
	if _, err := OpenFile(t.Context(), sealed.Root, sealed.Key, newMapSource(nil)); !errors.Is(err, ErrNotFound) {
		t.Errorf("no manifest: %v", err)
	}
}

func TestFile_ContextEnds(t *testing.T) {
	t.Parallel()
	sealed, blks := sealAll(t, scopeKey("a"), random(100, 1))
	ctx, cancel := context.WithCancelCause(t.Context())
	f, err := OpenFile(ctx, sealed.Root, sealed.Key, newMapSource(blks))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cancel(errBroken)
	if _, err := f.Read(make([]byte, 1)); !errors.Is(err, errBroken) {
		t.Errorf("read: %v", err)
	}
	if _, err := f.ReadAt(make([]byte, 1), 0); !errors.Is(err, errBroken) {
		t.Errorf("read at: %v", err)
	}
}

func TestStore_UseAfterClose(t *testing.T) {
	t.Parallel()
	s := openMem(t)
	blk := rawBlock(random(100, 1))
	b := s.NewBatch(Kept)
	if err := b.Add(t.Context(), blk); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
	if err := b.Commit(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("commit: %v", err)
	}
	if err := add(t.Context(), s, Kept, blk); !errors.Is(err, ErrClosed) {
		t.Errorf("add: %v", err)
	}
	if _, err := s.Block(t.Context(), blk.Cid()); !errors.Is(err, ErrClosed) || s.Has(blk.Cid()) {
		t.Errorf("block: %v", err)
	}
}

func TestStore_UnsupportedCIDs(t *testing.T) {
	t.Parallel()
	s := openMem(t)
	data := []byte("data")
	v0, err := cid.V0Builder{}.Sum(data)
	if err != nil {
		t.Fatal(err)
	}
	sha512, err := cid.V1Builder{Codec: cid.Raw, MhType: 0x13}.Sum(data)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []cid.Cid{v0, sha512, cid.NewCidV1(cid.DagProtobuf, v0.Hash())} {
		blk, err := blocks.NewBlockWithCid(data, c)
		if err != nil {
			t.Fatal(err)
		}
		if err := add(t.Context(), s, Kept, blk); !errors.Is(err, ErrUnsupported) {
			t.Errorf("add %s: %v", c, err)
		}
		if _, err := s.Block(t.Context(), c); !errors.Is(err, ErrUnsupported) {
			t.Errorf("block %s: %v", c, err)
		}
	}
	if err := add(t.Context(), s, Kept, rawBlock(make([]byte, MaxBlock+1))); !errors.Is(err, ErrTooLarge) {
		t.Errorf("oversized: %v", err)
	}
	if _, err := s.Block(t.Context(), rawBlock(data).Cid()); !errors.Is(err, ErrNotFound) {
		t.Errorf("absent: %v", err)
	}
}

func TestStore_ReadsFromManyPacks(t *testing.T) {
	t.Parallel()
	c := testConfig(t, vfs.NewMem())
	c.PackSize = 1
	s := open(t, c)
	var blks []blocks.Block
	for i := range maxOpenPacks + 20 {
		blks = append(blks, rawBlock(random(100, uint64(i))))
	}
	if err := add(t.Context(), s, Kept, blks...); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		for i, blk := range blks {
			if _, err := s.Block(t.Context(), blk.Cid()); err != nil {
				t.Fatalf("block %d: %v", i, err)
			}
		}
	}
	if n := len(s.files.files); n > maxOpenPacks {
		t.Errorf("%d packs are open", n)
	}
	if n := s.active[Kept].id; n < maxOpenPacks {
		t.Errorf("only %d packs", n)
	}
}
