package message

import (
	"context"
	"errors"
	"io"
	"net/mail"
)

// A Message is a message that was read. Its methods must not be called concurrently.
type Message struct{ h Header }

// Read reads a message from r, the un-dotted octets of DATA or BDAT, to its end. It needs memory for o.SpoolMemory, the
// header and a constant, whatever the message. The caller closes the Message. After an error nothing is left to close.
func Read(ctx context.Context, r io.Reader, o Options, take Take) (*Message, error) {
	return nil, errors.ErrUnsupported
}

// Taken returns the parts that WriteRewritten replaces by links, in the order of the message.
func (m *Message) Taken() []Part { return nil }

// Untouched says in a few words why the message as a whole must stay as it is, or nothing.
func (m *Message) Untouched() string { return "" }

// Header returns the message's own header.
func (m *Message) Header() *Header { return &m.h }

// Size returns the number of octets of the original in its normal form.
func (m *Message) Size() int64 { return 0 }

// OwnLinks returns links in the texts which Options.OwnLink called the organisation's own, at most 100, without doubles.
func (m *Message) OwnLinks() []string { return nil }

// WriteOriginal writes trace, which is empty or whole header lines ended by CRLF, and the message as it came, in its normal form.
func (m *Message) WriteOriginal(w io.Writer, trace []byte) error { return errors.ErrUnsupported }

// WriteRewritten writes trace and the message with its taken parts replaced by b. It may be called again with another Block.
func (m *Message) WriteRewritten(w io.Writer, trace []byte, b Block) error {
	return errors.ErrUnsupported
}

// Close gives the spool back.
func (m *Message) Close() error { return nil }

// Normalise returns r's octets in the form that this package calls the original: bare LF becomes CRLF, a bare CR a
// space, and a missing CRLF at the end is added. What is in that form already comes out as it went in.
func Normalise(r io.Reader) io.Reader { return r }

// A Header is the list of a message's header fields as they came.
type Header struct{}

// First returns the first field of that name, in any case.
func (h *Header) First(name string) (Field, bool) { return Field{}, false }

// Count returns the number of fields of that name.
func (h *Header) Count(name string) int { return 0 }

// Responsible returns the first that is present of Resent-Sender, Resent-From, Sender and From (RFC 5322, 3.6.6).
func (h *Header) Responsible() (Field, bool) { return Field{}, false }

// A Field is one header field.
type Field struct {
	Name string // as written
	Raw  []byte // the whole field with its folds and its last CRLF
}

// Value returns the body of the field, unfolded and trimmed, not decoded.
func (f Field) Value() string { return "" }

// Text returns the body of the field with its encoded words (RFC 2047) decoded.
func (f Field) Text() string { return "" }

// Addresses parses the field as a list of addresses.
func (f Field) Addresses() ([]*mail.Address, error) { return nil, errors.ErrUnsupported }
