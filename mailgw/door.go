package mailgw

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

// maxSources bounds what a door remembers of strangers.
const maxSources = 16384

// A door counts sessions and failed logins by where they come from. Its memory is bounded, whoever knocks.
type door struct {
	limits Limits
	clock  func() time.Time

	// mu guards the fields below.
	mu      sync.Mutex
	total   int
	here    map[netip.Prefix]int
	guesses map[netip.Prefix]guesses
}

// guesses is a bucket of allowed failures that fills up again with time.
type guesses struct {
	left int
	at   time.Time // when left was right
}

func newDoor(l Limits, clock func() time.Time) *door {
	return &door{limits: l, clock: clock, here: make(map[netip.Prefix]int), guesses: make(map[netip.Prefix]guesses)}
}

// enter admits a session from src, which must leave again.
func (d *door) enter(src netip.Prefix) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.total >= d.limits.Sessions || d.here[src] >= d.limits.PerSource && !src.Addr().IsLoopback() {
		return false
	}
	d.total++
	d.here[src]++
	return true
}

// leave ends what enter began.
func (d *door) leave(src netip.Prefix) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.total--
	if d.here[src]--; d.here[src] == 0 {
		delete(d.here, src)
	}
}

// guess takes one try from src's bucket, before it is known whether the password is right: many tries at once are
// counted like many in a row.
func (d *door) guess(src netip.Prefix) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.clock()
	g, known := d.guesses[src]
	if !known {
		d.makeRoom(now)
		g = guesses{left: d.limits.SourceTries, at: now}
	}
	g = d.refill(g, now)
	ok := g.left > 0
	if ok {
		g.left--
	}
	d.guesses[src] = g
	return ok
}

// right gives back the try of a guess that was right.
func (d *door) right(src netip.Prefix) {
	d.mu.Lock()
	defer d.mu.Unlock()
	g, known := d.guesses[src]
	if !known {
		return
	}
	if g.left++; g.left >= d.limits.SourceTries {
		delete(d.guesses, src)
		return
	}
	d.guesses[src] = g
}

// refill adds the tries that time has earned.
func (d *door) refill(g guesses, now time.Time) guesses {
	earned := int(min(now.Sub(g.at)/d.limits.SourceEvery, time.Duration(d.limits.SourceTries)))
	if earned > 0 {
		g.left = min(g.left+earned, d.limits.SourceTries)
		g.at = g.at.Add(time.Duration(earned) * d.limits.SourceEvery)
	}
	if g.left == d.limits.SourceTries {
		g.at = now
	}
	return g
}

// makeRoom forgets sources once there are too many: those whose buckets are full, or else the first that come along.
func (d *door) makeRoom(now time.Time) {
	if len(d.guesses) < maxSources {
		return
	}
	for src, g := range d.guesses {
		if d.refill(g, now).left == d.limits.SourceTries {
			delete(d.guesses, src)
		}
	}
	for src := range d.guesses {
		if len(d.guesses) < maxSources*3/4 {
			return
		}
		delete(d.guesses, src)
	}
}

// source returns what counts as one place: an IPv4 address, or an IPv6 network of 64 bits.
func source(a net.Addr) netip.Prefix {
	addr := ipOf(a)
	bits := addr.BitLen()
	if addr.Is6() {
		bits = 64
	}
	p, _ := addr.Prefix(bits)
	if addr.IsLoopback() {
		p = netip.PrefixFrom(addr, addr.BitLen())
	}
	return p
}

// ipOf returns the IP address of a, the zero Addr if it has none.
func ipOf(a net.Addr) netip.Addr {
	if t, ok := a.(*net.TCPAddr); ok {
		ip, _ := netip.AddrFromSlice(t.IP)
		return ip.Unmap()
	}
	return netip.Addr{}
}
