package replication

import (
	"cmp"
	"slices"
)

// How good a candidate for a vote is. Who has one keeps it: a change is only worth
// its price when something became better.
const (
	rankSelf   = iota // the leader
	rankLive          // votes and answers
	rankQuiet         // votes and has not answered, not for long
	rankReady         // does not vote, and kept up long enough
	rankSilent        // votes and has not answered for replaceAfter
)

type candidate struct {
	id   string
	site string
	rank int
}

// voters returns who should vote, out of the voters there are and the non-voters that
// keep up: 1, 3 or 5 by how many of them there are (an even number would survive no
// more than the odd one below it; but two are two), spread over the sites. Where three
// sites or more have servers, none has a majority. A site that votes goes on voting,
// though all its servers are silent: two sites of three must go on being enough when a
// cut site comes back. nil if there is nobody.
func (p *planner) voters(v serversView) map[string]bool {
	sites := make(map[string][]candidate)
	all, present := slices.DeleteFunc(p.candidates(v), func(c candidate) bool { return v.noVote[c.id] }), 0
	if !slices.ContainsFunc(all, func(c candidate) bool { return c.rank != rankSilent }) {
		all = p.candidates(v) // nobody else can
	}
	for _, c := range all {
		sites[c.site] = append(sites[c.site], c)
		present += btoi(c.rank != rankSilent)
	}
	for _, there := range sites {
		slices.SortFunc(there, func(a, b candidate) int {
			return cmp.Or(cmp.Compare(a.rank, b.rank), cmp.Compare(a.id, b.id))
		})
		present += btoi(there[0].rank == rankSilent) // it keeps its vote
	}
	for n := votersFor(present, len(all)); n > 0; n -= 2 {
		if should := pick(sites, n); len(should) >= n || n <= 3 {
			return should
		}
	}
	return nil
}

// votersFor is how many should vote. Three of which one is silent are not two:
// nothing would be won, and the third is missed when it is back.
func votersFor(present, all int) int {
	switch {
	case present >= maxVoters:
		return maxVoters
	case all >= 3:
		return 3
	}
	return all
}

// candidates are the servers that are wanted and have a vote or may get one.
func (p *planner) candidates(v serversView) (all []candidate) {
	for _, s := range v.servers {
		if !v.isWanted(s) {
			continue
		}
		c := candidate{id: s.id, site: v.wanted[s.id]}
		silent, isSilent := p.silent[s.id]
		since, keeps := p.since[s.id]
		switch {
		case s.voter && s.id == v.self:
			c.rank = rankSelf
		case s.voter && !isSilent:
			c.rank = rankLive
		case s.voter && v.now.Sub(silent) < p.replaceAfter:
			c.rank = rankQuiet
		case s.voter:
			c.rank = rankSilent
		case keeps && v.now.Sub(since) >= p.promoteAfter:
			c.rank = rankReady
		default:
			continue
		}
		all = append(all, c)
	}
	return all
}

// pick chooses n voters: one for each site that votes now, then always from the site
// that has fewest. With three sites or more a site gets less than half.
func pick(sites map[string][]candidate, n int) map[string]bool {
	most := n
	if len(sites) >= 3 {
		most = (n - 1) / 2
	}
	should, got := make(map[string]bool), make(map[string]int)
	for site, there := range sites {
		if slices.ContainsFunc(there, func(c candidate) bool { return c.rank != rankReady }) {
			should[there[0].id], got[site] = true, 1
		}
	}
	for len(should) < n {
		best, found := candidate{}, false
		for site, there := range sites {
			if got[site] == len(there) || got[site] >= most {
				continue
			}
			next := there[got[site]]
			if !found || cmp.Or(cmp.Compare(btoi(next.rank == rankSilent), btoi(best.rank == rankSilent)),
				cmp.Compare(got[site], got[best.site]), cmp.Compare(next.rank, best.rank), cmp.Compare(next.id, best.id)) < 0 {
				best, found = next, true
			}
		}
		if !found {
			break
		}
		should[best.id] = true
		got[best.site]++
	}
	return should
}
