package node

import (
	"context"
	"slices"
	"sync"
	"time"
)

// maxSkew is what token expiry tolerates (R6).
const maxSkew = 60 * time.Second

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

// judgeClock compares this node's clock with the members' median. The ledger
// depends on no clock; the expiry of links does.
func (n *Node) judgeClock(ctx context.Context, skews []time.Duration) {
	skew := medianSkew(skews)
	was := n.skew.set(skew)
	if skew.Abs() > maxSkew && was.Abs() <= maxSkew {
		n.log.ErrorContext(ctx, "this node's clock is off", "skew", skew.Round(time.Second), "hint", clockHint)
	}
	if skew.Abs() <= maxSkew && was.Abs() > maxSkew {
		n.log.InfoContext(ctx, "this node's clock is right again", "skew", skew.Round(time.Second))
	}
}

const clockHint = "links expire by this clock: set it, and run a time service such as chrony or systemd-timesyncd"

// medianSkew is how far this node's clock is ahead of the median of all, its own included.
func medianSkew(others []time.Duration) time.Duration {
	skews := append([]time.Duration{0}, others...) // our own opinion counts as one
	slices.Sort(skews)
	if len(skews) == 2 { // two nodes: nobody knows who is right, both say so
		return skews[0] + skews[1]
	}
	return skews[len(skews)/2]
}
