package message

import (
	"bytes"
)

const (
	maxDelimiter  = 1 << 10  // a line of a delimiter, its trailing blanks included
	maxBoundary   = 200      // RFC 2046 allows 70
	maxPartHeader = 64 << 10 // of a part; the message's own has its option
)

// A node is a part of the message: a leaf, or a container whose children are known. Offsets count in the normal form.
type node struct {
	parent   *node
	children []*node
	index    int // among the leaves

	line int64 // where the delimiter line in front of it starts
	head int64 // where its header starts
	body int64 // where its body starts
	end  int64 // where its body ends: before the CRLF of the next delimiter
	next int64 // where the next delimiter line starts

	entity
	bodyless bool   // the message ends with its header
	group    *group // of a multipart/mixed, or of a leaf that is the whole message

	takeable bool // as far as is known
	taken    bool
	size     int64     // decoded, of a taken part
	text     *textScan // of a text that was looked at
}

// A delimiter is a boundary line that was met.
type delimiter struct {
	of    *node // the container
	close bool
	end   int64 // where the octets before it end: its own CRLF in front is not among them
	at    int64 // where its line starts
}

// A parser walks once over a message.
type parser struct {
	src  *source
	o    Options
	take Take
	m    *Message
	open []*node // containers being read, outermost first
	past *node   // the container in whose epilogue we are
	bol  bool    // the next octet starts a line that may be a delimiter without a CRLF in front
	all  int     // nodes so far
	leaf int     // leaves so far
	refs references
	hint charset // of the first text with one that is not UTF-8

	texts   []*node // texts that were read
	scanned int     // how many of them were looked at
}

// run reads the whole message.
func (p *parser) run() error {
	root := &node{takeable: true}
	p.m.root = root
	if _, err := p.header(root); err != nil {
		return err
	}
	if p.o.Header != nil {
		if err := p.o.Header(p.src.ctx, &p.m.header); err != nil {
			return err
		}
	}
	at := root
	for p.m.untouched == "" {
		d, err := p.part(at)
		if err != nil {
			return err
		}
		if d == nil {
			break
		}
		at = p.step(d)
		if at == nil {
			continue
		}
		d, err = p.header(at)
		if err != nil {
			return err
		}
		if d != nil {
			p.veto("a part without a body")
		}
	}
	if err := p.src.drain(); err != nil {
		return err
	}
	p.m.size = p.src.off
	root.end, root.next = p.m.size, p.m.size
	return p.settle()
}

// veto says that the message is to be left as it is.
func (p *parser) veto(why string) {
	if p.m.untouched == "" {
		p.m.untouched = why
	}
}

// step does what a delimiter says. It returns the part that starts behind it, nil if an epilogue does.
func (p *parser) step(d *delimiter) *node {
	top := p.open[len(p.open)-1]
	if d.of != top {
		p.veto("a multipart without its end")
		return nil
	}
	if k := len(top.children); k > 0 {
		top.children[k-1].next = d.at
		if c := top.children[k-1]; c.end == 0 { // a container ends with its epilogue
			c.end = d.end
		}
	}
	if d.close {
		if len(top.children) == 0 {
			p.veto("a multipart without parts")
		}
		p.open = p.open[:len(p.open)-1]
		p.past = top
		return nil
	}
	p.past = nil
	n := &node{parent: top, line: d.at, head: p.src.off}
	top.children = append(top.children, n)
	return n
}

// part reads a body up to the next delimiter, nil at the end of the message. After an epilogue begins, at is nil.
func (p *parser) part(at *node) (*delimiter, error) {
	if at == nil {
		return p.skip()
	}
	if at.container {
		p.past = nil
		p.open = append(p.open, at)
		return p.skip()
	}
	d, err := p.content(at)
	if d != nil {
		at.end = d.end
	} else if at.parent == nil {
		at.end = p.src.off
	}
	if at.media == "text/html" || at.media == "text/plain" && !at.file {
		p.texts = append(p.texts, at)
	}
	return d, err
}

// skip passes over a body.
func (p *parser) skip() (*delimiter, error) {
	for p.m.untouched == "" {
		chunk, d, err := p.chunk()
		if err != nil || d != nil {
			return d, err
		}
		if chunk == nil {
			if len(p.open) > 0 {
				p.veto("a multipart without its end")
			}
			break
		}
	}
	return nil, nil
}

