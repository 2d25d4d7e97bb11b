package message

import (
	"bytes"
	"encoding/base64"
	"io"
)

// A point is a place in a text where something can be put in. The raw octets [at, to) are replaced; they are none but in
// base64, where they are the quantum that the point is in.
type point struct {
	at, to        int64
	before, after []byte // decoded octets of [at, to) on both sides of the point
	rawStart      bool   // at is the start of a raw line
	lineStart     bool   // the point is the start of a line of the decoded text
	softEnd       bool   // raw octets end in "=": a soft line break whose CRLF is not there yet
	softLine      bool   // the decoded line in front ends with a space
	shifted       bool   // an escape sequence has switched away from ASCII
}

// A textScan is what must be known of a text to put something in: it is found in one pass over its raw octets.
type textScan struct {
	n        *node
	cs       charset
	writable bool // something can be put in
	quotes   bool // holds a quotation
	pgp      bool // holds an OpenPGP message
	top, end point

	// decoding
	raw     int64 // offset of the next raw octet
	col     int   // its column
	quantum [4]byte
	qn      int
	qAt     int64 // raw offset of quantum[0]
	qStart  bool  // quantum[0] starts a raw line
	ended   bool  // base64 padding was seen
	esc     []byte
	escAt   int64
	escCol  int
	here    point // of the octet that is looked at

	count   int64 // decoded octets
	last    byte
	soft    bool // the last line ended with a space
	shifted bool
	iso     []byte // an ISO 2022 escape sequence
	pgpAt   int    // matched octets of an OpenPGP line
	column  int    // of the decoded text
	wantTop bool   // the next octet is the top

	plain plainScan
	html  htmlScan
	find  finder
}

// scanTexts looks at the texts that were read since the last call. It is called before anything is taken, so that
// messages with nothing to take cost nothing.
func (p *parser) scanTexts() error {
	for ; p.scanned < len(p.texts) && p.m.untouched == ""; p.scanned++ {
		n := p.texts[p.scanned]
		t := &textScan{n: n}
		t.find = finder{refs: &p.refs, own: p.o.OwnLink, links: &p.m.own}
		if err := t.scan(p.src.spool); err != nil {
			return err
		}
		if n.file { // it was looked at for what it refers to
			continue
		}
		n.text = t
		if t.pgp {
			p.veto("inline PGP")
		}
	}
	return nil
}

