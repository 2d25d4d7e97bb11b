package store

import (
	"bytes"
	"errors"
	"testing"

	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
)

// sampleManifest is a manifest of two chunks with fixed content.
func sampleManifest() (manifest, ScopeKey) {
	k := scopeKey("account-1")
	m := manifest{epoch: k.Epoch}
	m.scope = scopeTag(&k)
	for i := range 2 {
		data := bytes.Repeat([]byte{byte(i)}, 100+i)
		c := chunk{plain: data}
		s := sealing{chunkKey: k.subkey(forChunk)}
		s.encrypt(&c)
		m.links = append(m.links, c.cid)
		m.keys = append(m.keys, c.key)
		m.sizes = append(m.sizes, int64(len(data)))
	}
	return m, k
}

func TestT3_LinksNeedNoKey(t *testing.T) {
	t.Parallel()
	_, blks := sealAll(t, scopeKey("a"), random(5<<20, 1))
	chunks, root := blks[:len(blks)-1], blks[len(blks)-1]
	links, err := Links(root)
	if err != nil || len(links) != len(chunks) {
		t.Fatalf("%d links for %d chunks: %v", len(links), len(chunks), err)
	}
	for i, c := range chunks {
		if !links[i].Equals(c.Cid()) {
			t.Errorf("link %d is %s, want %s", i, links[i], c.Cid())
		}
	}
	if links, err := Links(chunks[0]); len(links) != 0 || err != nil {
		t.Errorf("links of a raw block: %v, %v", links, err)
	}
}

func TestT3_EveryBitOfAManifestCounts(t *testing.T) {
	t.Parallel()
	m, k := sampleManifest()
	blk, key, err := m.seal(&k, forRoot)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := openManifest(blk.RawData(), key); err != nil {
		t.Fatal(err)
	}
	for i := range 8 * len(blk.RawData()) {
		data := bytes.Clone(blk.RawData())
		data[i/8] ^= 1 << (i % 8)
		if _, err := openManifest(data, key); !errors.Is(err, ErrManifest) && !errors.Is(err, ErrWrongKey) {
			t.Fatalf("bit %d flipped: %v", i, err)
		}
	}
	key[0] ^= 1
	if _, err := openManifest(blk.RawData(), key); !errors.Is(err, ErrWrongKey) {
		t.Errorf("wrong key: %v, want ErrWrongKey", err)
	}
}

func TestT3_StrangersManifestsAreRefused(t *testing.T) {
	t.Parallel()
	m, k := sampleManifest()
	good, _, err := m.seal(&k, forRoot)
	if err != nil {
		t.Fatal(err)
	}
	encode := func(change func(*wireManifest)) []byte {
		w, _, err := decodeManifest(good.RawData())
		if err != nil {
			t.Fatal(err)
		}
		change(w)
		data, err := encodeCBOR.Marshal(w)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	dagLink := nameOf(cid.DagCBOR, []byte("x")).Bytes()
	for name, data := range map[string][]byte{
		"empty":            nil,
		"later version":    encode(func(w *wireManifest) { w.Version = 2 }),
		"tree over chunks": encode(func(w *wireManifest) { w.Kind = treeManifest }),
		"tree of one leaf": encode(func(w *wireManifest) {
			w.Kind, w.Links = treeManifest, w.Links[:1]
			w.Links[0].Content = append([]byte{0}, dagLink...)
		}),
		"unknown kind":        encode(func(w *wireManifest) { w.Kind = 9 }),
		"no chunker":          encode(func(w *wireManifest) { w.Chunker = 0 }),
		"other tag":           encode(func(w *wireManifest) { w.Links[0].Number = 41 }),
		"link is no bytes":    encode(func(w *wireManifest) { w.Links[0].Content = "x" }),
		"link to a manifest":  encode(func(w *wireManifest) { w.Links[0].Content = append([]byte{0}, dagLink...) }),
		"link with a tail":    encode(func(w *wireManifest) { w.Links[0].Content = append(w.Links[0].Content.([]byte), 0) }),
		"sealed part short":   encode(func(w *wireManifest) { w.Sealed = w.Sealed[:tagSize-1] }),
		"trailing byte":       append(bytes.Clone(good.RawData()), 0),
		"not minimal":         bytes.Replace(good.RawData(), []byte{0x61, 'v', 1}, []byte{0x61, 'v', 0x18, 1}, 1),
		"keys in other order": append([]byte{0xa6, 0x61, 'e', 7, 0x61, 'c', 1}, good.RawData()[7:]...),
		"unknown field":       append([]byte{0xa7, 0x61, 'a', 0}, good.RawData()[1:]...),
		"too large":           make([]byte, MaxBlock+1),
	} {
		blk, err := blocks.NewBlockWithCid(data, nameOf(cid.DagCBOR, data))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Links(blk); !errors.Is(err, ErrManifest) {
			t.Errorf("%s: %v, want ErrManifest", name, err)
		}
	}
}

func FuzzManifest(f *testing.F) {
	m, k := sampleManifest()
	blk, key, err := m.seal(&k, forRoot)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(blk.RawData())
	empty := manifest{epoch: 1}
	none, _, err := empty.seal(&k, forRoot)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(none.RawData())
	tree := manifest{kind: treeManifest, epoch: 1}
	for i := range 2 {
		tree.links = append(tree.links, nameOf(cid.DagCBOR, []byte{byte(i)}))
		tree.keys, tree.sizes = append(tree.keys, [32]byte{}), append(tree.sizes, 1)
	}
	over, treeKey, err := tree.seal(&k, forRoot)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(over.RawData())
	f.Add([]byte{0xa0})
	f.Fuzz(func(t *testing.T, data []byte) {
		w, links, err := decodeManifest(data)
		if err != nil {
			if !errors.Is(err, ErrManifest) {
				t.Errorf("refused with %v", err)
			}
			return
		}
		if again, err := encodeCBOR.Marshal(w); err != nil || !bytes.Equal(again, data) {
			t.Error("accepted bytes that are not the canonical encoding")
		}
		for _, c := range links {
			if _, err := digestOf(c); err != nil || (c.Type() == cid.Raw) != (w.Kind == listManifest) {
				t.Errorf("link %s: %v", c, err)
			}
		}
		for _, key := range [][32]byte{key, treeKey} {
			if m, err := openManifest(data, key); err == nil && !bytes.Equal(data, blk.RawData()) && !bytes.Equal(data, over.RawData()) {
				t.Errorf("opened bytes nobody sealed: %v", m)
			}
		}
	})
}

// FuzzSealedPart takes plaintexts as a holder of the keys might have made them.
func FuzzSealedPart(f *testing.F) {
	f.Add([]byte{0xa0}, 0)
	f.Add([]byte{0xa4, 0x61, 'k', 0x40, 0x61, 'n', 0, 0x61, 's', 0x50, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x61, 'z', 0x80}, 0)
	f.Fuzz(func(t *testing.T, data []byte, links int) {
		p, err := decodeSealed(data, uint64(links&1), links)
		if err != nil {
			if !errors.Is(err, ErrManifest) {
				t.Errorf("refused with %v", err)
			}
			return
		}
		if len(p.keys) != links || len(p.sizes) != links {
			t.Errorf("%d keys, %d sizes for %d links", len(p.keys), len(p.sizes), links)
		}
	})
}
