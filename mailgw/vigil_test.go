package mailgw

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/valise-mail/valise/authz"
)

const (
	rcptBob = "RCPT TO:<bob@example.net>"
	rcptEve = "RCPT TO:<eve@example.net>"
)

// TestS2_NextHopLost loses the next hop between RCPT and the message's end, in every way, and has it come back in every
// way: what the client is told, what was delivered to whom, and that nothing was delivered twice.
func TestS2_NextHopLost(t *testing.T) {
	t.Parallel()
	acts := func(kv ...string) hostOptions {
		o := hostOptions{acts: make(map[string]string), noopFrom: 2}
		for i := 0; i < len(kv); i += 2 {
			o.acts[kv[i]] = kv[i+1]
		}
		return o
	}
	fine := hostOptions{}
	noEve := func(answer string) hostOptions {
		return hostOptions{rcpt: map[string]string{"eve@example.net": answer}}
	}
	small := hostOptions{extensions: []string{"AUTH PLAIN"}}
	tests := []struct {
		name  string
		first hostOptions
		again []hostOptions
		until string // what the host hears before the rest of the message comes
		times int
		eight bool // the message needs 8BITMIME
		want  string
	}{
		{"hangs up after RCPT", acts("after RCPT", "drop"), []hostOptions{fine}, rcptEve, 1, false, "250"},
		{"hangs up at the first NOOP", acts("NOOP", "drop"), []hostOptions{fine}, rcptEve, 2, false, "250"},
		{"hangs up at every NOOP", acts("NOOP", "drop"), nil, rcptEve, 3, false, "250"},
		{"421 at NOOP", acts("NOOP", "421 4.3.2 going down"), []hostOptions{fine}, rcptEve, 2, false, "250"},
		{"does not know NOOP", acts("NOOP", "500 5.5.2 what?"), nil, "NOOP", 2, false, "250"},
		{"no greeting at first", acts("NOOP", "drop"), []hostOptions{acts("greeting", "drop"), acts("greeting", "554 busy"), fine}, rcptEve, 2, false, "250"},
		{"lost again at RCPT", acts("NOOP", "drop"), []hostOptions{noEve("421 4.3.2 going down"), fine}, rcptEve, 3, false, "250"},

		{"a recipient is refused now", acts("NOOP", "drop"), []hostOptions{noEve("550 5.1.1 nobody"), fine}, rcptEve, 2, false, "550 5.1.1 nobody"},
		{"a recipient is refused for a while", acts("NOOP", "drop"), []hostOptions{noEve("450 4.2.0 greylisted"), fine}, rcptEve, 2, false, "450 4.2.0 greylisted"},
		{"MAIL is refused now", acts("NOOP", "drop"), []hostOptions{acts("MAIL", "550 5.7.1 not you"), fine}, "MAIL FROM:<ann@example.org>", 2, false, "550 5.7.1 not you"},
		{"MAIL is refused for a while", acts("NOOP", "drop"), []hostOptions{acts("MAIL", "452 4.3.1 disk full"), fine}, "MAIL FROM:<ann@example.org>", 2, false, "452 4.3.1 disk full"},
		{"MAIL wants a login", acts("NOOP", "drop"), []hostOptions{acts("MAIL", "530 5.7.0 log in"), fine}, "MAIL FROM:<ann@example.org>", 2, false, "451 4.7.0"},
		{"the login is refused now", acts("NOOP", "drop"), []hostOptions{acts("AUTH", "535 5.7.8 go away"), fine}, "AUTH PLAIN " + plain("upstream", "secret"), 2, false, "451 4.7.0"},
		{"never comes back", acts("NOOP", "vanish"), nil, "vanished", 1, false, "451 4.4.1"},
		{"never opens again", acts("NOOP", "drop"), []hostOptions{acts("EHLO", "drop")}, "EHLO gw.example.org", 3, false, "451 4.4.2"},

		{"8BITMIME is gone, and needed", acts("NOOP", "drop"), []hostOptions{small}, rcptEve, 2, true, "554 5.6.3"},
		{"8BITMIME is gone, and not needed", acts("NOOP", "drop"), []hostOptions{small}, rcptEve, 2, false, "250"},
		{"AUTH is gone", acts("NOOP", "drop"), []hostOptions{{extensions: []string{"8BITMIME"}}}, "EHLO gw.example.org", 2, false, "451 4.7.0"},
	}
	for _, tt := range tests {
		for _, chunks := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, BDAT %v", tt.name, chunks), func(t *testing.T) {
				t.Parallel()
				o := tt.first
				o.again = tt.again
				h := newHost(t, o)
				v := newVillage(h)
				c := dial(t, start(t, v, func(c *Config) { c.Timeouts.Awake = 50 * time.Millisecond })).login().envelope()
				c.must("250", rcptEve)
				msg := letter(300 << 10)
				if tt.eight {
					msg = strings.Replace(msg, "the report", "the r\xe9port", 1)
				}
				got := c.halting(msg, chunks, func() { h.hears(tt.until, tt.times) })
				if !strings.HasPrefix(got, tt.want) {
					t.Errorf("answer %q, want %s", got, tt.want)
				}
				once(t, h, v, tt.want == "250")
				c.must("250", "RSET") // the session goes on
				c.must("221", "QUIT")
			})
		}
	}
}

