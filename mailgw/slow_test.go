package mailgw

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
)

// What a client takes for its message is not the store's time; what the store takes for a piece of it is (S2).
func TestS2_PatienceIsForTheStore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		client := slowly{iotest.OneByteReader(strings.NewReader("a\r\n.\r\n")), 4 * time.Minute}
		p := newPatience(t.Context(), &Timeouts{Copies: 30 * time.Second})
		defer p.stop()
		a := arrival{newBody(client, false), p}
		buf := make([]byte, 10)
		for err := error(nil); err != io.EOF; {
			if _, err = a.Read(buf); err != nil && err != io.EOF {
				t.Fatal(err)
			}
			time.Sleep(29 * time.Second)
		}
		if err := p.ctx.Err(); err != nil || time.Since(p.dot) != 29*time.Second {
			t.Errorf("ended %v after the dot by %v", time.Since(p.dot), context.Cause(p.ctx))
		}
		time.Sleep(2 * time.Second)
		if err := p.stop(); !errors.Is(err, errCopiesLate) {
			t.Errorf("31 s after the dot: %v, want %v", err, errCopiesLate)
		}
	})
}

// A slowly reader pauses before each read.
type slowly struct {
	r     io.Reader
	pause time.Duration
}

func (s slowly) Read(p []byte) (int, error) {
	time.Sleep(s.pause)
	return s.r.Read(p)
}

// A client that says nothing is told so and left.
func TestSlow_Silence(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{})
	v := newVillage(h)
	addr := start(t, v, func(c *Config) { c.Timeouts.Idle = 100 * time.Millisecond })
	login := "AUTH PLAIN " + plain("ann@example.org", "tuesday") + "\r\nMAIL FROM:<ann@example.org>\r\nRCPT TO:<bob@example.net>\r\n"
	silent := dial(t, addr)
	silent.answer()
	if got := silent.answer(); !strings.HasPrefix(got, "421 4.4.2") {
		t.Errorf("in commands: %q", got)
	}
	silent.gone()
	for where, start := range map[string]string{"in AUTH": "AUTH LOGIN\r\n", "in DATA": login + "DATA\r\nFrom: ", "in BDAT": login + "BDAT 1000 LAST\r\nFrom: "} {
		c := dial(t, addr)
		// All in one go: this machine may be slower than the patience asked for.
		c.send("EHLO client.example.org\r\n" + start)
		var last string
		for {
			a, err := c.tryAnswer()
			if err != nil {
				break
			}
			last = a
		}
		if !strings.HasPrefix(last, "421 4.4.2") {
			t.Errorf("%s: %q", where, last)
		}
	}
	if grants, _ := v.state(); grants != 0 || len(h.mails()) != 0 {
		t.Errorf("%d grants, %d messages", grants, len(h.mails()))
	}
}

// A stranger gets Timeouts.Stranger in all, however busy it is.
func TestSlow_Stranger(t *testing.T) {
	t.Parallel()
	c := dial(t, start(t, newVillage(newHost(t, hostOptions{})), func(c *Config) { c.Timeouts.Stranger = 100 * time.Millisecond }))
	c.answer()
	for {
		io.WriteString(c, "NOOP\r\n")
		got, err := c.tryAnswer()
		if err != nil {
			return
		}
		if !strings.HasPrefix(got, "250") {
			if !strings.HasPrefix(got, "421") {
				t.Errorf("answer %q", got)
			}
			return
		}
	}
}
