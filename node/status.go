package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/valise-mail/valise/node/api"
	"github.com/valise-mail/valise/replication"
	"github.com/valise-mail/valise/replication/copies"
)

// staleAfter is from when on the age of this copy is worth a warning.
const staleAfter = 10 * time.Second

// Status implements api.Admin.
func (a admin) Status(ctx context.Context) (api.Status, error) {
	n := a.n
	ls := n.ledger.Status()
	s := api.Status{
		Organisation: n.cfg.Organisation, Cluster: n.cluster.Cluster, Program: Version,
		Node: n.id.id.String(), Name: n.cfg.name(), Site: n.site(), Started: n.started,
		Ledger: api.LedgerStatus{State: ledgerState(ls), Leader: n.roster.label(ls.Leader), Quorum: ls.Quorum, Term: ls.Term, Applied: ls.Applied, Age: ls.Age.Seconds()},
		Copies: api.CopiesStatus{Wanted: n.cfg.Copies.Wanted, Ack: n.cfg.Copies.Ack},
		Faces:  api.FacesStatus{SMTP: n.faces.smtp, Files: n.faces.files, App: n.faces.app, Metrics: n.faces.metrics},
	}
	if !ls.Confirmed {
		s.Ledger.Age = -1
	}
	servers := map[peer.ID]replication.ServerStatus{}
	for _, v := range ls.Servers {
		servers[v.ID] = v
		if v.Voter {
			s.Ledger.Voters++
		}
	}
	for _, m := range n.roster.all() {
		ms := api.MemberStatus{
			Node: m.ID.String(), Name: m.Name, Site: m.Site, Role: "joining", Leader: m.ID == ls.Leader,
			Self: m.ID == n.id.id, Connected: m.ID == n.id.id || n.reached(m.ID), Files: m.Files,
			Program: m.Program, Drained: m.Drained, Leaving: m.Removal != nil, KeySealed: m.Sealed,
		}
		if ms.Self { // its record follows within a minute
			if now, err := keySealed(n.fs, n.cfg.Dir); err == nil {
				ms.KeySealed = now
			}
		}
		if ms.Drained || ms.Leaving {
			if err := n.ledger.View(func(tx *replication.Tx) (err error) {
				ms.Left, _, err = n.countsOn(tx, m.ID)
				return err
			}); err != nil {
				return s, err
			}
		}
		if v, ok := servers[m.ID]; ok {
			ms.Role = "non-voter"
			if v.Voter {
				ms.Role = "voter"
			}
		}
		s.Members = append(s.Members, ms)
	}
	if err := n.countCopies(&s.Copies); err != nil {
		return s, err
	}
	s.Store.Reserve = int64(n.cfg.Store.Reserve)
	var err error
	if s.Store.Free, err = n.cfg.free(); err != nil {
		return s, err
	}
	if last := n.cleaner.lastCleaning(); !last.At.IsZero() {
		s.Store.Collected, s.Store.Freed = &last.At, last.Freed
	}
	s.Warnings = n.warnings(s, ls)
	return s, nil
}

func ledgerState(s replication.Status) string {
	switch s.Leader {
	case "":
		return "no leader"
	case s.ID:
		return "leader"
	}
	return "follower"
}

// countCopies counts contents and the copies that are still to be fetched.
func (n *Node) countCopies(c *api.CopiesStatus) error {
	c.Nodes = len(n.roster.holders())
	return n.ledger.View(func(tx *replication.Tx) error {
		c.Files, c.Missing = copies.Count(tx)
		return nil
	})
}

// warnings say in words what an operator should know, most urgent first.
func (n *Node) warnings(s api.Status, ls replication.Status) []string {
	out := []string{}
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if !ls.Quorum {
		say("no quorum: links and downloads work from a copy that may be old; attachments cannot be taken, and nothing can be changed")
	} else if ls.Age > staleAfter {
		say("this node's copy of the ledger is %s old", ls.Age.Round(time.Second))
	}
	if ls.Waits != "" {
		say("%s", ls.Waits)
	}
	if ls.Recovery > 0 && slices.ContainsFunc(s.Members, func(m api.MemberStatus) bool { return !m.Connected }) {
		say("this ledger was recovered after its majority was lost (recovery %d): members of before must be removed and join anew", ls.Recovery)
	}
	if n.linksAreClosed() {
		say(`restored from a backup: every link is closed, since it is not known which were revoked after it. "valise links open" with the journal of revocations opens them`)
	}
	if skew := n.skew.get(); skew.Abs() > maxSkew {
		say("this node's clock is off by %s against the others: %s", skew.Round(time.Second), clockHint)
	}
	if twin := n.twins.twin(); twin != "" {
		say("another running node, heard at %s, has this node's identity: %s", twin, twinHint)
	}
	if s.Store.Free < s.Store.Reserve {
		say("free space is under the reserve: no attachment is taken here until there is room")
	}
	if len(s.Members) == 1 {
		say(`one node: one voter, one copy of everything; losing this disk loses it all. "valise cluster invite --site NAME" brings a second node in`)
	}
	if away := n.away(); len(away) > 0 {
		say("not in reach: %s", strings.Join(away, ", "))
		if len(away) == len(s.Members)-1 && !ls.Quorum {
			say("nobody lets this node in: if the others are up, and the line to them, it may have been removed from the cluster while it was away; \"valise status\" on one of them says whether it is a member still")
		}
	}
	if len(s.Members) == 2 {
		say("two nodes: both must be up to send or change anything; a third, at either site, lets any one be away")
	}
	n.warnMembers(s, say)
	if s.Copies.Missing > 0 {
		say("%d copies still to be made", s.Copies.Missing)
	}
	if _, _, err := n.keys.signingKey(); errors.Is(err, errNoKey) {
		say("this node holds no signing key yet: it waits for its copy of the ledger")
	}
	return out
}

// warnMembers says what is out of the ordinary with members.
func (n *Node) warnMembers(s api.Status, say func(format string, args ...any)) {
	if own, ok := n.roster.find(n.id.id); ok && own.Site != n.cfg.Site {
		say("the config says that this node stands at site %s, the cluster says %s, and that counts: set site = %q in %s, or \"valise node move --site %s\" if the config is right",
			n.cfg.Site, own.Site, own.Site, ConfigName, n.cfg.Site)
	}
	var others []string
	for _, m := range s.Members {
		name := cmp.Or(m.Name, m.Node)
		switch {
		case m.Leaving:
			say("%s is being removed from the cluster", name)
		case m.Drained && m.Left > 0:
			say("%s is being drained: %d contents still count on it", name, m.Left)
		case m.Drained:
			say("%s is drained: nothing counts on it", name)
		}
		if m.Program != "" && m.Program != s.Program {
			others = append(others, name+" runs "+m.Program)
		}
	}
	if len(others) > 0 {
		say("programs differ: this node runs %s, %s", s.Program, strings.Join(others, ", "))
	}
}

// away names the other members that are not in reach.
func (n *Node) away() []string {
	var out []string
	for _, m := range n.roster.all() {
		if m.ID != n.id.id && !n.reached(m.ID) {
			out = append(out, n.roster.label(m.ID))
		}
	}
	return out
}
