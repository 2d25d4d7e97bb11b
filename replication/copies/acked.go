package copies

import (
	"sync"

	"github.com/ipfs/go-cid"
)

// An acked remembers the roots that this process made durable lately, so that the keeper need not
// walk them. It forgets the oldest; forgetting is always safe.
type acked struct {
	mu    sync.Mutex
	roots map[cid.Cid]bool
	order []cid.Cid // ring
	next  int
}

func newAcked(size int) *acked {
	return &acked{roots: make(map[cid.Cid]bool, size), order: make([]cid.Cid, size)}
}

func (a *acked) add(root cid.Cid) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.roots[root] {
		return
	}
	delete(a.roots, a.order[a.next])
	a.order[a.next] = root
	a.next = (a.next + 1) % len(a.order)
	a.roots[root] = true
}

func (a *acked) has(root cid.Cid) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.roots[root]
}

func (a *acked) remove(root cid.Cid) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.roots, root)
}
