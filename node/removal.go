package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/valise-mail/valise/dht"
	"github.com/valise-mail/valise/node/api"
	"github.com/valise-mail/valise/replication"
)

// Removing a member goes in three steps, in this order (R3): its record is
// marked, upon which whoever leads the ledger takes it out of raft; then one
// transaction begins new epochs of the organisation's secrets and deletes the
// record; then every node that sees the record gone tells the one that went
// and closes its gate. The leader goes on where another left off, so that
// neither a crash nor the removed node's own silence leaves it half done.

const (
	removalEvery = 250 * time.Millisecond
	removalRetry = 5 * time.Second  // after a removal that could not go on
	removalWait  = 20 * time.Second // how long whoever asked waits: less than the operator's client does
)

var (
	// ErrLeft ends a node that left the cluster because its own operator asked for it.
	ErrLeft = errors.New("this node has left the cluster")

	errMembersChanged = errors.New("the members changed meanwhile")
	errUnderWay       = errors.New("the removal is under way and not done yet")
)

// Remove implements api.Admin. Asking again goes on where the first time ended.
func (a admin) Remove(ctx context.Context, r api.RemoveRequest) (api.Removal, error) {
	n := a.n
	m, err := n.memberNamed(ctx, r.Node)
	if err != nil {
		return api.Removal{}, err
	}
	out, err := n.planRemoval(ctx, m)
	if err != nil {
		return out, err
	}
	refused := n.refuseRemoval(m, out, r.Force)
	if r.Plan {
		if refused != nil {
			out.Refused, out.Hint = refused.Error(), Hint(refused)
		}
		return out, nil
	}
	if refused != nil && m.Removal == nil {
		return out, refused
	}
	if m.ID == n.id.id {
		n.leaving.Store(true) // before others can tell it to stop
	}
	if err := n.markRemoval(ctx, m.ID, r.Force); err != nil {
		if errors.Is(err, replication.ErrNoQuorum) {
			n.leaving.Store(false)
		}
		return out, ledgerHint(err)
	}
	if err := n.follow(); err != nil {
		return out, err
	}
	out.Done = n.awaitGone(ctx, m.ID)
	if !out.Done {
		return out, hint(errUnderWay, `whoever leads the ledger finishes it, also after a restart; "valise status" shows how far it is`)
	}
	n.log.InfoContext(ctx, "member removed", "peer", m.ID, "site", m.Site, "force", r.Force)
	return out, nil
}

// memberNamed finds a member by its name or peer id; the empty text is this node.
func (n *Node) memberNamed(ctx context.Context, text string) (member, error) {
	var found []member
	look := func(tx *replication.Tx) error {
		found = nil
		all, err := members(tx)
		for _, m := range all {
			if m.ID.String() == text || m.Name == text || text == "" && m.ID == n.id.id || labels(all)[m.ID.String()] == text {
				found = append(found, m)
			}
		}
		if err == nil && len(found) == 0 {
			err = errNoMember
		}
		return err
	}
	err := n.viewFresh(ctx, errNoMember, look)
	switch {
	case errors.Is(err, errNoMember):
		return member{}, hint(fmt.Errorf("node %q is no member of this cluster", text), `"valise status" lists them; --json has their ids`)
	case err != nil:
		return member{}, err
	case len(found) > 1:
		return member{}, hint(fmt.Errorf("%d nodes are called %q", len(found), text), `name it by its id: "valise status --json" has it`)
	}
	return found[0], nil
}

var errNoMember = errors.New("no such member")

