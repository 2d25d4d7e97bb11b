package message

import (
	"bytes"
	"fmt"
	"strings"
)

// decoderSlack is how much room beyond the encoded octets keeps a decoder from allocating.
const decoderSlack = 16

// A decoder undoes a transfer encoding. It is strict: what two mail programs could read differently is an error.
type decoder interface {
	// decode appends to dst what src, the next octets, stand for.
	decode(dst, src []byte) ([]byte, error)
	// finish says what the end of the part means. It appends at most 3 octets.
	finish(dst []byte) ([]byte, error)
}

// errUnclean says that a transfer encoding does not decode cleanly.
var errUnclean = fmt.Errorf("transfer encoding is broken: %w", ErrLeft)

// newDecoder returns the decoder of a Content-Transfer-Encoding, false for those that are not in RFC 2045.
func newDecoder(encoding string) (decoder, bool) {
	switch strings.ToLower(encoding) {
	case "base64":
		return &base64Decoder{}, true
	case "quoted-printable":
		return &qpDecoder{}, true
	case "", "7bit", "8bit", "binary":
		return identity{}, true
	}
	return nil, false
}

// identity is 7bit, 8bit and binary.
type identity struct{}

func (identity) decode(dst, src []byte) ([]byte, error) {
	if i := bytes.IndexByte(src, 0); i >= 0 { // allowed nowhere in mail: some server on the way will change it
		return append(dst, src[:i]...), errUnclean
	}
	return append(dst, src...), nil
}

func (identity) finish(dst []byte) ([]byte, error) { return dst, nil }

// qpDecoder wants what RFC 2045, 6.7 allows: printable ASCII, no blanks at the end of a line. Lines may be longer than 76.
type qpDecoder struct {
	held []byte // an unfinished escape, or blanks that must not end a line
}

func (d *qpDecoder) decode(dst, src []byte) ([]byte, error) {
	for len(src) > 0 {
		if len(d.held) == 0 {
			n := plainRun(src)
			dst = append(dst, src[:n]...)
			if src = src[n:]; len(src) == 0 {
				break
			}
		}
		c := src[0]
		src = src[1:]
		var err error
		if dst, err = d.step(dst, c); err != nil {
			return dst, err
		}
	}
	return dst, nil
}

// plainRun returns how many octets at the start of p stand for themselves, whatever follows.
func plainRun(p []byte) int {
	for i, c := range p {
		if c == '=' || c <= ' ' || c > '~' {
			return i
		}
	}
	return len(p)
}

func (d *qpDecoder) step(dst []byte, c byte) ([]byte, error) {
	d.held = append(d.held, c)
	switch h := d.held; {
	case h[0] == '=':
		return d.escape(dst)
	case h[0] == '\r':
		if len(h) == 1 {
			return dst, nil
		} // the normal form has no CR without LF
		d.held = h[:0]
		return append(dst, '\r', '\n'), nil
	case c == ' ' || c == '\t':
		if len(h) > 1000 {
			return dst, errUnclean
		}
		return dst, nil
	case c == '\r' || c > '~' || c < ' ':
		return dst, errUnclean
	case c == '=':
		dst = append(dst, h[:len(h)-1]...)
		d.held = append(h[:0], '=')
		return dst, nil
	default:
		dst = append(dst, h...)
		d.held = h[:0]
		return dst, nil
	}
}

// escape goes on with =XX, or a soft line break, which may have blanks before its CRLF.
func (d *qpDecoder) escape(dst []byte) ([]byte, error) {
	h := d.held
	c := h[len(h)-1]
	switch {
	case len(h) == 1, (c == ' ' || c == '\t') && len(h) < 1000 && len(bytes.Trim(h[1:], " \t")) == 0:
		return dst, nil
	case c == '\r' && len(bytes.Trim(h[1:len(h)-1], " \t")) == 0:
		return dst, nil
	case c == '\n' && h[len(h)-2] == '\r':
		d.held = h[:0]
		return dst, nil
	case len(h) == 2 && unhex(c) >= 0:
		return dst, nil
	case len(h) == 3 && unhex(h[1]) >= 0 && unhex(c) >= 0:
		d.held = h[:0]
		return append(dst, byte(unhex(h[1])<<4|unhex(c))), nil
	}
	return dst, errUnclean
}

// unhex returns the value of a hexadecimal digit, -1 if c is none.
func unhex(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	}
	return -1
}

func (d *qpDecoder) finish(dst []byte) ([]byte, error) {
	if len(d.held) > 1 || len(d.held) == 1 && d.held[0] != '=' {
		return dst, errUnclean
	}
	return dst, nil // a soft line break whose CRLF is the boundary's
}
