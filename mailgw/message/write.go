package message

import (
	"bytes"
	"cmp"
	"io"
	"slices"
	"strings"
)

// maxLine is how long a line that we write may be; RFC 5322 allows 998 octets without the CRLF, and servers on the way break
// longer ones.
const maxLine = 990

// An edit replaces the octets [from, to) of the original.
type edit struct {
	from, to int64
	with     []byte
}

// WriteRewritten writes trace and the message with its taken parts replaced by b. It may be called again with another
// Block. Without taken parts it writes the original.
func (m *Message) WriteRewritten(w io.Writer, trace []byte, b Block) error {
	if len(m.taken) == 0 {
		return m.WriteOriginal(w, trace)
	}
	if err := b.check(len(m.taken)); err != nil {
		return err
	}
	if _, err := w.Write(trace); err != nil {
		return err
	}
	at := int64(0)
	for _, e := range m.edits(&b) {
		if err := m.copy(w, at, e.from); err != nil {
			return err
		}
		if _, err := w.Write(e.with); err != nil {
			return err
		}
		at = e.to
	}
	return m.copy(w, at, m.size)
}

// edits returns what makes the original the rewritten message, in order.
func (m *Message) edits(b *Block) []edit {
	var edits []edit
	host := m.place
	if len(m.texts) > 0 {
		if more, fits := m.textEdits(b); fits || host == nil {
			edits, host = more, nil
		}
	}
	if host != nil && host.parent == nil {
		return m.rootEdits(b)
	}
	if host != nil {
		body := encodeQP(ownText(b))
		with := slices.Concat([]byte(ownHeader+"\r\n"), bytes.TrimSuffix(body, []byte("\r\n")), m.closing(host))
		edits = append(edits, edit{host.head, host.end, with})
	}
	gone, _ := m.gone(host)
	for _, n := range gone {
		edits = append(edits, edit{n.line, n.next, nil})
	}
	slices.SortFunc(edits, func(a, b edit) int { return cmp.Compare(a.from, b.from) })
	return edits
}

// ownHeader is that of a text part that is all ours.
const ownHeader = "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n"

func ownText(b *Block) []byte {
	lines := b.plain(func(string) bool { return true })
	return []byte(strings.Join(lines, "\r\n") + "\r\n")
}

// closing is the CRLF that must follow the body of n where its delimiter brings none.
func (m *Message) closing(n *node) []byte {
	if n.next-n.end < 2 {
		return []byte("\r\n")
	}
	return nil
}

// rootEdits makes a text of a message that is nothing but a file.
func (m *Message) rootEdits(b *Block) []edit {
	var edits []edit
	header := ownHeader
	if !m.root.mimeVersion {
		header = "MIME-Version: 1.0\r\n" + header
	}
	blank := m.root.body - 2 // the empty line after the header
	for _, f := range m.header.fields {
		if len(f.Name) > 8 && strings.EqualFold(f.Name[:8], "Content-") {
			edits = append(edits, edit{f.off, f.off + int64(len(f.Raw)), []byte(header)})
			header = ""
		}
	}
	if header != "" {
		edits = append(edits, edit{blank, blank, []byte(header)})
	}
	return append(edits, edit{m.root.body, m.size, encodeQP(ownText(b))})
}

// textEdits puts the block into the texts. It does not fit where a line would be too long.
func (m *Message) textEdits(b *Block) (edits []edit, fits bool) {
	top := slices.ContainsFunc(m.texts, func(n *node) bool { return n.text.quotes })
	fits = true
	for _, n := range m.texts {
		t := n.text
		at := t.end
		if top {
			at = t.top
		}
		var with []byte
		if n.media == "text/html" {
			with = []byte(strings.Join(b.html(), "\r\n") + "\r\n")
		} else {
			with = t.plainBlock(b, at, top)
		}
		if at.shifted {
			with = append([]byte("\x1b(B"), with...)
		}
		if isIdentity(n.encoding) {
			for line := range bytes.Lines(with) {
				fits = fits && len(line) <= maxLine
			}
		}
		e := t.insert(m.spool, at, with)
		if e.to == n.end {
			e.with = append(e.with, m.closing(n)...)
		}
		edits = append(edits, e)
	}
	return edits, fits
}

// plainBlock is the block with the empty lines around it, in the charset of the text.
func (t *textScan) plainBlock(b *Block, at point, top bool) []byte {
	sevenBit := t.n.encoding == "" || t.n.encoding == "7bit"
	encode := func(s string) ([]byte, bool) {
		enc, ok := t.cs.encode(s)
		return enc, ok && !(sevenBit && !isASCII(string(enc)))
	}
	lines := b.plain(func(s string) bool { _, ok := encode(s); return ok })
	var out []byte
	if !top && t.count > 0 {
		if !at.lineStart {
			out = append(out, "\r\n"...)
		}
		if t.n.flowed && at.softLine { // it would join the empty line
			out = append(out, "\r\n"...)
		}
		out = append(out, "\r\n"...)
	}
	for i, l := range lines {
		enc, _ := encode(l)
		out = append(out, enc...)
		if i < len(lines)-1 || top || at.lineStart {
			out = append(out, "\r\n"...)
		}
	}
	if top {
		out = append(out, "\r\n"...)
	}
	return out
}

// insert returns the edit that puts text, octets in the charset of the body, in at a point.
func (t *textScan) insert(s *spool, at point, text []byte) edit {
	e := edit{from: at.at, to: at.to}
	atEnd := at.to == t.n.end
	switch {
	case isIdentity(t.n.encoding):
		if !at.rawStart && t.n.media == "text/html" {
			e.with = []byte("\r\n")
		}
		e.with = append(e.with, text...)
	case t.n.encoding == "quoted-printable":
		switch {
		case at.softEnd:
			e.with = []byte("\r\n")
		case !at.rawStart && !bytes.HasPrefix(text, []byte("\r\n")):
			e.with = []byte("=\r\n")
		}
		e.with = append(e.with, encodeQP(text)...)
	default:
		e.with = t.insertBase64(s, at, text, atEnd)
	}
	return e
}

// insertBase64 encodes anew no more than the quantum that the point is in: text is made a multiple of three octets long with
// empty lines, so that what follows stays as it is.
func (t *textScan) insertBase64(s *spool, at point, text []byte, atEnd bool) []byte {
	var next [1]byte
	last := atEnd
	if !atEnd {
		_, _ = s.ReadAt(next[:], at.to)
		last = t.ended && at.to >= t.here.to
	}
	for !last && (len(at.before)+len(text)+len(at.after))%3 != 0 {
		text = append(text, "\r\n"...)
	}
	var out []byte
	if !at.rawStart {
		out = append(out, "\r\n"...)
	}
	out = append(out, encodeBase64(slices.Concat(at.before, text, at.after))...)
	if !atEnd && next[0] != '\r' {
		out = append(out, "\r\n"...)
	}
	return out
}
