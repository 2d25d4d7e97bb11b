package store

import (
	"bytes"
	"fmt"

	"github.com/fxamacker/cbor/v2"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
)

const (
	manifestVersion = 1
	// listManifest has chunks as its links. treeManifest is the root of a file of more than maxLinks
	// chunks: its links are list manifests, its leaves, each of maxLinks chunks but the last.
	listManifest = 0
	treeManifest = 1
)

// A manifest is the decoded form of a file's root block, or of a tree's leaf (T3).
type manifest struct {
	kind  uint64
	epoch uint32
	links []cid.Cid
	sealedPart
}

// sealedPart is what only the holder of the manifest's key may know.
type sealedPart struct {
	keys  [][32]byte
	sizes []int64 // of content, per link
	scope [16]byte
}

func (m *manifest) size() (total int64) {
	for _, n := range m.sizes {
		total += n
	}
	return total
}

// wireManifest is a manifest block: a DAG-CBOR map, so keys are short and in order of length, then
// bytes. Everything but the sealed part is its additional data: links cannot be changed unnoticed.
type wireManifest struct {
	Chunker uint64     `cbor:"c"`
	Epoch   uint32     `cbor:"e"`
	Kind    uint64     `cbor:"k"`
	Links   []cbor.Tag `cbor:"l"`
	Version uint64     `cbor:"v"`
	Sealed  []byte     `cbor:"x"`
}

// wireSealed is the plaintext of wireManifest.Sealed.
type wireSealed struct {
	Keys  []byte   `cbor:"k"` // 32 bytes per link
	Total uint64   `cbor:"n"`
	Scope []byte   `cbor:"s"`
	Sizes []uint64 `cbor:"z"`
}

const linkTag = 42 // DAG-CBOR: a CID, as a byte string with a zero byte in front

// codec writes and reads canonical CBOR. Modes cannot fail on constant options.
var (
	encodeCBOR = must(cbor.EncOptions{Sort: cbor.SortLengthFirst, NilContainers: cbor.NilContainerAsEmpty}.EncMode())
	decodeCBOR = must(cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		IndefLength:       cbor.IndefLengthForbidden,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
		MaxNestedLevels:   5,
		MaxArrayElements:  maxLinks + 16,
		MaxMapPairs:       16,
	}.DecMode())
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// scopeTag names the scope inside the sealed part without spelling it out: a reader of one file
// learns no account's id, and who has the secret can tell which scope sealed it.
func scopeTag(k *ScopeKey) (tag [16]byte) {
	sum := k.subkey(forTag)
	copy(tag[:], sum[:])
	return tag
}

// seal encodes m, encrypts what is secret, and returns the block and its key. purpose is forRoot, or
// forTree for a leaf.
func (m *manifest) seal(k *ScopeKey, p purpose) (blocks.Block, [32]byte, error) {
	clear := wireManifest{Chunker: chunkerID, Epoch: m.epoch, Kind: m.kind, Version: manifestVersion, Sealed: []byte{}}
	for _, c := range m.links {
		clear.Links = append(clear.Links, cbor.Tag{Number: linkTag, Content: append([]byte{0}, c.Bytes()...)})
	}
	secret := wireSealed{Total: uint64(m.size()), Scope: m.scope[:], Keys: make([]byte, 0, 32*len(m.keys))}
	for i, key := range m.keys {
		secret.Keys = append(secret.Keys, key[:]...)
		secret.Sizes = append(secret.Sizes, uint64(m.sizes[i]))
	}
	aad, err := encodeCBOR.Marshal(clear)
	if err != nil {
		return nil, [32]byte{}, fmt.Errorf("encode manifest: %w", err)
	}
	plain, err := encodeCBOR.Marshal(secret)
	if err != nil {
		return nil, [32]byte{}, fmt.Errorf("encode manifest: %w", err)
	}
	key := contentKey(k.subkey(p), aad, plain)
	clear.Sealed = sealTo(nil, key, plain, aad)
	data, err := encodeCBOR.Marshal(clear)
	if err != nil {
		return nil, [32]byte{}, fmt.Errorf("encode manifest: %w", err)
	}
	blk, err := blocks.NewBlockWithCid(data, nameOf(cid.DagCBOR, data))
	return blk, key, err
}

// openManifest decodes a manifest block and opens its sealed part.
func openManifest(data []byte, key [32]byte) (*manifest, error) {
	clear, links, err := decodeManifest(data)
	if err != nil {
		return nil, err
	}
	sealed := clear.Sealed
	clear.Sealed = []byte{}
	aad, err := encodeCBOR.Marshal(clear)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrManifest, err)
	}
	plain, err := openTo(nil, key, sealed, aad)
	if err != nil {
		return nil, ErrWrongKey
	}
	m := &manifest{kind: clear.Kind, epoch: clear.Epoch, links: links}
	if m.sealedPart, err = decodeSealed(plain, m.kind, len(links)); err != nil {
		return nil, err
	}
	return m, nil
}

