package replication

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"github.com/libp2p/go-libp2p/core/peer"
)

// A leader does what only raft's leader can: it appends groups, says how far the
// log is durable at two sites (L3), and gives read indexes (L4). Its methods answer
// errNotLeading on any other node.
type leader struct {
	raft     *raft.Raft
	self     string
	heard    *contacts
	log      *logStore
	machine  *machine
	down     <-chan struct{} // closed when this copy failed
	siteOf   func(id string) string
	siteLive time.Duration
	// handOverTime is after what raft has surely given up a transfer.
	handOverTime time.Duration

	confirmed atomic.Uint64  // term in which an entry of this leader was applied
	newest    atomic.Uint64  // highest index given to a group
	coming    atomic.Int64   // groups on their way into the log
	nudge     chan struct{}  // asks for the empty entry
	flights   sync.WaitGroup // futures being waited for
}

// enqueueTime is the longest wait for raft to take an entry.
const enqueueTime = 2 * time.Second

// await waits for a raft future, but not for ever: raft's goroutine may be parked.
func (l *leader) await(ctx context.Context, f raft.Future) error {
	result := make(chan error, 1)
	l.flights.Go(func() { result <- f.Error() })
	select {
	case err := <-result:
		return err
	case <-l.down:
		return raft.ErrLeadershipLost
	case <-ctx.Done():
		return ctx.Err()
	}
}

// handOver gives leadership to another voter. raft may forget such a request when it
// shuts down, so nobody asks it for an answer: that it leads no more is the answer.
func (l *leader) handOver(ctx context.Context) error {
	l.raft.LeadershipTransfer()
	ctx, cancel := context.WithTimeout(ctx, l.handOverTime)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for l.raft.State() == raft.Leader {
		select {
		case <-tick.C:
		case <-l.down:
			return errNotLeading
		case <-ctx.Done():
			return fmt.Errorf("no other voter took over: %w", ctx.Err())
		}
	}
	return nil
}

// propose appends a group as one entry and returns once it is applied here and
// durable at two sites as far as two are live.
func (l *leader) propose(ctx context.Context, group []byte) (uint64, sendResult) {
	if l.raft.State() != raft.Leader {
		return 0, sendNoLeader
	}
	l.coming.Add(1)
	f := l.raft.Apply(append(entryHeader(1), group...), enqueueTime)
	err := l.await(ctx, f)
	l.coming.Add(-1)
	switch {
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrEnqueueTimeout),
		errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return 0, sendNoLeader
	case err != nil:
		return 0, sendUncertain
	}
	index := f.Index()
	for old := l.newest.Load(); index > old && !l.newest.CompareAndSwap(old, index); old = l.newest.Load() {
	}
	select {
	case l.nudge <- struct{}{}:
	default:
	}
	if err := l.durable(ctx, index); err != nil {
		return 0, sendUncertain
	}
	return index, sendDurable
}

// followUp appends an empty entry after a commit with nothing behind it, so that
// followers learn of the commit at once (L3). A group on its way does the same.
func (l *leader) followUp(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.nudge:
		}
		if l.coming.Load() == 0 && l.raft.State() == raft.Leader &&
			l.raft.LastIndex() == l.newest.Load() && len(l.servers()) > 1 {
			l.await(ctx, l.raft.Apply(entryHeader(0), enqueueTime))
		}
	}
}

func (l *leader) servers() []raft.Server { return l.raft.GetConfiguration().Configuration().Servers }

// durable waits until the log is synced up to index at two sites, as far as two are
// live. The index is applied, so a majority has it already.
func (l *leader) durable(ctx context.Context, index uint64) error {
	term := l.raft.CurrentTerm()
	servers := l.servers()
	sites := make(map[string]string, len(servers))
	for _, s := range servers {
		sites[string(s.ID)] = l.siteOf(string(s.ID))
	}
	own := l.siteOf(l.self)
	l.heard.leads(term)
	content := func() bool {
		another := false
		for id, site := range sites {
			if site == own || id == l.self {
				continue
			}
			if l.heard.lookup(id, term).synced >= index {
				return true
			}
			another = l.heard.live(id, term, index, l.siteLive) || another
		}
		return !another
	}
	done, forget := l.heard.wait(content)
	defer forget()
	tick := time.NewTicker(min(l.siteLive/8, unreachableAfter/4))
	defer tick.Stop()
	for {
		select {
		case <-done:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-l.down:
			return errNotLeading
		case <-tick.C:
			if l.raft.State() != raft.Leader || l.raft.CurrentTerm() != term {
				return errNotLeading
			}
			l.heard.mu.Lock()
			ok := content() // the other site may have died
			l.heard.mu.Unlock()
			if ok {
				return nil
			}
		}
	}
}

