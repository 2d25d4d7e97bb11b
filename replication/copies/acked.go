package copies

import (
	"sync"

	"github.com/ipfs/go-cid"
)

// An acked remembers the roots that this process made durable lately, so that the keeper need not
// walk them, and this node's epoch of collection before each: a root that nothing referred to for two
// epochs may be gone again. It forgets the oldest; forgetting is always safe.
type acked struct {
	mu    sync.Mutex
	roots map[cid.Cid]uint32 // epochs
	order []cid.Cid          // ring
	next  int
}

func newAcked(size int) *acked {
	return &acked{roots: make(map[cid.Cid]uint32, size), order: make([]cid.Cid, size)}
}

func (a *acked) add(root cid.Cid, epoch uint32) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if before, ok := a.roots[root]; ok {
		a.roots[root] = max(before, epoch)
		return
	}
	delete(a.roots, a.order[a.next])
	a.order[a.next] = root
	a.next = (a.next + 1) % len(a.order)
	a.roots[root] = epoch
}

// since is the epoch in which root was made durable, or an earlier one.
func (a *acked) since(root cid.Cid) (epoch uint32, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	epoch, ok = a.roots[root]
	return epoch, ok
}

func (a *acked) has(root cid.Cid) bool {
	_, ok := a.since(root)
	return ok
}

func (a *acked) remove(root cid.Cid) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.roots, root)
}
