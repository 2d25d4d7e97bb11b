package mailgw

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestS1_S3_S4_Outcomes walks what a next hop may do at each stage, with an attachment taken: what the client is told,
// whether the grant is there afterwards, and how many copies of the message were delivered.
func TestS1_S3_S4_Outcomes(t *testing.T) {
	t.Parallel()
	const lost, login, strange = "451 4.4.2", "451 4.7.0", "451 4.3.5"
	tests := []struct {
		stage, act string
		at         string // the client's command that fails: MAIL, RCPT or the message
		want       string // how the answer begins
		grants     int
		undone     bool // Undo was called
		delivered  int
	}{
		{"", "", "message", "250 2.0.0 queued as ABC123", 1, false, 1},

		{"greeting", "drop", "MAIL", lost, 0, false, 0},
		{"greeting", "421 4.3.2 later", "MAIL", lost, 0, false, 0},
		{"greeting", "554 no mail here", "MAIL", lost, 0, false, 0},
		{"greeting", "nonsense", "MAIL", lost, 0, false, 0},
		{"EHLO", "drop", "MAIL", lost, 0, false, 0},
		{"EHLO", "421 later", "MAIL", lost, 0, false, 0},
		{"EHLO", "451 4.3.0 later", "MAIL", strange, 0, false, 0},
		{"AUTH", "535 5.7.8 wrong", "MAIL", login, 0, false, 0},
		{"AUTH", "454 4.7.0 later", "MAIL", login, 0, false, 0},
		{"AUTH", "534 5.7.9 weak", "MAIL", login, 0, false, 0},
		{"AUTH", "504 5.5.4 unknown mechanism", "MAIL", login, 0, false, 0},
		{"AUTH", "421 4.3.2 later", "MAIL", lost, 0, false, 0},
		{"AUTH", "drop", "MAIL", lost, 0, false, 0},

		{"MAIL", "drop", "MAIL", lost, 0, false, 0},
		{"MAIL", "421 4.3.2 later", "MAIL", lost, 0, false, 0},
		{"MAIL", "550 5.7.1 not you", "MAIL", "550 5.7.1 not you", 0, false, 0},
		{"MAIL", "530 5.7.0 log in", "MAIL", login, 0, false, 0},
		{"MAIL", "452 4.3.1 disk full", "MAIL", "452 4.3.1 disk full", 0, false, 0},
		{"MAIL", "501 5.1.7 bad address", "MAIL", "501 5.1.7 bad address", 0, false, 0},
		{"MAIL", "501 5.5.4 bad arguments", "MAIL", strange, 0, false, 0},
		{"MAIL", "354 what", "MAIL", strange, 0, false, 0},

		{"RCPT", "drop", "RCPT", lost, 0, false, 0},
		{"RCPT", "421 4.3.2 later", "RCPT", lost, 0, false, 0},
		{"RCPT", "550 5.1.1 nobody", "RCPT", "550 5.1.1 nobody", 0, false, 0},
		{"RCPT", "550-5.1.1 nobody\n550 5.1.1 here", "RCPT", "550-5.1.1 nobody\n550 5.1.1 here", 0, false, 0},
		{"RCPT", "450 4.2.0 greylisted", "RCPT", "450 4.2.0 greylisted", 0, false, 0},
		{"RCPT", "550 without an enhanced code", "RCPT", "550 5.0.0 without an enhanced code", 0, false, 0},
		{"RCPT", "503 5.5.1 MAIL first", "RCPT", strange, 0, false, 0},
		{"RCPT", "501 5.1.3 not an address", "RCPT", "501 5.1.3 not an address", 0, false, 0},
		{"RCPT", "538 5.7.11 encrypt", "RCPT", login, 0, false, 0},

		{"DATA", "drop", "message", lost, 0, true, 0},
		{"DATA", "421 4.3.2 later", "message", lost, 0, true, 0},
		{"DATA", "503 5.5.1 RCPT first", "message", strange, 0, true, 0},
		{"DATA", "554 5.7.1 no", "message", "554 5.7.1 no", 0, true, 0},
		{"DATA", "250 what", "message", strange, 0, true, 0},

		{"body", "drop", "message", lost, 0, true, 0},
		{"body", "552 5.3.4 too large", "message", "552 5.3.4 too large", 0, true, 0},

		{"end", "drop", "message", lost, 1, false, 1},
		{"end", "nonsense", "message", lost, 1, false, 1},
		{"end", "354 what", "message", lost, 1, false, 1},
		{"end", "421 4.3.2 later", "message", lost, 0, true, 0},
		{"end", "500 5.5.2 what", "message", strange, 0, true, 0},
		{"end", "550 5.7.1 spam", "message", "550 5.7.1 spam", 0, true, 0},
		{"end", "452 4.2.2 quota", "message", "452 4.2.2 quota", 0, true, 0},
		{"end", "535 5.7.8 log in", "message", login, 0, true, 0},
		{"end", "554-5.6.0 no\n554 5.6.0 never", "message", "554-5.6.0 no\n554 5.6.0 never", 0, true, 0},
		{"end", "251 2.1.5 forwarded", "message", "251 2.1.5 forwarded", 1, false, 1},
	}
	for _, tt := range tests {
		t.Run(tt.stage+" "+tt.act, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, hostOptions{acts: map[string]string{tt.stage: tt.act}})
			v := newVillage(h)
			c := dial(t, start(t, v, func(c *Config) { c.Dial = dialSmall })).login()
			msg := letter(300 << 10)
			if tt.stage == "body" { // more than sockets hold, so that the loss is seen before the final dot
				msg = strings.Replace(msg, "See the report.\r\n", strings.Repeat(strings.Repeat("See the report. ", 60)+"\r\n", 1<<12), 1)
			}
			got, at := converseTo(c, msg)
			if at != tt.at || !strings.HasPrefix(got, tt.want) {
				t.Errorf("answer to %s: %q, want to %s: %s", at, got, tt.at, tt.want)
			}
			c.must("250", "RSET") // the session goes on, whatever happened
			c.must("221", "QUIT")
			grants, undone := v.state()
			if grants != tt.grants || undone > 0 != tt.undone {
				t.Errorf("%d grants, %d undone, want %d, %v", grants, undone, tt.grants, tt.undone)
			}
			if n := len(h.mails()); n != tt.delivered {
				t.Errorf("%d messages delivered, want %d", n, tt.delivered)
			}
		})
	}
}

