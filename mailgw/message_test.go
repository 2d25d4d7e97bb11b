package mailgw

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/valise-mail/valise/mailgw/message"
)

// TestA3_AttachmentBecomesLink: the file's bytes are in the store, its name and link in the message, the rest as it was.
func TestA3_AttachmentBecomesLink(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"DATA", "BDAT"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, hostOptions{})
			v := newVillage(h)
			c := dial(t, start(t, v, nil)).login().envelope()
			send := c.data
			if how == "BDAT" {
				send = c.bdat
			}
			if got := send(letter(300 << 10)); got != "250 2.0.0 queued as ABC123" {
				t.Fatalf("answer %q", got)
			}
			want := sha256.Sum256([]byte(strings.Repeat("0123456789", 300<<10/10+1)[:300<<10]))
			if v.puts["report.pdf"] != want {
				t.Errorf("stored %d bytes that are others", v.sizes["report.pdf"])
			}
			for id, s := range v.grants {
				if s.From != "ann@example.org" || s.HeaderFrom != "ann@example.org" || s.MessageID != "2@example.org" || len(s.Recipients) != 1 || s.Recipients[0] != "bob@example.net" || s.Sender.Account != "ann" || s.ID != id || s.Date.IsZero() {
					t.Errorf("sending %+v", s)
				}
			}
			out := body1(t, undot(h.mails()[0].data))
			if len(out) > 4000 || !strings.Contains(out, "https://files.example.org/a/report.pdf") || !strings.Contains(out, "See the report.\r\n") || strings.Contains(out, "MDEyMzQ1") {
				t.Errorf("message out: %.3000q", out)
			}
		})
	}
}

// A part whose encoding is broken stays in the message, whatever the Publisher makes of its reader's error.
func TestM5_BrokenPartStays(t *testing.T) {
	t.Parallel()
	for name, publisher := range map[string]func(*village) Publisher{
		"passes it on": func(v *village) Publisher { return v },
		"hides it":     func(v *village) Publisher { return forgiving{v, nil} },
		"has another":  func(v *village) Publisher { return forgiving{v, ErrQuota} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, hostOptions{})
			v := newVillage(h)
			msg := letterHead + wrap64(300<<10) + "!!! this is no base64 !!!\r\n" + letterFoot
			c := dial(t, start(t, v, func(c *Config) { c.Publisher = publisher(v) })).login().envelope()
			if got := c.data(msg); !strings.HasPrefix(got, "250") {
				t.Fatalf("answer %q", got)
			}
			if grants, _ := v.state(); grants != 0 || body1(t, h.mails()[0].data) != stuff(msg) {
				t.Errorf("%d grants, out: %.500q", grants, h.mails()[0].data)
			}
		})
	}
}

// A forgiving Publisher answers with an error of its own, or none, whatever its reader's was.
type forgiving struct {
	*village
	err error
}

func (f forgiving) Put(_ context.Context, m Meta, r io.Reader) (Stored, error) {
	n, _ := io.Copy(io.Discard, r)
	return Stored{Name: m.Name, Size: n, ID: m.Name}, f.err
}

