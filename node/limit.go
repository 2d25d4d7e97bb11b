package node

import (
	"net"
	"net/netip"
	"sync"
)

// Connections that a web face holds at once, in all and from one source: what
// a stranger can take before saying anything is bounded. Loopback is exempt
// from the second, for reverse proxies stand there.
const (
	maxConns          = 4096
	maxConnsPerSource = 128
)

// limitListener accepts at most so many connections at once; one source's
// surplus is closed at once, and everybody waits while the face is full.
type limitListener struct {
	net.Listener
	room chan struct{}

	mu      sync.Mutex // guards the field below
	sources map[netip.Prefix]int
}

func newLimitListener(l net.Listener) *limitListener {
	return &limitListener{Listener: l, room: make(chan struct{}, maxConns), sources: map[netip.Prefix]int{}}
}

func (l *limitListener) Accept() (net.Conn, error) {
	for {
		l.room <- struct{}{}
		c, err := l.Listener.Accept()
		if err != nil {
			<-l.room
			return nil, err
		}
		source := sourceOf(c.RemoteAddr())
		if !l.enter(source) {
			c.Close()
			<-l.room
			continue
		}
		return &limitedConn{Conn: c, leave: sync.OnceFunc(func() { l.leave(source) })}, nil
	}
}

func (l *limitListener) enter(source netip.Prefix) bool {
	if !source.IsValid() || source.Addr().IsLoopback() {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sources[source] >= maxConnsPerSource {
		return false
	}
	l.sources[source]++
	return true
}

func (l *limitListener) leave(source netip.Prefix) {
	<-l.room
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sources[source]--; l.sources[source] <= 0 {
		delete(l.sources, source)
	}
}

// sourceOf is an IPv4 address, or the /64 network of an IPv6 address: what one customer has.
func sourceOf(a net.Addr) netip.Prefix {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Prefix{}
	}
	ip, bits := ap.Addr().Unmap(), 32
	if ip.Is6() {
		bits = 64
		if ip.IsLoopback() {
			bits = 128
		}
	}
	p, err := ip.WithZone("").Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

type limitedConn struct {
	net.Conn
	leave func()
}

func (c *limitedConn) Close() error {
	err := c.Conn.Close()
	c.leave()
	return err
}

// SetLinger lets a transfer be cut so that what lies in the kernel's buffers is lost.
func (c *limitedConn) SetLinger(sec int) error {
	if l, ok := c.Conn.(interface{ SetLinger(sec int) error }); ok {
		return l.SetLinger(sec)
	}
	return nil
}