// A next hop that closes with 421 at a recipient is asked again once; then the client hears 451, each time, and keeps its
// own session. Who was accepted before gets the message all the same (S2, S3).
func TestS2_S3_ClosedAfterRecipient(t *testing.T) {
	t.Parallel()
	for _, data := range []func(*client, string) string{(*client).data, (*client).bdat} {
		h := newHost(t, hostOptions{rcpt: map[string]string{"late@example.net": "421 4.3.2 closing down"}})
		c := dial(t, start(t, newVillage(h), nil)).login().envelope()
		c.must("451 4.4.2", "RCPT TO:<late@example.net>")
		c.must("451 4.4.2", "RCPT TO:<eve@example.net>")
		if n := h.meetings(); n != 2 {
			t.Errorf("%d connections, want 2", n)
		}
		if got := data(c, simple); !strings.HasPrefix(got, "250") {
			t.Errorf("answer %q", got)
		}
		if m := h.mails(); len(m) != 1 || fmt.Sprint(m[0].to) != "[bob@example.net]" {
			t.Errorf("delivered %v", m)
		}
		c.must("221", "QUIT")
	}
}

// dialSmall dials with a small buffer behind the connection.
func dialSmall(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err == nil {
		c.(*net.TCPConn).SetWriteBuffer(8 << 10)
	}
	return c, err
}

