package dht

import (
	"math"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	"github.com/libp2p/go-libp2p/x/rate"
)

// Resource limits are ours, because libp2p's defaults are for an open network:
// eight connections from one IPv4 address would lock out the ninth node behind
// a site's NAT. What strangers can hold is bounded by door; these bound what
// admitted peers can hold, so that none of them takes this node down.
//
// A stream reserves its first window, 256 KiB; it grows to 16 MiB only while
// memory is plentiful.
var (
	// memberLimit is for peers that carry bytes: members and blocks-only nodes.
	memberLimit = rcmgr.ResourceLimits{Conns: 16, ConnsInbound: 16, ConnsOutbound: 16, Streams: 2048, StreamsInbound: 1024, StreamsOutbound: 1024, FD: 16, Memory: 512 << 20}
	// guestLimit is for everybody else whom the list names.
	guestLimit = rcmgr.ResourceLimits{Conns: 4, ConnsInbound: 4, ConnsOutbound: 4, Streams: 32, StreamsInbound: 16, StreamsOutbound: 16, FD: 4, Memory: 16 << 20}
)

func laneLimits(memory int64) rcmgr.ConcreteLimitConfig {
	return rcmgr.PartialLimitConfig{
		System: rcmgr.ResourceLimits{
			Conns: 4096, ConnsInbound: 4096, ConnsOutbound: 4096, FD: 4096,
			Streams: 32768, StreamsInbound: 16384, StreamsOutbound: 16384, Memory: rcmgr.LimitVal64(memory),
		},
		// What has no peer or no protocol yet. Connections of strangers are
		// bounded tighter, by door.
		Transient: rcmgr.ResourceLimits{
			Conns: 2 * maxPending, ConnsInbound: maxPending, ConnsOutbound: maxPending, FD: 2 * maxPending,
			Streams: 4096, StreamsInbound: 2048, StreamsOutbound: 2048, Memory: 256 << 20,
		},
		PeerDefault: memberLimit,
	}.Build(rcmgr.InfiniteLimits)
}

// classLimiter gives each class its own limits.
type classLimiter struct {
	rcmgr.Limiter
	guests rcmgr.Limiter
	gate   *gate
}

func (l classLimiter) GetPeerLimits(id peer.ID) rcmgr.Limit {
	if l.gate.class(id)&(Member|BlocksOnly) != 0 {
		return l.Limiter.GetPeerLimits(id)
	}
	return l.guests.GetPeerLimits(id)
}

// newResources makes a lane's resource manager; memory is what its streams and
// connections may hold in all, in bytes.
func newResources(g *gate, memory int64) (network.ResourceManager, error) {
	all := []rcmgr.ConnLimitPerSubnet{{PrefixLength: 0, ConnCount: math.MaxInt32}}
	none := []rcmgr.NetworkPrefixLimit{}
	limiter := classLimiter{
		Limiter: rcmgr.NewFixedLimiter(laneLimits(memory)),
		guests:  rcmgr.NewFixedLimiter(rcmgr.PartialLimitConfig{PeerDefault: guestLimit}.Build(laneLimits(memory))),
		gate:    g,
	}
	return rcmgr.NewResourceManager(limiter,
		rcmgr.WithMetricsDisabled(),
		rcmgr.WithLimitPerSubnet(all, all),
		rcmgr.WithNetworkPrefixLimit(none, none),
		rcmgr.WithConnRateLimiters(&rate.Limiter{}), // no limits: door has its own
	)
}