// planRemoval says what removing a member would mean, by all that is committed
// now: what this copy has not heard of yet may lie on that member alone.
func (n *Node) planRemoval(ctx context.Context, m member) (api.Removal, error) {
	if err := n.ledger.ReadIndex(ctx); err != nil {
		return api.Removal{}, ledgerHint(fmt.Errorf("look what counts on %s: %w", n.roster.label(m.ID), err))
	}
	out := api.Removal{Node: m.ID.String(), Name: n.roster.label(m.ID), Site: m.Site, Reached: m.ID == n.id.id || n.reached(m.ID), Mailboxes: []string{}}
	for _, s := range n.ledger.Status().Servers {
		if !s.Voter || s.ID == m.ID {
			out.Voter = out.Voter || s.Voter
			continue
		}
		out.VotersAfter++
		if s.ID == n.id.id || n.reached(s.ID) {
			out.VotersReached++
		}
	}
	err := n.ledger.View(func(tx *replication.Tx) (err error) {
		if out.Left, out.Sole, err = n.countsOn(tx, m.ID); err != nil {
			return err
		}
		out.Mailboxes, err = sealedMailboxes(tx)
		return err
	})
	return out, err
}

// refuseRemoval says why a member may not be removed now, or nil.
func (n *Node) refuseRemoval(m member, plan api.Removal, force bool) error {
	label := n.roster.label(m.ID)
	switch {
	case len(n.roster.all()) < 2:
		return hint(errors.New("it is the only node of the cluster"), "there is nobody to leave its files and its ledger to: stop it, and delete its folder if all of it may go")
	case 2*plan.VotersReached <= plan.VotersAfter:
		return hint(fmt.Errorf("without %s, %d of %d voters would be in reach: no majority, and nothing could be changed any more", label, plan.VotersReached, plan.VotersAfter),
			`start the nodes that are away, or remove those that are gone for good first; "valise status" shows them`)
	case plan.Sole > 0 && !force && plan.Reached:
		return hint(fmt.Errorf("%s alone holds %d contents", label, plan.Sole),
			fmt.Sprintf(`"valise node drain %s" has them copied to others first; "valise status" shows how many are left`, label))
	case plan.Sole > 0 && !force:
		return hint(fmt.Errorf("%s alone holds %d contents, and it is not in reach", label, plan.Sole),
			"start it once more, and they are copied; if it is gone for good, --force gives them up: links to them then answer that the file is not available")
	}
	return nil
}

// planReplacement says what losing a member that another is to replace would mean.
func (n *Node) planReplacement(ctx context.Context, m member, force bool) (api.Removal, error) {
	plan, err := n.planRemoval(ctx, m)
	switch {
	case err != nil:
		return plan, err
	case m.Removal != nil:
		return plan, errBeingRemoved
	case plan.Reached:
		return plan, hint(fmt.Errorf("%s is in reach: only a node that is gone for good is replaced", plan.Name),
			`invite the new node without --replace, then "valise node drain" and "valise cluster remove" the old one`)
	}
	return plan, n.refuseRemoval(m, plan, force)
}

func (n *Node) markRemoval(ctx context.Context, id peer.ID, force bool) error {
	now := n.cfg.now()
	return n.ledger.Update(ctx, func(tx *replication.Tx) error {
		var m memberRecord
		ok, err := get(tx, memberKey(id), &m)
		if err != nil || !ok || m.Removal != nil && (m.Removal.Force || !force) {
			return err
		}
		m.Removal = &removalRecord{Asked: now, Force: force}
		put(tx, memberKey(id), m)
		bumpMembers(tx)
		return nil
	})
}

// awaitGone waits until this node's gate is closed to the member, or this node has been told that it was itself removed.
func (n *Node) awaitGone(ctx context.Context, id peer.ID) bool {
	ctx, cancel := context.WithTimeout(ctx, removalWait)
	defer cancel()
	for {
		select {
		case <-n.road.Removed():
			return id == n.id.id
		default:
		}
		if id != n.id.id && !slices.ContainsFunc(n.road.Peers().Peers, func(p dht.Peer) bool { return p.ID == id }) {
			return true
		}
		if !sleep(ctx, 20*time.Millisecond) {
			return false
		}
	}
}