// halting sends a message and pauses in its middle.
func (c *client) halting(msg string, chunks bool, pause func()) string {
	c.t.Helper()
	half := len(msg) / 2
	if chunks {
		c.send(fmt.Sprintf("BDAT %d\r\n%s", half, msg[:half]))
		if got := c.answer(); !strings.HasPrefix(got, "250") {
			return got // on a slow machine the next hop was lost, and refused, before
		}
		pause()
		return c.bdat(msg[half:])
	}
	c.must("354", "DATA")
	c.send(msg[:half])
	pause()
	c.send(msg[half:] + ".\r\n")
	return c.answer()
}

// once checks that a message went to both recipients, once, and is granted; or that nothing was sent and no grant is left.
func once(t *testing.T, h *host, v *village, sent bool) {
	t.Helper()
	grants, _ := v.state()
	m := h.mails()
	if !sent {
		if len(m) != 0 || grants != 0 {
			t.Errorf("%d messages delivered, %d grants, want none", len(m), grants)
		}
		return
	}
	if len(m) != 1 || grants != 1 || fmt.Sprint(m[0].to) != "[bob@example.net eve@example.net]" || m[0].from != "<ann@example.org>" {
		t.Errorf("%d grants, delivered %.200q", grants, m)
	}
}

// TestS2_LostAtTheDot loses the next hop when the client's final dot has come and DATA was not sent yet, or was sent and
// not answered; and after its 354, from where on there is no second try.
func TestS2_LostAtTheDot(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		acts     map[string]string
		hangUp   bool // in Grant
		again    hostOptions
		want     string
		meetings int
		undone   bool
	}{
		{"before DATA", nil, true, hostOptions{}, "250", 2, false},
		{"before DATA, and a recipient is refused", nil, true, hostOptions{rcpt: map[string]string{"bob@example.net": "550 5.1.1 nobody"}}, "550 5.1.1 nobody", 2, true},
		{"before DATA, and it does not come back", nil, true, hostOptions{acts: map[string]string{"greeting": "drop"}}, "451 4.4.2", 2, true},
		{"before DATA, and again at DATA", nil, true, hostOptions{acts: map[string]string{"DATA": "drop"}}, "451 4.4.2", 2, true},
		{"closes at DATA", map[string]string{"DATA": "drop"}, false, hostOptions{}, "250", 2, false},
		{"421 at DATA", map[string]string{"DATA": "421 4.4.2 timeout"}, false, hostOptions{}, "250", 2, false},
		{"refuses DATA", map[string]string{"DATA": "554 5.7.1 no"}, false, hostOptions{}, "554 5.7.1 no", 1, true},
		{"goes after 354", map[string]string{"body": "drop"}, false, hostOptions{}, "451 4.4.2", 1, true},
		{"goes after the dot", map[string]string{"end": "drop"}, false, hostOptions{}, "451 4.4.2", 1, false},
		{"421 after the dot", map[string]string{"end": "421 4.3.2 later"}, false, hostOptions{}, "451 4.4.2", 1, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, hostOptions{acts: tt.acts, again: []hostOptions{tt.again}})
			v := newVillage(h)
			if tt.hangUp {
				v.granting = h.hangUp
			}
			c := dial(t, start(t, v, func(c *Config) { c.Dial = dialSmall })).login().envelope()
			c.must("250", rcptEve)
			msg := letter(300 << 10)
			if tt.acts["body"] != "" { // more than sockets hold
				msg = strings.Replace(msg, "See the report.\r\n", strings.Repeat(strings.Repeat("See the report. ", 60)+"\r\n", 1<<12), 1)
			}
			if got := c.data(msg); !strings.HasPrefix(got, tt.want) {
				t.Errorf("answer %q, want %s", got, tt.want)
			}
			if _, undone := v.state(); undone > 0 != tt.undone || h.meetings() != tt.meetings {
				t.Errorf("undone %d, want %v; %d connections, want %d", undone, tt.undone, h.meetings(), tt.meetings)
			}
			once(t, h, v, !tt.undone)
		})
	}
}

