package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/valise-mail/valise/authz"
	"github.com/valise-mail/valise/dht"
	"github.com/valise-mail/valise/replication"
	"github.com/valise-mail/valise/replication/copies"
)

// settleTimeout is how long a node that has just joined waits for its first
// copy of the ledger before its faces open anyway.
const settleTimeout = 10 * time.Second

// A roster is the membership as this node's copy of the ledger has it, kept in
// memory for those who ask often.
type roster struct {
	following sync.Mutex // held by follow, so that an older view never comes after a newer one

	mu      sync.RWMutex // guards the fields below
	members []member
	labels  map[string]string // by the text of the peer id
	names   *strings.Replacer // of peer ids by labels
}

func (r *roster) set(members []member) {
	names := labels(members)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.members, r.labels, r.names = members, names, namesIn(names)
}

// all returns the members, ordered by peer id. The slice is shared: read only.
func (r *roster) all() []member {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.members
}

func (r *roster) find(id peer.ID) (member, bool) {
	for _, m := range r.all() {
		if m.ID == id {
			return m, true
		}
	}
	return member{}, false
}

// holders are the members that can hold copies: those whose store is known.
func (r *roster) holders() []copies.Node {
	var out []copies.Node
	for _, m := range r.all() {
		if len(m.Store) != 16 {
			continue
		}
		out = append(out, copies.Node{ID: m.ID, Site: m.Site, Store: [16]byte(m.Store), Weight: m.share()})
	}
	return out
}

// settle takes over what the ledger says and starts the loops that follow it.
func (n *Node) settle(ctx context.Context) error {
	if err := n.follow(); err != nil {
		return err
	}
	n.road.Bulk().Handle(aliveProtocol, dht.Member, n.serveAlive)
	n.start("reach out", n.reachOut)
	n.start("alive", n.watchMembers)
	if _, ok := n.roster.find(n.id.id); !ok {
		n.log.InfoContext(ctx, "waiting for the first copy of the ledger")
		wait, cancel := context.WithTimeout(ctx, settleTimeout)
		defer cancel()
		if err := n.waitForSelf(wait); err != nil && ctx.Err() == nil {
			n.log.WarnContext(ctx, "no copy of the ledger yet; serving what is known", "err", err)
		}
	}
	n.tellOwnRecord(ctx)
	n.start("members", n.followMembers)
	n.start("signing keys", n.followSigningKeys)
	n.start("journal of revocations", n.keepJournal)
	n.start("own record", n.keepOwnRecord)
	n.road.Bulk().Handle(farewellProtocol, dht.Member, n.serveFarewell)
	n.start("removal", n.stopWhenRemoved)
	n.start("removals", n.carryOutRemovals)
	n.road.Bulk().Handle(joinProtocol, dht.TicketHolder, n.serveJoin)
	return nil
}

// settled says whether this node has had a copy of the ledger: before that it
// can refuse nobody, for it knows nobody.
func (n *Node) settled() bool {
	_, ok := n.roster.find(n.id.id)
	return ok
}

func (n *Node) waitForSelf(ctx context.Context) error {
	for change, err := range n.ledger.Watch(ctx, memberKey(n.id.id)) {
		if err != nil {
			return err
		}
		if change.Kind == replication.Put {
			return n.follow()
		}
	}
	return ctx.Err()
}

// follow brings keys, gate, raft servers and roster to what this copy says now.
func (n *Node) follow() error {
	n.roster.following.Lock()
	defer n.roster.following.Unlock()
	var list dht.List
	var all []member
	written := n.twins.lastWritten() // before the view, which is then at least as new
	if err := n.ledger.View(func(tx *replication.Tx) (err error) {
		if err := n.keys.load(tx); err != nil {
			return err
		}
		if err := n.loadSigningKeys(tx); err != nil {
			return err
		}
		if all, err = members(tx); err != nil {
			return err
		}
		list, err = peerList(tx, n.cluster.Cluster)
		return err
	}); err != nil {
		return err
	}
	if len(all) == 0 {
		return nil // a fresh copy: the list that came with the join stays in force
	}
	n.roster.set(all)
	if own, ok := n.roster.find(n.id.id); ok {
		n.checkOwnRecord(written, own)
	}
	n.ledger.SetServers(servers(all))
	signed, err := n.signList(list)
	if errors.Is(err, errNoKey) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("sign member list %d: %w", list.Number, err)
	}
	n.sayFarewell(list, signed)
	if err := n.road.Publish(signed); err != nil {
		return fmt.Errorf("publish member list %d: %w", list.Number, err)
	}
	return nil
}

func (n *Node) signList(l dht.List) ([]byte, error) {
	key, err := n.keys.orgKey()
	if err != nil {
		return nil, err
	}
	return dht.SignList(key, l)
}

// followMembers calls follow after every change of the node's own records.
func (n *Node) followMembers(ctx context.Context) error {
	synced := false
	for change, err := range n.ledger.Watch(ctx, []byte("n")) {
		if err != nil {
			return watchEnded(ctx, err)
		}
		switch change.Kind {
		case replication.Reset:
			synced = false
			continue
		case replication.Synced:
			synced = true
		}
		if !synced || (change.Kind != replication.Synced && !bytes.Equal(change.Key, keyVersion) && !bytes.HasPrefix(change.Key, secretKeys)) {
			continue
		}
		for err := n.follow(); err != nil; err = n.follow() {
			n.log.ErrorContext(ctx, "follow members; trying again", "err", err)
			if !sleep(ctx, time.Second) {
				return nil
			}
		}
	}
	return nil
}