// carryOutRemovals finishes, while this node leads, what Remove began anywhere.
func (n *Node) carryOutRemovals(ctx context.Context) error {
	next := map[peer.ID]time.Time{}
	for ok := true; ok; ok = sleep(ctx, removalEvery) {
		for _, m := range n.roster.all() {
			if m.Removal == nil || time.Now().Before(next[m.ID]) || !n.outOfRaft(m.ID) {
				continue
			}
			if err := n.finishRemoval(ctx, m); err != nil && ctx.Err() == nil {
				next[m.ID] = time.Now().Add(removalRetry)
				n.log.WarnContext(ctx, "a removal cannot go on yet", "peer", m.ID, "err", err, "hint", Hint(err))
			}
		}
	}
	return nil
}

// outOfRaft says whether this node leads and the ledger has let go of a server.
func (n *Node) outOfRaft(id peer.ID) bool {
	s := n.ledger.Status()
	return s.Leader == n.id.id && !slices.ContainsFunc(s.Servers, func(s replication.ServerStatus) bool { return s.ID == id })
}

// finishRemoval begins new epochs and deletes the record.
func (n *Node) finishRemoval(ctx context.Context, m member) error {
	if !m.Removal.Force {
		if err := n.ledger.ReadIndex(ctx); err != nil {
			return err
		}
		var sole int
		if err := n.ledger.View(func(tx *replication.Tx) (err error) {
			_, sole, err = n.countsOn(tx, m.ID)
			return err
		}); err != nil {
			return err
		}
		if sole > 0 {
			return hint(fmt.Errorf("it alone holds %d contents", sole), `others copy them while it runs; "valise cluster remove --force" gives them up`)
		}
	}
	return n.dismiss(ctx, m.ID)
}

// dismiss ends a membership that is marked for removal.
func (n *Node) dismiss(ctx context.Context, id peer.ID) error {
	now := n.cfg.now()
	for again := 0; ; again++ {
		r := newRotation(n.cluster.Cluster)
		if err := n.prepare(ctx, r, id, now); err != nil {
			return err
		}
		err := n.ledger.Update(ctx, func(tx *replication.Tx) error {
			var m memberRecord
			ok, err := get(tx, memberKey(id), &m)
			if err != nil || !ok || m.Removal == nil {
				return err
			}
			return dropMember(tx, r, id, now)
		})
		if err == nil {
			return n.follow()
		}
		if !errors.Is(err, errMembersChanged) || again == 3 {
			return fmt.Errorf("remove %s: %w", id, err)
		}
	}
}

// prepare writes the wraps of a rotation in steps where they are too many for
// one transaction. They count for nothing until the rotation begins (L8).
func (n *Node) prepare(ctx context.Context, r *rotation, without peer.ID, now time.Time) error {
	var rest []member
	if err := n.ledger.View(func(tx *replication.Tx) (err error) {
		r.at = tx.ChangeIndex(keyVersion)
		rest, err = members(tx)
		return err
	}); err != nil {
		return err
	}
	rest = slices.DeleteFunc(rest, func(m member) bool { return m.ID == without })
	if len(rest) <= n.wrapAtOnce {
		return nil
	}
	for i, chunk := 0, []member(nil); i < len(rest); i += len(chunk) {
		chunk = rest[i:min(i+n.wrapAtOnce, len(rest))]
		if err := n.ledger.Update(ctx, func(tx *replication.Tx) error {
			epochs, err := epochsIn(tx)
			if err != nil {
				return err
			}
			if i > 0 && !bytes.Equal(epochs.Attempt, r.attempt) {
				return errMembersChanged
			}
			epochs.Attempt = r.attempt
			put(tx, keyEpochs, epochs)
			return r.wrapTo(tx, epochs, chunk, now)
		}); err != nil {
			return fmt.Errorf("new keys for %d nodes: %w", len(rest), err)
		}
	}
	r.prepared = true
	return nil
}