// converseTo sends a message as far as it goes and returns the answer it ended with, and to what that was.
func converseTo(c *client, msg string) (answer, at string) {
	if a := c.say("MAIL FROM:<ann@example.org>"); a[0] != '2' {
		return a, "MAIL"
	}
	if a := c.say("RCPT TO:<bob@example.net>"); a[0] != '2' {
		return a, "RCPT"
	}
	return c.data(msg), "message"
}

// TestS4_StoreOutcomes walks what the store and the ledger may do.
func TestS4_StoreOutcomes(t *testing.T) {
	t.Parallel()
	tests := []struct {
		at     string
		err    error
		want   string
		undone bool
	}{
		{"Put", ErrNotDurable, "451 4.3.0", false},
		{"Put at its end", ErrNotDurable, "451 4.3.0", false},
		{"Put", ErrNoSpace, "452 4.3.1", false},
		{"Put", ErrQuota, "452 4.2.2", false},
		{"Put", ErrDenied, "550 5.7.1", false},
		{"Put", errors.New("some mishap"), "451 4.3.0", false},
		{"Put", net.ErrClosed, "451 4.3.0", false},
		{"Put", os.ErrDeadlineExceeded, "451 4.3.0", false},
		{"Grant", ErrNoQuorum, "451 4.3.0", true},
		{"Grant", ErrQuota, "452 4.2.2", true},
		{"Grant after it happened", errors.New("outcome unknown"), "451 4.3.0", true},
		{"Upstream", ErrTryLater, "451 4.3.0", false},
		{"Upstream", ErrNotYours, "553 5.7.1", false},
		{"Upstream", ErrDenied, "550 5.7.1", false},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprint(tt.at, " ", tt.err), func(t *testing.T) {
			t.Parallel()
			h := newHost(t, hostOptions{})
			v := newVillage(h)
			v.failAt, v.fail = tt.at, tt.err
			c := dial(t, start(t, v, nil)).login()
			if got, at := converseTo(c, letter(300<<10)); !strings.HasPrefix(got, tt.want) {
				t.Errorf("answer to %s: %q, want %s", at, got, tt.want)
			}
			grants, undone := v.state()
			if grants != 0 || undone > 0 != tt.undone {
				t.Errorf("%d grants, %d undone, want none and undone %v", grants, undone, tt.undone)
			}
			if n := len(h.mails()); n != 0 {
				t.Errorf("%d messages delivered", n)
			}
			// The node goes on.
			v.mu.Lock()
			v.failAt = ""
			v.mu.Unlock()
			if got, at := converseTo(c, letter(300<<10)); !strings.HasPrefix(got, "250 ") {
				t.Errorf("afterwards, answer to %s: %q", at, got)
			}
		})
	}
}

// A failing Undo changes neither the answer nor the session.
func TestS1_UndoFails(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{acts: map[string]string{"end": "550 5.7.1 spam"}})
	v := newVillage(h)
	v.failAt, v.fail = "Undo", ErrNoQuorum
	c := dial(t, start(t, v, nil)).login()
	if got, _ := converseTo(c, letter(300<<10)); got != "550 5.7.1 spam" {
		t.Errorf("answer %q", got)
	}
	c.must("221", "QUIT")
}

// TestS2_CopiesLate has a store that never comes back: after the final dot it gets its time, and nothing is sent.
func TestS2_CopiesLate(t *testing.T) {
	t.Parallel()
	for _, where := range []string{"Put", "Grant"} {
		t.Run(where, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, hostOptions{})
			v := newVillage(h)
			v.hang = where
			c := dial(t, start(t, v, func(c *Config) { c.Timeouts.Copies = 20 * time.Millisecond })).login()
			got, _ := converseTo(c, letter(300<<10))
			if !strings.HasPrefix(got, "451 4.3.0 attachments could not be stored in time") {
				t.Errorf("answer %q", got)
			}
			if grants, _ := v.state(); grants != 0 || len(h.mails()) != 0 || strings.Contains(h.saw(), "DATA") {
				t.Errorf("%d grants, %d messages, dialogue %s", grants, len(h.mails()), h.saw())
			}
		})
	}
}

