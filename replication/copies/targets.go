package copies

// setTargets shares all seats out by weight. No node can be in a row twice, and no site may fill a
// row alone where there are two: what is above these caps goes to the others.
func (p *plan) setTargets() {
	total := float64(Partitions * p.seats)
	siteCap := total
	if p.sites > 1 && p.seats > 1 {
		siteCap = float64(Partitions * (p.seats - 1))
	}
	sum := 0.0
	for _, m := range p.members {
		sum += m.units
	}
	p.step = max(1, total/sum)

	bySite := make([][]float64, p.sites)
	for _, m := range p.members {
		bySite[m.site] = append(bySite[m.site], m.units)
	}
	level := bisect(total, func(level float64) float64 {
		n := 0.0
		for _, units := range bySite {
			n += min(siteCap, poured(units, level))
		}
		return n
	})
	for i := range p.members {
		m := &p.members[i]
		own := level
		if poured(bySite[m.site], level) > siteCap {
			own = bisect(siteCap, func(l float64) float64 { return poured(bySite[m.site], l) })
		}
		m.target = min(Partitions, own*m.units)
	}
}

// poured is how many rows nodes of these weights take at a level, each at most all.
func poured(units []float64, level float64) float64 {
	n := 0.0
	for _, u := range units {
		n += min(Partitions, level*u)
	}
	return n
}

// bisect finds the level at which the growing f reaches want.
func bisect(want float64, f func(float64) float64) float64 {
	low, high := 0.0, float64(Partitions)
	for range 60 {
		if mid := (low + high) / 2; f(mid) < want {
			low = mid
		} else {
			high = mid
		}
	}
	return high
}
