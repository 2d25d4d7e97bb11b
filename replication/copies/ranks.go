package copies

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	downMin = 2 * time.Second // a peer that did not answer is asked last that long,
	downMax = 30 * time.Second
	ewma    = 0.2 // weight of the newest measurement
)

// A ranks knows how near and how well the peers are, from this process's own experience.
type ranks struct {
	mu    sync.Mutex
	peers map[peer.ID]*rank
}

type rank struct {
	firstByte float64 // seconds until a peer's first byte, averaged; 0 is not known
	rate      float64 // bytes per second, averaged; 0 is not known
	failures  int     // in a row
	until     time.Time
}

func newRanks() *ranks { return &ranks{peers: make(map[peer.ID]*rank)} }

func (r *ranks) of(id peer.ID) *rank {
	p := r.peers[id]
	if p == nil {
		p = &rank{}
		r.peers[id] = p
	}
	return p
}

// answered ends a peer's failures.
func (r *ranks) answered(id peer.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.of(id)
	p.failures, p.until = 0, time.Time{}
}

// failed puts a peer last for a time that doubles with each failure in a row.
func (r *ranks) failed(id peer.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.of(id)
	p.until = time.Now().Add(min(downMin<<min(p.failures, 10), downMax))
	p.failures++
}

// down says whether a peer failed just now.
func (r *ranks) down(id peer.ID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.peers[id]
	return p != nil && time.Now().Before(p.until)
}

// measured takes in one transfer.
func (r *ranks) measured(id peer.ID, firstByte, whole time.Duration, bytes int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.of(id)
	average(&p.firstByte, firstByte.Seconds())
	if rest := whole - firstByte; bytes > 64<<10 && rest > 0 { // less says nothing of the rate
		average(&p.rate, float64(bytes)/rest.Seconds())
	}
}

func average(field *float64, value float64) {
	if *field == 0 {
		*field = value
	}
	*field += ewma * (value - *field)
}

// nearest sorts nodes: those that answer first, then those of this site, then by the time a
// megabyte takes; not measured is taken for quick, so that each is tried once.
func (r *ranks) nearest(ids []peer.ID, site map[peer.ID]string, self peer.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	away := func(id peer.ID) int {
		away := 0
		if p := r.peers[id]; p != nil && now.Before(p.until) {
			away += 2
		}
		if site[id] != site[self] {
			away++
		}
		return away
	}
	cost := func(id peer.ID) float64 {
		p := r.peers[id]
		if p == nil {
			return 0
		}
		cost := p.firstByte
		if p.rate > 0 {
			cost += (1 << 20) / p.rate
		}
		return cost
	}
	slices.SortStableFunc(ids, func(a, b peer.ID) int {
		return cmp.Or(cmp.Compare(away(a), away(b)), cmp.Compare(cost(a), cost(b)))
	})
}
