package store

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"testing"

	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
)

// sealTree seals data in chunks of four bytes: enough of them make a tree.
func sealTree(t testing.TB, chunks int) (data []byte, sealed Sealed, blks []blocks.Block) {
	t.Helper()
	data = random(4*chunks, 7)
	sealed, blks = sealSmall(t, data, 4)
	return data, sealed, blks
}

// manifestsOf counts the blocks that are not chunks.
func manifestsOf(blks []blocks.Block) (n int) {
	for _, b := range blks {
		if b.Cid().Type() == cid.DagCBOR {
			n++
		}
	}
	return n
}

func TestT1_LongFilesAreTrees(t *testing.T) {
	t.Parallel()
	for chunks, manifests := range map[int]int{maxLinks: 1, maxLinks + 1: 3, 2 * maxLinks: 3, 2*maxLinks + 5: 4} {
		t.Run(fmt.Sprint(chunks), func(t *testing.T) {
			t.Parallel()
			data, sealed, blks := sealTree(t, chunks)
			if got := manifestsOf(blks); got != manifests || sealed.Chunks != chunks || sealed.Size != int64(len(data)) {
				t.Errorf("%d manifests, %d chunks, %d bytes", got, sealed.Chunks, sealed.Size)
			}
			if last := blks[len(blks)-1]; !last.Cid().Equals(sealed.Root) {
				t.Errorf("%s came last, not the root", last.Cid())
			}
			src := newMapSource(blks)
			f := openFile(t, src, sealed)
			if got, err := io.ReadAll(f); err != nil || !bytes.Equal(got, data) {
				t.Errorf("read whole: %d bytes, %v", len(got), err)
			}
			for _, off := range []int{0, 3, 4*maxLinks - 6, 4*maxLinks - 1, len(data) - 9} {
				want := data[off:min(off+40, len(data))]
				got := make([]byte, len(want))
				if _, err := f.ReadAt(got, int64(off)); err != nil || !bytes.Equal(got, want) {
					t.Errorf("read at %d: %v", off, err)
				}
			}
			if _, err := f.Seek(int64(4*maxLinks-2), io.SeekStart); err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(f); err != nil || !bytes.Equal(got, data[4*maxLinks-2:]) {
				t.Errorf("read on from the first leaf's end: %d bytes, %v", len(got), err)
			}
		})
	}
}

// Whoever has no key finds every block of a tree all the same, level by level.
func TestT3_LinksOfATree(t *testing.T) {
	t.Parallel()
	_, sealed, blks := sealTree(t, maxLinks+3)
	byCID := make(map[cid.Cid]blocks.Block)
	for _, b := range blks {
		byCID[b.Cid()] = b
	}
	seen := make(map[cid.Cid]bool)
	for level := []cid.Cid{sealed.Root}; len(level) > 0; {
		var below []cid.Cid
		for _, c := range level {
			seen[c] = true
			links, err := Links(byCID[c])
			if err != nil {
				t.Fatal(err)
			}
			below = append(below, links...)
		}
		level = below
	}
	if len(seen) != len(byCID) {
		t.Errorf("%d of %d blocks found", len(seen), len(byCID))
	}
}

func TestT3_ARangeOfATreeTouchesOneLeaf(t *testing.T) {
	t.Parallel()
	data, sealed, blks := sealTree(t, 3*maxLinks)
	src := newMapSource(blks)
	f := openFile(t, src, sealed)
	p := make([]byte, 2)
	off := int64(4*maxLinks + 100)
	if _, err := f.ReadAt(p, off); err != nil || !bytes.Equal(p, data[off:off+2]) {
		t.Fatal(err)
	}
	if src.taken != 3 { // root, leaf, chunk
		t.Errorf("%d blocks taken", src.taken)
	}
}

// A tree whose parts do not belong together is refused, whoever made it.
func TestT3_BadTrees(t *testing.T) {
	t.Parallel()
	_, sealed, blks := sealTree(t, 2*maxLinks)
	k := scopeKey("a")
	root, err := openManifest(blks[len(blks)-1].RawData(), sealed.Key)
	if err != nil {
		t.Fatal(err)
	}
	short := sampleLeaf(t, root, blks)
	for name, change := range map[string]func(m *manifest){
		"leaf of another size":  func(m *manifest) { m.sizes[0]++ },
		"leaf of another scope": func(m *manifest) { m.scope[0]++ },
		"leaf of another epoch": func(m *manifest) { m.epoch++ },
		"short leaf in front":   func(m *manifest) { m.links[0], m.keys[0], m.sizes[0] = short.cid, short.key, short.size },
		"a tree for a leaf":     func(m *manifest) { m.links[0], m.keys[0], m.sizes[0] = sealed.Root, sealed.Key, sealed.Size },
	} {
		m := *root
		m.links, m.keys, m.sizes = append([]cid.Cid(nil), m.links...), append([][32]byte(nil), m.keys...), append([]int64(nil), m.sizes...)
		change(&m)
		blk, key, err := m.seal(&k, forRoot)
		if err != nil {
			t.Fatal(err)
		}
		src := newMapSource(append(blks, blk, short.blk))
		f, err := OpenFile(t.Context(), blk.Cid(), key, src)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Read(make([]byte, 1)); !errors.Is(err, ErrManifest) {
			t.Errorf("%s: %v, want ErrManifest", name, err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

type sampledLeaf struct {
	blk  blocks.Block
	cid  cid.Cid
	key  [32]byte
	size int64
}

// sampleLeaf is a leaf of one chunk, in everything else like those of root.
func sampleLeaf(t *testing.T, root *manifest, blks []blocks.Block) sampledLeaf {
	t.Helper()
	k := scopeKey("a")
	m := manifest{epoch: root.epoch, links: []cid.Cid{blks[0].Cid()}}
	m.scope, m.keys, m.sizes = root.scope, [][32]byte{{}}, []int64{4}
	blk, key, err := m.seal(&k, forTree)
	if err != nil {
		t.Fatal(err)
	}
	return sampledLeaf{blk, blk.Cid(), key, 4}
}
