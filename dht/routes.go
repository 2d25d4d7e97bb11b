package dht

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ipfs/go-cid"
	kad "github.com/libp2p/go-libp2p-kad-dht"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
)

const (
	announceQueue   = 4096
	announceWorkers = 4
	announceTimeout = 10 * time.Second

	findTimeout = 2 * time.Second
	// findGrace is how long a search goes on after the first holder.
	findGrace = 200 * time.Millisecond
	// findEnough ends a search: the caller wants some holders, not all.
	findEnough = 8
)

// ErrBusy says that the queue of announcements is full; nothing was queued, and
// trying again later is safe.
var ErrBusy = errors.New("too many announcements are waiting")

// routes is the private Kademlia: prefix /valise/<cluster>, provider records
// only, on the bulk lane, for members. The list names everybody, so the routing
// table is filled from it and there is nothing to bootstrap from or refresh.
type routes struct {
	road  *Road
	kad   *kad.IpfsDHT
	told  *records // what members announced to this node
	queue chan cid.Cid
}

func openRoutes(r *Road) (*routes, error) {
	member := func(id peer.ID) bool { return r.gate.class(id) == Member }
	told := newRecords(maxRecords)
	d, err := kad.New(routeHost{r.bulk.host},
		kad.ProtocolPrefix(protocol.ID("/valise/"+r.c.ClusterID)),
		kad.Mode(kad.ModeServer),
		kad.DisableValues(),
		kad.DisableAutoRefresh(),
		kad.BootstrapPeers(),
		kad.ProviderDatastore(told),
		kad.QueryFilter(func(_ any, p peer.AddrInfo) bool { return member(p.ID) }),
		kad.RoutingTableFilter(func(_ any, id peer.ID) bool { return member(id) }),
	)
	if err != nil {
		return nil, fmt.Errorf("start kademlia: %w", err)
	}
	x := &routes{road: r, kad: d, told: told, queue: make(chan cid.Cid, announceQueue)}
	for range announceWorkers {
		r.working.Go(x.announce)
	}
	return x, nil
}

// follow makes the routing table fit the list.
func (x *routes) follow(before, now *table) {
	for id := range before.peers {
		if now.removed || now.peers[id].Class != Member {
			x.kad.RoutingTable().RemovePeer(id)
		}
	}
	x.fill()
}

// fill puts the members back that Kademlia dropped when they did not answer:
// whoever is on the list is worth another try.
func (x *routes) fill() {
	rt := x.kad.RoutingTable()
	for id := range x.road.gate.table.Load().peers {
		if x.road.gate.class(id) == Member {
			rt.TryAddPeer(id, true, true) // an error is a full bucket, as it should be
		}
	}
}

// Announce queues the news that this node holds root, and returns at once. It
// is told to the members closest to root, in the background; those that cannot
// be reached do not hear of it, without an error. A record lives 48 hours and in memory: announce again what should be
// found for longer. The error is ErrBusy, or ctx's.
func (r *Road) Announce(ctx context.Context, root cid.Cid) error {
	if !root.Defined() {
		return errors.New("announce: undefined cid")
	}
	if err := errors.Join(ctx.Err(), r.ctx.Err()); err != nil {
		return fmt.Errorf("announce %s: %w", root, err)
	}
	select {
	case r.routes.queue <- root:
		return nil
	default:
		return fmt.Errorf("announce %s: %w", root, ErrBusy)
	}
}

// announce is one worker.
func (x *routes) announce() {
	for {
		select {
		case <-x.road.ctx.Done():
			return
		case root := <-x.queue:
			if err := x.provide(root); err != nil && x.road.ctx.Err() == nil {
				x.road.log.Error("announce", "cid", root, "error", err)
			}
		}
	}
}

func (x *routes) provide(root cid.Cid) error {
	ctx, cancel := context.WithTimeout(x.road.ctx, announceTimeout)
	defer cancel()
	x.fill()
	alone := x.kad.RoutingTable().Size() == 0
	return x.kad.Provide(ctx, root, !alone)
}

// Holders returns the other members known to have announced root, in no order,
// at most 8. Nobody is no error. It takes as long as asking the members closest
// to root does, at most 2 s, and less once one is found.
func (r *Road) Holders(ctx context.Context, root cid.Cid) ([]peer.ID, error) {
	if err := errors.Join(ctx.Err(), r.ctx.Err()); err != nil {
		return nil, fmt.Errorf("find holders of %s: %w", root, err)
	}
	limited, cancel := context.WithTimeout(ctx, findTimeout)
	defer cancel()
	r.routes.fill()
	found := r.routes.kad.FindProvidersAsync(limited, root, 0)
	var ids []peer.ID
	var grace <-chan time.Time
	for {
		select {
		case p, more := <-found:
			if !more {
				return ids, ctx.Err()
			}
			if r.gate.class(p.ID) != Member || slices.Contains(ids, p.ID) {
				continue // this node itself, or one removed since
			}
			if ids = append(ids, p.ID); len(ids) == findEnough {
				return ids, nil
			}
			if grace == nil {
				grace = time.After(findGrace)
			}
		case <-grace:
			return ids, nil
		case <-limited.Done():
			return ids, ctx.Err()
		}
	}
}

func (x *routes) close() error { return x.kad.Close() }
