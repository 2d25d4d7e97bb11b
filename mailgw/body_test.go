package mailgw

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/emersion/go-smtp"
	"github.com/google/go-cmp/cmp"

	"github.com/valise-mail/valise/mailgw/message"
)

// replay is a connection whose other side has said all it has to say.
type replay struct {
	io.Reader
	said bytes.Buffer
}

func (r *replay) Write(p []byte) (int, error)      { return r.said.Write(p) }
func (r *replay) Close() error                     { return nil }
func (r *replay) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (r *replay) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (r *replay) SetDeadline(time.Time) error      { return nil }
func (r *replay) SetReadDeadline(time.Time) error  { return nil }
func (r *replay) SetWriteDeadline(time.Time) error { return nil }

// newBody makes the body of a message that arrives as r says.
func newBody(r io.Reader, chunked bool) *body {
	c := Config{MaxMessageBytes: 1 << 20}.withDefaults()
	w := newWire(&replay{Reader: r}, false, false, &c)
	w.chunked = chunked
	w.startBody()
	return w.body
}

// TestDATA_Undot reads DATA at every split into two reads, octet by octet, and with small buffers.
func TestDATA_Undot(t *testing.T) {
	t.Parallel()
	tests := []struct{ in, want, rest string }{
		{".\r\n", "", ""},
		{".\r\nQUIT\r\n", "", "QUIT\r\n"},
		{"a\r\n.\r\n", "a\r\n", ""},
		{"..\r\n.\r\n", ".\r\n", ""},
		{"a\r\n..b\r\n...\r\n.\r\n", "a\r\n.b\r\n..\r\n", ""},
		{".a\r\n.\r\n", "a\r\n", ""},
		{".\ra\r\n.\r\n", "\ra\r\n", ""},
		{"..\ra\r\n.\r\n", ".\ra\r\n", ""},
		{".\r\r\n.\r\n", "\r\r\n", ""},
		{"a\n.\r\n.\r\n", "a\n.\r\n", ""},
		{"a\r.\r\n.\r\n", "a\r.\r\n", ""},
		{"a\n.\n.\r\nb\r\n.\r\n", "a\n.\n.\r\nb\r\n", ""},
		{"a\r\n.\nb\r\n.\r\n", "a\r\n\nb\r\n", ""},
		{"a\r\n.\rb\r\n.\r\n", "a\r\n\rb\r\n", ""},
		{"a\r\r\n.\r\nrest", "a\r\r\n", "rest"},
		{"a\r\r\n..b\r\n.\r\n", "a\r\r\n.b\r\n", ""},
		{"\r\n.\r\n", "\r\n", ""},
		{"\r\n\r\n..\r\n\r\n.\r\n", "\r\n\r\n.\r\n\r\n", ""},
	}
	for _, tt := range tests {
		arrivals := map[string]func() io.Reader{
			"whole":  func() io.Reader { return strings.NewReader(tt.in) },
			"octets": func() io.Reader { return iotest.OneByteReader(strings.NewReader(tt.in)) },
		}
		for i := range tt.in {
			arrivals[fmt.Sprint("split at ", i)] = func() io.Reader {
				return io.MultiReader(strings.NewReader(tt.in[:i]), strings.NewReader(tt.in[i:]))
			}
		}
		for name, arrive := range arrivals {
			for _, size := range []int{1, 2, 3, 512} {
				r := arrive()
				b := newBody(r, false)
				got, err := readSmall(b, size)
				rest, _ := io.ReadAll(io.MultiReader(bytes.NewReader(b.w.buf[b.w.lo:b.w.hi]), r))
				if err != nil || got != tt.want || string(rest) != tt.rest {
					t.Fatalf("%q, %s, buffer %d: got %q, rest %q, err %v; want %q, %q", tt.in, name, size, got, rest, err, tt.want, tt.rest)
				}
			}
		}
	}
}

func readSmall(r io.Reader, size int) (string, error) {
	var b strings.Builder
	p := make([]byte, size)
	for {
		n, err := r.Read(p)
		b.Write(p[:n])
		if err == io.EOF {
			return b.String(), nil
		}
		if err != nil {
			return b.String(), err
		}
	}
}

