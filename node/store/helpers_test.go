package store

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
)

// random returns n bytes that depend on seed only.
func random(n int, seed uint64) []byte {
	b := make([]byte, n)
	s := [32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)}
	rand.NewChaCha8(s).Read(b)
	return b
}

func scopeKey(scope string) ScopeKey {
	k := ScopeKey{Epoch: 7, Scope: scope}
	copy(k.Secret[:], "a secret of exactly 32 bytes ...")
	return k
}

func testConfig(t testing.TB, fs vfs.FS) Config {
	return Config{Dir: "/data/store", FS: fs, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))}
}

func open(t testing.TB, c Config) *Store {
	t.Helper()
	s, err := Open(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func openMem(t testing.TB) *Store { return open(t, testConfig(t, vfs.NewMem())) }

// openTemp opens a store on a real disk; one in memory is slow for megabytes.
func openTemp(t testing.TB) *Store {
	c := testConfig(t, vfs.Default)
	c.Dir = filepath.Join(t.TempDir(), "store")
	return open(t, c)
}

// rawBlock makes a block that no manifest names.
func rawBlock(data []byte) blocks.Block {
	b, err := blocks.NewBlockWithCid(data, nameOf(cid.Raw, data))
	if err != nil {
		panic(err)
	}
	return b
}

// put seals data into s and commits it.
func put(t testing.TB, s *Store, k ScopeKey, data []byte) Sealed {
	t.Helper()
	b := s.NewBatch(Kept)
	defer b.Abort()
	sealed, err := Seal(t.Context(), bytes.NewReader(data), k, b.Add)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	return sealed
}

// add commits blocks and returns the first error.
func add(ctx context.Context, s *Store, k Kind, blks ...blocks.Block) error {
	b := s.NewBatch(k)
	defer b.Abort()
	for _, blk := range blks {
		if err := b.Add(ctx, blk); err != nil {
			return err
		}
	}
	return b.Commit(ctx)
}

func openFile(t testing.TB, src Source, sealed Sealed) *File {
	t.Helper()
	f, err := OpenFile(t.Context(), sealed.Root, sealed.Key, src)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func readBack(t testing.TB, src Source, sealed Sealed) []byte {
	t.Helper()
	got, err := io.ReadAll(openFile(t, src, sealed))
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// sealAll returns the blocks of data, the manifest last.
func sealAll(t testing.TB, k ScopeKey, data []byte) (Sealed, []blocks.Block) {
	t.Helper()
	var out []blocks.Block
	sealed, err := Seal(context.Background(), bytes.NewReader(data), k, func(_ context.Context, b blocks.Block) error {
		out = append(out, b)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return sealed, out
}

// condemn marks a block as a collector will.
func condemn(t testing.TB, s *Store, d digest) {
	t.Helper()
	p, ok, err := s.index.find(Kept, d)
	if !ok || err != nil {
		t.Fatal(ok, err)
	}
	p.flags |= condemned
	if err := s.index.writeAlive(true, func(b *pebble.Batch) error { return putPlace(b, Kept, d, p) }); err != nil {
		t.Fatal(err)
	}
}

// sealSmall is sealAll with chunks of size bytes, which no chunker would cut: a File must read any
// manifest, and small chunks make for fast tests.
func sealSmall(t testing.TB, data []byte, size int) (Sealed, []blocks.Block) {
	t.Helper()
	var out []blocks.Block
	k := scopeKey("a")
	s := newSealing(k, func(_ context.Context, b blocks.Block) error {
		out = append(out, b)
		return nil
	})
	for part := range slices.Chunk(data, size) {
		c := &chunk{plain: part, size: int64(len(part))}
		s.encrypt(c)
		if err := s.deliver(context.Background(), c); err != nil {
			t.Fatal(err)
		}
	}
	sealed, err := s.finish(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return sealed, out
}
