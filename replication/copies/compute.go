package copies

import (
	"cmp"
	"hash/fnv"
	"math"
	"slices"

	"github.com/libp2p/go-libp2p/core/peer"
)

// Compute makes the table that nodes should have from the one they have (P1), moving as few rows as
// it can. Every row gets min(wanted, nodes) distinct nodes, at two sites if there are two; a node's
// share follows its weight in steps of a quarter of the largest, and once it has rows, they move
// only while it is off by more than one step. A node new to a row is Incoming there, except in the
// very first table; who has to go stays as Leaving, which ends by endLeaving alone. A node that is away
// has its rows given to others, as far as there are others: where there are none it keeps its seat. When
// it comes back while it is Leaving it takes its seats again. Without nodes that can
// hold copies the table stays as it is. Epochs count on where rows changed. It is deterministic.
func Compute(old Table, nodes []Node, wanted int) Table {
	p := newPlan(&old, nodes, wanted)
	if p.seats == 0 {
		return old
	}
	p.fill()
	p.spread()
	p.reclaim(&old)
	p.balance()
	return p.table(&old)
}

// A member is a node that can hold copies.
type member struct {
	id     peer.ID
	store  [16]byte
	site   int     // index of its site
	units  float64 // 1 to 4
	target float64 // rows it should be in
	load   int     // rows it is in
}

// off is how many rows the member has too many; negative, too few.
func (m *member) off() float64 { return float64(m.load) - m.target }

// A plan is a table in the making. Rows hold indexes of members.
type plan struct {
	members []member
	nodes   []Node // all of them, also those that hold no copies by their weight
	sites   int
	seats   int     // seats a row should have
	wanted  int     // seats a row would have, were there nodes enough
	step    float64 // rows per unit of weight
	rows    [Partitions][]int
}

func newPlan(old *Table, nodes []Node, wanted int) *plan {
	p := &plan{members: eligible(old, nodes), nodes: nodes}
	names := make(map[string]int)
	for i := range p.members {
		m := &p.members[i]
		site := siteOf(nodes, m.id)
		if _, ok := names[site]; !ok {
			names[site] = len(names)
		}
		m.site = names[site]
	}
	p.sites = len(names)
	p.wanted = min(wanted, maxRowSeats/2)
	p.seats = min(p.wanted, len(p.members))
	if p.seats <= 0 {
		p.seats = 0
		return p
	}
	p.setTargets()
	index := make(map[peer.ID]int, len(p.members))
	for i, m := range p.members {
		index[m.id] = i
	}
	for r, row := range old.Rows {
		for _, s := range row {
			if i, ok := index[s.Node]; ok && s.wanted() {
				p.put(r, i)
			}
		}
	}
	for r := range p.rows {
		for len(p.rows[r]) > p.seats {
			p.dropOne(r)
		}
	}
	return p
}

// eligible lists the nodes that can hold copies, sorted. A node whose store is unknown for the
// moment keeps the one it has in the table; without one it has to wait.
func eligible(old *Table, nodes []Node) []member {
	known := make(map[peer.ID][16]byte)
	for _, row := range old.Rows {
		for _, s := range row {
			known[s.Node] = s.Store
		}
	}
	var largest int64
	for _, n := range nodes {
		largest = max(largest, n.Weight)
	}
	var out []member
	for _, n := range nodes {
		if n.Store == ([16]byte{}) {
			n.Store = known[n.ID]
		}
		if n.Weight < 0 || n.Away || n.Store == ([16]byte{}) {
			continue
		}
		units := 4.0
		if n.Weight > 0 {
			units = math.Ceil(4 * float64(n.Weight) / float64(largest))
		}
		out = append(out, member{id: n.ID, store: n.Store, units: units})
	}
	slices.SortFunc(out, func(a, b member) int { return cmp.Compare(a.id, b.id) })
	return slices.CompactFunc(out, func(a, b member) bool { return a.id == b.id })
}

func siteOf(nodes []Node, id peer.ID) string {
	for _, n := range nodes {
		if n.ID == id {
			return n.Site
		}
	}
	return ""
}

func (p *plan) put(row, m int) {
	p.rows[row] = append(p.rows[row], m)
	p.members[m].load++
}

func (p *plan) remove(row, m int) {
	p.rows[row] = slices.DeleteFunc(p.rows[row], func(i int) bool { return i == m })
	p.members[m].load--
}

// atOneSite says whether the members, without one and with another (-1 for none), share a site.
func (p *plan) atOneSite(row []int, without, with int) bool {
	site, one := -1, true
	see := func(m int) {
		if m >= 0 && m != without {
			one = one && (site < 0 || site == p.members[m].site)
			site = p.members[m].site
		}
	}
	for _, m := range row {
		see(m)
	}
	see(with)
	return one
}

// mustSpread says whether a row with that many seats must be at two sites.
func (p *plan) mustSpread(seats int) bool { return p.sites > 1 && p.seats > 1 && seats >= p.seats }

// swappable says whether in that row a may give its seat to b.
func (p *plan) swappable(row []int, a, b int) bool {
	return !slices.Contains(row, b) && !(p.mustSpread(len(row)) && p.atOneSite(row, a, b))
}

// dropOne takes a seat too many from a row: the one whose node has most to spare.
func (p *plan) dropOne(r int) {
	drop := -1
	for _, m := range p.rows[r] {
		if p.mustSpread(len(p.rows[r])-1) && p.atOneSite(p.rows[r], m, -1) && !p.atOneSite(p.rows[r], -1, -1) {
			continue
		}
		if drop < 0 || p.members[m].off() > p.members[drop].off() {
			drop = m
		}
	}
	p.remove(r, drop)
}

