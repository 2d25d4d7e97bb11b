package node

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/valise-mail/valise/authz"
	"github.com/valise-mail/valise/node/api"
	"github.com/valise-mail/valise/node/drive"
	"github.com/valise-mail/valise/replication"
)

// trio is berlin, paris and a third, all running. wrapAtOnce bounds what one transaction wraps.
func trio(t *testing.T, wrapAtOnce int) (berlin, paris, third *Node) {
	t.Helper()
	berlin, paris, _ = pair(t, func(c *Config) { c.Name = "paris-1" })
	third = join(t, berlin, func(c *Config) { c.Name = "paris-2" })
	for _, n := range []*Node{berlin, paris, third} {
		n.wrapAtOnce = wrapAtOnce
	}
	eventually(t, "three voters", func() bool {
		voters := 0
		for _, s := range berlin.ledger.Status().Servers {
			if s.Voter {
				voters++
			}
		}
		return voters == 3
	})
	return berlin, paris, third
}

// expel removes a member by force and waits until it has ended.
func expel(t *testing.T, at *Node, id peer.ID) api.Removal {
	t.Helper()
	out, err := at.Admin().Remove(t.Context(), api.RemoveRequest{Node: id.String(), Force: true})
	if err != nil || !out.Done {
		t.Fatalf("got %+v, %v, hint %q", out, err, Hint(err))
	}
	return out
}

func rootKeyWith(at *Node, k drive.Keys, id authz.FileID) (key [32]byte, err error) {
	err = at.ledger.View(func(tx *replication.Tx) error {
		_, v, err := drive.Newest(tx, id)
		if err != nil {
			return err
		}
		key, err = v.RootKey(k)
		return err
	})
	return key, err
}

// R5: what is sealed after a node was removed does not open with what it knows,
// not even with a copy of the ledger of later; what was sealed before opens for
// those that stayed; links from before work, and the old key signs no others.
func TestR5_RemovedNodeCannotOpenWhatComesAfter(t *testing.T) {
	t.Parallel()
	for _, wrapAtOnce := range []int{atOnce, 1} {
		t.Run(fmt.Sprintf("%d at once", wrapAtOnce), func(t *testing.T) {
			t.Parallel()
			berlin, gone, third := trio(t, wrapAtOnce)
			id := account(t, berlin)
			box := func(address, password string) {
				t.Helper()
				r := api.MailboxRequest{Account: "sender@example.org", Address: address, NextHop: "127.0.0.1:1", TLS: "none", User: "u", Password: password}
				if err := berlin.Admin().AddMailbox(t.Context(), r); err != nil {
					t.Fatal(err)
				}
			}
			box("before@example.org", "old secret")
			before, err := berlin.share(t.Context(), aSharing(t, berlin, id, "before.txt", "before"))
			if err != nil {
				t.Fatal(err)
			}
			eventually(t, "the node that will go to know it all", func() bool {
				_, err := rootKeyWith(gone, gone.keys, before.ids[0])
				return err == nil
			})

			out := expel(t, berlin, gone.id.id)
			if len(out.Mailboxes) != 1 || out.Mailboxes[0] != "before@example.org" {
				t.Errorf("passwords to change: %v", out.Mailboxes)
			}
			if berlin.road.Bulk().Connected(gone.id.id) || berlin.road.Ledger().Connected(gone.id.id) {
				t.Error("the gate is not closed to it though the removal is done")
			}
			eventually(t, "the removed node to end", func() bool { return gone.Err() != nil })

			after, err := berlin.share(t.Context(), aSharing(t, berlin, id, "after.txt", "after"))
			if err != nil {
				t.Fatal(err)
			}
			box("after@example.org", "new secret")
			stolen := newKeyring(gone.cluster.Cluster, gone.id)
			if err := berlin.ledger.View(stolen.load); err != nil {
				t.Fatal(err)
			}
			for name, ring := range map[string]*keyring{"its memory": gone.keys, "its key and today's ledger": stolen} {
				if _, err := rootKeyWith(berlin, ring, after.ids[0]); !errors.Is(err, errNoKey) {
					t.Errorf("%s opens content: %v", name, err)
				}
				for _, kind := range rotatedKinds {
					if _, _, err := ring.secret(kind, 2); !errors.Is(err, errNoKey) {
						t.Errorf("%s has the new %s key: %v", name, kind, err)
					}
				}
			}
			if _, _, err := stolen.secret(kindContent, 1); !errors.Is(err, errNoKey) {
				t.Errorf("the ledger still wraps old keys to it: %v", err)
			}
			for _, n := range []*Node{berlin, third} {
				eventually(t, "both files to open", func() bool {
					_, err1 := rootKeyWith(n, n.keys, before.ids[0])
					_, err2 := rootKeyWith(n, n.keys, after.ids[0])
					return err1 == nil && err2 == nil
				})
				for address, epoch := range map[string]uint32{"before@example.org": 1, "after@example.org": 2} {
					checkPassword(t, n, address, epoch)
				}
				for _, links := range []sharedLinks{before, after} {
					if err := decideOn(n, links.token); err != nil {
						t.Errorf("a link at %s: %v", n.id.id, err)
					}
				}
			}
			checkForgery(t, berlin, gone, before)
		})
	}
}

