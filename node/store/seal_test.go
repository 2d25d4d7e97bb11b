package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"testing/synctest"

	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
)

func TestT1_AnySizeReadsBack(t *testing.T) {
	t.Parallel()
	s := openTemp(t)
	for i, n := range []int{0, 1, 1000, chunkMin - 1, chunkMin, chunkMin + 1, chunkMax - 1, chunkMax, chunkMax + 1, 3<<20 + 17, 50 << 20} {
		data := random(n, uint64(i))
		sealed := put(t, s, scopeKey("a"), data)
		if sealed.Size != int64(n) {
			t.Errorf("size of %d bytes: got %d", n, sealed.Size)
		}
		if !bytes.Equal(readBack(t, s, sealed), data) {
			t.Errorf("%d bytes do not read back", n)
		}
		if n < chunkMin && sealed.Chunks != min(n, 1) {
			t.Errorf("%d bytes are %d chunks", n, sealed.Chunks)
		}
		if mean := n / max(1, sealed.Chunks); n == 50<<20 && (mean < 700<<10 || mean > 1400<<10) {
			t.Errorf("chunks of 50 MiB have %d KiB on average", mean>>10)
		}
	}
}

func TestT1_BlocksAreOfTheRightSize(t *testing.T) {
	t.Parallel()
	for name, data := range map[string][]byte{"random": random(20<<20, 1), "zeros": make([]byte, 20<<20)} {
		sealed, blks := sealAll(t, scopeKey("a"), data)
		for i, blk := range blks[:sealed.Chunks] {
			n := len(blk.RawData()) - tagSize
			if n > chunkMax || n < chunkMin && i < sealed.Chunks-1 || len(blk.RawData()) > MaxBlock {
				t.Errorf("%s: chunk %d has %d bytes", name, i, n)
			}
			if !nameOf(cid.Raw, blk.RawData()).Equals(blk.Cid()) {
				t.Errorf("%s: chunk %d has a wrong name", name, i)
			}
		}
	}
}

func TestA2_EqualContentIsStoredOnce(t *testing.T) {
	t.Parallel()
	s := openTemp(t)
	data := random(5<<20, 1)
	a := put(t, s, scopeKey("a"), data)
	was := s.active[Kept].written
	// The same bytes in other portions are the same file.
	again, err := Seal(t.Context(), iotest.HalfReader(bytes.NewReader(data)), scopeKey("a"), s.NewBatch(Kept).Add)
	if err != nil || again != a {
		t.Errorf("sealed again: %+v, %v, want %+v", again, err, a)
	}
	if s.active[Kept].written != was {
		t.Error("equal content was written twice")
	}
}

func TestT2_ScopesAndEpochsShareNothing(t *testing.T) {
	t.Parallel()
	data := random(3<<20, 1)
	base := scopeKey("a")
	epoch, secret := base, base
	epoch.Epoch++
	secret.Secret[31]++
	_, first := sealAll(t, base, data)
	for name, k := range map[string]ScopeKey{"scope": scopeKey("b"), "epoch": epoch, "secret": secret} {
		_, other := sealAll(t, k, data)
		for _, blk := range other {
			if slices.ContainsFunc(first, func(b blocks.Block) bool { return b.Cid().Equals(blk.Cid()) }) {
				t.Errorf("another %s gives an equal block", name)
			}
		}
		if len(first) == len(other) && slices.EqualFunc(first, other, func(a, b blocks.Block) bool { return len(a.RawData()) == len(b.RawData()) }) {
			t.Errorf("another %s cuts at the same places", name)
		}
	}
}

func TestT1_EditMovesFewChunks(t *testing.T) {
	t.Parallel()
	s := openTemp(t)
	data := random(64<<20, 1)
	put(t, s, scopeKey("a"), data)
	for name, edited := range map[string][]byte{
		"inserted": slices.Concat(data[:32<<20], []byte("a few bytes more"), data[32<<20:]),
		"removed":  slices.Concat(data[:20<<20], data[20<<20+100:]),
		"changed":  slices.Concat(data[:40<<20], []byte{data[40<<20] ^ 1}, data[40<<20+1:]),
	} {
		sealed, blks := sealAll(t, scopeKey("a"), edited)
		fresh := 0
		for _, blk := range blks {
			if !s.Has(blk.Cid()) {
				fresh++
			}
		}
		if fresh > 8 || fresh == 0 {
			t.Errorf("%s: %d of %d chunks are new", name, fresh-1, sealed.Chunks)
		}
	}
}

var errBroken = errors.New("broken")