// Every message that ends without its end is a message that ended too early, at whatever octet (trap a).
func TestTrapA_TruncatedAnywhere(t *testing.T) {
	t.Parallel()
	data := stuff(simple) + ".\r\n"
	for i := range data {
		if _, err := io.ReadAll(newBody(strings.NewReader(data[:i]), false)); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("DATA cut at %d: %v", i, err)
		}
	}
	for i := range simple {
		b := newBody(strings.NewReader(simple[:i]), true)
		b.w.chunk, b.w.last = int64(len(simple)), true
		if _, err := io.ReadAll(b); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("BDAT cut at %d: %v", i, err)
		}
	}
}

// A client that ends its side in the middle of a message: nothing is sent or granted, and it is not told 250 (trap a).
func TestTrapA_TruncatedThenFIN(t *testing.T) {
	t.Parallel()
	msg := letter(1 << 20)
	tests := map[string]string{
		"BDAT LAST":        fmt.Sprintf("BDAT %d LAST\r\n%s", len(msg)+500, msg),
		"BDAT, no LAST":    fmt.Sprintf("BDAT %d\r\n%s", len(msg), msg),
		"DATA, no dot":     "DATA\r\n" + stuff(msg),
		"DATA, half a dot": "DATA\r\n" + stuff(msg) + ".\r",
	}
	for name, send := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, hostOptions{})
			v := newVillage(h)
			c := dial(t, start(t, v, nil)).login().envelope()
			c.send(send)
			c.Conn.(*net.TCPConn).CloseWrite()
			for {
				a, err := c.tryAnswer()
				if err != nil {
					break
				}
				if strings.Contains(a, "queued") {
					t.Errorf("answer %q", a)
				}
			}
			if grants, _ := v.state(); grants != 0 || len(h.mails()) != 0 || strings.Contains(h.saw(), "DATA") {
				t.Errorf("%d grants, %d messages, next hop told %s", grants, len(h.mails()), h.saw())
			}
		})
	}
}

// A timedConn fails the test when it is read without a deadline of its own for that read.
type timedConn struct {
	net.Conn
	t     *testing.T
	fresh atomic.Bool
	reads *atomic.Int64
}

func (c *timedConn) SetReadDeadline(at time.Time) error {
	if wait := time.Until(at); at != time.Unix(1, 0) && (wait < 4*time.Minute || wait > 5*time.Minute) { // but for drain's
		c.t.Errorf("deadline in %v", wait)
	}
	c.fresh.Store(true)
	return c.Conn.SetReadDeadline(at)
}

func (c *timedConn) Read(p []byte) (int, error) {
	if !c.fresh.Swap(false) {
		c.t.Error("read under the deadline of an earlier read")
	}
	c.reads.Add(1)
	return c.Conn.Read(p)
}

type timedListener struct {
	net.Listener
	t     *testing.T
	reads atomic.Int64
}

func (l *timedListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &timedConn{Conn: c, t: l.t, reads: &l.reads}, nil
}

// While a message moves, its deadline moves along: each read has its own five minutes (trap b; RFC 5321, 4.5.3.2).
func TestTrapB_DeadlineMovesWithTheData(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"DATA", "BDAT"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		timed := &timedListener{Listener: l, t: t}
		c := dial(t, startOn(t, newVillage(newHost(t, hostOptions{})), timed, nil)).login().envelope()
		before := timed.reads.Load()
		msg := letter(1 << 20)
		got := ""
		if how == "DATA" {
			got = c.data(msg)
		} else {
			got = c.bdat(msg)
		}
		if reads := timed.reads.Load() - before; !strings.HasPrefix(got, "250") || reads < 10 {
			t.Errorf("%s: answer %q after %d reads", how, got, reads)
		}
	}
}