// A ripe connection lets a test end the wait for a next hop's answer, and tells what that wait was to be.
type ripe struct {
	net.Conn
	deadline chan time.Time
}

func (r *ripe) SetDeadline(at time.Time) error {
	select {
	case r.deadline <- at:
	default:
		<-r.deadline
		r.deadline <- at
	}
	return r.Conn.SetDeadline(at)
}

// TestS1_S2_HangAfterDot has a next hop that takes the message and says nothing: the grant stays, the answer is 451,
// after 9 min 30 s counted from the client's final dot.
func TestS1_S2_HangAfterDot(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{acts: map[string]string{"end": "hang"}})
	v := newVillage(h)
	var conn *ripe
	c := dial(t, start(t, v, func(c *Config) {
		c.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			n, err := new(net.Dialer).DialContext(ctx, network, addr)
			conn = &ripe{n, make(chan time.Time, 1)}
			return conn, err
		}
	})).login().envelope()
	before := time.Now()
	c.must("354", "DATA")
	c.send(stuff(letter(300<<10)) + ".\r\n")
	<-h.dotted
	waits := (<-conn.deadline).Sub(before)
	if want := 9*time.Minute + 30*time.Second; waits < want || waits > want+time.Minute {
		t.Errorf("waits %v from the dot, want %v", waits, want)
	}
	conn.Conn.SetDeadline(time.Unix(1, 0))
	if got := c.answer(); !strings.HasPrefix(got, "451 4.4.2") || !strings.HasSuffix(got, "it may have been sent") {
		t.Errorf("answer %q", got)
	}
	if grants, undone := v.state(); grants != 1 || undone != 0 || len(h.mails()) != 1 {
		t.Errorf("%d grants, %d undone, %d messages", grants, undone, len(h.mails()))
	}
}

// A client that goes away after its final dot changes nothing: the message goes out, and its grant stays.
func TestS1_ClientGoneAfterDot(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{})
	v := newVillage(h)
	c := dial(t, start(t, v, nil)).login().envelope()
	c.must("354", "DATA")
	c.send(stuff(letter(300<<10)) + ".\r\n")
	c.Close()
	for !strings.Contains(h.saw(), "QUIT") { // then the gateway is done with the message
		runtime.Gosched()
	}
	if grants, _ := v.state(); grants != 1 || len(h.mails()) != 1 {
		t.Errorf("%d grants, %d messages", grants, len(h.mails()))
	}
}

// A broken promise in one session is that session's 451, at every place where others' code is called.
func TestPanicIsOneSessions(t *testing.T) {
	t.Parallel()
	for _, where := range []string{"Authenticate", "Upstream", "Put", "Grant", "Grant after it happened"} {
		t.Run(where, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, hostOptions{})
			v := newVillage(h)
			addr := start(t, v, nil)
			other := dial(t, addr).login().envelope()
			c := dial(t, addr)
			c.answer()
			c.must("250", "EHLO client.example.org")
			v.mu.Lock()
			v.panicAt = where
			v.mu.Unlock()
			got := c.say("AUTH PLAIN %s", plain("ann@example.org", "tuesday"))
			if where != "Authenticate" {
				got, _ = converseTo(c, letter(300<<10))
			}
			if !strings.HasPrefix(got, "451 4.3.0") {
				t.Errorf("answer %q", got)
			}
			v.mu.Lock()
			v.panicAt = ""
			v.mu.Unlock()
			if grants, _ := v.state(); grants != 0 {
				t.Errorf("%d grants", grants)
			}
			if got := other.data(letter(300 << 10)); !strings.HasPrefix(got, "250") {
				t.Errorf("the other session: %q", got)
			}
		})
	}
}
