package dht

import (
	"testing"

	"github.com/libp2p/go-libp2p/core/network"
)

func TestR1_MembersTalkOnBothLanes(t *testing.T) {
	t.Parallel()
	o := newOrg(t)
	roads := o.members(3)
	for _, r := range roads {
		r.Bulk().Handle("echo/1", Member, echo)
		r.Ledger().For(Member).Handle("echo/1", echo)
	}
	for _, from := range roads {
		for _, to := range roads {
			if from == to {
				continue
			}
			for _, port := range []*Port{from.Bulk().For(Member), from.Ledger().For(Member)} {
				s, err := port.Dial(within(t), to.Self(), "echo/1")
				if err != nil {
					t.Fatal(err)
				}
				if err := ping(s); err != nil {
					t.Error(err)
				}
				s.Close()
			}
			if from.Bulk().Host().Network().Connectedness(to.Self()) != network.Connected || !from.Connected()[to.Self()] {
				t.Errorf("not connected")
			}
		}
	}
}