// A new connection is encrypted as the first was, or there is none.
func TestS2_TLSGone(t *testing.T) {
	t.Parallel()
	cert, pool := testCA(t, "host.example.net")
	h := newHost(t, hostOptions{tls: cert, startTLS: true, acts: map[string]string{"NOOP": "drop"}, again: []hostOptions{{}}})
	v := newVillage(h)
	v.hop.TLS, v.hop.Host, v.hop.RootCAs = authz.StartTLS, "host.example.net", pool
	c := dial(t, start(t, v, func(c *Config) { c.Timeouts.Awake = 50 * time.Millisecond })).login().envelope()
	before := strings.Count(h.saw(), "AUTH")
	if got := c.halting(letter(300<<10), false, func() { h.hears("EHLO gw.example.org", 3) }); !strings.HasPrefix(got, "451 4.7.0") {
		t.Errorf("answer %q", got)
	}
	if n := strings.Count(h.saw(), "AUTH"); n != before {
		t.Errorf("the password was sent in the clear: %s", h.saw())
	}
	once(t, h, v, false)
}

// A recipient that the next hop refuses while it is lost and found is not the one the client is asking about.
func TestS2_RefusedAtAnotherRecipient(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{acts: map[string]string{"after RCPT": "drop"}, again: []hostOptions{{rcpt: map[string]string{"bob@example.net": "550 5.1.1 nobody"}}}})
	v := newVillage(h)
	c := dial(t, start(t, v, nil)).login().envelope()
	c.must("451 4.4.2", rcptEve)
	c.must("451 4.4.2", rcptEve)
	if got := c.data(letter(300 << 10)); got != "550 5.1.1 nobody" {
		t.Errorf("answer %q", got)
	}
	if v.stored() > 0 {
		t.Errorf("%d bytes were stored for a message that cannot be sent", v.stored())
	}
	once(t, h, v, false)
}