// dropMember deletes a member's record, what was wrapped to it and the tickets
// it made, and begins new epochs that it does not learn.
func dropMember(tx *replication.Tx, r *rotation, id peer.ID, now time.Time) error {
	if err := forget(tx, id); err != nil {
		return err
	}
	if err := cancelTicketsOf(tx, id); err != nil {
		return err
	}
	tx.Delete(memberKey(id))
	var rest []member
	if !r.prepared {
		all, err := members(tx)
		if err != nil {
			return err
		}
		rest = slices.DeleteFunc(all, func(m member) bool { return m.ID == id })
	}
	if err := r.begin(tx, rest, now); err != nil {
		return err
	}
	bumpMembers(tx)
	return nil
}

// cancelTicketsOf ends the unused tickets that a node made: it knows them.
func cancelTicketsOf(tx *replication.Tx, id peer.ID) error {
	seen := 0
	for k, v := range tx.Scan(ticketKeys, replication.PrefixEnd(ticketKeys)) {
		if seen++; seen > 500 {
			break
		}
		var t ticketRecord
		if err := replication.Unmarshal(v, &t); err != nil {
			return fmt.Errorf("ticket: %w", err)
		}
		if peer.ID(t.By) == id && t.JoinedAs == nil {
			tx.Delete(k)
		}
	}
	return nil
}

const (
	farewellProtocol = "farewell/1"
	farewellTimeout  = 2 * time.Second
)

// sayFarewell hands the new list to members that are not in it, before the gate
// closes for them: afterwards nobody could tell them.
func (n *Node) sayFarewell(list dht.List, signed []byte) {
	stays := map[peer.ID]bool{n.id.id: true}
	for _, p := range list.Peers {
		stays[p.ID] = true
	}
	ctx, cancel := context.WithTimeout(n.ctx, farewellTimeout)
	defer cancel()
	var all []<-chan struct{}
	for _, p := range n.road.Peers().Peers {
		if p.Class != dht.Member || stays[p.ID] || !n.road.Bulk().Connected(p.ID) {
			continue
		}
		done := make(chan struct{})
		all = append(all, done)
		go func() {
			defer close(done)
			if err := n.farewell(ctx, p.ID, signed); err != nil {
				n.log.InfoContext(ctx, "a removed node could not be told", "peer", p.ID, "err", err)
			}
		}()
	}
	for _, done := range all {
		<-done
	}
}

func (n *Node) farewell(ctx context.Context, id peer.ID, signed []byte) error {
	s, err := n.road.Bulk().Dial(ctx, id, farewellProtocol)
	if err != nil {
		return err
	}
	defer s.Close()
	defer dht.Deadline(ctx, s, farewellTimeout)()
	if err := writeFrame(s, signed); err != nil {
		s.Reset()
		return err
	}
	var heard bool
	return readFrame(s, &heard) // once it is heard the connection may be cut
}

// serveFarewell hears that this node was removed. The list proves it by its
// signature; who brings it does not matter.
func (n *Node) serveFarewell(s network.Stream) {
	defer s.Close()
	_ = s.SetDeadline(time.Now().Add(farewellTimeout))
	var signed []byte
	err := readFrame(s, &signed)
	if err == nil {
		err = writeFrame(s, true)
	}
	if err == nil {
		err = n.road.Publish(signed)
	}
	if err != nil {
		n.log.WarnContext(n.ctx, "a farewell was not understood", "peer", s.Conn().RemotePeer(), "err", err)
	}
}

// stopWhenRemoved ends the node when it is no member any more.
func (n *Node) stopWhenRemoved(ctx context.Context) error {
	select {
	case <-n.road.Removed():
		if n.leaving.Load() {
			return hint(ErrLeft, "its folder may be deleted; to come back, join with a new ticket and a new folder")
		}
		return hint(errors.New("this node was removed from the cluster"), "its folder may be deleted; to come back, join with a new ticket and a new folder")
	case <-ctx.Done():
		return nil
	}
}
