// Package mailgw is the mail slot: SMTP in, the same message out with links in the place of its attachments.
//
// A message is submitted to a mailbox's own server (the next hop) while the sender's program waits, and that server's
// answer is the answer. Nothing is queued: 250 means that the next hop has the message.
package mailgw

import (
	"context"
	"crypto/x509"
	"io"
	"log/slog"
	"time"

	"github.com/valise-mail/valise/authz"
)

// A SendingID names one message on its way out. It is 128 random bits in printable form, made by the gateway when the
// message's MAIL command is accepted.
type SendingID = authz.SendingID

// A Publisher stores attachments and lets recipients read them. Its methods may be called concurrently. Its errors are
// answered by the table in refuse.go; an error that is not listed there is answered as a temporary one.
type Publisher interface {
	// Put stores one attachment, which r delivers decoded and to its end, and returns when enough copies of it are
	// durable. If r fails, so does Put, with an error that wraps r's. What was put and is never granted is garbage.
	Put(ctx context.Context, m Meta, r io.Reader) (Stored, error)
	// Grant lets the recipients of s read files, as one transaction that is durable on return. Files are in the order
	// of the message, at least one. On an error it may have happened all the same: the gateway then calls Undo.
	Grant(ctx context.Context, s Sending, files []Stored) (Links, error)
	// Undo takes back what Grant did under that id. It is idempotent, and nothing happens for an id that is not known.
	Undo(ctx context.Context, id SendingID) error
}

// A Directory knows accounts and their mailboxes. Its methods may be called concurrently.
type Directory interface {
	// Authenticate says who is logging in. ErrBadCredentials is counted against the source address; ErrTryLater is not.
	Authenticate(ctx context.Context, l Login) (Sender, error)
	// Upstream returns the way to the server of the mailbox that from belongs to. ErrNotYours if from is no mailbox,
	// alias or +tag of the account. An empty from is the null reverse path of a bounce or a receipt, which every sender
	// may use: it leads to the account's first mailbox, or the one logged in with.
	Upstream(ctx context.Context, s Sender, from string) (NextHop, error)
	// Owns returns nil if addr is a mailbox, alias or +tag of the account, else ErrNotYours. It is asked about the
	// addresses of the header field that says who is responsible for a message (M2); addr may be any text.
	Owns(ctx context.Context, s Sender, addr string) error
}

// Meta describes an attachment before its content is known.
type Meta struct {
	Sender    Sender
	Sending   SendingID
	Name      string // as the sender named it, cleaned; may be empty
	MediaType string // in lower case, without parameters
}

// Stored is an attachment that a Publisher holds.
type Stored struct {
	Name string // as it is shown to the recipient
	Size int64  // bytes
	ID   any    // whatever the Publisher needs to find it again in Grant
}

// A Sending is one message on its way out.
type Sending struct {
	ID         SendingID
	Sender     Sender
	From       string   // the reverse path, without angle brackets; empty for <>
	HeaderFrom string   // the first address of the field that says who is responsible for the message; may be empty
	Recipients []string // accepted by the next hop, without angle brackets
	MessageID  string   // the Message-ID field as it stands there, without angle brackets; may be empty
	Date       time.Time
}

// Links lead a recipient to the files of a Sending.
type Links struct {
	Landing string   // a page that lists them; required where there are several
	Files   []string // one for each file given to Grant, in order
	Lang    string   // language of the lines written into the message: "en" or "zh-CN"
}

// A Login is what a mail program presents with AUTH.
type Login struct {
	User     string
	Password string
	Remote   string // the client's IP address
	TLS      bool   // the connection is encrypted
}

// LogValue shows a Login without its password.
func (l Login) LogValue() slog.Value {
	return slog.GroupValue(slog.String("user", l.User), slog.String("password", "redacted"), slog.String("remote", l.Remote), slog.Bool("tls", l.TLS))
}

// String shows a Login without its password.
func (l Login) String() string { return l.User }

// GoString shows a Login without its password.
func (l Login) GoString() string { return "mailgw.Login{" + l.User + "}" }

// A Sender is an account that has logged in.
type Sender struct {
	Account string
	Mailbox string // the address logged in with; may be empty
}

// A TLSMode says how the connection to a next hop is encrypted.
type TLSMode = authz.TLSMode

// A NextHop is the way to a mailbox's own submission server.
type NextHop struct {
	Addr     string         // host:port to dial
	Host     string         // the name its certificate must show; the host of Addr when empty
	TLS      TLSMode        // 0 means StartTLS
	User     string         // to log in there; empty for none
	Password string         // never logged
	RootCAs  *x509.CertPool // nil: the system's
}

// LogValue shows a NextHop without its password.
func (h NextHop) LogValue() slog.Value {
	return slog.GroupValue(slog.String("addr", h.Addr), slog.String("host", h.Host), slog.String("tls", h.mode().String()), slog.String("user", h.User))
}

// String shows a NextHop without its password.
func (h NextHop) String() string { return h.Addr }

// GoString shows a NextHop without its password.
func (h NextHop) GoString() string { return "mailgw.NextHop{" + h.Addr + "}" }

// mode returns h.TLS with its default.
func (h NextHop) mode() TLSMode {
	if h.TLS == 0 {
		return authz.StartTLS
	}
	return h.TLS
}
