package replication

import (
	"context"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// senders is how many groups of this node are on their way to the leader at once.
// While all are, attempts gather into the next group.
const senders = 2

// retryAfter is the pause before a group that met no leader is sent again.
const retryAfter = 20 * time.Millisecond

// An attempt is one proposal on its way to an outcome.
type attempt struct {
	seq     uint64
	data    []byte        // encoded proposal
	outcome chan outcome  // buffered; filled from this node's applied state (L2)
	durable chan struct{} // closed once the leader found it durable as L3 asks

	// guarded by proposer.mu
	flying   bool // on its way to a leader
	proposed bool // an earlier trip may have reached one, or did
	done     bool // nothing more to send: durable, refused or given up
}

// A proposer numbers this node's attempts and sends them to the leader until their
// outcome is known. Only the same id is ever sent again (L2).
type proposer struct {
	self        peer.ID
	incarnation uint64
	// send gives a group to the leader. It calls propose before anyone may see the
	// group, and does not send it if that answers false.
	send func(ctx context.Context, group []byte, propose func() bool) sendResult

	mu      sync.Mutex
	ready   sync.Cond // on mu: queue is not empty, or closed
	closed  bool
	queue   []*attempt
	next    uint64              // next sequence number
	low     uint64              // all below are settled by us
	pending map[uint64]*attempt // numbered and not settled
}

type sendResult int

const (
	sendDurable   sendResult = iota // applied and durable
	sendNoLeader                    // certainly not proposed
	sendUncertain                   // may have been proposed
)

func newProposer(self peer.ID, incarnation uint64) *proposer {
	p := &proposer{self: self, incarnation: incarnation, next: 1, low: 1, pending: make(map[uint64]*attempt)}
	p.ready.L = &p.mu
	return p
}

// submit numbers a proposal and queues it. It returns ErrTooLarge unqueued.
func (p *proposer) submit(prop *proposal) (*attempt, error) {
	a := &attempt{outcome: make(chan outcome, 1), durable: make(chan struct{})}
	p.mu.Lock()
	prop.seq, a.seq = p.next, p.next
	p.next++
	p.pending[a.seq] = a // from here on the mark of released ids stays below it
	p.mu.Unlock()
	a.data = encodeProposal(prop)
	p.mu.Lock()
	defer p.mu.Unlock()
	var err error
	switch {
	case p.closed:
		err = ErrClosed
	case len(a.data) > maxProposal:
		err = ErrTooLarge
	}
	if err != nil {
		p.settle(a)
		return nil, err
	}
	p.queue = append(p.queue, a)
	p.ready.Signal()
	return a, nil
}

// giveUp ends the wait for an attempt and reports whether a leader may have seen it.
// Once the mark of released ids has passed it, it is never applied.
func (p *proposer) giveUp(a *attempt) (proposed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.settle(a)
	a.done = true
	return a.proposed || a.flying
}

// settle releases the id; with mu held.
func (p *proposer) settle(a *attempt) {
	delete(p.pending, a.seq)
}

// settledHere takes outcomes from this node's applied state.
func (p *proposer) settledHere(mine []settled) {
	if len(mine) == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range mine {
		a := p.pending[s.seq]
		if a == nil {
			continue
		}
		p.settle(a)
		a.outcome <- s.outcome
		if s.outcome.verdict != applied {
			a.done = true // nothing that would have to be durable
		}
	}
}

// released is the lowest id still in use, with mu held. Sequence numbers that were
// never queued (too large) are passed over.
func (p *proposer) released() uint64 {
	for p.low < p.next && p.pending[p.low] == nil {
		p.low++
	}
	return p.low
}

// take waits for attempts and returns a group of them, encoded; nil once closed.
func (p *proposer) take() ([]*attempt, []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		for len(p.queue) == 0 && !p.closed {
			p.ready.Wait()
		}
		if p.closed {
			return nil, nil
		}
		var batch []*attempt
		var data [][]byte
		size, i := 0, 0
		for ; i < len(p.queue); i++ {
			a := p.queue[i]
			if a.done {
				continue
			}
			if size > 0 && size+len(a.data) > typicalEntry {
				break
			}
			size += len(a.data)
			batch = append(batch, a)
			data = append(data, a.data)
		}
		p.queue = append(p.queue[:0:0], p.queue[i:]...)
		if len(p.queue) > 0 {
			p.ready.Signal()
		}
		if len(batch) > 0 {
			group := make([]byte, 0, size+128)
			return batch, appendGroup(group, string(p.self), p.incarnation, p.released(), data)
		}
	}
}

// run sends groups until close; several run at once.
func (p *proposer) run(ctx context.Context) {
	for {
		batch, group := p.take()
		if batch == nil {
			return
		}
		result := p.send(ctx, group, func() bool { return p.markProposed(batch) })
		p.sent(batch, result)
		if result != sendDurable {
			pause(ctx, retryAfter)
		}
	}
}

// markProposed says that the batch may be seen from now on, unless somebody gave one
// of it up and was told that it never would be.
func (p *proposer) markProposed(batch []*attempt) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, a := range batch {
		if a.done {
			return false
		}
	}
	for _, a := range batch {
		a.flying = true
	}
	return true
}

// sent ends a group's trip: durable, or back to the queue under the same ids. An
// attempt whose outcome is known but not its durability goes back too; the state
// machine will not apply it again.
func (p *proposer) sent(batch []*attempt, result sendResult) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, a := range batch {
		a.proposed = a.proposed || a.flying && result != sendNoLeader
		a.flying = false
		switch {
		case a.done:
		case result == sendDurable:
			a.done = true
			close(a.durable)
		default:
			p.queue = append(p.queue, a)
			p.ready.Signal()
		}
	}
}

func (p *proposer) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.ready.Broadcast()
}

// pause waits for d or the end of ctx.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
