package mailgw

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"
)

// Config is all that a Gateway needs. Hostname, Publisher and Directory are required.
type Config struct {
	// Hostname is the name the gateway shows in its greeting, its EHLO and its Received lines.
	Hostname  string
	Publisher Publisher
	Directory Directory
	// TLS offers STARTTLS. Without it only clients on this machine's loopback can log in, unless the listener itself
	// hands out *tls.Conn.
	TLS *tls.Config
	// MaxMessageBytes bounds a message as it comes in, 0 means 1 GiB. It is the SIZE that is offered (M8).
	MaxMessageBytes int64
	// Threshold is the number of bytes above which attachments are taken (M3); 0 takes every one, a negative value none.
	Threshold int64
	// SpoolDir is where messages over 1 MiB wait in an unlinked temporary file, empty means os.TempDir.
	SpoolDir string
	// Dial opens connections to next hops, nil means a net.Dialer.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Clock is the time of Received lines and of the limits on guesses, nil means time.Now.
	Clock func() time.Time
	// Logger receives the day's story, nil discards it.
	Logger   *slog.Logger
	Limits   Limits
	Timeouts Timeouts
}

// Limits bound what clients can use. Zero values mean the defaults.
type Limits struct {
	Sessions   int // at once, in all; default 500
	PerSource  int // at once, from one IPv4 address or IPv6 /64 network; default 50, loopback is exempt
	Recipients int // of one message; default 1,000
	LoginTries int // failed AUTH commands in one connection, after which it is closed; default 3
	// SourceTries is how many AUTH commands may fail from one source address (as for PerSource) in a row. One more is
	// allowed every SourceEvery. Default 20 and 30 s. What is over is refused before Directory is asked.
	SourceTries int
	SourceEvery time.Duration
}

// Timeouts bound what is waited for. Zero values mean the defaults.
type Timeouts struct {
	Idle     time.Duration // a client that sends nothing, in commands and in a message alike; default 5 min (RFC 5321, 4.5.3.2)
	Stranger time.Duration // from the connection to a successful AUTH; default 5 min
	Connect  time.Duration // dialling a next hop, and once more for its TLS handshake; default 30 s
	Command  time.Duration // opening a next hop up to MAIL, and each of its answers before the message; default 4 min
	Awake    time.Duration // between two NOOPs that keep a next hop awake; default 1 min (S2)
	Copies   time.Duration // copies and ledger from the client's final dot on, and each piece of a message before; default 30 s (S2)
	Answer   time.Duration // the next hop's answer to the message, from the client's final dot on; default 9 min 30 s (S2)
	Undo     time.Duration // taking a grant back; default 30 s
	Drain    time.Duration // what sessions get to finish a message after Serve's context ended; default 30 s
}

// Validate names the first field that is missing or wrong.
func (c *Config) Validate() error {
	switch {
	case c.Hostname == "" || !isAtoms(c.Hostname):
		return fmt.Errorf("mailgw: Hostname %q: want the name of this host, as in mail.example.org", c.Hostname)
	case c.Publisher == nil:
		return errors.New("mailgw: Publisher is required")
	case c.Directory == nil:
		return errors.New("mailgw: Directory is required")
	case c.MaxMessageBytes < 0:
		return fmt.Errorf("mailgw: MaxMessageBytes %d: want 0 for the default, or more", c.MaxMessageBytes)
	}
	return nil
}

// withDefaults returns c with its zero values replaced.
func (c Config) withDefaults() Config {
	c.MaxMessageBytes = cmp.Or(c.MaxMessageBytes, 1<<30)
	if c.Dial == nil {
		c.Dial = new(net.Dialer).DialContext
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	l, t := &c.Limits, &c.Timeouts
	l.Sessions = cmp.Or(l.Sessions, 500)
	l.PerSource = cmp.Or(l.PerSource, 50)
	l.Recipients = cmp.Or(l.Recipients, 1000)
	l.LoginTries = cmp.Or(l.LoginTries, 3)
	l.SourceTries = cmp.Or(l.SourceTries, 20)
	l.SourceEvery = cmp.Or(l.SourceEvery, 30*time.Second)
	t.Idle = cmp.Or(t.Idle, 5*time.Minute)
	t.Stranger = cmp.Or(t.Stranger, 5*time.Minute)
	t.Connect = cmp.Or(t.Connect, 30*time.Second)
	t.Command = cmp.Or(t.Command, 4*time.Minute)
	t.Awake = cmp.Or(t.Awake, time.Minute)
	t.Copies = cmp.Or(t.Copies, 30*time.Second)
	t.Answer = cmp.Or(t.Answer, 9*time.Minute+30*time.Second)
	t.Undo = cmp.Or(t.Undo, 30*time.Second)
	t.Drain = cmp.Or(t.Drain, 30*time.Second)
	return c
}

// isAtoms reports whether s can stand as a host name or address literal in a command: printable ASCII without spaces
// and angle brackets.
func isAtoms(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f || s[i] == '<' || s[i] == '>' {
			return false
		}
	}
	return s != ""
}