func TestSeal_ReaderFails(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1000, chunkMin, 10 << 20} {
		for _, cause := range []error{errBroken, io.ErrUnexpectedEOF} { // the second is how a broken upload looks
			r := io.MultiReader(bytes.NewReader(random(n, 1)), iotest.ErrReader(cause))
			var last cid.Cid
			_, err := Seal(t.Context(), r, scopeKey("a"), func(_ context.Context, b blocks.Block) error {
				last = b.Cid()
				return nil
			})
			if !errors.Is(err, cause) {
				t.Errorf("reader broken after %d bytes: %v, want %v", n, err, cause)
			}
			if last.Defined() && last.Type() == cid.DagCBOR {
				t.Errorf("reader broken after %d bytes: a manifest was emitted", n)
			}
		}
	}
}

// endless never ends, and counts what was read.
type endless struct{ n atomic.Int64 }

func (e *endless) Read(p []byte) (int, error) {
	copy(p, random(min(len(p), 4096), uint64(e.n.Add(int64(len(p))))))
	return len(p), nil
}

func TestSeal_EmitFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { // which fails when a goroutine is left
		for at := range 4 {
			r, n := new(endless), 0
			_, err := Seal(t.Context(), r, scopeKey("a"), func(context.Context, blocks.Block) error {
				if n++; n > at {
					return errBroken
				}
				return nil
			})
			if !errors.Is(err, errBroken) || n != at+1 {
				t.Errorf("emit failing at block %d: called %d times, %v", at, n, err)
			}
			if r.n.Load() > 64<<20 {
				t.Errorf("read %d MiB ahead of emit", r.n.Load()>>20)
			}
		}
	})
}

func TestSeal_ContextEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for at := range 3 {
			ctx, cancel := context.WithCancelCause(t.Context())
			n := 0
			_, err := Seal(ctx, new(endless), scopeKey("a"), func(context.Context, blocks.Block) error {
				if n++; n > at {
					cancel(errBroken)
				}
				return nil
			})
			if !errors.Is(err, errBroken) {
				t.Errorf("cancelled at block %d: %v", at, err)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		for _, n := range []int{0, 10, 3 << 20} {
			if _, err := Seal(ctx, bytes.NewReader(make([]byte, n)), scopeKey("a"), func(context.Context, blocks.Block) error {
				t.Error("emitted after the context's end")
				return nil
			}); !errors.Is(err, context.Canceled) {
				t.Errorf("%d bytes: %v, want Canceled", n, err)
			}
		}
	})
}

func TestT3_TooManyChunks(t *testing.T) {
	t.Parallel()
	s := sealing{key: scopeKey("a"), emit: func(context.Context, blocks.Block) error { return nil }}
	s.top.links = make([]cid.Cid, maxLinks)
	if err := s.leaf(t.Context()); !errors.Is(err, ErrTooManyChunks) {
		t.Errorf("one leaf more than a tree has: %v", err)
	}
}

func TestT3_LargestManifestIsABlock(t *testing.T) {
	t.Parallel()
	k := scopeKey("a")
	m := manifest{epoch: 1<<32 - 1}
	for i := range maxLinks {
		m.links = append(m.links, cidOf(cid.Raw, sha256.Sum256([]byte{byte(i), byte(i >> 8)})))
		m.keys = append(m.keys, [32]byte{byte(i)})
		m.sizes = append(m.sizes, chunkMax)
	}
	blk, key, err := m.seal(&k, forRoot)
	if err != nil {
		t.Fatal(err)
	}
	if len(blk.RawData()) > MaxBlock {
		t.Errorf("manifest has %d bytes", len(blk.RawData()))
	}
	got, err := openManifest(blk.RawData(), key)
	if err != nil || got.size() != int64(maxLinks)*chunkMax {
		t.Errorf("largest manifest: %v", err)
	}
}

func TestSeal_MemoryIsBounded(t *testing.T) {
	// Not parallel: it looks at the heap.
	r := io.LimitReader(new(endless), 64<<20)
	var most uint64
	runtime.GC()
	var before, now runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := Seal(t.Context(), r, scopeKey("a"), func(context.Context, blocks.Block) error {
		runtime.GC()
		runtime.ReadMemStats(&now)
		most = max(most, now.HeapAlloc)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if used := int64(most) - int64(before.HeapAlloc); used > 24<<20 {
		t.Errorf("Seal used %d MiB", used>>20)
	}
}

func TestScopeKey_LogsNoSecret(t *testing.T) {
	t.Parallel()
	if s := scopeKey("a").LogValue().String(); strings.Contains(s, "secret of") || !strings.Contains(s, "redacted") {
		t.Errorf("logged as %s", s)
	}
}
