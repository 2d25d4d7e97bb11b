package message

import "slices"

// settle decides, now that everything is known, what is taken and where the block goes.
func (p *parser) settle() error {
	m := p.m
	taken := func() []*node {
		return leaves(m.root, nil, func(n *node) bool { return n.taken })
	}
	if m.untouched == "" && len(taken()) > 0 {
		if err := p.scanTexts(); err != nil {
			return err
		}
	}
	for _, n := range taken() {
		n.taken = m.untouched == "" && !p.refs.to(n)
	}
	if m.taken = taken(); len(m.taken) == 0 {
		return nil
	}
	if why := m.arrange(); why != "" {
		p.veto(why)
		m.taken, m.texts, m.place = nil, nil, nil
	}
	return nil
}

// leaves appends the leaves under n that are wanted, in order.
func leaves(n *node, to []*node, want func(*node) bool) []*node {
	if !n.container && want(n) {
		return append(to, n)
	}
	for _, c := range n.children {
		to = leaves(c, to, want)
	}
	return to
}

// arrange finds the place of the block and what is left out. It returns why the message must stay as it is.
func (m *Message) arrange() string {
	texts, good := firstTexts(m.root)
	if m.place = m.taken[0]; hasAncestor(m.place, "multipart/alternative") {
		m.place = nil // not everybody would see it there
	}
	if good {
		m.texts = texts
	} else if m.place == nil {
		return "no place for a link"
	}
	if _, ok := m.gone(nil); good && !ok {
		return "an alternative would be empty"
	}
	return ""
}

// gone returns the outermost parts to leave out so that the taken ones but host are left out and no container is empty. It
// is not ok when a container that must stay would be empty.
func (m *Message) gone(host *node) (gone []*node, ok bool) {
	for _, n := range m.taken {
		for n != host {
			up := n.parent
			if up == nil || up.media != "multipart/mixed" {
				return nil, false
			}
			if slices.ContainsFunc(up.children, func(c *node) bool { return stays(c, host) }) {
				if !slices.Contains(gone, n) {
					gone = append(gone, n)
				}
				break
			}
			n = up
		}
	}
	return gone, true
}

// stays says whether anything of n is left.
func stays(n, host *node) bool {
	if n.container {
		return slices.ContainsFunc(n.children, func(c *node) bool { return stays(c, host) })
	}
	return !n.taken || n == host
}

// firstTexts returns the first text under n: of alternatives, the first text in each. It is not good when there is none, or
// nothing can be put into one of them.
func firstTexts(n *node) (texts []*node, good bool) {
	if !n.container {
		if n.text == nil || n.attachment || n.taken {
			return nil, false
		}
		return []*node{n}, n.text.writable
	}
	switch n.media {
	case "multipart/mixed", "multipart/related":
		for _, c := range n.children {
			if texts, good := firstTexts(c); len(texts) > 0 {
				return texts, good
			}
		}
	case "multipart/alternative":
		good = true
		for _, c := range n.children {
			if c.media == "text/calendar" {
				continue
			}
			more, ok := firstTexts(c)
			texts = append(texts, more...)
			good = good && ok
		}
		return texts, good && len(texts) > 0
	}
	return nil, false
}

func hasAncestor(n *node, media string) bool {
	for up := n.parent; up != nil; up = up.parent {
		if up.media == media {
			return true
		}
	}
	return false
}
