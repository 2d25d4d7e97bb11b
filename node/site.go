package node

// site is where this node stands. The cluster's record leads: "valise node move"
// changes it for everybody at once, and a node that restarts must not undo that
// with what its config said when it joined. The config's site only counts until
// the cluster has said its own; where the two differ, status says so.
func (n *Node) site() string {
	if own, ok := n.roster.find(n.id.id); ok {
		return own.Site
	}
	for _, p := range n.road.Peers().Peers {
		if p.ID == n.id.id && p.Site != "" {
			return p.Site
		}
	}
	return n.cfg.Site
}
