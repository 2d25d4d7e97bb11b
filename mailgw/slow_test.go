package mailgw

import (
	"io"
	"strings"
	"testing"
	"time"
)

// A client that says nothing is told so and left.
func TestSlow_Silence(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{})
	v := newVillage(h)
	addr := start(t, v, func(c *Config) { c.Timeouts.Idle = 100 * time.Millisecond })
	silent := dial(t, addr)
	silent.answer()
	if got := silent.answer(); !strings.HasPrefix(got, "421 4.4.2") {
		t.Errorf("in commands: %q", got)
	}
	silent.gone()
	asked := dial(t, addr)
	asked.send("EHLO client.example.org\r\nAUTH LOGIN\r\n")
	for _, want := range []string{"220", "250", "334", "421 4.4.2"} {
		if got := asked.answer(); !strings.HasPrefix(got, want) {
			t.Errorf("asked for a user: %q, want %s", got, want)
		}
	}
	asked.gone()
	for _, start := range []string{"DATA\r\nFrom: ", "BDAT 1000 LAST\r\nFrom: "} {
		c := dial(t, addr)
		// All in one go: this machine may be slower than the patience asked for.
		c.send("EHLO client.example.org\r\nAUTH PLAIN " + plain("ann@example.org", "tuesday") + "\r\nMAIL FROM:<ann@example.org>\r\nRCPT TO:<bob@example.net>\r\n" + start)
		var last string
		for {
			a, err := c.tryAnswer()
			if err != nil {
				break
			}
			last = a
		}
		if !strings.HasPrefix(last, "421 4.4.2") {
			t.Errorf("in a message: %q", last)
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
