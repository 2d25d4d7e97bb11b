package replication

import (
	"cmp"
	"slices"
	"time"
)

const (
	maxVoters  = 3    // L10 has at most 5; three until more are asked for
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
}

type serverView struct {
	id     string
	voter  bool
	live   bool
	synced uint64
}

// A planner decides the next step. It remembers since when non-voters keep up.
type planner struct {
	promoteAfter time.Duration
	since        map[string]time.Time
}

// next returns the next step, if there is one.
func (p *planner) next(v serversView) (step, bool) {
	p.watch(v)
	if len(v.wanted) == 0 {
		return step{}, false
	}
	for _, find := range []func(serversView) (step, bool){p.remove, p.add, p.demote, p.promote} {
		if s, ok := find(v); ok {
			return s, true
		}
	}
	return step{}, false
}

// watch notes which non-voters keep up, and forgets those that do not.
func (p *planner) watch(v serversView) {
	keeps := make(map[string]bool)
	for _, s := range v.servers {
		if s.voter || !s.live || s.synced == 0 || s.synced+promoteLag < v.last {
			continue
		}
		keeps[s.id] = true
		if _, ok := p.since[s.id]; !ok {
			p.since[s.id] = v.now
		}
	}
	for id := range p.since {
		if !keeps[id] {
			delete(p.since, id)
		}
	}
}

// remove takes out who is not wanted, as long as a wanted voter stays.
func (p *planner) remove(v serversView) (step, bool) {
	stays := false
	for _, s := range v.servers {
		_, wanted := v.wanted[s.id]
		stays = stays || wanted && s.voter && (s.live || s.id == v.self)
	}
	if !stays {
		return step{}, false
	}
	for _, s := range v.servers {
		if _, wanted := v.wanted[s.id]; wanted {
			continue
		}
		if s.id == v.self {
			return step{stepLeave, s.id}, true
		}
		return step{stepRemove, s.id}, true
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

// votersBySite counts voters per site.
func votersBySite(v serversView) (sites map[string]int, total int) {
	sites = make(map[string]int)
	for _, s := range v.servers {
		if s.voter {
			sites[v.wanted[s.id]]++
			total++
		}
	}
	return sites, total
}

// demote takes the vote from one server of a site that has several, when there are
// too many voters. A site's last voter is never demoted.
func (p *planner) demote(v serversView) (step, bool) {
	sites, total := votersBySite(v)
	if total <= maxVoters {
		return step{}, false
	}
	var from []serverView
	for _, s := range v.servers {
		if s.voter && s.id != v.self && sites[v.wanted[s.id]] > 1 {
			from = append(from, s)
		}
	}
	if len(from) == 0 {
		return step{}, false
	}
	// Who does not answer goes first, then the most crowded site.
	pick := slices.MinFunc(from, func(a, b serverView) int {
		return cmp.Or(cmp.Compare(btoi(a.live), btoi(b.live)),
			cmp.Compare(sites[v.wanted[b.id]], sites[v.wanted[a.id]]), cmp.Compare(a.id, b.id))
	})
	return step{stepDemote, pick.id}, true
}

// promote gives a vote to who has kept up long enough: while there are too few
// voters, or to give a site its first one where another site has several. For that
// moment there is one voter too many: losing one must not cost the quorum.
func (p *planner) promote(v serversView) (step, bool) {
	sites, total := votersBySite(v)
	crowded := false
	for _, n := range sites {
		crowded = crowded || n > 1
	}
	var ready []string
	for id, since := range p.since {
		if v.now.Sub(since) < p.promoteAfter {
			continue
		}
		if total < maxVoters || total == maxVoters && crowded && sites[v.wanted[id]] == 0 {
			ready = append(ready, id)
		}
	}
	if len(ready) == 0 {
		return step{}, false
	}
	pick := slices.MinFunc(ready, func(a, b string) int {
		return cmp.Or(cmp.Compare(sites[v.wanted[a]], sites[v.wanted[b]]), cmp.Compare(a, b))
	})
	return step{stepPromote, pick}, true
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}
