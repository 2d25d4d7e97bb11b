package mailgw

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/emersion/go-smtp"
)

// A Gateway accepts mail from mail programs and submits it. Its methods may be called concurrently.
type Gateway struct {
	c    Config
	log  *slog.Logger
	door *door
}

// New makes a Gateway. Nothing runs until Serve.
func New(c Config) (*Gateway, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	c = c.withDefaults()
	return &Gateway{c: c, log: c.Logger, door: newDoor(c.Limits, c.Clock)}, nil
}

// Serve accepts sessions from l until ctx ends, and returns when all have ended: those that wait for a command at once,
// those in a message when it is done or Timeouts.Drain is over. It closes l. A listener that hands out *tls.Conn
// serves implicit TLS (RFC 8314). Serve may be called for several listeners. It returns nil when ctx ended, and else
// says why the listener failed, when all sessions have ended.
func (g *Gateway) Serve(ctx context.Context, l net.Listener) error {
	h := newHall(ctx, g)
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	err := g.accept(ctx, l, h)
	l.Close()
	h.close(g.c.Timeouts.Drain)
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("accept mail on %s: %w", l.Addr(), err)
}

// accept hands connections to visits until l fails for good.
func (g *Gateway) accept(ctx context.Context, l net.Listener, h *hall) error {
	for wait := time.Duration(0); ; {
		conn, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return err
			}
			// Most often too many open files: it passes. RFC 5321 has no word for it, so the client waits in the backlog.
			wait = min(max(2*wait, 5*time.Millisecond), time.Second)
			g.log.WarnContext(ctx, "accept mail connection", "err", err, "retry", wait)
			select {
			case <-ctx.Done():
				return err
			case <-time.After(wait):
			}
			continue
		}
		wait = 0
		src := source(conn.RemoteAddr())
		if !g.door.enter(src) {
			g.log.WarnContext(ctx, "too many sessions", "remote", conn.RemoteAddr().String())
			turnAway(conn)
			continue
		}
		h.wg.Go(func() {
			defer g.door.leave(src)
			h.visit(conn)
		})
	}
}

// turnAway closes a connection for which there is no room, and says why if that takes no waiting. Where TLS comes first
// it would take a handshake, for which a stranger may be waited for while everybody else is.
func turnAway(conn net.Conn) {
	defer conn.Close()
	if _, ok := conn.(*tls.Conn); ok {
		return
	}
	conn.SetWriteDeadline(time.Now().Add(time.Second))
	conn.Write([]byte("421 4.7.0 too many connections, please try again later\r\n"))
}

// A hall holds the sessions of one Serve.
type hall struct {
	g      *Gateway
	ctx    context.Context // ends when sessions must
	cancel context.CancelFunc
	plain  *smtp.Server // before STARTTLS
	inTLS  *smtp.Server
	toPlain,
	toTLS handoff
	wg      sync.WaitGroup // visits, and vigils over next hops
	servers sync.WaitGroup

	// mu guards the fields below.
	mu       sync.Mutex
	wires    map[*wire]bool
	conns    map[net.Conn]bool
	draining bool
}

func newHall(ctx context.Context, g *Gateway) *hall {
	h := &hall{g: g, wires: make(map[*wire]bool), conns: make(map[net.Conn]bool), toPlain: newHandoff(), toTLS: newHandoff()}
	h.ctx, h.cancel = context.WithCancel(context.WithoutCancel(ctx))
	h.plain, h.inTLS = h.server(), h.server()
	h.plain.TLSConfig = g.c.TLS
	h.servers.Go(func() { h.plain.Serve(h.toPlain) })
	h.servers.Go(func() { h.inTLS.Serve(h.toTLS) })
	return h
}

// server makes a go-smtp server. Deadlines, line lengths and TLS are the wire's business, who may log in the session's.
func (h *hall) server() *smtp.Server {
	s := smtp.NewServer(smtp.BackendFunc(h.newSession))
	s.Domain = h.g.c.Hostname
	s.MaxRecipients = h.g.c.Limits.Recipients
	s.MaxMessageBytes = h.g.c.MaxMessageBytes
	s.MaxLineLength = 0
	s.AllowInsecureAuth = true
	s.ErrorLog = smtpLog{h.g.log}
	return s
}

// close ends all sessions: at once, or within grace those that are in a message.
func (h *hall) close(grace time.Duration) {
	h.mu.Lock()
	h.draining = true
	for w := range h.wires {
		w.drain()
	}
	h.mu.Unlock()

	cut := time.AfterFunc(grace, func() {
		h.cancel()
		h.mu.Lock()
		defer h.mu.Unlock()
		for conn := range h.conns {
			conn.Close()
		}
	})
	h.wg.Wait()
	cut.Stop()
	h.cancel()
	// No sessions are left, so this waits only for their goroutines to return.
	h.toPlain.Close()
	h.toTLS.Close()
	h.plain.Shutdown(context.Background())
	h.inTLS.Shutdown(context.Background())
	h.servers.Wait()
}

// enter lists a dialogue, and the connection under it.
func (h *hall) enter(w *wire, conn net.Conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.wires[w], h.conns[conn] = true, true
	if h.draining {
		w.drain()
	}
}

// leave takes what enter listed off the list.
func (h *hall) leave(w *wire, conn net.Conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.wires, w)
	delete(h.conns, conn)
}

// A handoff is the listener from which a go-smtp server takes wires.
type handoff struct {
	c    chan net.Conn
	done chan struct{}
	once *sync.Once
}

func newHandoff() handoff {
	return handoff{c: make(chan net.Conn), done: make(chan struct{}), once: new(sync.Once)}
}

// Accept implements net.Listener.
func (h handoff) Accept() (net.Conn, error) {
	select {
	case c := <-h.c:
		return c, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (h handoff) Close() error {
	h.once.Do(func() { close(h.done) })
	return nil
}

// Addr implements net.Listener.
func (h handoff) Addr() net.Addr { return &net.TCPAddr{} }

// smtpLog is where go-smtp logs. What it calls an error is a client that went away.
type smtpLog struct{ log *slog.Logger }

// Printf implements smtp.Logger.
func (l smtpLog) Printf(format string, v ...any) {
	if strings.HasPrefix(format, "panic") {
		l.log.Error("panic in the mail dialogue", "what", fmt.Sprintf(format, v...))
		return
	}
	l.log.Debug("mail dialogue", "what", fmt.Sprintf(format, v...))
}

// Println implements smtp.Logger.
func (l smtpLog) Println(v ...any) { l.log.Debug("mail dialogue", "what", fmt.Sprintln(v...)) }