// chunk returns the next octets of a body, or the delimiter that ends it, or neither at the end of the message. The octets
// are valid until the next call.
func (p *parser) chunk() ([]byte, *delimiter, error) {
	s := p.src
	if p.bol {
		p.bol = false
		if d := p.match(s.line(0, maxDelimiter), 0); d != nil {
			return nil, d, nil
		}
	}
	for {
		view := s.buf[s.lo:s.hi]
		i := dashes(view)
		if i == 0 {
			if d := p.match(s.line(2, maxDelimiter), 2); d != nil {
				return nil, d, nil
			}
			i, view = 4, s.buf[s.lo:s.hi]
		}
		if i < 0 {
			i = len(view) - openEnd(view)
		}
		if i == 0 && !s.fill() {
			i, view = s.hi-s.lo, s.buf[s.lo:s.hi]
			if err := s.failed(); err != nil {
				return nil, nil, err
			}
			if i == 0 {
				return nil, nil, nil
			}
		}
		if i > 0 {
			s.advance(i)
			return view[:i], nil, nil
		}
	}
}

// dashes returns where CRLF "--" stands in view, or -1. It looks for the dashes, which are rare where there is much to
// look through.
func dashes(view []byte) int {
	for from := 2; from < len(view); from++ {
		i := bytes.Index(view[from:], []byte("--"))
		if i < 0 {
			break
		}
		if from += i; view[from-1] == '\n' && view[from-2] == '\r' {
			return from - 2
		}
	}
	return -1
}

// openEnd returns how many octets at the end of view could be the start of CRLF "--".
func openEnd(view []byte) int {
	for n := min(3, len(view)); n > 0; n-- {
		if bytes.HasPrefix([]byte("\r\n--"), view[len(view)-n:]) {
			return n
		}
	}
	return 0
}

// match returns the delimiter that line is, and consumes it with the skip octets in front of it. A line that only begins
// like one is a delimiter for some programs and none for others, so the message is left alone.
func (p *parser) match(line []byte, skip int) *delimiter {
	if !bytes.HasPrefix(line, []byte("--")) {
		return nil
	}
	var found *delimiter
	exact, similar := 0, 0
	try := func(n *node) {
		rest, ok := bytes.CutPrefix(line[2:], []byte(n.boundary))
		if !ok {
			return
		}
		rest, whole := bytes.CutSuffix(rest, []byte("\r\n"))
		rest = bytes.TrimRight(rest, " \t")
		if whole && len(line) <= maxDelimiter && (len(rest) == 0 || string(rest) == "--") {
			exact++
			found = &delimiter{of: n, close: len(rest) > 0}
			return
		}
		similar++
	}
	for _, n := range p.open {
		try(n)
	}
	if p.past != nil {
		before := exact
		if try(p.past); exact > before {
			exact += 2 // a boundary after its end
		}
	}
	if exact > 1 || exact == 0 && similar > 0 {
		p.veto("a line that may be a boundary or not")
	}
	if exact != 1 {
		return nil
	}
	found.end = p.src.off
	found.at = found.end + int64(skip)
	p.src.advance(skip + len(line))
	p.bol = true
	return found
}

// header reads the header of n and what it says. A delimiter in it ends it, and is returned.
func (p *parser) header(n *node) (*delimiter, error) {
	root := n.parent == nil
	limit := int64(maxPartHeader)
	if root {
		limit = p.o.MaxHeaderBytes
	}
	var raw []byte
	complete := true // raw ends with a whole line
	for {
		line := p.src.line(0, 32<<10)
		if err := p.src.failed(); err != nil {
			return nil, err
		}
		if len(line) == 0 || complete && string(line) == "\r\n" {
			n.bodyless = len(line) == 0
			p.src.advance(len(line))
			break
		}
		if complete && !root {
			if d := p.match(line, 0); d != nil || p.m.untouched != "" {
				return d, nil
			}
		}
		complete = line[len(line)-1] == '\n'
		if int64(len(raw)+len(line)) > limit {
			if root {
				return nil, ErrHeaderTooLarge
			}
			p.veto("the header of a part is too large")
			return nil, nil
		}
		raw = append(raw, line...)
		p.src.advance(len(line))
	}
	n.body, p.bol = p.src.off, true
	h := parseHeader(raw)
	if root && h.tooMany {
		return nil, ErrHeaderTooLarge
	}
	if root {
		p.m.header = h
	}
	p.judge(n, &h)
	return nil, nil
}

// judge decides what n is, and counts it.
func (p *parser) judge(n *node, h *Header) {
	n.entity = entityOf(h, n.parent, p.hint)
	if c, ok := charsetOf(n.charset); ok && p.hint.enc == nil {
		p.hint = c
	}
	depth := 0
	for up := n.parent; up != nil; up = up.parent {
		depth++
	}
	if p.all++; p.all > p.o.MaxParts || depth > p.o.MaxDepth {
		p.veto("too many parts")
	}
	if n.parent == nil {
		p.veto(wholeMessage(h, n))
	}
	p.veto(wholePart(n))
	if p.o.Threshold < 0 {
		p.veto("nothing is to be taken")
	}
	if !n.container {
		n.index = p.leaf
		p.leaf++
	}
	n.takeable = mayTake(n)
	if n.parent == nil || n.media == "multipart/mixed" {
		n.group = &group{open: p.o.Threshold == 0}
	}
}