// A plain error is a temporary one, not go-smtp's 554 (trap c): TestS4_StoreOutcomes has "some mishap".
func TestTrapC_UnknownErrorIsTemporary(t *testing.T) {
	t.Parallel()
	for _, err := range []error{errors.New("x"), context.DeadlineExceeded, fmt.Errorf("y: %w", io.ErrUnexpectedEOF), net.ErrClosed} {
		if got := answer(err); got.code != 451 || got.enh[0] != 4 {
			t.Errorf("%v: %v", err, got)
		}
	}
}

// How a client's own message ended is told apart from the same error elsewhere, which is not its fault.
func TestClientErrors(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{})
	c := dial(t, start(t, newVillage(h), nil)).login().envelope()
	c.send("BDAT 10 LAST\r\nhalf")
	c.Conn.(*net.TCPConn).CloseWrite()
	if got := c.answer(); !strings.HasPrefix(got, "421 4.4.2 the connection ended before the message did") {
		t.Errorf("answer %q", got)
	}
	for err, want := range map[error]int{io.ErrUnexpectedEOF: 421, os.ErrDeadlineExceeded: 421, errTooLarge: 552} {
		if got := answer(fmt.Errorf("x: %w", &clientError{err})); got.code != want {
			t.Errorf("%v: %v, want %d", err, got, want)
		}
	}
}

// A line of DATA may be as long as it likes (trap d): only commands have a limit.
func TestTrapD_LongLines(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{})
	c := dial(t, start(t, newVillage(h), nil)).login().envelope()
	msg := simple + strings.Repeat("x", 3<<20) + "\r\n"
	if got := c.data(msg); !strings.HasPrefix(got, "250") {
		t.Fatalf("answer %q", got)
	}
	if got := body1(t, h.mails()[0].data); got != stuff(msg) {
		t.Errorf("%d octets arrived, want %d", len(got), len(stuff(msg)))
	}
}

// What ends a transaction between two chunks ends it before the next begins (trap e).
func TestTrapE_ResetDuringBDAT(t *testing.T) {
	t.Parallel()
	for _, reset := range []string{"RSET", "EHLO client.example.org", "HELO client.example.org"} {
		t.Run(reset, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, hostOptions{})
			v := newVillage(h)
			c := dial(t, start(t, v, nil)).login()
			var send strings.Builder
			for i := range 15 { // pipelined: no pause in which the old transaction could end by luck
				half := letter(300 << 10)
				half = half[:len(half)/2+i]
				fmt.Fprintf(&send, "MAIL FROM:<ann@example.org>\r\nRCPT TO:<bob@example.net>\r\nBDAT %d\r\n%s%s\r\n", len(half), half, reset)
			}
			fmt.Fprintf(&send, "MAIL FROM:<ann@example.org>\r\nRCPT TO:<bob@example.net>\r\nBDAT %d LAST\r\n%s", len(simple), simple)
			go io.WriteString(c, send.String())
			for i := range 15 {
				for _, want := range []string{"250 2.1.0", "250 2.1.5", "250 2.0.0 chunk", "250"} {
					if got := c.answer(); !strings.HasPrefix(got, want) {
						t.Fatalf("message %d: got %q, want %s", i, got, want)
					}
				}
			}
			c.answer()
			c.answer()
			if got := c.answer(); got != "250 2.0.0 queued as ABC123" {
				t.Errorf("answer %q", got)
			}
			grants, _ := v.state()
			if mails := h.mails(); grants != 0 || len(mails) != 1 || body1(t, mails[0].data) != stuff(simple) {
				t.Errorf("%d grants, delivered %q", grants, mails)
			}
		})
	}
}

