package testnet

import (
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/valise-mail/valise/node"
	"github.com/valise-mail/valise/node/api"
)

// newcomer is the config of a node that is not in the village yet.
func newcomer(t *testing.T, v *Village, site string) node.Config {
	t.Helper()
	h, err := v.house(len(v.Houses), site)
	if err != nil {
		t.Fatal(err)
	}
	return h.cfg
}

// R4: the joiner's key is saved before the ticket is used, so a join whose
// answer was lost is repeated with the same ticket. Another key may not use it.
func TestR4_LostAnswerMayBeAskedAgain(t *testing.T) {
	t.Parallel()
	v, ctx := village(t, Config{Sites: []string{"berlin"}, Dir: t.TempDir()})
	ticket, err := v.Houses[0].Node().Admin().Invite(ctx, api.InviteRequest{Site: "paris"})
	if err != nil {
		t.Fatal(err)
	}
	c := newcomer(t, v, "paris")
	if _, err := node.Join(ctx, c, ticket.Ticket); err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile(filepath.Join(c.Dir, "node.key"))
	if err != nil {
		t.Fatal(err)
	}
	// The answer was lost: all that is left is the key.
	for _, name := range []string{"cluster.json", "valise.toml", "joined.list"} {
		if err := os.Remove(filepath.Join(c.Dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if c, err = node.Join(ctx, c, ticket.Ticket); err != nil {
		t.Fatalf("the same folder again: %v", err)
	}
	if again, err := os.ReadFile(filepath.Join(c.Dir, "node.key")); err != nil || string(again) != string(key) {
		t.Errorf("the key changed, %v", err)
	}
	other := newcomer(t, v, "paris")
	other.Dir = t.TempDir() + "/other"
	if _, err := node.Join(ctx, other, ticket.Ticket); err == nil || !strings.Contains(err.Error(), "used already") || node.Hint(err) == "" {
		t.Errorf("another node with the same ticket: got %v", err)
	}
	n, err := node.Open(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	if err := v.Wait(ctx, "two members", func() (bool, error) {
		s, err := n.Admin().Status(ctx)
		return err == nil && len(s.Members) == 2 && s.Ledger.Quorum && s.Copies.Nodes == 2, err
	}); err != nil {
		t.Fatal(err)
	}
}

func TestR4_TicketEnds(t *testing.T) {
	t.Parallel()
	var ahead atomic.Int64
	v, ctx := village(t, Config{Sites: []string{"berlin"}, Adjust: func(_ int, c *node.Config) {
		c.Seams.Clock = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	}})
	ticket, err := v.Houses[0].Node().Admin().Invite(ctx, api.InviteRequest{Site: "paris"})
	if err != nil {
		t.Fatal(err)
	}
	ahead.Store(int64(2 * time.Hour))
	if _, err := node.Join(ctx, newcomer(t, v, "paris"), ticket.Ticket); err == nil || node.Hint(err) == "" {
		t.Errorf("join with an expired ticket: got %v, want an error with a hint", err)
	}
}

// Without the inviter nobody joins, and the newcomer is told what to look at.
func TestR4_InviterIsDown(t *testing.T) {
	t.Parallel()
	v, ctx := village(t, Config{Sites: []string{"berlin"}})
	ticket, err := v.Houses[0].Node().Admin().Invite(ctx, api.InviteRequest{Site: "paris"})
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Stop(0); err != nil {
		t.Fatal(err)
	}
	if _, err := node.Join(ctx, newcomer(t, v, "paris"), ticket.Ticket); err == nil || node.Hint(err) == "" {
		t.Errorf("join while the inviter is down: got %v, want an error with a hint", err)
	}
}

// A clock an hour off is an error in the log and a line in status; the node runs.
func TestR6_WrongClockIsSaid(t *testing.T) {
	t.Parallel()
	v, ctx := village(t, Config{Sites: threeAtTwo, Adjust: func(i int, c *node.Config) {
		if i == 2 {
			c.Seams.Clock = func() time.Time { return time.Now().Add(time.Hour) }
		}
	}})
	for i, wrong := range []bool{false, false, true} {
		if err := v.Wait(ctx, "the clocks to be compared", func() (bool, error) {
			s, err := v.Houses[i].Node().Admin().Status(ctx)
			if err != nil {
				return false, err
			}
			said := strings.Contains(strings.Join(s.Warnings, "\n"), "clock is off by 1h0m0s")
			return said == wrong, nil
		}); err != nil {
			t.Errorf("%s: %v", v.Houses[i].Name, err)
		}
	}
	verify(t, ctx, v)
}
