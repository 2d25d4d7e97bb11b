package replication

import (
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

func TestL10_Plan(t *testing.T) {
	t.Parallel()
	now := time.Now()
	voter := func(id string) serverView { return serverView{id: id, voter: true, live: true, synced: 5000} }
	other := func(id string, synced uint64) serverView { return serverView{id: id, live: true, synced: synced} }
	away := func(s serverView) serverView { s.live = false; return s }
	const forLong = 1 // marks whom the planner has not heard for an hour
	silent := func(s serverView) serverView { s.synced = forLong; return away(s) }
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
		"four give nothing":                {[]serverView{voter("b1"), voter("b2"), voter("p1"), other("p2", 5000)}, sites("b1", "b2", "p1", "p2"), nil},
		"five do":                          {[]serverView{voter("b1"), voter("b2"), voter("p1"), other("p2", 5000), other("p3", 5000)}, sites("b1", "b2", "p1", "p2", "p3"), &step{stepPromote, "p2"}},
		"the fourth brings the fifth":      {[]serverView{voter("b1"), voter("b2"), voter("p1"), voter("p2"), other("p3", 5000)}, sites("b1", "b2", "p1", "p2", "p3"), &step{stepPromote, "p3"}},
		"a fifth that does not keep up":    {[]serverView{voter("b1"), voter("b2"), voter("p1"), other("p2", 5000), other("p3", 100)}, sites("b1", "b2", "p1", "p2", "p3"), nil},
		"no site of three has a majority":  {[]serverView{voter("b1"), voter("p1"), voter("r1"), other("b2", 5000), other("b3", 5000)}, sites("b1", "b2", "b3", "p1", "r1"), nil},
		"a third site came":                {[]serverView{voter("b1"), voter("b2"), voter("b3"), voter("p1"), voter("p2"), other("r1", 5000)}, sites("b1", "b2", "b3", "p1", "p2", "r1"), &step{stepPromote, "r1"}},
		"and takes a vote of the largest":  {[]serverView{voter("b1"), voter("b2"), voter("b3"), voter("p1"), voter("p2"), voter("r1")}, sites("b1", "b2", "b3", "p1", "p2", "r1"), &step{stepDemote, "b3"}},
		"two sites and a witness":          {[]serverView{voter("b1"), voter("p1"), voter("w1"), other("b2", 5000), other("p2", 5000)}, sites("b1", "b2", "p1", "p2", "w1"), &step{stepPromote, "b2"}},
		"silent, not for long":             {[]serverView{voter("b1"), voter("p1"), away(voter("p2")), other("p3", 5000)}, sites("b1", "p1", "p2", "p3"), nil},
		"silent for long: one more first":  {[]serverView{voter("b1"), voter("p1"), silent(voter("p2")), other("p3", 5000)}, sites("b1", "p1", "p2", "p3"), &step{stepPromote, "p3"}},
		"then the silent one gives up":     {[]serverView{voter("b1"), voter("p1"), silent(voter("p2")), voter("p3")}, sites("b1", "p1", "p2", "p3"), &step{stepDemote, "p2"}},
		"back again it stays without":      {[]serverView{voter("b1"), voter("p1"), voter("p3"), other("p2", 5000)}, sites("b1", "p1", "p2", "p3"), nil},
		"replaced at the other site":       {[]serverView{voter("b1"), voter("p1"), silent(voter("p2")), other("b2", 5000)}, sites("b1", "b2", "p1", "p2"), &step{stepPromote, "b2"}},
		"a silent site's last votes on":    {[]serverView{voter("b1"), voter("p1"), silent(voter("r1")), other("b2", 5000)}, sites("b1", "b2", "p1", "r1"), nil},
		"three of which one is silent":     {[]serverView{voter("b1"), voter("p1"), silent(voter("p2"))}, sites("b1", "p1", "p2"), nil},
		"of five two are silent":           {[]serverView{voter("b1"), voter("b2"), voter("p1"), silent(voter("p2")), silent(voter("p3"))}, sites("b1", "b2", "p1", "p2", "p3"), &step{stepDemote, "p2"}},
		"no majority, no step":             {[]serverView{voter("b1"), silent(voter("p1")), silent(voter("p2")), other("b2", 5000), other("x1", 0)}, sites("b1", "b2", "p1", "p2"), nil},
		"two stay two":                     {[]serverView{voter("b1"), voter("p1")}, sites("b1", "p1"), nil},
		"removal would cost the majority":  {[]serverView{voter("b1"), away(voter("p1")), voter("r1")}, sites("b1", "p1"), nil},
		"another gets its vote first":      {[]serverView{voter("b1"), away(voter("p1")), voter("r1"), other("b2", 5000)}, sites("b1", "b2", "p1"), &step{stepPromote, "b2"}},
		"then it goes":                     {[]serverView{voter("b1"), away(voter("p1")), voter("r1"), voter("b2")}, sites("b1", "b2", "p1"), &step{stepRemove, "r1"}},
		"who is away is removed first":     {[]serverView{voter("b1"), voter("p1"), away(voter("r2")), voter("r1")}, sites("b1", "p1"), &step{stepRemove, "r2"}},
		"who has no vote is removed":       {[]serverView{voter("b1"), away(voter("p1")), voter("r1"), other("r2", 0)}, sites("b1", "p1"), &step{stepRemove, "r2"}},
		"who should not vote is replaced":  {[]serverView{voter("b1"), voter("p1"), voter("n1"), other("p2", 5000)}, sites("b1", "p1", "p2", "n1"), &step{stepPromote, "p2"}},
		"and then demoted":                 {[]serverView{voter("b1"), voter("p1"), voter("n1"), voter("p2")}, sites("b1", "p1", "p2", "n1"), &step{stepDemote, "n1"}},
		"of two one may be enough":         {[]serverView{voter("b1"), voter("n1")}, sites("b1", "n1"), &step{stepDemote, "n1"}},
		"it gets no vote":                  {[]serverView{voter("b1"), other("n1", 5000)}, sites("b1", "n1"), nil},
		"the silent of them first":         {[]serverView{voter("b1"), voter("n1"), silent(voter("n2"))}, sites("b1", "n1", "n2"), &step{stepDemote, "n2"}},
	} {
		v := serversView{self: "b1", now: now, last: 5000, servers: c.servers, wanted: c.wanted, noVote: map[string]bool{"n1": true, "n2": true}}
		p := newPlanner(10*time.Second, time.Minute)
		for _, s := range c.servers {
			if s.synced == forLong {
				p.silent[s.id] = now.Add(-time.Hour)
			}
		}
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
	drained := serversView{self: "n1", now: now, last: 5000, noVote: map[string]bool{"n1": true}}
	drained.servers, drained.wanted = []serverView{voter("b1"), voter("n1")}, sites("b1", "n1")
	if got, ok := newPlanner(time.Second, time.Minute).next(drained); !ok || got != (step{stepLeave, "n1"}) {
		t.Errorf("a leader that should not vote: got %v %v, want it to hand over", got, ok)
	}
	drained.servers, drained.wanted = []serverView{voter("n1")}, sites("n1")
	if got, ok := newPlanner(time.Second, time.Minute).next(drained); ok {
		t.Errorf("nobody else can vote: got %v", got)
	}
}

// A non-voter that falls behind starts its time anew.
func TestL10_KeepingUpIsWithoutABreak(t *testing.T) {
	t.Parallel()
	now := time.Now()
	p := newPlanner(10*time.Second, time.Minute)
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

// From any beginning, with any servers away, the planner comes to rest, never takes a
// step that leaves the voters that answer without a majority, and ends with an odd
// number of voters, no site of three having more than half.
func TestL10_PlanComesToRest(t *testing.T) {
	t.Parallel()
	for seed := range uint64(3000) {
		random := rand.New(rand.NewPCG(seed, 10))
		v := serversView{self: "a0", now: time.Now(), last: 5000, wanted: make(map[string]string)}
		nSites, n := 1+random.IntN(4), 1+random.IntN(9)
		for i := range n {
			s := serverView{id: string(rune('a'+i%nSites)) + strconv.Itoa(i), live: random.IntN(5) > 0, synced: 5000}
			s.voter = random.IntN(2) == 0
			if i == 0 {
				s.voter, s.live = true, true
			}
			v.servers = append(v.servers, s)
			if i == 0 || random.IntN(6) > 0 {
				v.wanted[s.id] = s.id[:1]
			}
		}
		begun, alive := v.votes()
		if alive < quorum(begun) {
			continue
		}
		p := newPlanner(10*time.Second, time.Minute)
		steps := 0
		for rest := 0; rest < 100; rest++ {
			s, ok := p.next(v)
			if !ok {
				v.now = v.now.Add(10 * time.Second)
				continue
			}
			rest = 0
			if steps++; steps > 50 {
				t.Fatalf("seed %d: no rest", seed)
			}
			i := slices.IndexFunc(v.servers, func(o serverView) bool { return o.id == s.id })
			v.servers = slices.Clone(v.servers)
			switch s.kind {
			case stepPromote:
				v.servers[i].voter = true
			case stepDemote:
				v.servers[i].voter = false
			case stepRemove:
				v.servers = slices.Delete(v.servers, i, i+1)
			default:
				t.Fatalf("seed %d: %v", seed, s)
			}
			all, live := v.votes()
			if live < quorum(all) {
				t.Fatalf("seed %d: %v leaves %d of %d voters", seed, s, live, all)
			}
			if all > max(maxVoters, begun)+1 {
				t.Fatalf("seed %d: %d voters", seed, all)
			}
		}
		checkVoters(t, seed, v, p)
	}
}

// checkVoters looks at voters a planner is content with.
func checkVoters(t *testing.T, seed uint64, v serversView, p *planner) {
	t.Helper()
	votes, there := make(map[string]int), make(map[string]bool)
	all, _ := v.votes()
	for _, s := range v.servers {
		if !v.isWanted(s) && p.waits == "" {
			t.Errorf("seed %d: %s is still there", seed, s.id)
		}
		if s.voter {
			votes[v.wanted[s.id]]++
		}
		there[v.wanted[s.id]] = there[v.wanted[s.id]] || s.live || s.voter
	}
	if p.waits != "" {
		return
	}
	sites := 0
	for _, yes := range there {
		sites += btoi(yes)
	}
	for site, n := range votes {
		if sites >= 3 && n > all/2 {
			t.Errorf("seed %d: site %s has %d of %d votes", seed, site, n, all)
		}
	}
	if all%2 == 0 && all != 2 && all != len(votes) {
		t.Errorf("seed %d: %d voters: %v", seed, all, v.servers)
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

// A voter that stays away is replaced by a server that answers; what stays away longer
// can then be borne once more. Removing a live voter meanwhile waits, and says why.
func TestL10_SilentVoterIsReplaced(t *testing.T) {
	t.Parallel()
	v := newVillage(t, func(_ int, c *Config) { c.ReplaceAfter, c.SiteLive = time.Second, time.Second },
		"berlin", "berlin", "paris", "paris")
	voters := func() (ids []string) {
		for _, s := range v.members[v.leader()].db.leader.servers() {
			if s.Suffrage == raft.Voter {
				ids = append(ids, string(s.ID))
			}
		}
		slices.Sort(ids)
		return ids
	}
	first := v.leader()
	gone := -1
	for i, m := range v.members {
		if i != first && slices.Contains(voters(), m.id().String()) {
			gone = i
		}
	}
	v.stop(gone)
	v.until("another to vote in its place", func() bool {
		now := voters()
		return len(now) == 3 && !slices.Contains(now, v.members[gone].id().String())
	})
	// The next one may go too.
	second := -1
	for i, m := range v.members {
		if m.db != nil && i != v.leader() && slices.Contains(voters(), m.id().String()) {
			second = i
		}
	}
	v.stop(second)
	v.put(v.leader(), "a", "1")
	// The third live one must stay now, though it is no longer wanted.
	l := v.leader()
	for i, m := range v.members {
		if m.db == nil || i == l {
			continue
		}
		var rest []Server
		for _, s := range v.servers() {
			if s.ID != m.id() {
				rest = append(rest, s)
			}
		}
		v.members[l].db.SetServers(rest)
		v.until("the removal to wait", func() bool {
			return strings.Contains(v.members[l].db.Status().Waits, m.id().String())
		})
		v.put(l, "b", "2")
		v.start(second)
		v.members[second].db.SetServers(rest)
		v.until("the removal to go on", func() bool {
			return v.members[l].db.Status().Waits == "" && !slices.Contains(voters(), m.id().String())
		})
		break
	}
	v.put(l, "c", "3")
}
