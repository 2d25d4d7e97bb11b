package mailgw

import (
	"strings"
	"testing"
)

func TestE4_SimpleMessage(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"DATA", "BDAT"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, hostOptions{})
			v := newVillage(h)
			c := dial(t, start(t, v, nil)).login().envelope()
			send := c.data
			if how == "BDAT" {
				send = c.bdat
			}
			if got, want := send(simple), "250 2.0.0 queued as ABC123"; got != want {
				t.Errorf("answer %q, want %q", got, want)
			}
			c.must("221", "QUIT")
			mails := h.mails()
			if len(mails) != 1 {
				t.Fatalf("%d messages delivered", len(mails))
			}
			if got, want := body1(t, mails[0].data), stuff(simple); got != want {
				t.Errorf("at the next hop's socket: %q, want %q", got, want)
			}
			if strings.Contains(h.saw(), "SIZE") {
				t.Errorf("SIZE was passed on: %s", h.saw())
			}
		})
	}
}
