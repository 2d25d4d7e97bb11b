package message

import (
	"bytes"
	"io"
)

// Normalise returns r's octets in the form that this package calls the original: bare LF becomes CRLF, a bare CR a
// space, and a missing CRLF at the end is added (nothing is added to nothing). What is in that form already comes out as
// it went in. Bare LF and CR go first of all, because mail servers disagree about what they end (SMTP smuggling).
func Normalise(r io.Reader) io.Reader { return &normaliser{r: r} }

type normaliser struct {
	r    io.Reader
	buf  []byte // allocated for the first irregular chunk
	out  []byte // normal form waiting to be handed out
	cr   bool   // a CR was read whose next octet is not known yet
	open bool   // the normal form so far ends within a line
	err  error  // what r returned at its end
}

// Read reads straight into p as long as the input is in normal form.
func (n *normaliser) Read(p []byte) (int, error) {
	for {
		if len(n.out) > 0 {
			c := copy(p, n.out)
			n.out = n.out[c:]
			return c, nil
		}
		if n.err != nil {
			return 0, n.err
		}
		if len(p) < 2 { // no room for a CRLF
			n.slow(make([]byte, 512))
			continue
		}
		if n.cr {
			n.slow(p)
			continue
		}
		c, err := n.r.Read(p)
		n.err = err
		good := regular(p[:c])
		if good > 0 {
			n.open = p[good-1] != '\n'
		}
		if good < c {
			n.convert(p[good:c])
		}
		if n.err != nil {
			n.end()
		}
		if good > 0 {
			return good, nil
		}
	}
}

// slow reads once through scratch and converts.
func (n *normaliser) slow(scratch []byte) {
	c, err := n.r.Read(scratch)
	n.err = err
	n.convert(scratch[:c])
	if n.err != nil {
		n.end()
	}
}

// regular returns how many octets of p are in normal form for sure. A CR at the very end is not: its LF may come. (No CR is
// handed out before its LF, so an LF at the start is a bare one.)
func regular(p []byte) int {
	pos := 0
	for pos < len(p) {
		i := bytes.IndexByte(p[pos:], '\n')
		line := p[pos:]
		if i >= 0 {
			line = p[pos : pos+i]
		}
		cr := bytes.IndexByte(line, '\r')
		switch {
		case i < 0 && cr < 0:
			return len(p)
		case i < 0:
			return pos + cr
		case cr == i-1 && i > 0:
			pos += i + 1
		case cr >= 0:
			return pos + cr
		default:
			return pos + i
		}
	}
	return pos
}

// convert appends the normal form of p to out.
func (n *normaliser) convert(p []byte) {
	n.out = n.buf[:0]
	for len(p) > 0 {
		if n.cr {
			n.cr = false
			if p[0] == '\n' {
				n.out, p = append(n.out, '\r', '\n'), p[1:]
			} else {
				n.out = append(n.out, ' ')
			}
			continue
		}
		i := bytes.IndexAny(p, "\r\n")
		if i < 0 {
			n.out = append(n.out, p...)
			break
		}
		n.out = append(n.out, p[:i]...)
		if p[i] == '\n' {
			n.out = append(n.out, '\r', '\n')
		} else {
			n.cr = true
		}
		p = p[i+1:]
	}
	n.buf = n.out[:0]
	if len(n.out) > 0 {
		n.open = n.out[len(n.out)-1] != '\n'
	}
}

// end completes the last line once the input has ended.
func (n *normaliser) end() {
	if n.err != io.EOF {
		return
	}
	if n.cr {
		n.cr = false
		n.out, n.open = append(n.out, ' '), true
	}
	if n.open {
		n.out, n.open = append(n.out, '\r', '\n'), false
	}
}
