package mailgw

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/valise-mail/valise/authz"
)

// A hop is one connection to a next hop, opened for one message. It alters no octet of it.
// It is used by one goroutine at a time; its context's end closes the connection at any time.
type hop struct {
	conn      net.Conn
	r         *bufio.Reader
	w         *bufio.Writer
	ext       map[string]string // what EHLO offered, upper-case keyword to arguments
	handshake time.Duration     // for TLS, however long the greeting took
	patient   time.Duration     // for each answer
	by        time.Time         // end of the whole opening, of a NOOP or of QUIT; else zero
	lost      error             // why the connection is of no use any more
	release   func() bool       // from the context
}

// A stageError is what went wrong in a dialogue with a next hop, and where.
type stageError struct {
	stage stage
	rep   reply // its answer, or
	err   error // why there is none
}

// Error implements error.
func (e *stageError) Error() string {
	if e.err != nil {
		return fmt.Sprintf("next hop, %s: %v", e.stage, e.err)
	}
	return fmt.Sprintf("next hop, %s: answered %v", e.stage, e.rep)
}

// Unwrap implements errors.
func (e *stageError) Unwrap() error { return e.err }

// Errors of a hop without an answer of its own.
var (
	errNoStartTLS  = errors.New("STARTTLS is not offered")
	errNoAuth      = errors.New("neither AUTH PLAIN nor AUTH LOGIN is offered")
	errNotLoopback = errors.New("a next hop without TLS must be on this machine's loopback")
)

// openHop dials nh, encrypts, and logs in. Its errors are *stageError.
func openHop(ctx context.Context, c *Config, nh NextHop) (*hop, error) {
	dialCtx, cancel := context.WithTimeout(ctx, c.Timeouts.Connect)
	conn, err := c.Dial(dialCtx, "tcp", nh.Addr)
	cancel()
	if err != nil {
		return nil, &stageError{stage: stageConnect, err: err}
	}
	h := &hop{handshake: c.Timeouts.Connect, patient: c.Timeouts.Command, by: time.Now().Add(c.Timeouts.Command)}
	h.release = context.AfterFunc(ctx, func() { conn.Close() })
	h.use(conn)
	if err := h.open(ctx, c.Hostname, nh); err != nil {
		h.abandon()
		return nil, err
	}
	h.by = time.Time{}
	return h, nil
}

// use speaks over conn from now on. What was read ahead on another connection is forgotten.
func (h *hop) use(conn net.Conn) {
	h.conn = conn
	h.r = bufio.NewReaderSize(conn, 4<<10)
	h.w = bufio.NewWriterSize(conn, 64<<10)
}

// open goes from the connection to the point where MAIL may be sent.
func (h *hop) open(ctx context.Context, hostname string, nh NextHop) error {
	if nh.mode() == authz.Implicit {
		if err := h.encrypt(ctx, nh); err != nil {
			return err
		}
	}
	if ip := ipOf(h.conn.RemoteAddr()); nh.mode() == authz.NoTLS && ip.IsValid() && !ip.IsLoopback() {
		return &stageError{stage: stageTLS, err: errNotLoopback}
	}
	if err := h.want(220, stageGreeting, ""); err != nil {
		return err
	}
	if err := h.hello(hostname); err != nil {
		return err
	}
	if nh.mode() == authz.StartTLS {
		if _, ok := h.ext["STARTTLS"]; !ok {
			return &stageError{stage: stageTLS, err: errNoStartTLS}
		}
		if err := h.want(220, stageTLS, "STARTTLS"); err != nil {
			return err
		}
		if err := h.encrypt(ctx, nh); err != nil {
			return err
		}
		if err := h.hello(hostname); err != nil {
			return err
		}
	}
	if nh.User == "" {
		return nil
	}
	return h.login(nh.User, nh.Password)
}

// encrypt verifies who is there, against nh.Host or the host of nh.Addr.
func (h *hop) encrypt(ctx context.Context, nh NextHop) error {
	name := nh.Host
	if name == "" {
		name, _, _ = net.SplitHostPort(nh.Addr)
	}
	t := tls.Client(h.conn, &tls.Config{ServerName: name, RootCAs: nh.RootCAs, MinVersion: tls.VersionTLS12})
	ctx, cancel := context.WithTimeout(ctx, h.handshake)
	defer cancel()
	if err := t.HandshakeContext(ctx); err != nil {
		return &stageError{stage: stageTLS, err: err}
	}
	h.use(t)
	return nil
}

// hello sends EHLO, or HELO to those that do not know it.
func (h *hop) hello(hostname string) error {
	h.ext = make(map[string]string)
	rep, err := h.command(stageHello, "EHLO "+hostname)
	if err != nil {
		return err
	}
	if rep.code/100 == 5 {
		return h.want(250, stageHello, "HELO "+hostname)
	}
	if rep.code != 250 {
		return &stageError{stage: stageHello, rep: rep}
	}
	for _, line := range rep.lines[1:] {
		keyword, args, _ := strings.Cut(line, " ")
		h.ext[strings.ToUpper(keyword)] = strings.ToUpper(args)
	}
	return nil
}

