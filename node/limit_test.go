package node

import (
	"errors"
	"net"
	"testing"
)

// strangers is a listener whose connections come from one address of the net.
type strangers struct {
	from  string
	conns chan net.Conn
}

func (s strangers) Accept() (net.Conn, error) {
	c, ok := <-s.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return stranger{c, s.from}, nil
}
func (s strangers) Close() error   { return nil }
func (s strangers) Addr() net.Addr { return &net.TCPAddr{} }

type stranger struct {
	net.Conn
	from string
}

func (s stranger) RemoteAddr() net.Addr {
	a, _ := net.ResolveTCPAddr("tcp", s.from)
	return a
}

// Promise 6: one source holds a bounded number of connections; loopback, where proxies stand, is exempt.
func TestConnectionsOfOneSourceAreBounded(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		from string
		want int
	}{{"203.0.113.7:1000", maxConnsPerSource}, {"[2001:db8::7]:1000", maxConnsPerSource}, {"127.0.0.1:1000", 2 * maxConnsPerSource}} {
		t.Run(c.from, func(t *testing.T) {
			t.Parallel()
			in := strangers{c.from, make(chan net.Conn, 2*maxConnsPerSource+1)}
			for range 2 * maxConnsPerSource {
				a, _ := net.Pipe()
				in.conns <- a
			}
			close(in.conns)
			l := newLimitListener(in)
			var held []net.Conn
			for {
				conn, err := l.Accept()
				if errors.Is(err, net.ErrClosed) {
					break
				}
				held = append(held, conn)
			}
			if len(held) != c.want {
				t.Errorf("got %d connections, want %d", len(held), c.want)
			}
			for _, conn := range held {
				conn.Close()
				conn.Close() // twice counts once
			}
			if len(l.room) != 0 || len(l.sources) != 0 {
				t.Errorf("after closing all: %d places and %d sources are still taken", len(l.room), len(l.sources))
			}
		})
	}
}