// TestA1_M4_Corpus sends real messages through, by DATA and BDAT, none of them large enough to be touched: what arrives
// at the next hop's socket is our Received line and the message in normal form.
func TestA1_M4_Corpus(t *testing.T) {
	t.Parallel()
	dir := os.Getenv("VALISE_MAIL_CORPUS")
	if dir == "" {
		if os.Getenv("CI") == "true" {
			t.Fatal("VALISE_MAIL_CORPUS is not set: it names a folder of real messages, which CI must have")
		}
		t.Skip("VALISE_MAIL_CORPUS is not set: it names a folder of real messages, on which this is tried")
	}
	h := newHost(t, hostOptions{})
	v := newVillage(h)
	v.any = true
	c := dial(t, start(t, v, nil)).login()
	tried := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".eml" && filepath.Ext(path) != ".txt" {
			return err
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		tried++
		normal, err := io.ReadAll(message.Normalise(strings.NewReader(string(raw))))
		if err != nil {
			return err
		}
		for how, send := range map[string]func() string{
			"DATA": func() string { return c.data(string(normal)) }, // what is no line cannot be stuffed
			"BDAT": func() string { return c.bdat(string(raw)) },
		} {
			c.envelope()
			if got := send(); got != "250 2.0.0 queued as ABC123" {
				t.Errorf("%s by %s: %q", path, how, got)
				continue
			}
			mails := h.mails()
			if got := body1(t, mails[len(mails)-1].data); got != stuff(string(normal)) {
				t.Errorf("%s by %s: got %.2000q, want %.2000q", path, how, got, stuff(string(normal)))
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if grants, _ := v.state(); tried < 84 || grants != 0 {
		t.Errorf("%d messages tried, %d grants", tried, grants)
	}
}

// TestManySessions has twenty programs send at the same time, some of them badly.
func TestManySessions(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{rcpt: map[string]string{"no@example.net": "550 5.1.1 nobody here"}})
	v := newVillage(h)
	addr := start(t, v, nil)
	var wg sync.WaitGroup
	for i := range 20 {
		c := dial(t, addr).login()
		wg.Go(func() {
			for n := range 3 {
				c.must("250", "MAIL FROM:<ann@example.org>")
				c.must("550", "RCPT TO:<no@example.net>")
				c.must("250", "RCPT TO:<bob%d@example.net>", i)
				msg := letter(260<<10 + i*1000 + n)
				if n == 1 {
					c.must("250", "BDAT 0")
					c.must("250", "RSET")
					continue
				}
				if got := c.data(msg); got != "250 2.0.0 queued as ABC123" {
					t.Errorf("answer %q", got)
				}
			}
			if i%4 == 0 { // and leaves without a word, in the middle
				c.envelope()
				c.send("BDAT 1000 LAST\r\nhalf")
				c.Close()
				return
			}
			c.must("221", "QUIT")
		})
	}
	wg.Wait()
	if grants, _ := v.state(); grants != 40 || len(h.mails()) != 40 {
		t.Errorf("%d grants, %d messages", grants, len(h.mails()))
	}
	for _, m := range h.mails() {
		if len(m.to) != 1 || !strings.HasPrefix(m.to[0], "bob") {
			t.Errorf("to %v", m.to)
		}
	}
}

// TestServe_Drain ends a gateway with one session waiting for a command, one in a message, and one between two of its
// chunks.
func TestServe_Drain(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{})
	v := newVillage(h)
	g, err := New(Config{Hostname: "gw.example.org", Publisher: v, Directory: v, Threshold: 256 << 10, Timeouts: Timeouts{Drain: time.Minute}})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- g.Serve(ctx, l) }()
	idle := dial(t, l.Addr().String()).login()
	busy := dial(t, l.Addr().String()).login().envelope()
	busy.must("354", "DATA")
	chunked := dial(t, l.Addr().String()).login().envelope()
	chunked.must("250 2.0.0 chunk", "BDAT 0")
	cancel()
	if got := idle.answer(); !strings.HasPrefix(got, "421 4.3.2") {
		t.Errorf("waiting for a command: %q", got)
	}
	idle.gone()
	busy.send(stuff(simple) + ".\r\n")
	if got := busy.answer(); got != "250 2.0.0 queued as ABC123" {
		t.Errorf("in a message: %q", got)
	}
	if got := busy.answer(); !strings.HasPrefix(got, "421 4.3.2") {
		t.Errorf("after it: %q", got)
	}
	if got := chunked.bdat(simple); got != "250 2.0.0 queued as ABC123" {
		t.Errorf("between two chunks of a message: %q", got)
	}
	if got := chunked.answer(); !strings.HasPrefix(got, "421 4.3.2") {
		t.Errorf("after them: %q", got)
	}
	if err := <-done; err != nil {
		t.Errorf("Serve: %v", err)
	}
	if _, err := net.Dial("tcp", l.Addr().String()); err == nil {
		t.Error("it still listens")
	}
}

