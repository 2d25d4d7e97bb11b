package mailgw

import (
	"bytes"
	"errors"
	"io"
	"math"
	"net"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/emersion/go-smtp"
)

const (
	// maxCommandLine is what RFC 4954, 4 allows for a line of AUTH; every other line is shorter.
	maxCommandLine = 12288
	commandBuffer  = 4 << 10
	bodyBuffer     = 64 << 10
)

// errDraining ends a session that waits for a command while the gateway shuts down.
var errDraining = errors.New("shutting down")

// A wire is a client's connection as go-smtp sees it. It hands out one command line at a time, so that nothing behind a
// command is ever in go-smtp's own buffer, and keeps the octets of messages to itself: a session reads them with body,
// go-smtp sees an empty message. BDAT is shown to go-smtp as DATA. DESIGN.md says why.
//
// One goroutine, go-smtp's for this connection, uses it, but for drain and expel.
type wire struct {
	conn     net.Conn
	isTLS    bool
	offerTLS bool // STARTTLS is taken from go-smtp: see visit.go
	idle     time.Duration
	ended    chan struct{} // closed by Close
	closing  sync.Once

	// owned by the session's goroutine
	buf        []byte // buf[lo:hi] was read from conn and not used yet
	lo, hi     int
	feed       []byte // what go-smtp reads next
	line       string // the last command line, without its end
	huge       bool   // its SIZE is over maxMessage, and more than go-smtp can read
	pushed     string // a command line to be handled again
	out        []byte // a reply line go-smtp has not finished
	sasl       bool   // the next line answers a 334
	mute       bool   // the next reply is not the client's
	instead    []byte // takes the place of the next reply
	hangUp     bool   // after the next reply
	over       error  // why no command can be read any more
	startTLS   bool   // ended, to go on with TLS
	inBody     bool   // between 354 and the end of the message
	chunked    bool   // by BDAT
	chunk      int64  // octets of the BDAT chunk not read yet
	last       bool   // it is the last chunk
	body       *body
	maxMessage int64

	// mu guards the fields below.
	mu       sync.Mutex
	reading  bool // a command, between two messages
	draining bool
	by       time.Time // end of a session that has not logged in; zero: none
}

// newWire makes the wire of one dialogue.
func newWire(conn net.Conn, isTLS, offerTLS bool, c *Config) *wire {
	return &wire{conn: conn, isTLS: isTLS, offerTLS: offerTLS, idle: c.Timeouts.Idle, maxMessage: c.MaxMessageBytes, ended: make(chan struct{})}
}

// Read implements net.Conn for go-smtp.
func (w *wire) Read(p []byte) (int, error) {
	for len(w.feed) == 0 {
		select {
		case <-w.ended:
			return 0, net.ErrClosed
		default:
		}
		if err := w.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, w.feed)
	w.feed = w.feed[n:]
	return n, nil
}

// next finds what go-smtp is to read.
func (w *wire) next() error {
	if w.inBody { // Data has returned: go-smtp reads on for the end of the message
		if err := w.body.discard(); err != nil {
			return err
		}
		w.inBody, w.chunked, w.body = false, false, nil
		w.shrink()
		w.feed = []byte(".\r\n")
		return nil
	}
	if w.hangUp {
		return io.EOF
	}
	if w.over != nil { // go-smtp reads on after an error within AUTH
		return w.atEnd(w.over)
	}
	if err := w.skipChunk(); err != nil {
		return err
	}
	line, err := w.command(true)
	if err != nil {
		return w.atEnd(err)
	}
	if w.sasl {
		w.sasl = false
		w.feed = []byte(line + "\r\n")
		return nil
	}
	w.line, w.huge = line, false
	verb, arg, _ := strings.Cut(line, " ")
	switch {
	case strings.HasPrefix(strings.ToUpper(line), "STARTTLS") && w.offerTLS:
		if !strings.EqualFold(strings.TrimSpace(line), "STARTTLS") {
			return w.reply("501 5.5.4 STARTTLS takes no argument\r\n")
		}
		w.startTLS = true
		return io.EOF
	case strings.EqualFold(verb, "BDAT"):
		size, last, ok := parseChunk(arg)
		if !ok {
			return w.reply("501 5.5.4 want BDAT, a size and perhaps LAST\r\n")
		}
		w.chunked, w.chunk, w.last = true, size, last
		w.feed = []byte("DATA\r\n")
	case hasControls(line):
		w.feed = []byte("\r\n") // go-smtp answers "bad syntax" and counts it
	default:
		w.chunked = false
		if strings.EqualFold(verb, "MAIL") {
			line = longSize.ReplaceAllStringFunc(line, w.shorten)
		}
		w.feed = []byte(line + "\r\n")
	}
	return nil
}

// longSize finds a SIZE that may not fit into 32 bits, where go-smtp calls it a mistake. RFC 1870, 4 allows 20 digits.
var longSize = regexp.MustCompile(`(?i)\bSIZE=[0-9]{10,20}\b`)

// shorten hides a SIZE from go-smtp that it cannot read, and notes whether it is too large.
func (w *wire) shorten(param string) string {
	n, err := strconv.ParseUint(param[len("SIZE="):], 10, 64)
	if err == nil && n <= math.MaxUint32 {
		return param
	}
	w.huge = w.huge || err != nil || n > uint64(w.maxMessage)
	return "SIZE=0"
}

// atEnd says what go-smtp is told about err while it waits for a command.
func (w *wire) atEnd(err error) error {
	if errors.Is(err, errDraining) {
		w.hangUp = true
		w.reply("421 4.3.2 closing down, please try again later\r\n")
		return io.EOF
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return io.EOF
	}
	return err
}