// fill gives free seats to the nodes that lack most.
func (p *plan) fill() {
	for r := range p.rows {
		for len(p.rows[r]) < p.seats {
			p.put(r, p.neediest(r, func(m int) bool {
				return !(p.mustSpread(len(p.rows[r])+1) && p.atOneSite(p.rows[r], -1, m))
			}))
		}
	}
}

// spread replaces a node in rows that are at one site although there are two.
func (p *plan) spread() {
	for r := range p.rows {
		if !p.mustSpread(len(p.rows[r])) || !p.atOneSite(p.rows[r], -1, -1) {
			continue
		}
		home := p.members[p.rows[r][0]].site
		in := p.neediest(r, func(m int) bool { return p.members[m].site != home })
		out := slices.MaxFunc(p.rows[r], func(a, b int) int {
			return cmp.Or(cmp.Compare(p.members[a].off(), p.members[b].off()), cmp.Compare(p.mix(r, a), p.mix(r, b)))
		})
		p.remove(r, out)
		p.put(r, in)
	}
}

// reclaim gives rows back to members that lack more than a step and are Leaving there still: they came
// back, and have everything, while their successors have not come yet.
func (p *plan) reclaim(old *Table) {
	for m := range p.members {
		if -p.members[m].off() <= p.step {
			continue
		}
		for r := 0; r < Partitions && p.members[m].off() <= -1; r++ {
			if was, ok := seatOf(old.Rows[r], p.members[m].id); !ok || was.State != Leaving || was.Store != p.members[m].store {
				continue
			}
			if from := p.successor(r, m, old.Rows[r]); from >= 0 {
				p.remove(r, from)
				p.put(r, m)
			}
		}
	}
}

// successor is the member of a row that can best give its seat to m: it does not hold the row, and is
// better served than m. -1 if there is none.
func (p *plan) successor(r, m int, old []Seat) int {
	best := -1
	for _, i := range p.rows[r] {
		if was, ok := seatOf(old, p.members[i].id); ok && was.State != Incoming && was.Store == p.members[i].store {
			continue
		}
		if p.members[i].off() <= p.members[m].off()+1 || !p.swappable(p.rows[r], i, m) {
			continue
		}
		if best < 0 || p.members[i].off() > p.members[best].off() {
			best = i
		}
	}
	return best
}

// neediest is the member outside the row that lacks most rows, of those that fit.
func (p *plan) neediest(r int, fits func(m int) bool) int {
	best := -1
	for m := range p.members {
		if slices.Contains(p.rows[r], m) || !fits(m) {
			continue
		}
		if best < 0 || cmp.Or(cmp.Compare(p.members[m].off(), p.members[best].off()),
			cmp.Compare(p.mix(r, m), p.mix(r, best))) < 0 {
			best = m
		}
	}
	return best
}

// mix breaks ties so that rows get many different sets of nodes.
func (p *plan) mix(r, m int) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte{byte(r), byte(r >> 8)})
	_, _ = h.Write([]byte(p.members[m].id))
	return h.Sum64()
}

// table turns the plan into a table with the states of its seats.
func (p *plan) table(old *Table) Table {
	out := Table{Epochs: old.Epochs}
	next := old.Epoch() + 1
	for r := range p.rows {
		out.Rows[r] = p.seatsOf(r, old.Rows[r], old.Epoch() == 0)
		if !slices.Equal(out.Rows[r], old.Rows[r]) {
			out.Epochs[r/rowsPerKey] = next
		}
	}
	if old.Epoch() == 0 {
		for g := range out.Epochs {
			out.Epochs[g] = next
		}
	}
	return out
}

// seatsOf gives the members of row r their states. Before the first table there are no roots, so
// everybody holds them all.
func (p *plan) seatsOf(r int, old []Seat, first bool) []Seat {
	var row []Seat
	for _, i := range p.rows[r] {
		m := &p.members[i]
		seat := Seat{Copy: Copy{Node: m.id, Store: m.store}, State: Incoming}
		if was, ok := seatOf(old, m.id); first || ok && was.Copy == seat.Copy && was.State != Incoming {
			seat.State = Held
		}
		row = append(row, seat)
	}
	for _, was := range old {
		if _, ok := seatOf(row, was.Node); ok || len(row) == maxRowSeats {
			continue
		}
		switch room := len(row) < p.wanted; {
		case room && p.isAway(was.Copy) && was.State == Incoming:
			row = append(row, was)
		case room && p.isAway(was.Copy):
			row = append(row, Seat{Copy: was.Copy, State: Held})
		case was.State != Incoming && p.keeps(was.Copy):
			row = append(row, Seat{Copy: was.Copy, State: Leaving})
		}
	}
	slices.SortFunc(row, func(a, b Seat) int { return cmp.Compare(a.Node, b.Node) })
	return row
}

// isAway says whether that node would hold copies were it not away, with that store as far as is known.
func (p *plan) isAway(c Copy) bool {
	return slices.ContainsFunc(p.nodes, func(n Node) bool {
		return n.ID == c.Node && n.Away && n.Weight >= 0 && (n.Store == c.Store || n.Store == [16]byte{})
	})
}

// keeps says whether that node is still there, with that store as far as is known.
func (p *plan) keeps(c Copy) bool {
	return slices.ContainsFunc(p.nodes, func(n Node) bool {
		return n.ID == c.Node && (n.Store == c.Store || n.Store == [16]byte{})
	})
}
