package copies

import (
	"context"
	"sync"

	"github.com/libp2p/go-libp2p/core/peer"
)

// peerBudget bounds the bytes of blocks that the streams served to one peer hold in memory, all together.
const peerBudget = 32 << 20

// A budget shares a number of bytes out, to each peer as many.
type budget struct {
	limit int

	mu    sync.Mutex
	freed chan struct{} // closed and replaced when bytes come back
	used  map[peer.ID]int
}

func newBudget(limit int) *budget {
	return &budget{limit: limit, freed: make(chan struct{}), used: make(map[peer.ID]int)}
}

// A share is what one stream holds of a budget. Its methods may be called concurrently.
type share struct {
	b    *budget
	id   peer.ID
	held int // guarded by b.mu
}

func (b *budget) open(id peer.ID) *share { return &share{b: b, id: id} }

// take waits for n bytes. Who waits gets them at the latest when the peer's other streams hold none.
func (s *share) take(ctx context.Context, n int) error {
	b := s.b
	for {
		b.mu.Lock()
		if used := b.used[s.id]; used == 0 || used == s.held || used+n <= b.limit {
			b.used[s.id] += n
			s.held += n
			b.mu.Unlock()
			return nil
		}
		freed := b.freed
		b.mu.Unlock()
		select {
		case <-freed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// give returns n bytes.
func (s *share) give(n int) {
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	s.giveLocked(n)
}

// end returns all that is held.
func (s *share) end() {
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	s.giveLocked(s.held)
}

func (s *share) giveLocked(n int) {
	s.held -= n
	if s.b.used[s.id] -= n; s.b.used[s.id] == 0 {
		delete(s.b.used, s.id)
	}
	close(s.b.freed)
	s.b.freed = make(chan struct{})
}
