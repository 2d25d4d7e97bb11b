package node

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/valise-mail/valise/node/api"
	"github.com/valise-mail/valise/node/drive"
	"github.com/valise-mail/valise/replication"
)

// A removal that its initiator did not see through is finished by whoever leads, also after a restart.
func TestR3_RemovalGoesOnAfterARestart(t *testing.T) {
	t.Parallel()
	berlin, gone, third := trio(t, atOnce)
	if err := berlin.markRemoval(t.Context(), gone.id.id, true); err != nil {
		t.Fatal(err)
	}
	if err := berlin.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := Open(t.Context(), berlin.cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { again.Close() })
	for _, n := range []*Node{again, third} {
		eventually(t, "the record to go", func() bool { _, there := n.roster.find(gone.id.id); return !there })
	}
	eventually(t, "the removed node to end", func() bool { return gone.Err() != nil })
}

// A removal without force does not take its last step while the node alone holds something.
func TestRemovalWaitsForWhatOnlyItHolds(t *testing.T) {
	t.Parallel()
	oneCopy := func(c *Config) { c.Copies.Wanted, c.Copies.Ack = 1, 1 }
	first := alone(t)
	oneCopy(&first)
	if err := Init(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	berlin := start(t, first)
	paris := join(t, berlin, oneCopy)
	links, err := paris.share(t.Context(), aSharing(t, paris, account(t, berlin), "a.txt", "hello"))
	if err != nil {
		t.Fatal(err)
	}
	if err := berlin.ledger.ReadIndex(t.Context()); err != nil {
		t.Fatal(err)
	}
	var holders []peer.ID
	if err := berlin.ledger.View(func(tx *replication.Tx) error {
		_, v, err := drive.Newest(tx, links.ids[0])
		if err != nil {
			return err
		}
		holders, err = berlin.copies.Holders(tx, v.Root)
		return err
	}); err != nil || len(holders) != 1 {
		t.Fatalf("holders %v, %v", holders, err)
	}
	other := berlin
	if holders[0] == berlin.id.id {
		other = paris
	}
	m, err := other.memberNamed(t.Context(), holders[0].String())
	if err != nil {
		t.Fatal(err)
	}
	m.Removal = &removalRecord{}
	if err := other.finishRemoval(t.Context(), m); err == nil || !strings.Contains(Hint(err), "--force") {
		t.Errorf("the last step was taken: %v", err)
	}
	if _, there := other.roster.find(m.ID); !there {
		t.Error("its record is gone")
	}
}

// The cluster's record of a site leads: a node that restarts with another one in
// its config takes the record's, and status says that they differ.
func TestMoveLeadsOverTheConfig(t *testing.T) {
	t.Parallel()
	n := running(t)
	if _, err := n.Admin().Move(t.Context(), api.MoveRequest{Site: "a b"}); err == nil || Hint(err) == "" {
		t.Errorf("a site that is none: %v", err)
	}
	moved, err := n.Admin().Move(t.Context(), api.MoveRequest{Site: "rome"})
	if err != nil || moved.From != "berlin" || moved.Site != "rome" {
		t.Fatalf("got %+v, %v", moved, err)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	again := start(t, n.cfg)
	s, err := again.Admin().Status(t.Context())
	if err != nil || s.Site != "rome" || s.Members[0].Site != "rome" || again.ledger.Status().Site != "rome" {
		t.Errorf("after a restart: %+v, ledger at %q, %v", s, again.ledger.Status().Site, err)
	}
	differs := func(w string) bool { return strings.Contains(w, `set site = "rome" in valise.toml`) }
	if !slices.ContainsFunc(s.Warnings, differs) {
		t.Errorf("status does not say that the config differs: %q", s.Warnings)
	}
}

func TestStatusSaysWhatIsOutOfTheOrdinary(t *testing.T) {
	t.Parallel()
	n := running(t)
	var said []string
	n.warnMembers(api.Status{Program: "2.0", Members: []api.MemberStatus{
		{Name: "berlin", Program: "2.0"}, {Name: "paris", Program: "1.9", Drained: true, Left: 3}, {Name: "rome", Program: "2.0", Drained: true}, {Name: "lyon", Leaving: true},
	}}, func(format string, args ...any) { said = append(said, fmt.Sprintf(format, args...)) })
	want := []string{
		"paris is being drained: 3 contents still count on it", "rome is drained: nothing counts on it",
		"lyon is being removed from the cluster", "programs differ: this node runs 2.0, paris runs 1.9",
	}
	if !slices.Equal(said, want) {
		t.Errorf("got %q, want %q", said, want)
	}
}

// A drained node gets no share of the copies, and gets it back.
func TestDrainAndUndrain(t *testing.T) {
	t.Parallel()
	berlin, paris, _ := pair(t, func(c *Config) { c.Name = "paris-1" })
	weight := func(at *Node) int64 {
		for _, h := range at.roster.holders() {
			if h.ID == paris.id.id {
				return h.Weight
			}
		}
		return -99
	}
	for _, undo := range []bool{false, true} {
		d, err := berlin.Admin().Drain(t.Context(), api.DrainRequest{Node: "paris-1", Undo: undo})
		if err != nil || d.Drained == undo {
			t.Fatalf("got %+v, %v", d, err)
		}
		want := map[bool]int64{false: noShare, true: 0}[undo]
		for _, n := range []*Node{berlin, paris} {
			eventually(t, "the weight to be known", func() bool { return weight(n) == want })
		}
		if undo {
			return
		}
		if _, err := berlin.Admin().Drain(t.Context(), api.DrainRequest{}); err == nil || Hint(err) == "" {
			t.Errorf("the last node that can hold copies was drained: %v", err)
		}
	}
}

// What was committed elsewhere a moment ago counts: the plan does not trust a copy that has not heard of it.
func TestRemovalLooksAtAllThatIsCommitted(t *testing.T) {
	t.Parallel()
	berlin, paris, _ := pair(t, func(c *Config) { c.Name = "paris-1" })
	eventually(t, "two voters", func() bool {
		s := berlin.ledger.Status().Servers
		return len(s) == 2 && s[0].Voter && s[1].Voter
	})
	m, err := berlin.memberNamed(t.Context(), "paris-1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := berlin.planRemoval(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	if err := paris.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := berlin.planRemoval(ctx, m); err == nil {
		t.Error("a removal was planned on a copy that nobody confirmed")
	}
}
