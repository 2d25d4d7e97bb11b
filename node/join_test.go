package node

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/multiformats/go-multiaddr"

	"github.com/valise-mail/valise/dht"
	"github.com/valise-mail/valise/node/api"
)

// R4: whoever cannot join is told what is wrong with this ticket, not what may be wrong with any.
func TestR4_HintOfARefusedTicketIsTheRoads(t *testing.T) {
	t.Parallel()
	inviter, other := running(t), running(t)
	silent, err := net.Listen("tcp", "127.0.0.1:0") // accepts in the kernel, and says nothing
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { silent.Close() })
	for name, c := range map[string]struct {
		spoil func(*testing.T, *dht.Ticket)
		want  error
		hint  string
	}{
		"cancelled": {func(t *testing.T, ticket *dht.Ticket) {
			if err := inviter.Admin().CancelTicket(t.Context(), api.CancelRequest{Ticket: ticket.String()}); err != nil {
				t.Fatal(err)
			}
		}, dht.ErrRefused, "used, cancelled or has expired"},
		"expired": {func(_ *testing.T, ticket *dht.Ticket) {
			ticket.Expires = time.Now().Add(-time.Hour).Truncate(time.Second)
		}, dht.ErrTicketExpired, "this machine's clock is wrong"},
		"address changed hands": {func(_ *testing.T, ticket *dht.Ticket) { ticket.Addrs = other.road.Bulk().Addrs() }, dht.ErrForeign, "has changed hands"},
		"not answering": {func(t *testing.T, ticket *dht.Ticket) {
			addr, err := listenMultiaddr(silent.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			ticket.Addrs = []multiaddr.Multiaddr{addr}
		}, context.DeadlineExceeded, "its bulk port can be reached from here"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			invited, err := inviter.Admin().Invite(t.Context(), api.InviteRequest{Site: "paris"})
			if err != nil {
				t.Fatal(err)
			}
			ticket, err := dht.ParseTicket(invited.Ticket)
			if err != nil {
				t.Fatal(err)
			}
			c.spoil(t, &ticket)
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			if c.want == context.DeadlineExceeded {
				ctx, cancel = context.WithTimeout(ctx, time.Second)
				defer cancel()
			}
			_, err = Join(ctx, alone(t), ticket.String())
			if !errors.Is(err, c.want) || !strings.Contains(Hint(err), c.hint) {
				t.Errorf("got %v, hint %q; want %v with %q", err, Hint(err), c.want, c.hint)
			}
		})
	}
}

// A ticket of a newer version is not said to be badly copied.
func TestR4_HintOfATextThatIsNoTicket(t *testing.T) {
	t.Parallel()
	n := running(t)
	for text, want := range map[string]string{
		"":                    "copy the whole line",
		"valise-ticket-1:abc": "copy the whole line",
		"valise-ticket-2:abc": "bring this node to the version",
	} {
		if _, err := Join(t.Context(), alone(t), text); err == nil || !strings.Contains(Hint(err), want) {
			t.Errorf("join with %q: got %v, hint %q; want %q", text, err, Hint(err), want)
		}
		if err := n.Admin().CancelTicket(t.Context(), api.CancelRequest{Ticket: text}); err == nil || !strings.Contains(Hint(err), want) {
			t.Errorf("cancel %q: got %v, hint %q; want %q", text, err, Hint(err), want)
		}
	}
}
