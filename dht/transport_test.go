package dht

import (
	"testing"
	"time"
)

// Where both can be had TCP is tried first: QUIC costs two and a half times the
// processor time.
func TestR1_DialOrder(t *testing.T) {
	t.Parallel()
	ranked := rankTCPFirst(addrs("/ip4/192.0.2.1/udp/1/quic-v1", "/ip4/192.0.2.1/tcp/1", "/ip6/2001:db8::1/udp/1/quic-v1", "/ip6/2001:db8::1/tcp/1"))
	var tcp, quic []time.Duration
	for _, r := range ranked {
		if isQUIC(r.Addr) {
			quic = append(quic, r.Delay)
		} else {
			tcp = append(tcp, r.Delay)
		}
	}
	if len(tcp) != 2 || len(quic) != 2 || min(quic[0], quic[1]) < max(tcp[0], tcp[1])+tcpHeadStart {
		t.Errorf("TCP after %v, QUIC after %v", tcp, quic)
	}
	if alone := rankTCPFirst(addrs("/ip4/192.0.2.1/udp/1/quic-v1")); len(alone) != 1 || alone[0].Delay != 0 {
		t.Errorf("QUIC alone: %+v", alone)
	}
}