// onPipes runs a host and a gateway over pipes, for synctest, and returns a client of it.
func onPipes(t *testing.T, o hostOptions, change func(*Config)) (*client, *host, *village) {
	l := newHandoff()
	h := hostOn(t, l, o)
	h.wg.Go(func() {
		for c, err := l.Accept(); err == nil; c, err = l.Accept() {
			h.wg.Go(func() { h.serve(c) })
		}
	})
	v := newVillage(h)
	v.hop.Addr = "host.example.net:25"
	door := newHandoff()
	startOn(t, v, door, func(c *Config) {
		c.Logger = nil
		c.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			select {
			case l.c <- theirs:
				return addressed{ours}, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		change(c)
	})
	t.Cleanup(func() {
		l.Close()
		door.Close()
	})
	ours, theirs := net.Pipe()
	door.c <- addressed{theirs}
	c := converse(t, ours)
	c.SetDeadline(time.Time{})
	return c, h, v
}

// While a client takes half an hour for its message, its next hop hears NOOP each minute; and no more once the message
// is there.
func TestS2_NoopEachMinute(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, h, _ := onPipes(t, hostOptions{}, func(*Config) {})
		c.login()
		c.must("250", "MAIL FROM:<ann@example.org>")
		time.Sleep(3*time.Minute + time.Second)
		if n := strings.Count(h.saw(), "NOOP"); n != 0 {
			t.Errorf("%d NOOPs before RCPT", n)
		}
		c.must("250", rcptBob)
		time.Sleep(4*time.Minute + time.Second)
		c.must("250", rcptEve)
		if n := strings.Count(h.saw(), "NOOP"); n != 4 {
			t.Errorf("%d NOOPs in 4 minutes between recipients", n)
		}
		c.must("354", "DATA")
		for line := range strings.Lines(simple) {
			time.Sleep(4 * time.Minute)
			c.send(stuff(line))
		}
		want := 4 + 4*strings.Count(simple, "\n")
		if n := strings.Count(h.saw(), "NOOP"); n != want {
			t.Errorf("%d NOOPs until the final dot, want %d", n, want)
		}
		c.send(".\r\n")
		if got := c.answer(); !strings.HasPrefix(got, "250") {
			t.Errorf("answer %q", got)
		}
		time.Sleep(4 * time.Minute)
		if n := strings.Count(h.saw(), "NOOP"); n != want || h.meetings() != 1 {
			t.Errorf("%d NOOPs in all, want %d; %d connections", n, want, h.meetings())
		}
		c.must("221", "QUIT")
	})
}

// A next hop that does not answer NOOP within a minute is lost, and opened again.
func TestS2_SilentAtNoop(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, h, v := onPipes(t, hostOptions{acts: map[string]string{"NOOP": "hang"}, again: []hostOptions{{}}}, func(*Config) {})
		c.login().envelope()
		c.must("250", rcptEve)
		before := time.Now()
		got := c.halting(letter(300<<10), false, func() { h.hears(rcptEve, 2) })
		if took := time.Since(before); !strings.HasPrefix(got, "250") || took != 2*time.Minute {
			t.Errorf("answer %q after %v, want 250 after 2 minutes", got, took)
		}
		once(t, h, v, true)
		c.must("221", "QUIT")
	})
}

// The wait for copies and ledger is a time in which a next hop may fall asleep, too.
func TestS2_NoopDuringGrant(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, h, v := onPipes(t, hostOptions{}, func(c *Config) { c.Timeouts.Copies = time.Hour })
		v.granting = func() { time.Sleep(5*time.Minute + time.Second) }
		c.login().envelope()
		if got := c.data(letter(300 << 10)); !strings.HasPrefix(got, "250") {
			t.Errorf("answer %q", got)
		}
		if n := strings.Count(h.saw(), "NOOP"); n != 5 {
			t.Errorf("%d NOOPs in 5 minutes", n)
		}
		c.must("221", "QUIT")
	})
}

// However the next hop is lost after the client's dot, and whatever it takes to come back, the answer is there in time.
func TestS2_AnswerInTime(t *testing.T) {
	t.Parallel()
	for stage, want := range map[string]string{"DATA": "451 4.4.2", "greeting": "451 4.4.2", "RCPT": "451 4.4.2", "end": "451 4.4.2"} {
		t.Run(stage, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				o := hostOptions{acts: map[string]string{"DATA": "hang"}, again: []hostOptions{{acts: map[string]string{stage: "hang"}}}}
				c, h, v := onPipes(t, o, func(c *Config) { c.Timeouts.Answer = 5 * time.Minute })
				c.login().envelope()
				c.must("354", "DATA")
				c.send(stuff(letter(300 << 10)))
				dot := time.Now()
				c.send(".\r\n")
				if got := c.answer(); !strings.HasPrefix(got, want) {
					t.Errorf("answer %q", got)
				}
				if took := time.Since(dot); took != 5*time.Minute || h.meetings() != 2 {
					t.Errorf("after %v, with %d connections", took, h.meetings())
				}
				if grants, _ := v.state(); (grants == 1) != (stage == "end") || len(h.mails()) != grants {
					t.Errorf("%d grants, %d messages", grants, len(h.mails()))
				}
				c.must("221", "QUIT")
				io.Copy(io.Discard, c)
			})
		})
	}
}
