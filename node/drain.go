package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/valise-mail/valise/authz"
	"github.com/valise-mail/valise/node/api"
	"github.com/valise-mail/valise/replication"
)

// noShare is the weight of a node that is to hold no copies.
const noShare = -1

// share is what part of the copies the member is to have.
func (m *memberRecord) share() int64 {
	if m.Drained || m.Removal != nil {
		return noShare
	}
	return m.Weight
}

// servers are those members that should hold the ledger: all full nodes but the
// ones that are being removed, which raft lets go before their record goes (R3).
//
// A drained member stays a server, for it serves what it has until others have it; it does not vote, nor
// lead, where others can.
func servers(all []member) []replication.Server {
	var out []replication.Server
	for _, m := range all {
		if m.full() && m.Removal == nil {
			out = append(out, replication.Server{ID: m.ID, Site: m.Site, NoVote: m.Drained})
		}
	}
	return out
}

// Drain implements api.Admin. Doing it again changes nothing.
func (a admin) Drain(ctx context.Context, r api.DrainRequest) (api.Drained, error) {
	n := a.n
	m, err := n.memberNamed(ctx, r.Node)
	if err != nil {
		return api.Drained{}, err
	}
	if others := n.sharers(m.ID); !r.Undo && others == 0 {
		return api.Drained{}, hint(fmt.Errorf("no other node could take what %s holds", n.roster.label(m.ID)),
			`let another node join first, or "valise node undrain" one`)
	}
	if err := n.changeMember(ctx, m.ID, func(m *memberRecord) error {
		if m.Removal != nil {
			return errBeingRemoved
		}
		m.Drained = !r.Undo
		return nil
	}); err != nil {
		return api.Drained{}, err
	}
	out := api.Drained{Node: m.ID.String(), Name: n.roster.label(m.ID), Drained: !r.Undo}
	err = n.ledger.View(func(tx *replication.Tx) (err error) {
		out.Left, _, err = n.countsOn(tx, m.ID)
		return err
	})
	return out, err
}

var errBeingRemoved = hint(errors.New("the node is being removed"), `"valise status" shows how far that is`)

// Move implements api.Admin: it says in the node's record that it stands at another site.
func (a admin) Move(ctx context.Context, r api.MoveRequest) (api.Moved, error) {
	n := a.n
	if err := checkSite(r.Site); err != nil {
		return api.Moved{}, err
	}
	m, err := n.memberNamed(ctx, r.Node)
	if err != nil {
		return api.Moved{}, err
	}
	if err := n.changeMember(ctx, m.ID, func(m *memberRecord) error {
		if m.Removal != nil {
			return errBeingRemoved
		}
		m.Site = r.Site
		return nil
	}); err != nil {
		return api.Moved{}, err
	}
	return api.Moved{Node: m.ID.String(), Name: n.roster.label(m.ID), From: m.Site, Site: r.Site}, nil
}

// changeMember changes what an operator decides in a member's record, and follows it here.
func (n *Node) changeMember(ctx context.Context, id peer.ID, change func(m *memberRecord) error) error {
	err := n.ledger.Update(ctx, func(tx *replication.Tx) error {
		var m memberRecord
		ok, err := get(tx, memberKey(id), &m)
		if err == nil && !ok {
			err = errNoMember
		}
		if err == nil {
			err = change(&m)
		}
		if err != nil {
			return err
		}
		put(tx, memberKey(id), m)
		bumpMembers(tx)
		return nil
	})
	if err != nil {
		return ledgerHint(err)
	}
	return n.follow()
}

// sharers counts the nodes besides one that hold copies or will.
func (n *Node) sharers(without peer.ID) (count int) {
	for _, h := range n.roster.holders() {
		if h.ID != without && h.Weight != noShare {
			count++
		}
	}
	return count
}

// countsOn says how many contents still count on a node: left would have fewer
// copies without it than the cluster can have, sole would have none, or none
// that can be reached while the node itself can. Of a node that is being drained
// the room of copies knows better: left are those it has not been relieved of.
//
// It reads every content's record.
func (n *Node) countsOn(tx *replication.Tx, id peer.ID) (left, sole int, err error) {
	weight, here := map[peer.ID]int64{}, map[peer.ID]bool{}
	for _, h := range n.roster.holders() {
		weight[h.ID], here[h.ID] = h.Weight, h.ID == n.id.id || n.reached(h.ID)
	}
	want := min(n.cfg.Copies.Wanted, n.sharers(id))
	for root := range contents(tx) {
		holders, err := n.copies.Holders(tx, root)
		if err != nil {
			return 0, 0, fmt.Errorf("holders of %s: %w", root, err)
		}
		held, staying, safe := false, 0, 0
		for _, h := range holders {
			switch {
			case h == id:
				held = true
			case weight[h] != noShare:
				staying++
				fallthrough
			default:
				if here[h] || !here[id] {
					safe++
				}
			}
		}
		if held && staying < want {
			left++
		}
		if held && safe == 0 {
			sole++
		}
	}
	if weight[id] == noShare {
		if left, err = n.copies.Drained(tx, id); err != nil {
			return 0, 0, err
		}
	}
	return left, sole, nil
}

// sealedMailboxes lists the mailboxes whose upstream passwords every full node
// can read: the ones to change when one has gone (R5).
func sealedMailboxes(tx *replication.Tx) ([]string, error) {
	out := []string{}
	for account, err := range authz.Accounts(tx) {
		if err != nil {
			return nil, err
		}
		for box, err := range authz.Mailboxes(tx, account.ID) {
			if err != nil {
				return nil, err
			}
			if box.Password.Box != nil {
				out = append(out, string(box.Address))
			}
		}
	}
	return out, nil
}

// contents yields every root that the ledger records, by the key that the room of copies gives its record.
func contents(tx *replication.Tx) iter.Seq[cid.Cid] {
	prefix := []byte("cr")
	return func(yield func(cid.Cid) bool) {
		for key := range tx.Scan(prefix, replication.PrefixEnd(prefix)) {
			if root, err := cid.Cast(bytes.Clone(key[len(prefix):])); err == nil && !yield(root) {
				return
			}
		}
	}
}