// A session that does not end is cut, and what it granted is taken back.
func TestServe_Cut(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{acts: map[string]string{"DATA": "hang"}})
	v := newVillage(h)
	g, err := New(Config{Hostname: "gw.example.org", Publisher: v, Directory: v, Threshold: 256 << 10, Timeouts: Timeouts{Drain: time.Millisecond}})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- g.Serve(ctx, l) }()
	dial(t, l.Addr().String()).login().envelope().must("354", "DATA")
	c := dial(t, l.Addr().String()).login().envelope()
	c.must("354", "DATA")
	c.send(stuff(letter(1<<20)) + ".\r\n")
	for !strings.Contains(h.saw(), "DATA") {
		runtime.Gosched()
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Serve: %v", err)
	}
	if grants, undone := v.state(); grants != 0 || undone != 1 || len(h.mails()) != 0 {
		t.Errorf("%d grants, %d undone, %d messages", grants, undone, len(h.mails()))
	}
}

func TestServe_ListenerFails(t *testing.T) {
	t.Parallel()
	v := newVillage(newHost(t, hostOptions{}))
	g, err := New(Config{Hostname: "gw.example.org", Publisher: v, Directory: v, Threshold: 256 << 10})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := g.Serve(t.Context(), l); err == nil {
		t.Error("no error")
	}
}

func TestConfigValidate(t *testing.T) {
	t.Parallel()
	v := newVillage(newHost(t, hostOptions{}))
	good := Config{Hostname: "gw.example.org", Publisher: v, Directory: v, Threshold: 256 << 10}
	for name, change := range map[string]func(*Config){
		"Hostname":        func(c *Config) { c.Hostname = "two words" },
		"Publisher":       func(c *Config) { c.Publisher = nil },
		"Directory":       func(c *Config) { c.Directory = nil },
		"MaxMessageBytes": func(c *Config) { c.MaxMessageBytes = -1 },
	} {
		c := good
		change(&c)
		if _, err := New(c); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := New(good); err != nil {
		t.Error(err)
	}
}

// heap watches how much of the heap is in use while f runs, and returns the most above what was there before.
func heap(f func()) uint64 {
	var before runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var most atomic.Uint64
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			var now runtime.MemStats
			runtime.ReadMemStats(&now)
			if now.HeapInuse > before.HeapInuse {
				most.Store(max(most.Load(), now.HeapInuse-before.HeapInuse))
			}
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	}()
	f()
	close(stop)
	<-stopped
	return most.Load()
}

// discardVillage keeps nothing of what is put.
type discardVillage struct{ *village }

func (discardVillage) Put(_ context.Context, m Meta, r io.Reader) (Stored, error) {
	n, err := io.Copy(io.Discard, r)
	return Stored{Name: m.Name, Size: n, ID: m.Name}, err
}

// sendLarge sends a message with an attachment of size bytes, in pieces, by DATA or BDAT.
func sendLarge(c *client, size int, how string) string {
	piece := wrap64(57 << 14)
	n := size / (57 << 14)
	c.envelope()
	if how == "DATA" {
		c.must("354", "DATA")
		c.send(letterHead)
		for range n {
			c.send(piece)
		}
		c.send(letterFoot + ".\r\n")
		return c.answer()
	}
	c.send(fmt.Sprintf("BDAT %d LAST\r\n%s", len(letterHead)+n*len(piece)+len(letterFoot), letterHead))
	for range n {
		c.send(piece)
	}
	c.send(letterFoot)
	return c.answer()
}

// largeMemory bounds the heap of the whole test process while a large attachment passes. The client's own pieces, the
// spool's megabyte and the buffers are in it; the attachment must not be.
const largeMemory = 24 << 20
