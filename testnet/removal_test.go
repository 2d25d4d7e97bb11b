package testnet

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/valise-mail/valise/node"
	"github.com/valise-mail/valise/node/api"
)

// ended waits until house i's node has ended by itself because it is no member
// any more, and takes the house out of the village.
func ended(t *testing.T, ctx context.Context, v *Village, i int, want string) *House {
	t.Helper()
	h := v.Houses[i]
	select {
	case <-h.node.Done():
	case <-ctx.Done():
		t.Fatalf("%s goes on running: %v", h.Name, ctx.Err())
	}
	if err := h.node.Err(); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(node.Hint(err), "join with a new ticket") {
		t.Errorf("%s ended with %v, hint %q, want %q", h.Name, err, node.Hint(err), want)
	}
	if err := v.Stop(i); err != nil {
		t.Fatal(err)
	}
	v.Houses = slices.Delete(v.Houses, i, i+1)
	return h
}

func remove(t *testing.T, ctx context.Context, v *Village, at int, r api.RemoveRequest) api.Removal {
	t.Helper()
	out, err := v.Houses[at].node.Admin().Remove(ctx, r)
	if err != nil || !out.Done {
		t.Fatalf("remove %s: %+v, %v, hint %q", r.Node, out, err, node.Hint(err))
	}
	return out
}

func drained(t *testing.T, ctx context.Context, v *Village, at int, name string) {
	t.Helper()
	if _, err := v.Houses[at].node.Admin().Drain(ctx, api.DrainRequest{Node: name}); err != nil {
		t.Fatal(err)
	}
	if err := v.Wait(ctx, "nothing to count on "+name, func() (bool, error) {
		s, err := v.Houses[at].node.Admin().Status(ctx)
		if err != nil {
			return false, err
		}
		m := s.Members[slices.IndexFunc(s.Members, func(m api.MemberStatus) bool { return m.Name == name })]
		return m.Drained && m.Left == 0 && s.Copies.Missing == 0, nil
	}); err != nil {
		t.Fatal(err)
	}
}

// R3: whichever node goes, the leader too: it is told and stops, the others go
// on, old links open, new mail goes out, and the rest forms a whole village.
func TestR3_RemovedNodeIsToldAndTheRestIsWhole(t *testing.T) {
	t.Parallel()
	for _, leads := range []bool{false, true} {
		t.Run(map[bool]string{false: "a follower", true: "the leader"}[leads], func(t *testing.T) {
			t.Parallel()
			v, ctx := village(t, Config{Sites: []string{"berlin", "berlin", "paris", "paris"}})
			p := person(t, ctx, v, "sender@example.org")
			before := sendFile(t, ctx, v, 0, p, "before.bin", randomBytes(1<<20))
			leader, err := v.Leader(ctx)
			if err != nil {
				t.Fatal(err)
			}
			goes := leader
			if !leads {
				goes = (leader + 1) % 4
			}
			asked := (goes + 1) % 4
			name := v.Houses[goes].Name
			drained(t, ctx, v, asked, name)
			out := remove(t, ctx, v, asked, api.RemoveRequest{Node: name})
			if out.Sole != 0 || out.Name != name || out.VotersAfter < 2 {
				t.Errorf("got %+v", out)
			}
			ended(t, ctx, v, goes, "removed from the cluster")
			if err := v.Settled(ctx); err != nil {
				t.Fatal(err)
			}
			sendFile(t, ctx, v, 0, p, "after.bin", randomBytes(1<<20))
			if resp, _, err := v.Fetch(ctx, 1, before, nil); err != nil || resp.StatusCode != http.StatusOK {
				t.Errorf("a link from before: %v, %v", resp, err)
			}
			verify(t, ctx, v)
		})
	}
}