// command reads a line of at most maxCommandLine octets and returns it without its end. Draining ends its wait if the session
// is between two messages. After an error the session is over: what comes next may be the rest of a line.
func (w *wire) command(between bool) (line string, err error) {
	defer func() { w.over = err }()
	if w.pushed != "" {
		line := w.pushed
		w.pushed = ""
		return line, nil
	}
	var long []byte
	for {
		view := w.buf[w.lo:w.hi]
		i := bytes.IndexByte(view, '\n')
		if i >= 0 {
			view = view[:i+1]
		}
		if len(long)+len(view) > maxCommandLine {
			return "", smtp.ErrTooLongLine
		}
		w.lo += len(view)
		if i >= 0 {
			line := strings.TrimSuffix(string(append(long, view...)), "\n")
			return strings.TrimSuffix(line, "\r"), nil
		}
		long = append(long, view...)
		if err := w.fill(between); err != nil {
			return "", err
		}
	}
}

// fill reads from the client once. The client has w.idle for it, each time: there is no bound on a message that moves.
func (w *wire) fill(between bool) error {
	if w.lo == w.hi {
		w.lo, w.hi = 0, 0
	}
	if w.buf == nil {
		w.buf = make([]byte, commandBuffer)
	}
	if w.hi == len(w.buf) {
		w.hi = copy(w.buf, w.buf[w.lo:w.hi])
		w.lo = 0
	}
	n, err := w.receive(w.buf[w.hi:], between)
	w.hi += n
	if n > 0 {
		return nil
	}
	return err
}

// receive reads from the connection under its deadline.
func (w *wire) receive(p []byte, between bool) (int, error) {
	w.mu.Lock()
	if between && w.draining {
		w.mu.Unlock()
		return 0, errDraining
	}
	deadline := time.Now().Add(w.idle)
	if !w.by.IsZero() && w.by.Before(deadline) {
		deadline = w.by
	}
	w.conn.SetReadDeadline(deadline)
	w.reading = between
	w.mu.Unlock()

	n, err := w.conn.Read(p)

	w.mu.Lock()
	w.reading = false
	if err != nil && between && w.draining {
		err = errDraining
	}
	w.mu.Unlock()
	if err == io.EOF {
		err = io.ErrUnexpectedEOF // an end that is an end is found in the octets
	}
	return n, err
}

// shrink gives the large buffer of a message back once it is used up.
func (w *wire) shrink() {
	if w.lo == w.hi {
		w.buf, w.lo, w.hi = nil, 0, 0
	}
}

// skipChunk passes over a BDAT chunk that nobody wants. One that is far larger than any message ends the session.
func (w *wire) skipChunk() error {
	if w.chunk > 4*w.maxMessage {
		return io.EOF
	}
	for w.chunk > 0 {
		if w.lo == w.hi {
			if err := w.fill(false); err != nil {
				return err
			}
		}
		n := min(w.chunk, int64(w.hi-w.lo))
		w.lo += int(n)
		w.chunk -= n
	}
	return nil
}

// Write implements net.Conn for go-smtp, which writes replies only.
func (w *wire) Write(p []byte) (int, error) {
	w.out = append(w.out, p...)
	for {
		i := bytes.IndexByte(w.out, '\n')
		if i < 0 {
			return len(p), nil
		}
		err := w.replyLine(w.out[:i+1])
		w.out = append(w.out[:0], w.out[i+1:]...)
		if err != nil {
			return 0, err
		}
	}
}

// replyLine handles one line of a reply of go-smtp's.
func (w *wire) replyLine(line []byte) error {
	final := len(line) > 3 && line[3] != '-'
	if w.instead != nil {
		if !final {
			return nil
		}
		line, w.instead = w.instead, nil
	}
	if final {
		w.sasl = bytes.HasPrefix(line, []byte("334"))
		if bytes.HasPrefix(line, []byte("354")) {
			w.startBody()
			if w.chunked {
				return nil
			}
		}
	}
	if w.mute {
		w.mute = !final
		return nil
	}
	return w.reply(string(line))
}

// reply writes to the client.
func (w *wire) reply(s string) error {
	w.conn.SetWriteDeadline(time.Now().Add(w.idle))
	_, err := io.WriteString(w.conn, s)
	return err
}

// startBody prepares for the octets of a message.
func (w *wire) startBody() {
	w.inBody = true
	w.body = &body{w: w, left: w.maxMessage, bol: true}
	if len(w.buf) < bodyBuffer {
		grown := make([]byte, bodyBuffer)
		w.hi = copy(grown, w.buf[w.lo:w.hi])
		w.buf, w.lo = grown, 0
	}
}

// admitted ends the time limit for strangers.
func (w *wire) admitted() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.by = time.Time{}
}

// drain ends the session when it waits for a command next, or now if it does. A message goes on to its end.
func (w *wire) drain() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.draining = true
	if w.reading {
		w.conn.SetReadDeadline(time.Unix(1, 0))
	}
}

// Close implements net.Conn for go-smtp. The connection itself is closed by its visit.
func (w *wire) Close() error {
	w.closing.Do(func() { close(w.ended) })
	return nil
}

// LocalAddr implements net.Conn.
func (w *wire) LocalAddr() net.Addr { return w.conn.LocalAddr() }

// RemoteAddr implements net.Conn.
func (w *wire) RemoteAddr() net.Addr { return w.conn.RemoteAddr() }

// SetDeadline does nothing: a wire sets deadlines itself.
func (w *wire) SetDeadline(time.Time) error { return nil }

// SetReadDeadline does nothing.
func (w *wire) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline does nothing.
func (w *wire) SetWriteDeadline(time.Time) error { return nil }

// hasControls reports whether a command line holds control characters: those have no place in any command, and what
// one server reads as a line end another may not.
func hasControls(line string) bool {
	return strings.ContainsFunc(line, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f })
}
