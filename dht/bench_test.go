package dht

import (
	"fmt"
	"io"
	"testing"

	"github.com/libp2p/go-libp2p/core/network"
)

// The yardstick for everything that moves bytes: one stream over a lane, both
// ends in this process.
func BenchmarkStream(b *testing.B) {
	const piece = 1 << 20
	for name, listen := range map[string]string{"tcp": "/ip4/127.0.0.1/tcp/0", "quic": "/ip4/127.0.0.1/udp/0/quic-v1"} {
		b.Run(name, func(b *testing.B) {
			o := newOrg(b)
			at := func(c *Config) { c.BulkListen, c.Logger = addrs(listen), nil }
			roads := o.members(2, at)
			done := make(chan int64)
			roads[1].Bulk().Handle("sink/1", Member, func(s network.Stream) {
				n, _ := io.CopyBuffer(struct{ io.Writer }{io.Discard}, s, make([]byte, piece))
				s.Close()
				done <- n
			})
			s, err := roads[0].Bulk().Dial(within(b), roads[1].Self(), "sink/1")
			if err != nil {
				b.Fatal(err)
			}
			data := make([]byte, piece)
			b.SetBytes(piece)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.Write(data); err != nil {
					b.Fatal(err)
				}
			}
			s.CloseWrite()
			if got := <-done; got != int64(b.N)*piece {
				b.Errorf("%d bytes arrived, want %d", got, int64(b.N)*piece)
			}
		})
	}
}

// One request and its answer on an open stream, and with a stream of its own.
func BenchmarkRoundTrip(b *testing.B) {
	o := newOrg(b)
	roads := o.members(2, func(c *Config) { c.Logger = nil })
	roads[1].Ledger().Handle("echo/1", Member, echo)
	for _, fresh := range []bool{false, true} {
		b.Run(fmt.Sprintf("newStream=%v", fresh), func(b *testing.B) {
			var s network.Stream
			for b.Loop() {
				if fresh || s == nil {
					var err error
					if s, err = roads[0].Ledger().Dial(b.Context(), roads[1].Self(), "echo/1"); err != nil {
						b.Fatal(err)
					}
				}
				if err := ping(s); err != nil {
					b.Fatal(err)
				}
				if fresh {
					s.Close()
				}
			}
			if s != nil {
				s.Reset()
			}
		})
	}
}

func BenchmarkAnnounce(b *testing.B) {
	roads := newOrg(b).members(3, func(c *Config) { c.Logger = nil })
	n := 0
	for b.Loop() {
		n++
		if err := roads[0].routes.provide(root(b, fmt.Sprint(n))); err != nil {
			b.Fatal(err)
		}
	}
}
