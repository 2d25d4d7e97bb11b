package message

import (
	"bytes"
	"errors"
	"io"
	"mime"
	"net/mail"
	"strings"
	"unicode/utf8"
)

// maxFields bounds the fields of one header. A message with more is refused: who sends it may stand behind them.
const maxFields = 10_000

// A Header is the list of a message's header fields as they came.
type Header struct {
	fields    []Field
	malformed bool // some line is no field, or one for some parsers only, so that they disagree about what follows
	tooMany   bool // there are more than maxFields
}

// A Field is one header field.
type Field struct {
	Name string // as written, without blanks before the colon
	Raw  []byte // the whole field with its folds and its last CRLF
	off  int64  // of Raw in the header
}

// parseHeader splits raw, header lines ended by CRLF without the empty line, into fields. The fields refer to raw. What is a
// field for some parsers is one of them, though it makes the header malformed: who is asked for its From field must hear of
// every one that a reader may be shown.
func parseHeader(raw []byte) Header {
	var h Header
	for off := 0; off < len(raw); {
		end := fieldEnd(raw, off)
		f := raw[off:end]
		written, _, colon := bytes.Cut(f, []byte(":"))
		name := bytes.TrimRight(written, " \t\r\n")
		switch {
		case off == 0 && bytes.HasPrefix(f, []byte("From ")) && string(name) != "From": // an mbox separator in front
		case !colon || !isFieldName(name):
			h.malformed = true
		case len(h.fields) == maxFields:
			h.malformed, h.tooMany = true, true
			return h
		default:
			// A blank before the colon is obsolete, and for some parsers the body begins there.
			h.malformed = h.malformed || len(name) < len(written) || hasBlankFold(f)
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

// errUnsureQuotes says that it depends on the charset which of a field's octets are quotes and backslashes.
var errUnsureQuotes = errors.New("octets that are not UTF-8 beside a backslash")

// Addresses parses the field as a list of addresses, at least one. A name does not matter: its charset may be unknown, and
// its raw octets no UTF-8; what cannot be decoded is U+FFFD. In some charsets an octet of a character can be a backslash for
// those who do not know it, and what is quoted is not sure then: that is an error, as is anything else that is not understood.
func (f Field) Addresses() ([]*mail.Address, error) {
	v := f.Value()
	if !utf8.ValidString(v) && strings.Contains(v, `\`) {
		return nil, errUnsureQuotes
	}
	p := mail.AddressParser{WordDecoder: &mime.WordDecoder{CharsetReader: anyCharset}}
	list, err := p.ParseList(strings.ToValidUTF8(v, "\ufffd"))
	if err == nil && len(list) == 0 {
		err = errors.New("no address")
	}
	return list, err
}

// anyCharset is a charsetReader that knows every charset somehow.
func anyCharset(name string, r io.Reader) (io.Reader, error) {
	if known, err := charsetReader(name, r); err == nil {
		return known, nil
	}
	return strings.NewReader("\ufffd"), nil
}