// login presents the mailbox's credential.
func (h *hop) login(user, password string) error {
	encode := base64.StdEncoding.EncodeToString
	offered := strings.Fields(h.ext["AUTH"])
	has := func(mech string) bool {
		for _, m := range offered {
			if m == mech {
				return true
			}
		}
		return false
	}
	switch {
	case has("PLAIN"):
		return h.want(235, stageAuth, "AUTH PLAIN "+encode([]byte("\x00"+user+"\x00"+password)))
	case has("LOGIN"):
		if err := h.want(334, stageAuth, "AUTH LOGIN"); err != nil {
			return err
		}
		if err := h.want(334, stageAuth, encode([]byte(user))); err != nil {
			return err
		}
		return h.want(235, stageAuth, encode([]byte(password)))
	}
	return &stageError{stage: stageAuth, err: errNoAuth}
}

// mail sends MAIL, without SIZE (M8), and returns the answer if it is a yes.
func (h *hop) mail(from string, body8Bit bool) (reply, error) {
	line := "MAIL FROM:<" + from + ">"
	if body8Bit && h.has8Bit() {
		line += " BODY=8BITMIME"
	}
	return h.yes(stageMail, line)
}

// has8Bit reports whether the next hop takes octets over 127.
func (h *hop) has8Bit() bool {
	_, ok := h.ext["8BITMIME"]
	return ok
}

// rcpt sends RCPT and returns the answer if it is a yes.
func (h *hop) rcpt(to string) (reply, error) {
	return h.yes(stageRcpt, "RCPT TO:<"+to+">")
}

// yes sends a command and returns its answer if it is a yes.
func (h *hop) yes(s stage, line string) (reply, error) {
	rep, err := h.command(s, line)
	if err == nil && !rep.ok() {
		return reply{}, &stageError{stage: s, rep: rep}
	}
	return rep, err
}

// want sends a command and reads its answer, which must be code.
func (h *hop) want(code int, s stage, line string) error {
	rep, err := h.command(s, line)
	if err == nil && rep.code != code {
		return &stageError{stage: s, rep: rep}
	}
	return err
}

// command sends line, if it is not empty, and reads an answer.
func (h *hop) command(s stage, line string) (reply, error) {
	if h.lost != nil {
		return reply{}, &stageError{stage: s, err: h.lost}
	}
	deadline := time.Now().Add(h.patient)
	if !h.by.IsZero() {
		deadline = h.by
	}
	h.conn.SetDeadline(deadline)
	if line != "" {
		h.w.WriteString(line + "\r\n")
		if err := h.w.Flush(); err != nil {
			// It may have said why before it went (421, most often).
			if rep, rerr := readReply(h.r); rerr == nil {
				h.lost = err
				return rep, nil
			}
			return reply{}, h.lose(s, err)
		}
	}
	return h.read(s)
}

// read reads one answer.
func (h *hop) read(s stage) (reply, error) {
	rep, err := readReply(h.r)
	if err != nil {
		return reply{}, h.lose(s, err)
	}
	if rep.code == 421 { // it closes
		h.lost = rep
	}
	return rep, nil
}

// lose notes that the connection is of no use any more.
func (h *hop) lose(s stage, err error) error {
	h.lost = err
	return &stageError{stage: s, err: err}
}

// noop keeps the connection awake. Whatever is answered shows that it is, but for 421.
func (h *hop) noop(patient time.Duration) {
	h.by = time.Now().Add(patient)
	h.command(stageNoop, "NOOP")
	h.by = time.Time{}
}

// data sends DATA. Without an error the next hop waits for the message.
func (h *hop) data() error { return h.want(354, stageData, "DATA") }

// message sends the message that write writes. It calls dotting right before it writes the final dot: from then on the
// next hop may have the message, unless message returns an answer that says no. An answer is returned only if it is a yes.
func (h *hop) message(deadline time.Time, write func(io.Writer) error, dotting func()) (reply, error) {
	h.conn.SetDeadline(deadline)
	out := &wireError{w: h.w}
	if err := write(&dotWriter{w: out}); err != nil && out.err == nil {
		h.lost = err // in the middle of a message nothing but closing is left
		return reply{}, err
	}
	if err := h.w.Flush(); err != nil {
		return reply{}, h.refused(stageBody, err)
	}
	dotting()
	h.w.WriteString(".\r\n")
	if err := h.w.Flush(); err != nil {
		return reply{}, h.refused(stageEnd, err)
	}
	rep, err := h.read(stageEnd)
	if err != nil {
		return reply{}, err
	}
	if !rep.ok() {
		return reply{}, &stageError{stage: stageEnd, rep: rep}
	}
	return rep, nil
}

// refused looks for the answer of a next hop that went away while it was written to: it may have said why.
func (h *hop) refused(s stage, err error) error {
	rep, rerr := readReply(h.r)
	h.lost = err
	if rerr == nil && rep.code/100 >= 4 {
		return &stageError{stage: s, rep: rep}
	}
	return &stageError{stage: s, err: err}
}

// quit ends a dialogue in the way of good manners.
func (h *hop) quit() {
	if h.lost == nil {
		h.by = time.Now().Add(farewell)
		h.command(stageQuit, "QUIT")
	}
	h.abandon()
}

// abandon closes the connection. A message whose final dot was not written is not delivered.
func (h *hop) abandon() {
	if h.lost == nil {
		h.lost = net.ErrClosed
	}
	h.release()
	h.conn.Close()
}

// A wireError remembers whether it was the writer below that failed.
type wireError struct {
	w   io.Writer
	err error
}

// Write implements io.Writer.
func (e *wireError) Write(p []byte) (int, error) {
	n, err := e.w.Write(p)
	if err != nil {
		e.err = err
	}
	return n, err
}