// decodeManifest reads the clear part of a manifest that anybody may have made. It accepts one
// encoding only, so that a manifest has one CID.
func decodeManifest(data []byte) (*wireManifest, []cid.Cid, error) {
	if len(data) > MaxBlock {
		return nil, nil, fmt.Errorf("%w: %d bytes", ErrManifest, len(data))
	}
	w := new(wireManifest)
	if err := decodeCBOR.Unmarshal(data, w); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrManifest, err)
	}
	switch {
	case w.Version != manifestVersion:
		return nil, nil, fmt.Errorf("%w: version %d, this program knows %d", ErrManifest, w.Version, manifestVersion)
	case w.Kind != listManifest && w.Kind != treeManifest:
		return nil, nil, fmt.Errorf("%w: kind %d", ErrManifest, w.Kind)
	case w.Kind == treeManifest && len(w.Links) < 2:
		return nil, nil, fmt.Errorf("%w: a tree of %d leaves", ErrManifest, len(w.Links))
	case w.Chunker == 0:
		return nil, nil, fmt.Errorf("%w: no chunker named", ErrManifest)
	case len(w.Links) > maxLinks:
		return nil, nil, fmt.Errorf("%w: %d links", ErrManifest, len(w.Links))
	case len(w.Sealed) < tagSize:
		return nil, nil, fmt.Errorf("%w: sealed part of %d bytes", ErrManifest, len(w.Sealed))
	}
	links := make([]cid.Cid, 0, len(w.Links))
	codec := uint64(cid.Raw)
	if w.Kind == treeManifest {
		codec = cid.DagCBOR
	}
	for i, tag := range w.Links {
		c, err := linkTo(tag, codec)
		if err != nil {
			return nil, nil, fmt.Errorf("%w: link %d: %w", ErrManifest, i, err)
		}
		links = append(links, c)
	}
	if again, err := encodeCBOR.Marshal(w); err != nil || !bytes.Equal(again, data) {
		return nil, nil, fmt.Errorf("%w: not the canonical encoding", ErrManifest)
	}
	return w, links, nil
}

// linkTo reads one link: to a block of that codec named by its SHA-256.
func linkTo(tag cbor.Tag, codec uint64) (cid.Cid, error) {
	raw, ok := tag.Content.([]byte)
	if tag.Number != linkTag || !ok || len(raw) == 0 || raw[0] != 0 {
		return cid.Undef, fmt.Errorf("not a CID")
	}
	c, err := cid.Cast(raw[1:])
	if err != nil {
		return cid.Undef, err
	}
	if _, err := digestOf(c); err != nil {
		return cid.Undef, err
	}
	if c.Type() != codec {
		return cid.Undef, fmt.Errorf("to a block of codec %#x, not %#x", c.Type(), codec)
	}
	return c, nil
}

// decodeSealed reads the plaintext of a sealed part. It was made by a holder of the scope's secret,
// and is checked all the same: sizes become offsets.
func decodeSealed(plain []byte, kind uint64, links int) (sealedPart, error) {
	var w wireSealed
	if err := decodeCBOR.Unmarshal(plain, &w); err != nil {
		return sealedPart{}, fmt.Errorf("%w: sealed part: %w", ErrManifest, err)
	}
	if again, err := encodeCBOR.Marshal(w); err != nil || !bytes.Equal(again, plain) {
		return sealedPart{}, fmt.Errorf("%w: sealed part: not the canonical encoding", ErrManifest)
	}
	if len(w.Keys) != 32*links || len(w.Sizes) != links || len(w.Scope) != 16 {
		return sealedPart{}, fmt.Errorf("%w: sealed part does not fit %d links", ErrManifest, links)
	}
	most := uint64(MaxBlock - tagSize)
	if kind == treeManifest {
		most *= maxLinks
	}
	p := sealedPart{scope: [16]byte(w.Scope)}
	var total uint64
	for i, n := range w.Sizes {
		if n == 0 || n > most {
			return sealedPart{}, fmt.Errorf("%w: link %d to %d bytes", ErrManifest, i, n)
		}
		total += n
		p.sizes = append(p.sizes, int64(n))
		p.keys = append(p.keys, [32]byte(w.Keys[32*i:]))
	}
	if total != w.Total {
		return sealedPart{}, fmt.Errorf("%w: links sum to %d bytes, not %d", ErrManifest, total, w.Total)
	}
	return p, nil
}

// Links returns the children of a manifest block in file order, without needing a key; a raw block
// has none. Those of a long file's root are manifests themselves. It takes bytes from strangers: what is not exactly a manifest this version can read is
// ErrManifest. A block may be named more than once.
func Links(b blocks.Block) ([]cid.Cid, error) {
	if _, err := digestOf(b.Cid()); err != nil {
		return nil, err
	}
	if b.Cid().Type() == cid.Raw {
		return nil, nil
	}
	_, links, err := decodeManifest(b.RawData())
	return links, err
}
