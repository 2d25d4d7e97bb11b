package store

import (
	"context"
	"fmt"
	"sort"
	"sync"

	"github.com/ipfs/go-cid"
)

// An outline knows where a file's chunks are. The root of a file of up to maxLinks chunks lists them
// itself. That of a longer one lists leaves, manifests of maxLinks chunks each but the last (T1), and
// a leaf is fetched when one of its chunks is wanted. So chunks can be numbered through the file
// although no more than two leaves are in memory. It is safe for concurrent use.
type outline struct {
	src     Source
	root    *manifest
	offsets []int64 // where each leaf begins, and the end

	mu   sync.Mutex // guards the field below
	held []*leaf    // at most two, the one used last in front
}

// A leaf is a manifest of chunks.
type leaf struct {
	*manifest
	number  int     // among the leaves
	offsets []int64 // where each chunk begins in the file, and the end
}

// first is the number of the leaf's first chunk.
func (l *leaf) first() int { return l.number * maxLinks }

func openOutline(ctx context.Context, root cid.Cid, key [32]byte, src Source) (*outline, error) {
	m, err := fetchManifest(ctx, root, key, src)
	if err != nil {
		return nil, err
	}
	o := &outline{src: src, root: m}
	if m.kind == treeManifest {
		o.offsets = offsetsOf(0, m.sizes)
		return o, nil
	}
	o.offsets = []int64{0, m.size()}
	o.held = []*leaf{{manifest: m, offsets: offsetsOf(0, m.sizes)}}
	return o, nil
}

// offsetsOf returns where parts of these sizes begin, one after the other, and the end.
func offsetsOf(from int64, sizes []int64) []int64 {
	out := make([]int64, 1, len(sizes)+1)
	out[0] = from
	for i, n := range sizes {
		out = append(out, out[i]+n)
	}
	return out
}

func (o *outline) size() int64 { return o.offsets[len(o.offsets)-1] }

// find returns which part an offset is in.
func find(offsets []int64, off int64) int {
	return sort.Search(len(offsets)-1, func(i int) bool { return offsets[i+1] > off })
}

// chunkAt returns the number of the chunk that holds the byte at off, which is in the file.
func (o *outline) chunkAt(ctx context.Context, off int64) (int, error) {
	l, err := o.leaf(ctx, find(o.offsets, off))
	if err != nil {
		return 0, err
	}
	return l.first() + find(l.offsets, off), nil
}

// leafOf returns the leaf that lists a chunk, and its place there; nil after the last chunk.
func (o *outline) leafOf(ctx context.Context, chunk int) (*leaf, int, error) {
	n, at := chunk/maxLinks, chunk%maxLinks
	if n >= len(o.offsets)-1 {
		return nil, 0, nil
	}
	l, err := o.leaf(ctx, n)
	if err != nil {
		return nil, 0, err
	}
	if at >= len(l.links) {
		return nil, 0, nil
	}
	return l, at, nil
}

// leaf returns the leaf with a number. Two that miss it at once both fetch it.
func (o *outline) leaf(ctx context.Context, n int) (*leaf, error) {
	if l := o.use(n, nil); l != nil {
		return l, nil
	}
	c := o.root.links[n]
	m, err := fetchManifest(ctx, c, o.root.keys[n], o.src)
	if err == nil {
		err = o.check(n, m)
	}
	if err != nil {
		return nil, fmt.Errorf("leaf %d of %d (%s): %w", n, len(o.root.links), c, err)
	}
	return o.use(n, &leaf{manifest: m, number: n, offsets: offsetsOf(o.offsets[n], m.sizes)}), nil
}

// use puts the leaf with a number in front: one that is held, or else a fresh one.
func (o *outline) use(n int, fresh *leaf) *leaf {
	o.mu.Lock()
	defer o.mu.Unlock()
	for i, l := range o.held {
		if l.number == n {
			o.held[0], o.held[i] = o.held[i], o.held[0]
			return l
		}
	}
	if fresh != nil {
		o.held = append([]*leaf{fresh}, o.held[:min(len(o.held), 1)]...)
	}
	return fresh
}

// check holds a leaf against its root: whoever made them had the keys, but numbers become offsets.
func (o *outline) check(n int, m *manifest) error {
	last := n == len(o.root.links)-1
	switch {
	case m.kind != listManifest:
		return fmt.Errorf("%w: a tree of more than two levels", ErrManifest)
	case len(m.links) != maxLinks && !last, len(m.links) == 0:
		return fmt.Errorf("%w: a leaf of %d chunks", ErrManifest, len(m.links))
	case m.size() != o.root.sizes[n] || m.scope != o.root.scope || m.epoch != o.root.epoch:
		return fmt.Errorf("%w: a leaf of another file", ErrManifest)
	}
	return nil
}