// becomeReady appends an entry of this term and waits until it is applied: what was
// committed before it is known from then on. It is this program's Barrier.
func (l *leader) becomeReady(ctx context.Context) {
	term := l.raft.CurrentTerm()
	if l.raft.State() != raft.Leader || l.confirmed.Load() == term {
		return
	}
	l.heard.leads(term)
	err := l.await(ctx, l.raft.Apply(entryHeader(0), enqueueTime))
	if err == nil && l.raft.State() == raft.Leader && l.raft.CurrentTerm() == term {
		l.confirmed.Store(term)
	}
}

// readIndex returns an index that covers all that was committed anywhere when it was
// called. Lazy waits for ordinary heartbeats instead of forcing a round.
func (l *leader) readIndex(ctx context.Context, lazy bool) (uint64, error) {
	term := l.raft.CurrentTerm()
	if l.raft.State() != raft.Leader || l.confirmed.Load() != term {
		return 0, errNotLeading
	}
	asked := time.Now()
	commit := l.raft.CommitIndex()
	var voters []string
	for _, s := range l.servers() {
		if s.Suffrage == raft.Voter {
			voters = append(voters, string(s.ID))
		}
	}
	// raft's own VerifyLeader counts non-voters too. It only forces the heartbeats.
	done, forget := l.heard.wait(func() bool {
		votes := 0
		for _, id := range voters {
			c := l.heard.lookup(id, term)
			if id == l.self || c.confirmed.After(asked) {
				votes++
			}
		}
		return votes > len(voters)/2
	})
	defer forget()
	if !lazy {
		l.raft.VerifyLeader()
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-done:
			if l.raft.CurrentTerm() != term || l.raft.State() != raft.Leader || !slices.Contains(voters, l.self) {
				return 0, errNotLeading
			}
			return l.lastEffective(commit), nil
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-l.down:
			return 0, errNotLeading
		case <-tick.C:
			if l.raft.State() != raft.Leader || l.raft.CurrentTerm() != term {
				return 0, errNotLeading
			}
		}
	}
}

// lastEffective is the last entry up to index that can have changed the state: nobody
// needs to wait for those behind it, and raft never shows the state machine some of them.
func (l *leader) lastEffective(index uint64) uint64 {
	var e raft.Log
	for ; index > 0; index-- {
		if l.log.read(index, &e) != nil {
			// Compacted: the snapshot has it, and this state covers the snapshot.
			return min(index, l.machine.applied.Load())
		}
		if e.Type == raft.LogCommand && len(e.Data) > len(entryHeader(0)) {
			return index
		}
	}
	return 0
}

// answer serves "ledger/1".
func (l *leader) answer(ctx context.Context, from peer.ID, question []byte) (status byte, index uint64) {
	kind, content := question[0], question[1:]
	switch kind {
	case askPropose:
		// What is malformed, or newer than we, must never reach the log.
		groups, err := decodeEntry(append(entryHeader(1), content...), l.machine.known)
		if err != nil || len(groups) != 1 || groups[0].node != string(from) || len(groups[0].proposals) == 0 {
			return statusRefused, 0
		}
		if groups[0].needs() > l.machine.active().Format {
			return statusNotLeader, 0 // the raise it knows of is not applied here yet
		}
		index, result := l.propose(ctx, content)
		switch result {
		case sendDurable:
			return statusOK, index
		case sendNoLeader:
			return statusNotLeader, 0
		}
		return statusUnknown, 0
	case askReadIndex:
		if len(content) != 1 || content[0] > askLazy {
			return statusRefused, 0
		}
		index, err := l.readIndex(ctx, content[0] == askLazy)
		if err != nil {
			return statusNotLeader, 0
		}
		return statusOK, index
	}
	return statusRefused, 0
}
