package dht

import (
	"context"
	"slices"
	"strings"
	"sync"

	"github.com/ipfs/go-datastore"
	"github.com/ipfs/go-datastore/query"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/multiformats/go-multiaddr"
	"time"
)

// maxRecords bounds the provider records held for others, about 40 MiB; the
// longest known root goes first.
const maxRecords = 1 << 17

// records is Kademlia's datastore of provider records: in memory, bounded, and
// grouped by root, since a look-up asks for all records of one root and the
// stock map would walk through everything.
type records struct {
	max int

	mu     sync.Mutex             // guards the fields below
	groups map[string]recordGroup // by /providers/<root>
	order  []recordBirth          // of the groups, the oldest first; some are gone
	births uint64
	n      int
}

type recordGroup struct {
	born    uint64
	records map[string][]byte // by the whole key
}

type recordBirth struct {
	group string
	born  uint64
}

var _ datastore.Batching = (*records)(nil)

func newRecords(max int) *records {
	return &records{max: max, groups: make(map[string]recordGroup)}
}

func group(key string) string { return key[:max(strings.LastIndexByte(key, '/'), 0)] }

// Put adds or replaces a record, and drops the oldest root when there are too many.
func (r *records) Put(_ context.Context, k datastore.Key, v []byte) error {
	key := k.String()
	r.mu.Lock()
	defer r.mu.Unlock()
	g, ok := r.groups[group(key)]
	if !ok {
		r.births++
		g = recordGroup{r.births, make(map[string][]byte)}
		r.groups[group(key)] = g
		r.order = append(r.order, recordBirth{group(key), r.births})
	}
	if _, ok := g.records[key]; !ok {
		r.n++
	}
	g.records[key] = slices.Clone(v)
	for r.n > r.max {
		if r.alive(r.order[0]) {
			r.n -= len(r.groups[r.order[0].group].records)
			delete(r.groups, r.order[0].group)
		}
		r.order = r.order[1:]
	}
	if len(r.order) > 2*len(r.groups)+64 {
		r.order = slices.Clip(slices.DeleteFunc(r.order, func(b recordBirth) bool { return !r.alive(b) }))
	}
	return nil
}

// alive says whether a group is still there, and no later one of its name.
func (r *records) alive(b recordBirth) bool { return r.groups[b.group].born == b.born }

// Get returns a record.
func (r *records) Get(_ context.Context, k datastore.Key) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	v, ok := r.groups[group(k.String())].records[k.String()]
	if !ok {
		return nil, datastore.ErrNotFound
	}
	return v, nil
}

// Has says whether a record exists.
func (r *records) Has(ctx context.Context, k datastore.Key) (bool, error) {
	_, err := r.Get(ctx, k)
	return err == nil, nil
}

// GetSize returns a record's size.
func (r *records) GetSize(ctx context.Context, k datastore.Key) (int, error) {
	v, err := r.Get(ctx, k)
	if err != nil {
		return -1, err
	}
	return len(v), nil
}

// Delete removes a record.
func (r *records) Delete(_ context.Context, k datastore.Key) error {
	key := k.String()
	r.mu.Lock()
	defer r.mu.Unlock()
	g := r.groups[group(key)].records
	if _, ok := g[key]; ok {
		r.n--
		delete(g, key)
		if len(g) == 0 {
			delete(r.groups, group(key))
		}
	}
	return nil
}

// Query returns the records below a prefix: of one root, or of all.
func (r *records) Query(_ context.Context, q query.Query) (query.Results, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var found []query.Entry
	add := func(g recordGroup) {
		for k, v := range g.records {
			found = append(found, query.Entry{Key: k, Value: v, Size: len(v)})
		}
	}
	if g, ok := r.groups[q.Prefix]; ok {
		add(g)
	} else if strings.Count(q.Prefix, "/") < 2 || strings.HasSuffix(q.Prefix, "/") {
		for _, g := range r.groups {
			add(g)
		}
	}
	return query.NaiveQueryApply(q, query.ResultsWithEntries(q, found)), nil
}

// Batch collects changes; they are applied one by one.
func (r *records) Batch(context.Context) (datastore.Batch, error) {
	return datastore.NewBasicBatch(r), nil
}

// Sync has nothing to do: the records live in memory.
func (r *records) Sync(context.Context, datastore.Key) error { return nil }

// Close has nothing to do.
func (r *records) Close() error { return nil }

// routeHost is the bulk host as Kademlia sees it: peers' addresses come from
// the member list alone, whatever records and answers say.
type routeHost struct{ *laneHost }

var _ host.Host = routeHost{}

func (h routeHost) Peerstore() peerstore.Peerstore { return listedAddrs{h.laneHost.Peerstore()} }

func (h routeHost) Connect(ctx context.Context, to peer.AddrInfo) error {
	return h.laneHost.Connect(ctx, peer.AddrInfo{ID: to.ID})
}

// Addrs is never empty, since records without an address are refused.
func (h routeHost) Addrs() []multiaddr.Multiaddr {
	if addrs := h.laneHost.Addrs(); len(addrs) > 0 {
		return addrs
	}
	return []multiaddr.Multiaddr{multiaddr.StringCast("/ip4/0.0.0.0/tcp/0")}
}

// listedAddrs ignores addresses that others tell.
type listedAddrs struct{ peerstore.Peerstore }

func (listedAddrs) AddAddr(peer.ID, multiaddr.Multiaddr, time.Duration)    {}
func (listedAddrs) AddAddrs(peer.ID, []multiaddr.Multiaddr, time.Duration) {}
func (listedAddrs) SetAddr(peer.ID, multiaddr.Multiaddr, time.Duration)    {}
func (listedAddrs) SetAddrs(peer.ID, []multiaddr.Multiaddr, time.Duration) {}
func (listedAddrs) UpdateAddrs(peer.ID, time.Duration, time.Duration)      {}