// What else may come between two chunks.
func TestBDAT_BetweenChunks(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{})
	addr := start(t, newVillage(h), nil)
	c := dial(t, addr).login().envelope()
	c.must("501 5.5.4", "BDAT x")
	c.must("501 5.5.4", "BDAT -1")
	c.must("501 5.5.4", "BDAT 1 FIRST")
	c.must("501 5.5.4", "BDAT 99999999999999999999 LAST")
	c.must("250 2.0.0 chunk", "BDAT 0")
	c.must("250", "NOOP")
	c.must("503 5.5.1", "DATA")
	c.must("503 5.5.1", "MAIL FROM:<ann@example.org>")
	c.must("501 5.5.4", "BDAT")
	c.send(fmt.Sprintf("bdat %d\r\n%s", len(simple), simple))
	if got := c.answer(); !strings.HasPrefix(got, "250 2.0.0 chunk") {
		t.Errorf("chunk: %q", got)
	}
	if got := c.say("BDAT 0 last"); got != "250 2.0.0 queued as ABC123" {
		t.Errorf("LAST: %q", got)
	}
	c.envelope()
	c.must("250", "BDAT 0")
	c.must("221", "QUIT")
	c.gone()
	if mails := h.mails(); len(mails) != 1 || body1(t, mails[0].data) != stuff(simple) {
		t.Errorf("delivered %q", mails)
	}
}

// A command that is too long ends the session: what is left of it is no other command, whoever reads on (go-smtp does, after
// a line of AUTH; so does a message between its chunks).
func TestCommandTooLong_NothingBehindIt(t *testing.T) {
	t.Parallel()
	long := io.MultiReader(strings.NewReader(strings.Repeat("x", 10<<10)), strings.NewReader(strings.Repeat("x", 4<<10)+"\r\nNOOP\r\n"))
	c := Config{}.withDefaults()
	w := newWire(&replay{Reader: long}, false, false, &c)
	p := make([]byte, 1<<10)
	for range 2 {
		if n, err := w.Read(p); n != 0 || err != smtp.ErrTooLongLine {
			t.Errorf("got %q, %v, want %v", p[:n], err, smtp.ErrTooLongLine)
		}
	}
}

// A message that is refused while its chunks still come: the chunk is passed over, and so are those behind it.
func TestBDAT_RefusedEarly(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{})
	v := newVillage(h)
	v.failAt, v.fail = "Put", ErrQuota
	c := dial(t, start(t, v, nil)).login().envelope()
	msg := letter(1 << 20)
	half := len(msg) / 2
	go fmt.Fprintf(c, "BDAT %d\r\n%sBDAT %d LAST\r\n%sNOOP\r\n", half, msg[:half], len(msg)-half, msg[half:])
	for _, want := range []string{"452 4.2.2", "502", "250"} {
		if got := c.answer(); !strings.HasPrefix(got, want) {
			t.Errorf("got %q, want %s", got, want)
		}
	}
}

func TestM8_TooLarge(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{})
	addr := start(t, newVillage(h), func(c *Config) { c.MaxMessageBytes = 10_000 })
	at, over := simple+strings.Repeat("x", 9_998-len(simple))+"\r\n", simple+strings.Repeat("x", 20_000)+"\r\n"
	for _, how := range []string{"DATA", "BDAT"} {
		c := dial(t, addr).login()
		send := func(m string) string {
			if c.envelope(); how == "DATA" {
				return c.data(m)
			}
			return c.bdat(m)
		}
		if got := send(over); !strings.HasPrefix(got, "552 5.3.4") {
			t.Errorf("%s over: %q", how, got)
		}
		if got := send(at); !strings.HasPrefix(got, "250") {
			t.Errorf("%s at the limit: %q", how, got)
		}
		if how == "DATA" {
			c.envelope()
			c.must("354", "DATA")
			io.WriteString(c, strings.Repeat("endless\r\n", 1<<20)) // it is not listened to for ever
			c.gone()
		} else {
			c.envelope()
			c.must("552", "BDAT 1000000") // nor is this waited for
			c.gone()
		}
	}
	if n := len(h.mails()); n != 2 {
		t.Errorf("%d messages delivered", n)
	}
}

// A header without end is refused, and does not fill the memory: see TestMemory.
func TestEndlessHeader(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{})
	c := dial(t, start(t, newVillage(h), nil)).login().envelope()
	c.must("354", "DATA")
	for range 1 << 6 {
		c.send(strings.Repeat("X-Endless: header\r\n", 1<<14))
	}
	c.send(".\r\n")
	if got := c.answer(); !strings.HasPrefix(got, "552 5.3.4 message header") {
		t.Errorf("answer %q", got)
	}
}

