package copies

import (
	"context"
	"sync"

	"github.com/libp2p/go-libp2p/core/peer"
)

// bulkStreams is how many streams to one peer may move bytes at once (P4).
const bulkStreams = 4

// A purpose orders those who wait to move bytes.
type purpose uint8

const (
	forReader purpose = iota // somebody waits for a download
	forUpload
	forKeeper
	purposes
)

// Every so many turns the longest waiting goes first, whatever its purpose: nobody starves.
const fairTurn = 8

// A slots limits the streams that move bytes to and from a peer. A slot is held while bytes move, not
// while a stream waits for its producer or consumer: slow clients block nobody.
type slots struct {
	limit int

	mu    sync.Mutex
	peers map[peer.ID]*slotQueue
}

// A slotQueue is one peer's.
type slotQueue struct {
	busy    int
	turns   int
	arrived uint64
	waiting [purposes][]*slotWait
}

type slotWait struct {
	arrived uint64
	granted chan struct{}
}

func newSlots(limit int) *slots { return &slots{limit: limit, peers: make(map[peer.ID]*slotQueue)} }

// acquire waits for a slot. Each nil needs one release.
func (s *slots) acquire(ctx context.Context, id peer.ID, p purpose) error {
	s.mu.Lock()
	q := s.peers[id]
	if q == nil {
		q = &slotQueue{}
		s.peers[id] = q
	}
	if q.busy < s.limit {
		q.busy++
		s.mu.Unlock()
		return nil
	}
	q.arrived++
	w := &slotWait{arrived: q.arrived, granted: make(chan struct{})}
	q.waiting[p] = append(q.waiting[p], w)
	s.mu.Unlock()

	select {
	case <-w.granted:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-w.granted: // both at once: pass it on
		s.releaseLocked(id)
	default:
		for i, other := range q.waiting[p] {
			if other == w {
				q.waiting[p] = append(q.waiting[p][:i], q.waiting[p][i+1:]...)
				break
			}
		}
	}
	return context.Cause(ctx)
}

func (s *slots) release(id peer.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.releaseLocked(id)
}

func (s *slots) releaseLocked(id peer.ID) {
	q := s.peers[id]
	if w := q.next(); w != nil {
		close(w.granted) // the slot changes hands
		return
	}
	q.busy--
	if q.busy == 0 {
		delete(s.peers, id)
	}
}

// next takes the one whose turn it is off the queue.
func (q *slotQueue) next() *slotWait {
	q.turns++
	best := -1
	for p := range q.waiting {
		if len(q.waiting[p]) == 0 {
			continue
		}
		if best < 0 || q.turns%fairTurn == 0 && q.waiting[p][0].arrived < q.waiting[best][0].arrived {
			best = p
		}
	}
	if best < 0 {
		return nil
	}
	w := q.waiting[best][0]
	q.waiting[best] = q.waiting[best][1:]
	return w
}
