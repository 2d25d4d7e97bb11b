package message

import (
	"bytes"
	"mime"
	"net/mail"
	"strings"
)

// maxFields bounds the fields of one header.
const maxFields = 10_000

// A Header is the list of a message's header fields as they came.
type Header struct {
	fields    []Field
	malformed bool // some line is no field, so that parsers disagree about what follows
}

// A Field is one header field.
type Field struct {
	Name string // as written
	Raw  []byte // the whole field with its folds and its last CRLF
	off  int64  // of Raw in the header
}

// parseHeader splits raw, header lines ended by CRLF without the empty line, into fields. The fields refer to raw.
func parseHeader(raw []byte) Header {
	var h Header
	for off := 0; off < len(raw); {
		end := fieldEnd(raw, off)
		f := raw[off:end]
		name, _, colon := bytes.Cut(f, []byte(":"))
		switch {
		case off == 0 && bytes.HasPrefix(f, []byte("From ")): // an mbox separator in front
		case !colon || !isFieldName(name) || hasBlankFold(f):
			h.malformed = true
		case len(h.fields) == maxFields:
			h.malformed = true
			return h
		default:
			h.fields = append(h.fields, Field{Name: string(name), Raw: f, off: int64(off)})
		}
		off = end
	}
	return h
}

// fieldEnd returns the end of the field that starts at off: the first line that does not continue it.
func fieldEnd(raw []byte, off int) int {
	for {
		i := bytes.IndexByte(raw[off:], '\n')
		if i < 0 {
			return len(raw)
		}
		off += i + 1
		if off == len(raw) || raw[off] != ' ' && raw[off] != '\t' {
			return off
		}
	}
}

// isFieldName allows no blank before the colon: it is obsolete, and for some parsers the body begins there.
func isFieldName(name []byte) bool {
	for _, c := range name {
		if c <= ' ' || c >= 0x7f {
			return false
		}
	}
	return len(name) > 0
}

// hasBlankFold says whether a continuation line holds nothing but blanks: for some parsers it ends the header.
func hasBlankFold(f []byte) bool {
	_, rest, _ := bytes.Cut(f, []byte("\n"))
	for line := range bytes.Lines(rest) {
		if len(bytes.TrimSpace(line)) == 0 {
			return true
		}
	}
	return false
}

// First returns the first field of that name, in any case.
func (h *Header) First(name string) (Field, bool) {
	for _, f := range h.fields {
		if strings.EqualFold(f.Name, name) {
			return f, true
		}
	}
	return Field{}, false
}

// Count returns the number of fields of that name.
func (h *Header) Count(name string) int {
	n := 0
	for _, f := range h.fields {
		if strings.EqualFold(f.Name, name) {
			n++
		}
	}
	return n
}

// Responsible returns the first that is present of Resent-Sender, Resent-From, Sender and From (RFC 5322, 3.6.6).
func (h *Header) Responsible() (Field, bool) {
	for _, name := range []string{"Resent-Sender", "Resent-From", "Sender", "From"} {
		if f, ok := h.First(name); ok {
			return f, true
		}
	}
	return Field{}, false
}

// value returns the body of the only field of that name. It reports false when there are several: what counts is
// not sure then.
func (h *Header) value(name string) (string, bool) {
	if n := h.Count(name); n != 1 {
		return "", n == 0
	}
	f, _ := h.First(name)
	return f.Value(), true
}

// Value returns the body of the field, unfolded and trimmed, not decoded.
func (f Field) Value() string {
	_, body, _ := bytes.Cut(f.Raw, []byte(":"))
	body = bytes.ReplaceAll(body, []byte("\r\n"), nil)
	return strings.Trim(string(body), " \t")
}

// Text returns the body of the field with its encoded words (RFC 2047) decoded, in valid UTF-8.
func (f Field) Text() string {
	return decodeWords(f.Value())
}

// Addresses parses the field as a list of addresses.
func (f Field) Addresses() ([]*mail.Address, error) {
	p := mail.AddressParser{WordDecoder: &mime.WordDecoder{CharsetReader: charsetReader}}
	return p.ParseList(f.Value())
}
