package copies

import (
	"cmp"
	"slices"
)

// balance moves rows one by one, each while a node is off by more than one step.
func (p *plan) balance() {
	stuck := make([]bool, len(p.members))
	for range 4 * Partitions * p.seats { // more than any cluster needs; a bound all the same
		worst := p.worst(stuck)
		if worst < 0 {
			return
		}
		stuck[worst] = !p.moveOne(worst) && !p.moveChain(worst)
	}
}

// worst is the member furthest off, if by more than one step.
func (p *plan) worst(stuck []bool) int {
	worst := -1
	for m := range p.members {
		off := distance(p.members[m].off())
		if !stuck[m] && off > p.step && (worst < 0 || off > distance(p.members[worst].off())) {
			worst = m
		}
	}
	return worst
}

func distance(off float64) float64 { return max(off, -off) }

// moveOne moves one row to or from m, from or to the member best served by it.
func (p *plan) moveOne(m int) bool {
	gets := p.members[m].off() < 0
	for _, other := range p.partners(m) {
		from, to := m, other
		if gets {
			from, to = other, m
		}
		// Where the search begins is spread, so that a node's rows do not lie together.
		start := int(p.mix(p.members[to].load, from) % Partitions)
		for i := range Partitions {
			r := (start + i) % Partitions
			if slices.Contains(p.rows[r], from) && p.swappable(p.rows[r], from, to) {
				p.remove(r, from)
				p.put(r, to)
				return true
			}
		}
	}
	return false
}

// partners lists the members that are off the other way, the furthest first.
func (p *plan) partners(m int) []int {
	gets := p.members[m].off() < 0
	var out []int
	for i := range p.members {
		if off := p.members[i].off(); i != m && (gets && off > 0 || !gets && off < 0) {
			out = append(out, i)
		}
	}
	slices.SortStableFunc(out, func(a, b int) int {
		return cmp.Compare(distance(p.members[b].off()), distance(p.members[a].off()))
	})
	return out
}

// moveChain serves m through others where the sites forbid the direct way: m's row goes to x, a
// row of x to y, and so on to one that is off the other way. The shortest chain is taken.
func (p *plan) moveChain(m int) bool {
	n := len(p.members)
	witness := p.witnesses()
	gets := p.members[m].off() < 0
	before := slices.Repeat([]int{-1}, n) // how the search came to a member
	before[m] = m
	queue := []int{m}
	for len(queue) > 0 {
		at := queue[0]
		queue = queue[1:]
		if off := p.members[at].off(); at != m && (gets && off > 0 || !gets && off < 0) {
			return p.applyChain(m, at, before, witness, gets)
		}
		for next := range n {
			from, to := at, next
			if gets {
				from, to = next, at
			}
			if before[next] < 0 && witness[from*n+to] > 0 {
				before[next] = at
				queue = append(queue, next)
			}
		}
	}
	return false
}

// witnesses has for each pair (from, to) one more than a row in which from may give way to to.
func (p *plan) witnesses() []int {
	n := len(p.members)
	out := make([]int, n*n)
	for r, row := range p.rows {
		for _, from := range row {
			for to := range n {
				if out[from*n+to] == 0 && p.swappable(row, from, to) {
					out[from*n+to] = r + 1
				}
			}
		}
	}
	return out
}

// applyChain swaps along the chain from end back to m. Where two links share a row the second may
// have become wrong: then it stops, and says whether it came through.
func (p *plan) applyChain(m, end int, before, witness []int, gets bool) bool {
	for at := end; at != m; at = before[at] {
		from, to := before[at], at
		if gets {
			from, to = at, before[at]
		}
		r := witness[from*len(p.members)+to] - 1
		if !slices.Contains(p.rows[r], from) || !p.swappable(p.rows[r], from, to) {
			return false
		}
		p.remove(r, from)
		p.put(r, to)
	}
	return true
}
