package message

import (
	"errors"
	"fmt"
	"io"
)

// A group is the leaves that are weighed together: the takeable children of one multipart/mixed.
type group struct {
	open    bool    // the threshold is passed: every further one is taken as it arrives
	sum     int64   // decoded bytes of those that wait
	waiting []*node // read, and small so far
}

// content reads the body of a leaf, and takes it if it is to be taken.
func (p *parser) content(n *node) (*delimiter, error) {
	if !n.takeable {
		return p.skip()
	}
	g := n.group
	if n.parent != nil {
		g = n.parent.group
	}
	c := &content{p: p, n: n, live: true}
	c.dec, _ = newDecoder(n.encoding)
	if !g.open {
		if err := c.weigh(p.o.Threshold - g.sum); err != nil {
			return nil, err
		}
		if c.size <= p.o.Threshold-g.sum {
			if c.done {
				g.sum += c.size
				g.waiting = append(g.waiting, n)
			}
			return c.rest()
		}
		g.open = true
		for _, w := range g.waiting {
			if err := p.hand(p.stored(w, w.end)); err != nil {
				return nil, err
			}
		}
		g.waiting = nil
		if c.broken != nil {
			return c.rest()
		}
		again := p.stored(n, c.end())
		again.live, again.ended, again.d = true, c.ended, c.d
		c = again
	}
	if err := p.hand(c); err != nil {
		return nil, err
	}
	return c.rest()
}

// hand gives a part to Take, if it may still be taken, and notes whether it was.
func (p *parser) hand(c *content) error {
	if err := p.scanTexts(); err != nil {
		return err
	}
	n := c.n
	if n.takeable = p.m.untouched == "" && !p.refs.to(n); !n.takeable {
		return nil
	}
	c.size = 0
	err := p.take(p.src.ctx, Part{Index: n.index, Name: n.name, MediaType: n.media, Size: -1}, c)
	switch {
	case c.broken != nil && !errors.Is(c.broken, ErrLeft):
		return c.broken
	case c.broken != nil && (err == nil || errors.Is(err, ErrLeft)):
		return nil
	case err != nil:
		return fmt.Errorf("take part %d: %w", n.index, err)
	case !c.done:
		return fmt.Errorf("take part %d: %w", n.index, ErrUnread)
	}
	n.taken, n.size = true, c.size
	return nil
}

// content is the decoded content of a leaf: octets from the spool first, then as they arrive.
type content struct {
	p      *parser
	n      *node
	stored *io.SectionReader // nil: nothing but what arrives
	live   bool              // after stored the part goes on in the message
	dec    decoder

	src    []byte     // where stored octets are read to
	dst    []byte     // what was decoded last
	out    []byte     // what of dst was not read yet
	size   int64      // decoded so far
	done   bool       // everything was decoded, cleanly
	broken error      // why it will not be
	d      *delimiter // what ended the part
	ended  bool       // the message is read up to there
}

// stored returns n's content from the spool, from its start to the offset end.
func (p *parser) stored(n *node, end int64) *content {
	c := &content{p: p, n: n, stored: p.src.spool.section(n.body, end), ended: true}
	c.dec, _ = newDecoder(n.encoding)
	return c
}

// Read implements io.Reader.
func (c *content) Read(b []byte) (int, error) {
	for len(c.out) == 0 {
		if err := c.decode(); err != nil {
			return 0, err
		}
	}
	n := copy(b, c.out)
	c.out = c.out[n:]
	return n, nil
}

// WriteTo implements io.WriterTo, so that io.Copy moves large pieces.
func (c *content) WriteTo(w io.Writer) (int64, error) {
	var done int64
	for {
		n, err := w.Write(c.out)
		done += int64(n)
		c.out = c.out[n:]
		if err != nil {
			return done, err
		}
		if err := c.decode(); err == io.EOF {
			return done, nil
		} else if err != nil {
			return done, err
		}
	}
}

// decode makes out from the next raw octets.
func (c *content) decode() error {
	if c.broken != nil {
		return c.broken
	}
	if c.done {
		return io.EOF
	}
	raw, err := c.raw()
	if err == nil {
		if cap(c.dst) < len(raw)+decoderSlack {
			c.dst = make([]byte, 0, len(raw)+decoderSlack)
		}
		c.out, err = c.dec.decode(c.dst[:0], raw)
	} else if err == io.EOF {
		c.out, err = c.dec.finish(c.dst[:0])
		c.done = err == nil
	}
	c.size += int64(len(c.out))
	if err != nil {
		c.out, c.broken = nil, err
	}
	return err
}

// raw returns the next octets of the body, io.EOF at its end.
func (c *content) raw() ([]byte, error) {
	if c.stored != nil {
		if c.src == nil {
			c.src = make([]byte, min(sourceBuffer/2, max(c.stored.Size(), 1)))
		}
		n, err := c.stored.Read(c.src)
		if n > 0 || err != io.EOF {
			return c.src[:n], err
		}
		c.stored = nil
	}
	if !c.live || c.ended {
		return nil, io.EOF
	}
	chunk, d, err := c.p.chunk()
	if err != nil {
		return nil, err
	}
	if c.p.m.untouched == "" && len(chunk) > 0 {
		return chunk, nil
	}
	c.ended, c.d = true, d
	switch {
	case d == nil && c.n.parent != nil, d != nil && d.of != c.n.parent:
		c.p.veto("a multipart without its end")
		fallthrough
	case c.p.m.untouched != "":
		return nil, fmt.Errorf("%s: %w", c.p.m.untouched, ErrLeft)
	}
	return nil, io.EOF
}

// weigh decodes until the content is larger than limit, or has ended, or is broken. What comes before the break counts: so
// the way the octets arrive decides nothing.
func (c *content) weigh(limit int64) error {
	for c.size <= limit && !c.done {
		if err := c.decode(); errors.Is(err, ErrLeft) {
			c.n.takeable = false
			break
		} else if err != nil {
			return err
		}
	}
	c.out = nil
	return nil
}

// end returns where what was read of the body ends.
func (c *content) end() int64 {
	if c.d != nil {
		return c.d.end
	}
	return c.p.src.off
}

// rest passes over what was not read of the part.
func (c *content) rest() (*delimiter, error) {
	if c.ended {
		return c.d, nil
	}
	return c.p.skip()
}
