package node

import (
	"testing"

	"github.com/libp2p/go-libp2p/core/network"

	"github.com/valise-mail/valise/dht"
)

// A node whose process hangs keeps its connections; it is not in reach all the same.
func TestHungNodeIsNotReached(t *testing.T) {
	t.Parallel()
	berlin, paris, _ := pair(t, nil)
	hung := make(chan struct{})
	t.Cleanup(func() { close(hung) })
	paris.road.Bulk().Handle(aliveProtocol, dht.Member, func(s network.Stream) {
		<-hung
		_ = s.Reset()
	})
	connected := func() bool {
		s, err := berlin.Admin().Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range s.Members {
			if m.Node == paris.id.id.String() {
				return m.Connected
			}
		}
		return false
	}
	if !connected() {
		t.Fatal("not in reach at the beginning")
	}
	eventually(t, "the hung node to be out of reach", func() bool { return !connected() })
	if !berlin.road.Connected()[paris.id.id] {
		t.Error("the connection is gone, too: the test shows nothing")
	}
	paris.road.Bulk().Handle(aliveProtocol, dht.Member, paris.serveAlive)
	eventually(t, "the node to be in reach again", connected)
}
