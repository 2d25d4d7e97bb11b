package mailgw

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/valise-mail/valise/authz"
)

// FuzzDialogue sends a client's octets, whatever they are, to a gateway with a next hop that takes everything. Nothing
// panics or hangs, every message that is delivered came with its end, every grant belongs to a delivered message, and no
// line that the next hop reads as a command came out of a message.
func FuzzDialogue(f *testing.F) {
	const in = "EHLO c\r\nAUTH PLAIN AGFubkBleGFtcGxlLm9yZwB0dWVzZGF5\r\n"
	const to = "MAIL FROM:<ann@example.org>\r\nRCPT TO:<bob@example.net>\r\n"
	for _, s := range []string{
		in + to + "DATA\r\nFrom: ann@example.org\r\n\r\n..x\r\n.\r\nQUIT\r\n",
		in + to + "BDAT 5\r\nhelloBDAT 0 LAST\r\nQUIT\r\n",
		in + to + "BDAT 5\r\nhelloRSET\r\n" + to + "BDAT 2 LAST\r\n\r\n",
		in + to + "BDAT 50 LAST\r\nhello",
		in + to + "BDAT 1\r\nxSTARTTLS\r\nNOOP\r\n",
		in + to + "DATA\r\n\n.\n\r.\r\r\n.\r\r\n.\r\nNOOP\r\n",
		in + "AUTH LOGIN\r\nBDAT 10\r\n*\r\n" + to,
		in + to + "DATA\r\n" + letter(300),
		in + to + "DATA\r\n" + letter(300) + ".\r\n",
		"STARTTLS\r\nHELO x\r\n\r\n\r\n\r\nVRFY x\r\nBDAT\r\nDATA\r\n.\r\n",
	} {
		f.Add([]byte(s))
	}
	h := newHost(f, hostOptions{})
	v := newVillage(h)
	g, err := New(Config{Hostname: "gw.example.org", Publisher: v, Directory: v, Threshold: 10, MaxMessageBytes: 64 << 10, SpoolDir: f.TempDir()})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, said []byte) {
		h.mu.Lock()
		h.delivered, h.commands = nil, nil
		h.mu.Unlock()
		v.mu.Lock()
		clear(v.grants)
		v.mu.Unlock()
		ours, theirs := net.Pipe()
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		l := &oneConn{conn: addressed{ours}, ctx: ctx}
		done := make(chan error, 1)
		go func() { done <- g.Serve(ctx, l) }()
		theirs.SetDeadline(time.Now().Add(20 * time.Second))
		go func() {
			theirs.Write(said)
			theirs.Write([]byte("\r\n.\r\nQUIT\r\n"))
			theirs.Close()
		}()
		var replies bytes.Buffer
		if _, err := io.Copy(&replies, theirs); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error("the session does not end")
		}
		cancel()
		select {
		case <-done:
		case <-time.After(20 * time.Second):
			t.Fatal("it hangs")
		}
		accepted := strings.Count(replies.String(), "queued as ABC123")
		mails := h.mails()
		if accepted > len(mails) {
			t.Errorf("%d accepted, %d delivered", accepted, len(mails))
		}
		if grants, _ := v.state(); grants > len(mails) {
			t.Errorf("%d grants, %d delivered", grants, len(mails))
		}
		for _, m := range mails {
			if !strings.HasPrefix(m.data, "Received: from ") || len(m.to) == 0 {
				t.Errorf("delivered %q", m)
			}
			if bare := strings.ReplaceAll(m.data, "\r\n", ""); strings.ContainsAny(bare, "\r\n") {
				t.Errorf("bare CR or LF: %q", m.data)
			}
		}
		for line := range strings.Lines(h.saw()) {
			verb, _, _ := strings.Cut(strings.TrimSpace(line), " ")
			switch verb {
			case "EHLO", "AUTH", "MAIL", "RCPT", "DATA", "QUIT":
			default:
				t.Errorf("the next hop was told %q", line)
			}
		}
	})
}

// oneConn is a listener with one connection, whose end is its context's.
type oneConn struct {
	conn net.Conn
	ctx  context.Context
}

func (l *oneConn) Accept() (net.Conn, error) {
	if c := l.conn; c != nil {
		l.conn = nil
		return c, nil
	}
	<-l.ctx.Done()
	return nil, net.ErrClosed
}

func (l *oneConn) Close() error   { return nil }
func (l *oneConn) Addr() net.Addr { return &net.TCPAddr{} }

// addressed is a pipe that comes from loopback.
type addressed struct{ net.Conn }

func (addressed) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }

// FuzzReply reads what a next hop may say. What is accepted is passed on as a well-formed reply with the same code.
func FuzzReply(f *testing.F) {
	for _, s := range []string{"250 ok\r\n", "550-5.1.1 a\r\n550 5.1.1 b\r\n", "421\r\n", "250-\n250 \n", "550 5.1.1\x00\r\r\n", "55", "550-a\r\n551 b\r\n", "550 9.9.9 x\r\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		rep, err := readReply(bufio.NewReader(strings.NewReader(s)))
		if err != nil {
			return
		}
		out := string(rep.wire())
		again, err := readReply(bufio.NewReader(strings.NewReader(out)))
		if err != nil || again.code != rep.code || len(again.lines) != len(rep.lines) {
			t.Errorf("%q became %q: %v", s, out, err)
		}
		if bare := strings.ReplaceAll(out, "\r\n", ""); strings.ContainsAny(bare, "\r\n\x00") {
			t.Errorf("%q became %q", s, out)
		}
		if again.enh[0] != rep.code/100 {
			t.Errorf("%q: no enhanced code in %q", s, out)
		}
		for stage := stageGreeting; stage <= stageEnd; stage++ {
			if a := (&stageError{stage: stage, rep: rep}).answer(); a.code/100 < 4 && rep.code/100 >= 4 || a.code/100 == 3 || bytes.Count(a.wire(), []byte("\n")) > maxReplyLines {
				t.Errorf("%q at %s is answered %q", s, stage, a.wire())
			}
		}
	})
}

// FuzzPath parses paths. What is accepted can stand in a command, and is parsed to itself.
func FuzzPath(f *testing.F) {
	for _, s := range []string{"<a@b>", "<>", "<> BODY=7BIT", `<"a b\"@"@c> X`, "<@a,@b:c@d>", "a@b", "<a@b@c>", "<a@b\r\nDATA>", "<ä@b>", `<"@a>`, `<a"b"@c>`, "<@>"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		path, err := parsePath(s)
		if err != nil || path == "" {
			return
		}
		for _, c := range []byte(path) {
			if c < ' ' || c >= 0x7f {
				t.Errorf("%q: %q", s, path)
			}
		}
		again, err := parsePath("<" + path + "> BODY=8BITMIME")
		if err != nil || again != path {
			t.Errorf("%q: %q, then %q, %v", s, path, again, err)
		}
		if _, err := authz.ParseAddress(path); err == nil && strings.Count(path, "@") == 0 {
			t.Errorf("%q: %q", s, path)
		}
	})
}
