package store

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"
	blocks "github.com/ipfs/go-block-format"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares got with a file under testdata. Formats are for ever: a difference means that
// content stored by an earlier version is not found or not read any more.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s changed (-want +got):\n%s", name, diff)
	}
}

func TestGolden_Keys(t *testing.T) {
	t.Parallel()
	k := scopeKey("account-1")
	var out bytes.Buffer
	fmt.Fprintf(&out, "secret = %x\nepoch = %d\nscope = %s\n", k.Secret, k.Epoch, k.Scope)
	for _, p := range []purpose{forChunk, forTree, forRoot, forCutting, forTag} {
		fmt.Fprintf(&out, "subkey %c = %x\n", p, k.subkey(p))
	}
	plain, aad := []byte("the plaintext"), []byte("the additional data")
	key := contentKey(k.subkey(forChunk), aad, plain)
	fmt.Fprintf(&out, "plaintext = %s\nadditional data = %s\nchunk key = %x\nsealed = %x\n", plain, aad, key, sealTo(nil, key, plain, aad))
	fmt.Fprintf(&out, "key of nothing = %x\n", contentKey(k.subkey(forChunk), nil, nil))
	golden(t, "keys.txt", out.Bytes())
}

func TestGolden_Cuts(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	sealed, err := Seal(t.Context(), bytes.NewReader(random(16<<20, 1)), scopeKey("account-1"), func(_ context.Context, b blocks.Block) error {
		fmt.Fprintf(&out, "%s %d\n", b.Cid(), len(b.RawData()))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(&out, "root %s\nkey %x\n", sealed.Root, sealed.Key)
	golden(t, "cuts.txt", out.Bytes())
}

func TestGolden_Manifest(t *testing.T) {
	t.Parallel()
	m, k := sampleManifest()
	blk, key, err := m.seal(&k, forRoot)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "manifest.cbor", blk.RawData())
	golden(t, "manifest.txt", fmt.Appendf(nil, "root %s\nkey %x\n", blk.Cid(), key))
}

func TestGolden_Pack(t *testing.T) {
	t.Parallel()
	mem := vfs.NewMem()
	s := open(t, testConfig(t, mem))
	for i, k := range []Kind{Kept, Cached, Kept} {
		if err := add(t.Context(), s, k, rawBlock(random(50+100*i, uint64(i)))); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	golden(t, "kept.car", readAll(t, mem, "/data/store/packs/"+packName(1)))
	golden(t, "cached.car", readAll(t, mem, "/data/store/cache/"+packName(2)))
}
