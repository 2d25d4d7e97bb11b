package replication

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"
)

const (
	maxVoters  = 5    // L10
	promoteLag = 1000 // entries a non-voter may be behind and still count as keeping up
)

type stepKind int

const (
	stepAdd     stepKind = iota // as a non-voter
	stepPromote                 // non-voter to voter
	stepDemote                  // voter to non-voter
	stepRemove
	stepLeave // this leader is to go: hand over, the next one removes it
)

func (k stepKind) String() string {
	return [...]string{"add", "promote", "demote", "remove", "hand over"}[k]
}

// A step is one change of raft's configuration.
type step struct {
	kind stepKind
	id   string
}

// serversView is what a leader sees: raft's configuration and what it should be.
type serversView struct {
	self    string
	now     time.Time
	last    uint64 // leader's last index
	servers []serverView
	wanted  map[string]string // id -> site; empty: nobody said
	noVote  map[string]bool   // should not vote if it can be helped
}

type serverView struct {
	id     string
	voter  bool
	live   bool
	synced uint64
}

// A planner decides the next step. It remembers since when non-voters keep up, and
// since when servers have not answered.
type planner struct {
	promoteAfter time.Duration
	replaceAfter time.Duration
	since        map[string]time.Time
	silent       map[string]time.Time
	waits        string // why a removal has to wait, "" if none does
}

func newPlanner(promoteAfter, replaceAfter time.Duration) *planner {
	return &planner{promoteAfter: promoteAfter, replaceAfter: replaceAfter,
		since: make(map[string]time.Time), silent: make(map[string]time.Time)}
}

// forget makes the planner that of a new term: what it knew is of another time.
func (p *planner) forget() {
	clear(p.since)
	clear(p.silent)
	p.waits = ""
}

// next returns the next step, if there is one. Without a majority of voters that
// answer no step could be committed, and every one might make it worse.
func (p *planner) next(v serversView) (step, bool) {
	p.watch(v)
	p.waits = ""
	if votes, live := v.votes(); len(v.wanted) == 0 || live < quorum(votes) {
		return step{}, false
	}
	for _, find := range []func(serversView) (step, bool){p.drop, p.promote, p.remove, p.add, p.demote} {
		if s, ok := find(v); ok {
			return s, true
		}
	}
	return step{}, false
}

// watch notes which non-voters keep up and which servers are silent, and forgets
// those that are so no more.
func (p *planner) watch(v serversView) {
	keeps, silent := make(map[string]bool), make(map[string]bool)
	for _, s := range v.servers {
		silent[s.id] = !v.lives(s)
		keeps[s.id] = !s.voter && s.live && s.synced > 0 && s.synced+promoteLag >= v.last
	}
	note(p.since, keeps, v.now)
	note(p.silent, silent, v.now)
}

// note remembers since when each id has been so, without a break.
func note(since map[string]time.Time, so map[string]bool, now time.Time) {
	for id, yes := range so {
		if _, ok := since[id]; yes && !ok {
			since[id] = now
		}
	}
	maps.DeleteFunc(since, func(id string, _ time.Time) bool { return !so[id] })
}

func quorum(voters int) int { return voters/2 + 1 }

// lives says whether a server answers; this one need not ask itself.
func (v serversView) lives(s serverView) bool { return s.live || s.id == v.self }

// votes counts the voters, and those of them that answer.
func (v serversView) votes() (all, live int) {
	for _, s := range v.servers {
		if s.voter {
			all++
			live += btoi(v.lives(s))
		}
	}
	return all, live
}

func (v serversView) isWanted(s serverView) bool { _, ok := v.wanted[s.id]; return ok }

// drop takes out who is not wanted and has no vote: that costs nobody anything.
func (p *planner) drop(v serversView) (step, bool) {
	for _, s := range v.servers {
		if !v.isWanted(s) && !s.voter {
			return step{stepRemove, s.id}, true
		}
	}
	return step{}, false
}

func (p *planner) add(v serversView) (step, bool) {
	var missing []string
	for id := range v.wanted {
		if !slices.ContainsFunc(v.servers, func(s serverView) bool { return s.id == id }) {
			missing = append(missing, id)
		}
	}
	if len(missing) == 0 {
		return step{}, false
	}
	return step{stepAdd, slices.Min(missing)}, true
}

// remove takes the vote out of the cluster with a server that is not wanted any more,
// as long as a wanted voter stays and those that stay are a majority among themselves.
// Who does not answer goes first; the leader itself last, by way of the next one.
func (p *planner) remove(v serversView) (step, bool) {
	var gone []serverView
	stays := false
	for _, s := range v.servers {
		if v.isWanted(s) {
			stays = stays || s.voter && v.lives(s)
		} else {
			gone = append(gone, s)
		}
	}
	if len(gone) == 0 {
		return step{}, false
	}
	if !stays {
		p.waits = "no server that stays has a vote and answers"
		return step{}, false
	}
	first := slices.MinFunc(gone, func(a, b serverView) int {
		return cmp.Or(cmp.Compare(btoi(a.id == v.self), btoi(b.id == v.self)),
			cmp.Compare(btoi(a.live), btoi(b.live)), cmp.Compare(a.id, b.id))
	})
	if !v.spares(first) {
		p.waits = fmt.Sprintf("without %s the voters that answer would be no majority", first.id)
		return step{}, false
	}
	if first.id == v.self {
		return step{stepLeave, first.id}, true
	}
	return step{stepRemove, first.id}, true
}

// spares says whether the voters that answer are still a majority when s has no vote.
func (v serversView) spares(s serverView) bool {
	all, live := v.votes()
	return live-btoi(v.lives(s)) >= quorum(all-1)
}

// promote gives a vote to who should have one, a site without a vote first. That comes
// before another loses its vote: losing one more must never cost the quorum meanwhile.
// For that moment there is one voter too many, never two.
func (p *planner) promote(v serversView) (step, bool) {
	should := p.voters(v)
	sites := make(map[string]int)
	var lacking []serverView
	for _, s := range v.servers {
		if s.voter {
			sites[v.wanted[s.id]]++
		} else if should[s.id] {
			lacking = append(lacking, s)
		}
	}
	if all, _ := v.votes(); len(lacking) == 0 || all > len(should) {
		return step{}, false
	}
	pick := slices.MinFunc(lacking, func(a, b serverView) int {
		return cmp.Or(cmp.Compare(sites[v.wanted[a.id]], sites[v.wanted[b.id]]), cmp.Compare(a.id, b.id))
	})
	return step{stepPromote, pick.id}, true
}

// demote takes the vote from who should not have one, the silent first.
func (p *planner) demote(v serversView) (step, bool) {
	should := p.voters(v)
	if len(should) == 0 {
		return step{}, false
	}
	var extra []serverView
	for _, s := range v.servers {
		if s.voter && v.isWanted(s) && !should[s.id] && v.spares(s) {
			extra = append(extra, s)
		}
	}
	if len(extra) == 0 {
		return step{}, false
	}
	pick := slices.MinFunc(extra, func(a, b serverView) int {
		return cmp.Or(cmp.Compare(btoi(a.id == v.self), btoi(b.id == v.self)), cmp.Compare(btoi(a.live), btoi(b.live)), cmp.Compare(a.id, b.id))
	})
	if pick.id == v.self { // the next leader takes its vote
		return step{stepLeave, pick.id}, true
	}
	return step{stepDemote, pick.id}, true
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}
