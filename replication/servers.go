package replication

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/raft"
	"github.com/libp2p/go-libp2p/core/peer"
)

// A Server is a node that should hold the ledger.
type Server struct {
	ID   peer.ID
	Site string
	// NoVote keeps a server without a vote, and so from leading, as long as others can vote.
	NoVote bool
}

// SetServers says who should be a server of the ledger, this node included; whoever
// leads makes it so: first a non-voter, then, after keeping up for PromoteAfter, a
// voter where one is missing: 1, 3 or 5 by the number of servers there, spread over the
// sites (L10). A voter that was silent for ReplaceAfter is replaced. Servers no longer
// listed are removed, as soon as the voters that stay are a majority among themselves.
// An empty list says nothing. A witness is a server like any other, at a third site.
func (db *DB) SetServers(servers []Server) {
	sites := make(map[string]string, len(servers))
	for _, s := range servers {
		sites[s.ID.String()] = s.Site
	}
	db.mu.Lock()
	db.servers, db.sites = slices.Clone(servers), sites
	db.mu.Unlock()
	select {
	case db.wanted <- struct{}{}:
	default:
	}
}

func (db *DB) wantedServers() []Server {
	db.mu.Lock()
	defer db.mu.Unlock()
	return db.servers
}

// siteOf returns the site of a server by raft's id, "" if unknown.
func (db *DB) siteOf(id string) string {
	db.mu.Lock()
	defer db.mu.Unlock()
	if site, ok := db.sites[id]; ok || id != db.self { // the list knows of a move before this process does
		return site
	}
	return db.c.Site
}

// isServer says whether streams of a peer are served. raft asks nobody; a node that
// knows no servers yet is one that waits to be added, by a member the lane let in.
func (db *DB) isServer(id peer.ID) bool {
	listed := db.wantedServers()
	if slices.ContainsFunc(listed, func(s Server) bool { return s.ID == id }) {
		return true
	}
	conf := db.raft.GetConfiguration().Configuration().Servers
	text := raft.ServerID(id.String())
	return slices.ContainsFunc(conf, func(s raft.Server) bool { return s.ID == text }) ||
		len(conf) == 0 && len(listed) == 0
}

// keepServers makes raft's configuration what SetServers said, while this node leads.
func (db *DB) keepServers() {
	tick := time.NewTicker(min(250*time.Millisecond, db.c.PromoteAfter/4+time.Millisecond))
	defer tick.Stop()
	plan := newPlanner(db.c.PromoteAfter, db.c.ReplaceAfter)
	for {
		select {
		case <-tick.C:
		case <-db.wanted:
		case <-db.ctx.Done():
			return
		}
		if db.raft.State() != raft.Leader || db.leader.confirmed.Load() != db.raft.CurrentTerm() {
			plan.forget()
			db.waits.Store("")
			continue
		}
		for db.ctx.Err() == nil {
			step, ok := plan.next(db.view())
			if was, _ := db.waits.Swap(plan.waits).(string); plan.waits != "" && plan.waits != was {
				db.c.Logger.Warn("a server cannot be removed from the ledger yet", "because", plan.waits)
			}
			if !ok || !db.take(step) {
				break
			}
		}
		db.raiseFormat()
	}
}

// take carries out one step; false if it did not work out this time.
func (db *DB) take(s step) bool {
	ctx, cancel := context.WithTimeout(db.ctx, db.c.WriteTimeout)
	defer cancel()
	id, address := raft.ServerID(s.id), raft.ServerAddress(s.id)
	var f raft.Future
	switch s.kind {
	case stepAdd:
		f = db.raft.AddNonvoter(id, address, 0, enqueueTime)
	case stepPromote:
		f = db.raft.AddVoter(id, address, 0, enqueueTime)
	case stepDemote:
		f = db.raft.DemoteVoter(id, 0, enqueueTime)
	case stepRemove:
		f = db.raft.RemoveServer(id, 0, enqueueTime)
	}
	var err error
	if s.kind == stepLeave {
		err = db.leader.handOver(ctx)
	} else {
		err = db.leader.await(ctx, f)
	}
	db.c.Logger.Info("ledger server", "step", s.kind.String(), "server", s.id, "err", err)
	return err == nil && s.kind != stepLeave
}

// view is what the planner looks at.
func (db *DB) view() serversView {
	v := serversView{
		self: db.self, now: time.Now(), last: db.raft.LastIndex(), wanted: make(map[string]string), noVote: make(map[string]bool),
	}
	for _, s := range db.wantedServers() {
		v.wanted[s.ID.String()] = s.Site
		v.noVote[s.ID.String()] = s.NoVote
	}
	term := db.raft.CurrentTerm()
	for _, s := range db.leader.servers() {
		c := db.leader.heard.get(string(s.ID), term)
		v.servers = append(v.servers, serverView{
			id: string(s.ID), voter: s.Suffrage == raft.Voter, synced: c.synced,
			live: v.now.Sub(c.answered) < db.c.SiteLive,
		})
	}
	slices.SortFunc(v.servers, func(a, b serverView) int { return strings.Compare(a.id, b.id) })
	return v
}
