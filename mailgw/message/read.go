package message

import (
	"context"
	"hash/maphash"
	"io"
	"os"
)

// A Message is a message that was read. Its methods must not be called concurrently.
type Message struct {
	header    Header
	spool     *spool
	size      int64 // octets of the original in its normal form
	root      *node
	untouched string   // why the message as a whole must stay as it is, in a few words, or nothing
	own       []string // links of our own that were found
	taken     []*node
	texts     []*node // where the block is put in; none: in place
	place     *node   // the taken part that a text of its own can replace, nil where that would not do
}

// Read reads a message from r, the un-dotted octets of DATA or BDAT, to its end. It needs memory for o.SpoolMemory, the
// header and a constant, whatever the message. The caller closes the Message. After an error, or a panic of Take's, nothing is left to close.
func Read(ctx context.Context, r io.Reader, o Options, take Take) (*Message, error) {
	o = o.withDefaults()
	s := &spool{dir: o.SpoolDir, limit: o.SpoolMemory}
	m := &Message{spool: s}
	p := &parser{src: newSource(ctx, r, s), o: o, take: take, m: m}
	p.refs.seed = maphash.MakeSeed()
	whole := false
	defer func() {
		if !whole {
			s.Close()
		}
	}()
	if err := p.run(); err != nil {
		return nil, err
	}
	whole = true
	return m, nil
}

func (o Options) withDefaults() Options {
	or := func(v *int64, d int64) {
		if *v <= 0 {
			*v = d
		}
	}
	or(&o.MaxHeaderBytes, 1<<20)
	or(&o.SpoolMemory, 1<<20)
	if o.MaxParts <= 0 {
		o.MaxParts = 1000
	}
	if o.MaxDepth <= 0 {
		o.MaxDepth = 50
	}
	if o.SpoolDir == "" {
		o.SpoolDir = os.TempDir()
	}
	return o
}

// Taken returns the parts that WriteRewritten replaces by links, in the order of the message.
func (m *Message) Taken() []Part {
	var parts []Part
	for _, n := range m.taken {
		parts = append(parts, Part{Index: n.index, Name: n.name, MediaType: n.media, Size: n.size})
	}
	return parts
}

// Header returns the message's own header.
func (m *Message) Header() *Header { return &m.header }

// OwnLinks returns links which Options.OwnLink called the organisation's own, at most 100, without doubles. Texts are
// looked at only when something may be taken.
func (m *Message) OwnLinks() []string { return m.own }

// WriteOriginal writes trace, which is empty or whole header lines ended by CRLF, and the message as it came, in its
// normal form.
func (m *Message) WriteOriginal(w io.Writer, trace []byte) error {
	if _, err := w.Write(trace); err != nil {
		return err
	}
	return m.copy(w, 0, m.size)
}

// copy writes the octets [from, to) of the original.
func (m *Message) copy(w io.Writer, from, to int64) error {
	buf := make([]byte, min(max(to-from, 1), spoolBlock))
	for from < to {
		n, err := m.spool.ReadAt(buf[:min(int64(len(buf)), to-from)], from)
		if n == 0 {
			return err
		}
		if _, err := w.Write(buf[:n]); err != nil {
			return err
		}
		from += int64(n)
	}
	return nil
}

// Close gives the spool back.
func (m *Message) Close() error { return m.spool.Close() }
