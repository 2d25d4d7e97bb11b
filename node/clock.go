package node

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/valise-mail/valise/dht"
)

const (
	clockProtocol = "clock/1"
	clockEvery    = time.Minute
	clockTimeout  = 5 * time.Second
	maxSkew       = 60 * time.Second // what token expiry tolerates (R6)
)

// A skewWatch remembers how far this node's clock is from the others'.
type skewWatch struct {
	mu   sync.Mutex
	skew time.Duration // ours less the median of the members'
}

func (s *skewWatch) get() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.skew
}

func (s *skewWatch) set(d time.Duration) (was time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	was, s.skew = s.skew, d
	return was
}

// serveClock answers with this node's time, nanoseconds since 1970 in 8 bytes.
func (n *Node) serveClock(s network.Stream) {
	defer s.Close()
	_ = s.SetDeadline(time.Now().Add(clockTimeout))
	_, _ = s.Write(binary.BigEndian.AppendUint64(nil, uint64(n.cfg.clock()().UnixNano())))
}

// watchClocks compares this node's clock with the members' median. The ledger
// depends on no clock; the expiry of links does.
func (n *Node) watchClocks(ctx context.Context) error {
	for wait := time.Second; sleep(ctx, wait); {
		skew, heard := n.measureSkew(ctx)
		if !heard {
			continue // alone, or nobody in reach: soon again
		}
		wait = clockEvery
		was := n.skew.set(skew)
		if skew.Abs() > maxSkew && was.Abs() <= maxSkew {
			n.log.ErrorContext(ctx, "this node's clock is off", "skew", skew.Round(time.Second), "hint", clockHint)
		}
		if skew.Abs() <= maxSkew && was.Abs() > maxSkew {
			n.log.InfoContext(ctx, "this node's clock is right again", "skew", skew.Round(time.Second))
		}
	}
	return nil
}

const clockHint = "links expire by this clock: set it, and run a time service such as chrony or systemd-timesyncd"

func (n *Node) measureSkew(ctx context.Context) (time.Duration, bool) {
	skews := []time.Duration{0} // our own opinion counts as one
	for _, m := range n.roster.all() {
		if m.ID == n.id.id || dht.Class(m.Class) != dht.Member {
			continue
		}
		if d, err := n.askClock(ctx, m.ID); err == nil {
			skews = append(skews, d)
		}
	}
	if len(skews) == 1 {
		return 0, false
	}
	slices.Sort(skews)
	if len(skews) == 2 { // two nodes: nobody knows who is right, both say so
		return skews[0] + skews[1], true
	}
	return skews[len(skews)/2], true
}

// askClock returns how far our clock is ahead of the member's.
func (n *Node) askClock(ctx context.Context, id peer.ID) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, clockTimeout)
	defer cancel()
	start := time.Now()
	s, err := n.road.Bulk().Dial(ctx, id, clockProtocol)
	if err != nil {
		return 0, err
	}
	defer s.Reset()
	stop := dht.Deadline(ctx, s, clockTimeout)
	defer stop()
	if err := s.CloseWrite(); err != nil {
		return 0, err
	}
	var b [8]byte
	if _, err := io.ReadFull(s, b[:]); err != nil {
		return 0, fmt.Errorf("ask %s for its time: %w", id, err)
	}
	theirs := time.Unix(0, int64(binary.BigEndian.Uint64(b[:]))).Add(time.Since(start) / 2)
	return n.cfg.clock()().Sub(theirs), nil
}
