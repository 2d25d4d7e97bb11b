package dht

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// Bounds on incoming connections that have not proven an admitted id, per lane
// (promise 6). Connections of admitted peers are not counted against them, so
// a whole site behind one address is welcome; and loopback is no exception, so
// that what holds here was seen by every test.
const (
	maxPending      = 256 // handshakes under way in all
	maxPendingOther = 192 // of them from addresses that the list does not name
	maxPendingIP    = 64  // of them from one address (IPv6: one /64)

	handshakesPerIP    = 50 // a second, after a burst of handshakeBurst; a good one gives its unit back
	handshakesOther    = 200
	handshakeBurst     = 400
	maxRememberedDoors = 4096 // addresses with a rate remembered
)

var errCrowded = errors.New("too many unfinished handshakes")

// A door is a lane's resource manager with bounds on unfinished handshakes.
type door struct {
	network.ResourceManager
	gate    laneGate
	crowded atomic.Uint64

	mu sync.Mutex // guards the fields below
	// total counts every pending handshake, other those from unlisted
	// addresses, perIP by address.
	total, other int
	perIP        map[string]int
	rates        map[string]*bucket
	otherRate    *bucket
}

func newDoor(rm network.ResourceManager, g laneGate) *door {
	return &door{ResourceManager: rm, gate: g, perIP: make(map[string]int), rates: make(map[string]*bucket),
		otherRate: newBucket(handshakesOther)}
}

// OpenConnection admits an incoming connection to its handshake, or not.
func (d *door) OpenConnection(dir network.Direction, usefd bool, from multiaddr.Multiaddr) (network.ConnManagementScope, error) {
	if dir != network.DirInbound {
		return d.ResourceManager.OpenConnection(dir, usefd, from)
	}
	p, ok := d.enter(from)
	if !ok {
		d.crowded.Add(1)
		return nil, errCrowded
	}
	scope, err := d.ResourceManager.OpenConnection(dir, usefd, from)
	if err != nil {
		p.leave(false)
		return nil, err
	}
	p.ConnManagementScope = scope
	return p, nil
}

func (d *door) enter(from multiaddr.Multiaddr) (*pending, bool) {
	ip := ipKey(from)
	listed := ip != "" && d.gate.table.Load().ips[ip]
	now := time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.total >= maxPending || d.perIP[ip] >= maxPendingIP || !listed && d.other >= maxPendingOther {
		return nil, false
	}
	if len(d.rates) >= maxRememberedDoors {
		clear(d.rates)
	}
	r := d.rates[ip]
	if r == nil {
		r = newBucket(handshakesPerIP)
		d.rates[ip] = r
	}
	// Its own rate first: what one address asks beyond it costs the others nothing.
	if !r.take(now) {
		return nil, false
	}
	if !listed && !d.otherRate.take(now) {
		r.left++
		return nil, false
	}
	d.total++
	d.perIP[ip]++
	if !listed {
		d.other++
	}
	return &pending{door: d, ip: ip, listed: listed, rate: r}, true
}

// pending is the scope of a connection whose handshake is under way. SetPeer
// ends that when the gate has let the peer in, Done when it was refused.
type pending struct {
	network.ConnManagementScope
	door   *door
	ip     string
	listed bool
	rate   *bucket
	left   sync.Once
}

func (p *pending) SetPeer(id peer.ID) error {
	err := p.ConnManagementScope.SetPeer(id)
	if err == nil && p.door.gate.admits(id) { // QUIC sets the peer before it asks the gate
		p.leave(true)
	}
	return err
}

func (p *pending) Done() {
	p.leave(false)
	p.ConnManagementScope.Done()
}

func (p *pending) leave(good bool) {
	p.left.Do(func() {
		d := p.door
		d.mu.Lock()
		defer d.mu.Unlock()
		d.total--
		if d.perIP[p.ip]--; d.perIP[p.ip] == 0 {
			delete(d.perIP, p.ip)
		}
		if !p.listed {
			d.other--
		}
		if good {
			p.rate.left++
			if !p.listed {
				d.otherRate.left++
			}
		}
	})
}

// A bucket holds units that come back at a rate. Owned by its door's lock.
type bucket struct {
	left, perSecond float64
	at              time.Time
}

func newBucket(perSecond float64) *bucket {
	return &bucket{left: handshakeBurst, perSecond: perSecond, at: time.Now()}
}

func (b *bucket) take(now time.Time) bool {
	b.left = min(handshakeBurst, b.left+b.perSecond*now.Sub(b.at).Seconds())
	b.at = now
	if b.left < 1 {
		return false
	}
	b.left--
	return true
}

// ipKey is the address a stranger can be told by: IPv4 whole, IPv6 by its /64.
func ipKey(a multiaddr.Multiaddr) string {
	if a == nil {
		return ""
	}
	ip, err := manet.ToIP(a)
	if err != nil {
		return ""
	}
	if v4 := ip.To4(); v4 != nil {
		return v4.String()
	}
	return ip.Mask(net.CIDRMask(64, 128)).String()
}
