package replication

import (
	"slices"
	"testing"
	"time"
)

func TestL10_Plan(t *testing.T) {
	t.Parallel()
	now := time.Now()
	voter := func(id string) serverView { return serverView{id: id, voter: true, live: true, synced: 5000} }
	other := func(id string, synced uint64) serverView { return serverView{id: id, live: true, synced: synced} }
	away := func(s serverView) serverView { s.live = false; return s }
	sites := func(ids ...string) map[string]string {
		m := make(map[string]string)
		for _, id := range ids { // "b1" is at site "b"
			m[id] = id[:1]
		}
		return m
	}
	for name, c := range map[string]struct {
		servers []serverView
		wanted  map[string]string
		want    *step
	}{
		"nobody said":                      {[]serverView{voter("b1"), voter("x1")}, nil, nil},
		"all is well":                      {[]serverView{voter("b1"), voter("p1"), voter("r1")}, sites("b1", "p1", "r1"), nil},
		"a new one begins without a vote":  {[]serverView{voter("b1")}, sites("b1", "p1"), &step{stepAdd, "p1"}},
		"gone from the list":               {[]serverView{voter("b1"), voter("p1"), voter("r1")}, sites("b1", "p1"), &step{stepRemove, "r1"}},
		"removal comes first":              {[]serverView{voter("b1"), voter("r1")}, sites("b1", "p1"), &step{stepRemove, "r1"}},
		"the leader itself is gone":        {[]serverView{voter("b1"), voter("p1")}, sites("p1"), &step{stepLeave, "b1"}},
		"no wanted voter would stay":       {[]serverView{voter("b1"), other("p1", 0)}, sites("p1"), nil},
		"the only wanted voter is away":    {[]serverView{voter("b1"), away(voter("p1"))}, sites("p1"), nil},
		"keeps up":                         {[]serverView{voter("b1"), other("p1", 4100)}, sites("b1", "p1"), &step{stepPromote, "p1"}},
		"too far behind":                   {[]serverView{voter("b1"), other("p1", 3999)}, sites("b1", "p1"), nil},
		"away":                             {[]serverView{voter("b1"), away(other("p1", 5000))}, sites("b1", "p1"), nil},
		"spread over sites":                {[]serverView{voter("b1"), other("b2", 5000), other("p1", 5000)}, sites("b1", "b2", "p1"), &step{stepPromote, "p1"}},
		"three are enough":                 {[]serverView{voter("b1"), voter("b2"), voter("p1"), other("p2", 5000)}, sites("b1", "b2", "p1", "p2"), nil},
		"but a site without a vote is not": {[]serverView{voter("b1"), voter("b2"), voter("p1"), other("r1", 5000)}, sites("b1", "b2", "p1", "r1"), &step{stepPromote, "r1"}},
		"then one of the crowded gives up": {[]serverView{voter("b1"), voter("b2"), voter("p1"), voter("r1")}, sites("b1", "b2", "p1", "r1"), &step{stepDemote, "b2"}},
		"who is away gives up first":       {[]serverView{voter("b1"), voter("b2"), away(voter("b3")), voter("p1")}, sites("b1", "b2", "b3", "p1"), &step{stepDemote, "b3"}},
		"a site's last is never demoted":   {[]serverView{voter("b1"), voter("p1"), voter("r1"), away(voter("s1"))}, sites("b1", "p1", "r1", "s1"), nil},
	} {
		v := serversView{self: "b1", now: now, last: 5000, servers: c.servers, wanted: c.wanted}
		p := planner{promoteAfter: 10 * time.Second, since: make(map[string]time.Time)}
		got, ok := p.next(v)
		if ok && got.kind == stepPromote {
			t.Errorf("%s: promoted at once", name)
		}
		v.now = now.Add(9 * time.Second)
		if got, ok := p.next(v); ok && got.kind == stepPromote {
			t.Errorf("%s: promoted after 9 s", name)
		}
		v.now = now.Add(10 * time.Second)
		got, ok = p.next(v)
		if ok != (c.want != nil) || ok && got != *c.want {
			t.Errorf("%s: got %v %v, want %v", name, got, ok, c.want)
		}
	}
}

// A non-voter that falls behind starts its time anew.
func TestL10_KeepingUpIsWithoutABreak(t *testing.T) {
	t.Parallel()
	now := time.Now()
	p := planner{promoteAfter: 10 * time.Second, since: make(map[string]time.Time)}
	at := func(seconds int, synced uint64) bool {
		_, ok := p.next(serversView{self: "b1", now: now.Add(time.Duration(seconds) * time.Second), last: 5000,
			servers: []serverView{{id: "b1", voter: true, live: true}, {id: "p1", live: true, synced: synced}},
			wanted:  map[string]string{"b1": "b", "p1": "p"}})
		return ok
	}
	if at(0, 5000) || at(9, 100) || at(11, 5000) || at(20, 5000) {
		t.Error("promoted too early")
	}
	if !at(21, 5000) {
		t.Error("not promoted in time")
	}
}

// Servers come and go on a real cluster; at last the leader itself.
func TestL10_ServersComeAndGo(t *testing.T) {
	t.Parallel()
	v := newVillage(t, nil, "berlin", "berlin", "berlin", "paris", "rome")
	voting := func() (n int, sites []string) {
		for _, s := range v.members[v.leader()].db.Status().Servers {
			if s.Voter {
				n++
				sites = append(sites, s.Site)
			}
		}
		slices.Sort(sites)
		return n, slices.Compact(sites)
	}
	v.until("three voters at three sites", func() bool { n, sites := voting(); return n == 3 && len(sites) == 3 })
	v.put(4, "a", "1")
	// The leader leaves the list.
	l := v.leader()
	gone := v.members[l].id()
	var rest []Server
	for _, s := range v.servers() {
		if s.ID != gone {
			rest = append(rest, s)
		}
	}
	for _, m := range v.members {
		m.db.SetServers(rest)
	}
	v.until("the leader to be removed and its vote replaced", func() bool {
		i := v.leader()
		if i == l {
			return false
		}
		n, _ := voting()
		s := v.members[i].db.Status()
		return n == 3 && len(s.Servers) == 4 && !slices.ContainsFunc(s.Servers, func(s ServerStatus) bool { return s.ID == gone })
	})
	next := (l + 1) % 5
	v.put(next, "b", "2")
	if _, ok := get(v.members[next].db, "a"); !ok {
		t.Error("what was written before is gone")
	}
}