// scan reads the text.
func (t *textScan) scan(s *spool) error {
	n := t.n
	var known bool
	t.cs, known = charsetOf(n.charset)
	t.writable = known && !n.digest && !n.misread
	step := t.identity
	switch n.encoding {
	case "quoted-printable":
		step = t.quoted
	case "base64":
		step = t.base64
	default:
		if !isIdentity(n.encoding) {
			t.writable, known = false, false
		}
	}
	if n.media == "text/html" && (!known || n.misread) {
		t.find.refs.blind = true
	}
	t.raw = n.body
	t.here = point{at: n.body, to: n.body, rawStart: true, lineStart: true}
	t.top = t.here
	r := s.section(n.body, n.end)
	buf := make([]byte, min(32<<10, max(1, n.end-n.body)))
	for {
		k, err := r.Read(buf)
		for _, c := range buf[:k] {
			step(c)
			t.raw++
			if t.col++; c == '\n' {
				t.col = 0
			}
		}
		if err == io.EOF {
			t.finish()
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (t *textScan) identity(c byte) {
	t.octet(c, point{at: t.raw, to: t.raw, rawStart: t.col == 0})
}

// quoted is lenient: what is no escape stands for itself.
func (t *textScan) quoted(c byte) {
	if len(t.esc) == 0 {
		if c != '=' {
			t.identity(c)
			return
		}
		t.esc, t.escAt, t.escCol = append(t.esc, c), t.raw, t.col
		return
	}
	t.esc = append(t.esc, c)
	e := t.esc
	at := point{at: t.escAt, to: t.escAt, rawStart: t.escCol == 0}
	switch {
	case c == '\n' || len(e) > 1000:
		t.esc = e[:0]
	case c == ' ' || c == '\t' || c == '\r' || len(e) == 2 && unhex(c) >= 0:
	case len(e) == 3 && unhex(e[1]) >= 0 && unhex(c) >= 0:
		t.esc = e[:0]
		t.octet(byte(unhex(e[1])<<4|unhex(c)), at)
	default:
		t.esc = e[:0]
		for _, b := range e {
			t.octet(b, at)
		}
	}
}

func (t *textScan) base64(c byte) {
	if c == '\r' || c == '\n' || c == ' ' || c == '\t' {
		return
	}
	if t.ended {
		t.writable = false
		return
	}
	if t.qn == 0 {
		t.qAt, t.qStart = t.raw, t.col == 0
	}
	t.quantum[t.qn] = c
	if t.qn++; t.qn < 4 {
		return
	}
	t.qn = 0
	var out [3]byte
	n, err := base64.StdEncoding.Decode(out[:], t.quantum[:])
	if err != nil {
		t.writable = false
		return
	}
	t.ended = c == '='
	for i, b := range out[:n] {
		t.octet(b, point{at: t.qAt, to: t.raw + 1, before: out[:i], after: out[i:n], rawStart: t.qStart})
	}
	if t.ended {
		t.here = point{at: t.qAt, to: t.raw + 1, before: bytes.Clone(out[:n]), rawStart: t.qStart}
	}
}

// keep copies p, whose octets may change, and says where in the text it is.
func (t *textScan) keep(p point) point {
	p.before, p.after = bytes.Clone(p.before), bytes.Clone(p.after)
	if len(p.before) == 0 { // between two quanta: nothing to replace
		p.to, p.after = p.at, nil
	}
	p.lineStart = t.last == '\n' || t.count == 0
	p.softLine = t.last == ' ' || t.soft
	p.shifted = t.shifted
	return p
}

// octet looks at the next octet of the decoded text.
func (t *textScan) octet(c byte, at point) {
	t.here = at
	if t.wantTop {
		t.wantTop = false
		t.top = t.keep(at)
	}
	if t.count < 3 && t.byteOrderMark(c) {
		t.count++
		return
	}
	if t.cs.shift && t.iso2022(c) {
		t.count++
		t.last = c
		return
	}
	if c != '\n' {
		t.soft = c == '\r' && t.last == ' '
	}
	t.pgpLine(c)
	t.find.octet(c)
	if t.n.media == "text/html" {
		t.htmlOctet(c)
	} else {
		t.plainOctet(c)
	}
	t.count++
	t.last = c
	if t.column++; c == '\n' {
		t.column = 0
	}
}

// byteOrderMark keeps the top behind the mark of a UTF-8 text.
func (t *textScan) byteOrderMark(c byte) bool {
	if c != "\xef\xbb\xbf"[t.count] || t.count > 0 && t.last != "\xef\xbb\xbf"[t.count-1] {
		return false
	}
	t.last = c
	if t.count == 2 {
		t.last = 0
		t.wantTop = true
	}
	return true
}

// iso2022 follows escape sequences, and says whether c is no character of ASCII.
func (t *textScan) iso2022(c byte) bool {
	switch {
	case c == 0x1b:
		t.iso = append(t.iso[:0], c)
		return true
	case len(t.iso) == 0:
		return t.shifted && c >= 0x20
	}
	t.iso = append(t.iso, c)
	if c >= 0x30 && len(t.iso) > 2 || c >= 0x40 || len(t.iso) > 4 { // the final octet
		s := string(t.iso)
		t.shifted = s != "\x1b(B" && s != "\x1b(J"
		t.iso = t.iso[:0]
	}
	return true
}

const pgpLine = "-----begin pgp "

// pgpLine looks for the first line of an OpenPGP message or signed text, anywhere in HTML, else at the start of a line.
func (t *textScan) pgpLine(c byte) {
	c = lower(c)
	switch {
	case t.pgpAt == len(pgpLine):
		t.pgp = t.pgp || c == 'm' || c == 's' // message, signed message, signature; not a key
		t.pgpAt = 0
	case c == pgpLine[t.pgpAt] && (t.pgpAt > 0 || t.column == 0 || t.n.media == "text/html"):
		t.pgpAt++
	case c == '-' && t.n.media == "text/html":
		t.pgpAt = 1
	default:
		t.pgpAt = 0
	}
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}

// finish ends the pass and knows where the end of the text is.
func (t *textScan) finish() {
	if t.qn > 0 {
		t.writable = false
	}
	end := point{at: t.n.end, to: t.n.end, rawStart: t.col == 0}
	if t.ended && len(t.here.before) > 0 {
		end = t.here
	}
	end = t.keep(end)
	if len(t.esc) == 1 {
		end.softEnd = true
	} else if len(t.esc) > 1 {
		t.writable = false
	}
	t.end = end
	if t.wantTop {
		t.top = end
	}
	if t.find.kind != 0 {
		t.find.end()
	}
	if t.n.media == "text/html" {
		t.htmlEnd()
	} else {
		t.plainLine()
	}
}