// A node that alone holds something, or without which there is no majority, is
// not removed by accident; a dead one is removed by force.
func TestRemovalIsRefusedWhereSomethingWouldBeLost(t *testing.T) {
	t.Parallel()
	v, ctx := village(t, Config{Sites: threeAtTwo, Adjust: func(_ int, c *node.Config) { c.Copies.Wanted, c.Copies.Ack = 1, 1 }})
	admin := v.Houses[0].node.Admin()
	p := person(t, ctx, v, "sender@example.org")
	if _, err := admin.Remove(ctx, api.RemoveRequest{Node: "nowhere"}); err == nil || node.Hint(err) == "" {
		t.Errorf("an unknown node: %v", err)
	}
	link := putFile(t, ctx, v, 2, p, "only.bin", randomBytes(10_000))
	names, err := v.Houses[0].node.Holders(cidOf(link))
	if err != nil || len(names) != 1 {
		t.Fatalf("holders %v, %v", names, err)
	}
	holder := slices.IndexFunc(v.Houses, func(h *House) bool { return h.Name == names[0] })
	other := (holder + 1) % 3
	admin = v.Houses[other].node.Admin()
	if _, err := admin.Remove(ctx, api.RemoveRequest{Node: names[0]}); err == nil || !strings.Contains(node.Hint(err), "node drain") {
		t.Errorf("remove the only holder: %v, hint %q", err, node.Hint(err))
	}
	if err := v.Kill(holder); err != nil {
		t.Fatal(err)
	}
	if err := v.Wait(ctx, "the dead node to count as away", func() (bool, error) {
		out, err := admin.Remove(ctx, api.RemoveRequest{Node: names[0], Plan: true})
		return err == nil && !out.Reached, err
	}); err != nil {
		t.Fatal(err)
	}
	third := v.Houses[3-holder-other].Name
	if _, err := admin.Remove(ctx, api.RemoveRequest{Node: third, Force: true}); err == nil || !strings.Contains(err.Error(), "no majority") {
		t.Errorf("remove one of two that are left of three: %v", err)
	}
	if _, err := admin.Remove(ctx, api.RemoveRequest{Node: names[0]}); err == nil || !strings.Contains(node.Hint(err), "--force") {
		t.Errorf("remove the dead only holder: %v, hint %q", err, node.Hint(err))
	}
	out := remove(t, ctx, v, other, api.RemoveRequest{Node: names[0], Force: true})
	if out.Sole != 1 || out.Reached {
		t.Errorf("got %+v, want one content lost", out)
	}
	v.Houses = slices.Delete(v.Houses, holder, holder+1)
	if err := v.Settled(ctx); err != nil {
		t.Fatal(err)
	}
	verify(t, ctx, v)
}

// A dead node is replaced: the moment the new one joins the old one is no member
// any more, new keys are in force, and the village is whole again. The dead one,
// come back, is let in nowhere.
func TestReplaceADeadNode(t *testing.T) {
	t.Parallel()
	v, ctx := village(t, Config{Sites: threeAtTwo})
	p := person(t, ctx, v, "sender@example.org")
	before := sendFile(t, ctx, v, 0, p, "before.bin", randomBytes(1<<20))
	admin := v.Houses[0].node.Admin()
	dead := v.Houses[2]
	if _, err := admin.Invite(ctx, api.InviteRequest{Replace: dead.Name}); err == nil || !strings.Contains(node.Hint(err), "without --replace") {
		t.Errorf("replace a node that is in reach: %v, hint %q", err, node.Hint(err))
	}
	if err := v.Kill(2); err != nil {
		t.Fatal(err)
	}
	var ticket api.Invited
	if err := v.Wait(ctx, "the dead node to count as away", func() (done bool, err error) {
		ticket, err = admin.Invite(ctx, api.InviteRequest{Replace: dead.Name})
		return err == nil, err
	}); err != nil {
		t.Fatal(err)
	}
	if ticket.Replaces == nil || ticket.Replaces.Name != dead.Name {
		t.Errorf("the answer does not say who goes: %+v", ticket.Replaces)
	}
	h, err := v.house(3, "paris")
	if err != nil {
		t.Fatal(err)
	}
	if h.cfg, err = node.Join(ctx, h.cfg, ticket.Ticket); err != nil {
		t.Fatal(err)
	}
	if h.cfg.Site != "paris" {
		t.Errorf("the new node stands at %s, the old one stood at paris", h.cfg.Site)
	}
	s, err := admin.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range s.Members {
		if m.Name == dead.Name {
			t.Errorf("the old node is a member still, after the new one has joined")
		}
	}
	v.Houses[2] = h
	if err := v.start(ctx, h); err != nil {
		t.Fatal(err)
	}
	if err := v.Settled(ctx); err != nil {
		t.Fatal(err)
	}
	if err := v.start(ctx, dead); err != nil {
		t.Fatal(err)
	}
	sendFile(t, ctx, v, 2, p, "after.bin", randomBytes(1<<20))
	resp, _, err := v.Fetch(ctx, 2, before, nil)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("a link from before, through the new node: %v, %v", resp, err)
	}
	if s, err := dead.node.Admin().Status(ctx); err != nil || s.Ledger.Quorum || slices.ContainsFunc(s.Members, func(m api.MemberStatus) bool { return m.Connected && !m.Self }) {
		t.Errorf("the dead node, come back, is in touch with others: %+v, %v", s, err)
	}
	if s, err := dead.node.Admin().Status(ctx); err != nil || !slices.ContainsFunc(s.Warnings, func(w string) bool {
		return strings.Contains(w, "it may have been removed from the cluster while it was away")
	}) {
		t.Errorf("its status does not say what may have happened: %q, %v", s.Warnings, err)
	}
	if err := dead.node.Close(); err != nil {
		t.Fatal(err)
	}
	verify(t, ctx, v)
}