// reachOut opens connections to the other members until this node hears of a
// leader. A leader can only call a joiner where its record says it is; when
// that is wrong, the joiner's own call gives the leader a connection to use.
func (n *Node) reachOut(ctx context.Context) error {
	for n.ledger.Status().Leader == "" {
		for _, p := range n.road.Peers().Peers {
			if p.ID == n.id.id || p.Class != dht.Member {
				continue
			}
			dial, cancel := context.WithTimeout(ctx, 5*time.Second)
			if s, err := n.road.Ledger().Dial(dial, p.ID, "ledger/1"); err == nil {
				s.Reset()
			}
			cancel()
		}
		if !sleep(ctx, time.Second) {
			return nil
		}
	}
	return nil
}

func (n *Node) followSigningKeys(ctx context.Context) error {
	for change, err := range n.ledger.Watch(ctx, authz.SigningKeyPrefix()) {
		if err != nil {
			return watchEnded(ctx, err)
		}
		if change.Kind == replication.Reset {
			continue
		}
		n.roster.following.Lock()
		err := n.ledger.View(n.loadSigningKeys)
		n.roster.following.Unlock()
		if err != nil {
			n.log.ErrorContext(ctx, "load signing keys", "err", err)
		}
	}
	return nil
}

func (n *Node) loadSigningKeys(tx *replication.Tx) error {
	keys, err := authz.SigningKeys(tx)
	if err != nil {
		return fmt.Errorf("signing keys: %w", err)
	}
	n.law.Set(keys...)
	return nil
}

// watchEnded turns the end of a watch into nil when the node itself ended.
func watchEnded(ctx context.Context, err error) error {
	if ctx.Err() != nil || errors.Is(err, replication.ErrClosed) {
		return nil
	}
	return err
}

// tellOwnRecord writes a changed record before anything is served, if a
// majority is in reach: until the cluster knows that this store is another one,
// it counts on copies that are not there.
func (n *Node) tellOwnRecord(ctx context.Context) {
	if m, ok := n.roster.find(n.id.id); !ok || n.ownRecordStands(m.memberRecord) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	if _, err := n.updateOwnRecord(ctx); err != nil {
		n.log.WarnContext(ctx, "own record not written yet; trying on", "err", err)
		return
	}
	if err := n.follow(); err != nil {
		n.log.ErrorContext(ctx, "follow members", "err", err)
	}
}

// ownRecordStands says whether the record tells where this node is now and which store it has.
func (n *Node) ownRecordStands(m memberRecord) bool {
	now, err := n.ownRecord(m)
	return err == nil && sameRecord(m, now)
}

// ownRecord is m with what this node knows better.
func (n *Node) ownRecord(m memberRecord) (_ memberRecord, err error) {
	if m.Bulk, err = n.cfg.advertised(n.road.Bulk().Addrs()); err != nil {
		return m, err
	}
	if m.Ledger, err = n.cfg.advertised(n.road.Ledger().Addrs()); err != nil {
		return m, err
	}
	if err := checkAddrs(m.Bulk, m.Ledger); err != nil {
		return m, err
	}
	id := n.store.ID()
	m.Store, m.Name, m.Program, m.Files = id[:], n.cfg.name(), Version, n.cfg.Listen.Files
	if now, err := keySealed(n.fs, n.cfg.Dir); err == nil {
		m.Sealed = now
	}
	return m, nil
}

// keepOwnRecord tells the cluster where this node is reached now and which
// store it has: a wiped store has another id, and holds nothing (P2). Addresses
// change while it runs; against another daemon with the same key it does not
// write, or the two would go on for ever.
func (n *Node) keepOwnRecord(ctx context.Context) error {
	const first, look = 100 * time.Millisecond, time.Minute
	for wait := first; ; wait = min(2*wait, 10*time.Second) {
		done, err := n.updateOwnRecord(ctx)
		if done {
			for wait = first; done; {
				if !sleep(ctx, look) {
					return nil
				}
				m, ok := n.roster.find(n.id.id)
				done = !ok || n.ownRecordStands(m.memberRecord) || n.twins.foreignHand()
			}
			continue
		}
		if err != nil && Hint(err) != "" {
			n.log.ErrorContext(ctx, "own record not written", "err", err, "hint", Hint(err))
		} else if err != nil {
			n.log.DebugContext(ctx, "own record not written yet", "err", err)
		}
		if !sleep(ctx, wait) {
			return nil
		}
	}
}

func (n *Node) updateOwnRecord(ctx context.Context) (done bool, err error) {
	var m memberRecord
	err = n.ledger.Update(ctx, func(tx *replication.Tx) error {
		done, m = false, memberRecord{}
		ok, err := get(tx, memberKey(n.id.id), &m)
		if err != nil {
			return err
		}
		if !ok {
			return errors.New("the ledger does not name this node yet")
		}
		done = true
		if n.ownRecordStands(m) {
			return nil
		}
		if m, err = n.ownRecord(m); err != nil {
			return err
		}
		put(tx, memberKey(n.id.id), m)
		bumpMembers(tx)
		return nil
	})
	if err != nil {
		return false, err
	}
	n.twins.wrote(m)
	return done, nil
}

// sleep waits, or returns false when ctx ends first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