func checkPassword(t *testing.T, n *Node, address string, epoch uint32) {
	t.Helper()
	if err := n.ledger.ReadIndex(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := n.ledger.View(func(tx *replication.Tx) error {
		box, err := authz.FindMailbox(tx, authz.Address(address))
		if err != nil {
			return err
		}
		if box.Password.Epoch != epoch {
			t.Errorf("password of %s is sealed under epoch %d, want %d", address, box.Password.Epoch, epoch)
		}
		_, err = n.keys.openUnder(kindMail, box.Password.Epoch, mailboxAAD(box), box.Password.Box)
		return err
	}); err != nil {
		t.Errorf("password of %s: %v", address, err)
	}
}

func decideOn(n *Node, token authz.Token) error {
	return n.ledger.View(func(tx *replication.Tx) error {
		_, err := authz.DecideLanding(tx, n.law, token, nil, n.cfg.clock()())
		return err
	})
}

// checkForgery signs another token of a grant that the removed node knows, with the key it keeps.
func checkForgery(t *testing.T, at, gone *Node, links sharedLinks) {
	t.Helper()
	claims, err := authz.Genuine(links.token, at.law)
	if err != nil {
		t.Fatal(err)
	}
	old, _, err := gone.keys.secret(kindSigning, 1)
	if err != nil {
		t.Fatal(err)
	}
	claims.Expires = at.cfg.now().AddDate(1, 0, 0)
	forged, err := authz.Issue(authz.Signer{ID: 1, Key: ed25519.NewKeyFromSeed(old)}, claims)
	if err != nil {
		t.Fatal(err)
	}
	if err := decideOn(at, forged); !errors.Is(err, authz.ErrDistrustedKey) {
		t.Errorf("a token signed with the old key: %v", err)
	}
}

// A node that has not noticed the new epochs yet makes nothing new under the old ones.
func TestR5_WhoIsBehindUsesTheNewKeys(t *testing.T) {
	t.Parallel()
	berlin, gone, _ := trio(t, atOnce)
	id := account(t, berlin)
	s := aSharing(t, berlin, id, "a.txt", "hello")
	expel(t, berlin, gone.id.id)
	behind := func() {
		berlin.keys.mu.Lock()
		defer berlin.keys.mu.Unlock()
		for _, kind := range rotatedKinds {
			berlin.keys.newest[kind] = 1
		}
	}
	behind()
	links, err := berlin.share(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	if claims, err := authz.Genuine(links.token, berlin.law); err != nil || claims.Key != 2 {
		t.Errorf("token signed with key %d, %v", claims.Key, err)
	}
	behind()
	if err := berlin.Admin().AddMailbox(t.Context(), api.MailboxRequest{Account: "sender@example.org", Address: "b@example.org", NextHop: "127.0.0.1:1", TLS: "none", User: "u", Password: "p"}); err != nil {
		t.Fatal(err)
	}
	checkPassword(t, berlin, "b@example.org", 2)
	behind()
	late := join(t, berlin, func(c *Config) { c.Name = "paris-3" })
	for _, kind := range rotatedKinds {
		if _, epoch, err := late.keys.secret(kind, 0); err != nil || epoch != 2 {
			t.Errorf("who joins later has the %s key of epoch %d, %v", kind, epoch, err)
		}
		if _, _, err := late.keys.secret(kind, 1); err != nil {
			t.Errorf("who joins later lacks the old %s key: %v", kind, err)
		}
	}
}

// A ticket, used or made by a node that was removed, lets nobody in any more.
func TestR4_TicketsOfARemovedNodeEnd(t *testing.T) {
	t.Parallel()
	berlin, gone, _ := trio(t, atOnce)
	made, err := gone.Admin().Invite(t.Context(), api.InviteRequest{Site: "rome"})
	if err != nil {
		t.Fatal(err)
	}
	if err := berlin.ledger.ReadIndex(t.Context()); err != nil {
		t.Fatal(err)
	}
	var used peer.ID
	if err := berlin.ledger.View(func(tx *replication.Tx) error {
		for k, v := range tx.Scan(ticketKeys, replication.PrefixEnd(ticketKeys)) {
			var r ticketRecord
			if err := replication.Unmarshal(v, &r); err != nil {
				return err
			}
			if peer.ID(r.JoinedAs) == gone.id.id {
				used = peer.ID(k[len(ticketKeys):])
			}
		}
		return nil
	}); err != nil || used == "" {
		t.Fatalf("the ticket it joined with: %q, %v", used, err)
	}
	expel(t, berlin, gone.id.id)
	if err := berlin.ledger.Update(t.Context(), func(tx *replication.Tx) error {
		_, _, err := burnTicket(tx, used, gone.id.id, berlin.cfg.now())
		return err
	}); err == nil || !strings.Contains(err.Error(), "used already") {
		t.Errorf("it joins again with its old ticket: %v", err)
	}
	c := alone(t)
	c.Dir = "/late"
	if _, err := Join(t.Context(), c, made.Ticket); err == nil {
		t.Error("a ticket that the removed node made lets somebody in")
	}
	if err := berlin.ledger.View(func(tx *replication.Tx) error {
		for _, v := range tx.Scan(ticketKeys, replication.PrefixEnd(ticketKeys)) {
			var r ticketRecord
			if err := replication.Unmarshal(v, &r); err == nil && r.JoinedAs == nil {
				t.Error("the ticket it made is still in the ledger")
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// R5: the node that replaces a dead one comes with new epochs, which the dead one
// does not learn; in the same transaction, or where there are too many nodes for
// one, when the leader gets to it.
func TestR5_ReplacingBeginsNewEpochs(t *testing.T) {
	t.Parallel()
	for _, wrapAtOnce := range []int{atOnce, 1} {
		t.Run(fmt.Sprintf("%d at once", wrapAtOnce), func(t *testing.T) {
			t.Parallel()
			berlin, gone, _ := trio(t, wrapAtOnce)
			if err := gone.Close(); err != nil {
				t.Fatal(err)
			}
			var ticket api.Invited
			eventually(t, "the dead node to count as away", func() (done bool) {
				var err error
				ticket, err = berlin.Admin().Invite(t.Context(), api.InviteRequest{Site: "paris", Replace: gone.id.id.String()})
				return err == nil
			})
			c := alone(t)
			c.Name = "paris-3"
			c, err := Join(t.Context(), c, ticket.Ticket)
			if err != nil {
				t.Fatal(err)
			}
			late, err := Open(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { late.Close() })
			for _, n := range []*Node{berlin, late} {
				eventually(t, "the new keys, and the old member gone", func() bool {
					_, there := n.roster.find(gone.id.id)
					_, epoch, err := n.keys.secret(kindContent, 0)
					return !there && err == nil && epoch == 2
				})
			}
			stolen := newKeyring(gone.cluster.Cluster, gone.id)
			if err := berlin.ledger.View(stolen.load); err != nil {
				t.Fatal(err)
			}
			if _, _, err := stolen.secret(kindContent, 2); !errors.Is(err, errNoKey) {
				t.Errorf("the dead node's key opens the new epoch: %v", err)
			}
		})
	}
}

// Keys that were written in steps count for nothing until they are in force, and
// are not put in force when the members changed or another leader began anew.
func TestL8_KeysWrittenInSteps(t *testing.T) {
	t.Parallel()
	berlin, _, _ := pair(t, nil)
	berlin.wrapAtOnce = 1
	now := berlin.cfg.now()
	prepare := func() *rotation {
		t.Helper()
		r := newRotation(berlin.cluster.Cluster)
		if err := berlin.prepare(t.Context(), r, "nobody", now); err != nil || !r.prepared {
			t.Fatalf("prepared %v, %v", r.prepared, err)
		}
		return r
	}
	update := func(fn func(tx *replication.Tx) error) error { return berlin.ledger.Update(t.Context(), fn) }
	begin := func(r *rotation) error {
		return update(func(tx *replication.Tx) error { return r.begin(tx, nil, now) })
	}
	epoch := func() uint32 {
		t.Helper()
		ring := newKeyring(berlin.cluster.Cluster, berlin.id)
		if err := berlin.ledger.View(ring.load); err != nil {
			t.Fatal(err)
		}
		_, epoch, err := ring.secret(kindContent, 0)
		if err != nil {
			t.Fatal(err)
		}
		return epoch
	}

	first := prepare()
	if got := epoch(); got != 1 {
		t.Errorf("before they are in force epoch %d is used", got)
	}
	if err := update(func(tx *replication.Tx) error { bumpMembers(tx); return nil }); err != nil {
		t.Fatal(err)
	}
	if err := begin(first); !errors.Is(err, errMembersChanged) {
		t.Errorf("after the members changed: %v", err)
	}
	second := prepare()
	third := prepare()
	if err := begin(second); !errors.Is(err, errMembersChanged) {
		t.Errorf("after another began anew: %v", err)
	}
	if err := begin(third); err != nil {
		t.Errorf("the last: %v", err)
	}
	if got := epoch(); got != 2 {
		t.Errorf("once they are in force epoch %d is used", got)
	}
}
