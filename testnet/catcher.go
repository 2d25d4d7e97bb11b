package testnet

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/emersion/go-smtp"
)

// A Catcher is a working small mail server: it takes every message and keeps
// it. It stands in for the recipients' side of the world.
type Catcher struct {
	server *smtp.Server
	addr   string
	done   sync.WaitGroup

	mu       sync.Mutex // guards the fields below
	messages []Caught
	refused  []Caught
	arrived  chan struct{} // closed and replaced at each message
	refuse   error
	drop     bool
}

// A Caught message.
type Caught struct {
	From string
	To   []string
	Data []byte // un-dotted
}

const maxCaught = 1 << 30

// NewCatcher starts a catcher on a loopback port.
func NewCatcher() (*Catcher, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	c := &Catcher{addr: l.Addr().String(), arrived: make(chan struct{})}
	c.server = smtp.NewServer(smtp.BackendFunc(func(conn *smtp.Conn) (smtp.Session, error) {
		return &catching{c: c, conn: conn}, nil
	}))
	c.server.Domain = "mail.example.net"
	c.server.MaxMessageBytes = maxCaught
	c.server.MaxLineLength = 1 << 20
	c.done.Go(func() { _ = c.server.Serve(l) })
	return c, nil
}

// Addr is host:port.
func (c *Catcher) Addr() string { return c.addr }

// Refuse makes the catcher answer the end of each message with err; nil ends that.
func (c *Catcher) Refuse(err *smtp.SMTPError) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refuse = nil
	if err != nil {
		c.refuse = err
	}
}

// Drop makes the catcher take each message and then cut the line instead of answering.
func (c *Catcher) Drop(on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drop = on
}

// Messages returns what was caught so far.
func (c *Catcher) Messages() []Caught {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.messages)
}

// Refused returns what was refused so far: whoever saw it has its links.
func (c *Catcher) Refused() []Caught {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.refused)
}

// Next waits for message number n, counted from 0.
func (c *Catcher) Next(ctx context.Context, n int) (Caught, error) {
	for {
		c.mu.Lock()
		arrived := c.arrived
		if n < len(c.messages) {
			m := c.messages[n]
			c.mu.Unlock()
			return m, nil
		}
		c.mu.Unlock()
		select {
		case <-arrived:
		case <-ctx.Done():
			return Caught{}, ctx.Err()
		}
	}
}

// Close ends the catcher and every session.
func (c *Catcher) Close() error {
	err := c.server.Close()
	c.done.Wait()
	if errors.Is(err, smtp.ErrServerClosed) {
		return nil
	}
	return err
}

type catching struct {
	c    *Catcher
	conn *smtp.Conn
	m    Caught
}

func (s *catching) Mail(from string, _ *smtp.MailOptions) error {
	s.m.From = from
	return nil
}

func (s *catching) Rcpt(to string, _ *smtp.RcptOptions) error {
	s.m.To = append(s.m.To, to)
	return nil
}

func (s *catching) Data(r io.Reader) error {
	var buf bytes.Buffer
	if _, err := io.Copy(&buf, io.LimitReader(r, maxCaught)); err != nil {
		return err
	}
	s.m.Data = buf.Bytes()
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	if s.c.refuse != nil {
		s.c.refused = append(s.c.refused, s.m)
		return s.c.refuse
	}
	s.c.messages = append(s.c.messages, s.m)
	close(s.c.arrived)
	s.c.arrived = make(chan struct{})
	if s.c.drop {
		s.conn.Conn().SetDeadline(time.Unix(1, 0))
	}
	return nil
}

func (s *catching) Reset()        { s.m = Caught{} }
func (s *catching) Logout() error { return nil }