// TestM4_Smuggling sends what some servers take for the end of DATA. At the next hop there is one message, in normal
// form, and every line that begins with a dot begins with two.
func TestM4_Smuggling(t *testing.T) {
	t.Parallel()
	const head, evil = "From: ann@example.org\r\n\r\nfirst", "MAIL FROM:<ann@example.org>\r\nRCPT TO:<eve@example.net>\r\nDATA\r\nevil\r\n"
	ends := []string{"\n.\n", "\n.\r\n", "\r.\r", "\r\n.\n", "\r\n.\r", "\r.\r\n", "\n.\r", "\r\n\x00.\r\n", "\r\n.\x00\r\n"}
	for _, end := range ends {
		for _, how := range []string{"DATA", "BDAT"} {
			t.Run(fmt.Sprintf("%s %q", how, end), func(t *testing.T) {
				t.Parallel()
				h := newHost(t, hostOptions{})
				c := dial(t, start(t, newVillage(h), nil)).login().envelope()
				raw := head + end + evil
				msg := raw // as the gateway reads it
				var got string
				if how == "BDAT" {
					got = c.bdat(raw)
				} else {
					c.must("354", "DATA")
					c.send(raw + ".\r\n")
					got = c.answer()
					msg = undot(raw)
				}
				if !strings.HasPrefix(got, "250") {
					t.Fatalf("answer %q", got)
				}
				c.must("221", "QUIT")
				mails := h.mails()
				if len(mails) != 1 {
					t.Fatalf("%d messages delivered", len(mails))
				}
				want, err := io.ReadAll(message.Normalise(strings.NewReader(msg)))
				if err != nil {
					t.Fatal(err)
				}
				data := body1(t, mails[0].data)
				if d := cmp.Diff(stuff(string(want)), data); d != "" {
					t.Errorf("want -, got +: %s", d)
				}
				if strings.Contains(strings.ReplaceAll(data, "\r\n", ""), "\n") || strings.Contains(strings.ReplaceAll(data, "\r\n", ""), "\r") {
					t.Errorf("bare CR or LF in %q", data)
				}
			})
		}
	}
	// By BDAT, what would end DATA is only text.
	h := newHost(t, hostOptions{})
	c := dial(t, start(t, newVillage(h), nil)).login().envelope()
	c.bdat(head + "\r\n.\r\n" + evil)
	if mails := h.mails(); len(mails) != 1 || body1(t, mails[0].data) != head+"\r\n..\r\n"+evil {
		t.Errorf("delivered %q", mails)
	}
}

// Chunks split anywhere make the same message.
func TestBDAT_Splits(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{})
	v := newVillage(h)
	c := dial(t, start(t, v, nil)).login()
	msg := letter(300 << 10)
	want := ""
	for i := range 8 {
		c.envelope()
		r := rand.New(rand.NewPCG(uint64(i), 1))
		var b strings.Builder
		chunks := 0
		for rest := msg; ; chunks++ {
			n := min(len(rest), r.IntN(1<<(10+i))+i%2)
			last := ""
			if len(rest) == n {
				last = " LAST"
			}
			fmt.Fprintf(&b, "BDAT %d%s\r\n%s", n, last, rest[:n])
			if rest = rest[n:]; last != "" {
				break
			}
		}
		go io.WriteString(c, b.String())
		for range chunks {
			if got := c.answer(); !strings.HasPrefix(got, "250 2.0.0 chunk") {
				t.Fatalf("chunk: %q", got)
			}
		}
		if got := c.answer(); got != "250 2.0.0 queued as ABC123" {
			t.Fatalf("LAST: %q", got)
		}
		mails := h.mails()
		got := body1(t, mails[len(mails)-1].data)
		got = got[:strings.Index(got, "https://")] // the sending's id differs
		if want == "" {
			want = got
		}
		if got != want || strings.Contains(got, "MDEyMzQ1") {
			t.Fatalf("split %d: %.2000q, want %.2000q", i, got, want)
		}
	}
}
