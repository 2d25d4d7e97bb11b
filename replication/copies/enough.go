package copies

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/libp2p/go-libp2p/core/peer"
)

// await waits until enough copies are durable, or cannot become so.
func (u *Upload) await(ctx context.Context) ([]Copy, error) {
	for {
		now := u.c.cfg.Nodes()
		if err := u.grow(now); err != nil {
			return nil, err
		}
		u.mu.Lock()
		u.copies = slices.DeleteFunc(u.copies, func(c Copy) bool { return u.went(c, now) })
		changed := u.changed
		copies := slices.Clone(u.copies)
		spread := u.sitesLocked(false)
		hope := u.sitesLocked(true)
		u.mu.Unlock()
		if err := u.hopeless(); err != nil {
			return nil, err
		}
		if len(copies) >= u.need {
			if u.need < 2 || len(spread) >= 2 {
				return copies, nil
			}
			if len(hope) < 2 {
				// Everything still to come is at that same site.
				if u.otherSiteLives(ctx, spread) {
					return nil, u.failure(fmt.Errorf("%d copies, all at one site", len(copies)))
				}
				return copies, nil
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, u.failure(context.Cause(ctx))
		case <-u.ctx.Done():
			return nil, u.failure(context.Cause(u.ctx))
		}
	}
}

// went says whether a copy went after it was acknowledged, with its node or with that node's store.
// A store newer than the members know is none that went: its node has just begun anew.
func (u *Upload) went(c Copy, now []Node) bool {
	same := func(n Node) bool { return n.ID == c.Node }
	before := slices.IndexFunc(u.nodes, same)
	if before < 0 {
		return false
	}
	i := slices.IndexFunc(now, same)
	return i < 0 || now[i].Store != c.Store && u.nodes[before].Store == c.Store
}

// sitesLocked lists the sites that have a durable copy, with those that may yet get one if hoped.
func (u *Upload) sitesLocked(hoped bool) map[string]bool {
	out := make(map[string]bool)
	for _, c := range u.copies {
		out[u.site[c.Node]] = true
	}
	if hoped {
		for _, n := range u.lanes {
			out[n.Site] = true
		}
		if u.pending {
			out[u.site[u.c.cfg.Self]] = true
		}
	}
	return out
}

// hopeless is an error once too few copies can become durable.
func (u *Upload) hopeless() error {
	u.mu.Lock()
	n := len(u.copies) + len(u.lanes)
	if u.pending {
		n++
	}
	u.mu.Unlock()
	if n >= u.need {
		return nil
	}
	return u.failure(fmt.Errorf("%d of %d copies can be made", n, u.need))
}

// failure gives the reason its kind, and what the nodes said.
func (u *Upload) failure(reason error) error {
	u.mu.Lock()
	errs := slices.Clone(u.errs)
	u.mu.Unlock()
	kind := ErrNotDurable
	for _, err := range errs {
		if errors.Is(err, ErrNoSpace) {
			kind = ErrNoSpace
		}
	}
	if said := errors.Join(errs...); said != nil {
		return fmt.Errorf("%w: %w (%v)", kind, reason, said)
	}
	return fmt.Errorf("%w: %w", kind, reason)
}

// standIns picks nodes outside the row that could take a lane's place, if without it too few copies,
// or no second site, can be reached. None is tried twice.
func (u *Upload) standIns(l *lane) []Node {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.lanes, l)
	sites := u.sitesLocked(true)
	n := len(u.copies) + len(u.lanes)
	if u.pending {
		n++
	}
	var near, far []Node
	for _, node := range u.nodes {
		switch {
		case u.tried[node.ID] || !canHold(node) || u.c.ranks.down(node.ID):
		case sites[node.Site]:
			near = append(near, node)
		default:
			far = append(far, node)
		}
	}
	var out []Node
	switch {
	case u.need >= 2 && len(sites) < 2 && len(far) > 0:
		out = far
	case n < u.need && len(far) > 0:
		out = far
	case n < u.need:
		out = near
	}
	if len(out) == 0 {
		u.lanes[l] = l.node // it counts until it is settled
		return nil
	}
	out = out[:min(len(out), 4)]
	for _, node := range out {
		u.tried[node.ID] = true
	}
	u.lanes[l] = out[0]
	return out
}

// use notes which candidate a lane took; the others may serve another lane.
func (u *Upload) use(l *lane, took Node, candidates []Node) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.lanes[l] = took
	for _, n := range candidates {
		if n.ID != took.ID && !u.c.ranks.down(n.ID) {
			delete(u.tried, n.ID)
		}
	}
}

// otherSiteLives asks the nodes at other sites whether one answers now. All copies are at one site,
// which is enough only if no other is live.
func (u *Upload) otherSiteLives(ctx context.Context, have map[string]bool) bool {
	var ask []Node
	asked := make(map[peer.ID]bool)
	for _, n := range u.nodes {
		if !have[n.Site] && canHold(n) && n.ID != u.c.cfg.Self && !asked[n.ID] {
			asked[n.ID] = true
			ask = append(ask, n)
		}
	}
	if len(ask) == 0 {
		return false
	}
	conn, _, err := u.c.race(ctx, ask)
	if err != nil {
		// A refusal is an answer, too. Where ctx ended it is not known, and not said to be dead.
		_, refused := errors.AsType[*statusError](err)
		return refused || ctx.Err() != nil
	}
	conn.end(context.Canceled)
	return true
}
