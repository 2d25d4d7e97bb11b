package node

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/valise-mail/valise/dht"
)

const (
	aliveProtocol = "alive/1"
	aliveEvery    = 2 * time.Second
	aliveTimeout  = 2 * time.Second
	reachedFor    = 10 * time.Second // how long an answer proves that a node works
	maxAddrText   = 256
)

// A runID tells one run of a daemon from every other.
type runID [16]byte

// alive remembers when each member last answered. An open connection proves
// nothing: the kernel of a machine whose daemon hangs keeps it open.
type alive struct {
	mu   sync.Mutex // guards the field below
	last map[peer.ID]time.Time
}

func (a *alive) answered(id peer.ID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.last == nil {
		a.last = map[peer.ID]time.Time{}
	}
	a.last[id] = time.Now()
}

func (a *alive) recent(id peer.ID) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	at, ok := a.last[id]
	return ok && time.Since(at) < reachedFor
}

// reached says of every other member whether it is connected and has answered
// recently. A handshake is an answer, too.
func (n *Node) reached(id peer.ID) bool {
	fresh, open := n.alive.recent(id), false
	for _, lane := range []*dht.Lane{n.road.Bulk(), n.road.Ledger()} {
		for _, c := range lane.Host().Network().ConnsToPeer(id) {
			open = true
			fresh = fresh || time.Since(c.Stat().Opened) < reachedFor
		}
	}
	return open && fresh
}

// watchMembers asks every member every few seconds whether it is there, and
// judges this node's clock by what they say. Links expire by that clock.
func (n *Node) watchMembers(ctx context.Context) error {
	for ok := true; ok; ok = sleep(ctx, aliveEvery) {
		if skews := n.askMembers(ctx); len(skews) > 0 {
			n.judgeClock(ctx, skews)
		}
	}
	return nil
}

// askMembers asks all at once, so that one that hangs delays nobody's answer,
// and returns how far our clock is ahead of those that answered.
func (n *Node) askMembers(ctx context.Context) []time.Duration {
	var mu sync.Mutex
	var skews []time.Duration
	var wg sync.WaitGroup
	for _, m := range n.roster.all() {
		if m.ID == n.id.id || dht.Class(m.Class) != dht.Member {
			continue
		}
		wg.Go(func() {
			skew, twin, err := n.askAlive(ctx, m.ID)
			if err != nil {
				return
			}
			n.alive.answered(m.ID)
			n.noteTwin(ctx, m.ID, twin)
			mu.Lock()
			defer mu.Unlock()
			skews = append(skews, skew)
		})
	}
	wg.Wait()
	return skews
}

// askAlive returns how far our clock is ahead of the member's, and where it
// hears another node under our own key, if it does.
func (n *Node) askAlive(ctx context.Context, id peer.ID) (skew time.Duration, twin string, err error) {
	ctx, cancel := context.WithTimeout(ctx, aliveTimeout)
	defer cancel()
	start := time.Now()
	s, err := n.road.Bulk().Dial(ctx, id, aliveProtocol)
	if err != nil {
		return 0, "", err
	}
	defer s.Reset()
	stop := dht.Deadline(ctx, s, aliveTimeout)
	defer stop()
	if _, err := s.Write(n.run[:]); err != nil {
		return 0, "", err
	}
	if err := s.CloseWrite(); err != nil {
		return 0, "", err
	}
	answer, err := io.ReadAll(io.LimitReader(s, 8+maxAddrText))
	if err == nil && len(answer) < 8 {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return 0, "", fmt.Errorf("ask %s whether it is there: %w", id, err)
	}
	theirs := time.Unix(0, int64(binary.BigEndian.Uint64(answer))).Add(time.Since(start) / 2)
	return n.cfg.clock()().Sub(theirs), string(answer[8:]), nil
}

// serveAlive is told which run is asking. It answers with this node's time,
// nanoseconds since 1970 in 8 bytes, and with the address of a second node that
// speaks under the same key, if there is one.
func (n *Node) serveAlive(s network.Stream) {
	defer s.Close()
	_ = s.SetDeadline(time.Now().Add(aliveTimeout))
	var run runID
	if _, err := io.ReadFull(s, run[:]); err != nil {
		_ = s.Reset()
		return
	}
	id, from := s.Conn().RemotePeer(), s.Conn().RemoteMultiaddr().String()
	twin, news := n.twins.heard(id, run, from, time.Now())
	if news {
		n.log.ErrorContext(n.ctx, "two running nodes have one identity", "peer", id, "address", from, "other", twin, "hint", twinHint)
	}
	answer := binary.BigEndian.AppendUint64(nil, uint64(n.cfg.clock()().UnixNano()))
	_, _ = s.Write(append(answer, twin[:min(len(twin), maxAddrText)]...))
}
