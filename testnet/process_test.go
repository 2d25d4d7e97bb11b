package testnet

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"path"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestPromise5 kills real daemons of the command line, on real disks, with
// SIGKILL: what was acknowledged reads back after a restart that nobody helps.
// The steps share one cluster of three processes, with the shipped defaults.
func TestPromise5_KilledProcesses(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 2*testTimeout)
	defer cancel()
	c := foundCluster(t, ctx, threeAtTwo)
	p := c.person(t, ctx, "sender@example.org")
	first := c.send(t, ctx, 0, p, "first.bin", 2<<20)

	steps := []struct {
		name string
		run  func(t *testing.T)
	}{
		{"the node with the SMTP session, in the middle of DATA", func(t *testing.T) {
			caught := len(c.Mail.Messages())
			err := c.SendFrom(ctx, 0, p, to, halfway(letter("never.bin", randomBytes(4<<20)), func() { c.kill(0) }))
			if err == nil {
				t.Error("half a message was acknowledged")
			}
			c.start(t, 0)
			c.up(t, ctx)
			if n := len(c.Mail.Messages()); n != caught {
				t.Errorf("%d messages went out, want none", n-caught)
			}
			c.send(t, ctx, 0, p, "after a.bin", 1<<20)
		}},
		{"a copy holder, in the middle of an upload through another node", func(t *testing.T) {
			for victim := 1; victim <= 2; victim++ {
				caught, content := len(c.Mail.Messages()), randomBytes(6<<20)
				err := c.SendFrom(ctx, 0, p, to, halfway(letter(fmt.Sprintf("holder %d.bin", victim), content), func() { c.kill(victim) }))
				switch delivered := len(c.Mail.Messages()) - caught; {
				case err == nil && delivered == 1:
					c.Promise(onlyLink(t, ctx, c.Village, caught), content)
				case err == nil:
					t.Errorf("acknowledged, but %d messages went out", delivered)
				case code(err) != 451:
					t.Errorf("got %v, want 451 or success", err)
				case delivered != 0:
					t.Errorf("refused with %v, but %d messages went out", err, delivered)
				}
				c.start(t, victim)
				c.up(t, ctx)
			}
		}},
		{"all at once, in the middle of DATA", func(t *testing.T) {
			err := c.SendFrom(ctx, 1, p, to, halfway(letter("all.bin", randomBytes(2<<20)), func() { c.kill(0, 1, 2) }))
			if err == nil {
				t.Error("half a message was acknowledged")
			}
			for i := range c.Houses {
				c.start(t, i)
			}
			c.up(t, ctx)
			c.send(t, ctx, 2, p, "after c.bin", 1<<20)
		}},
		{"ten times during a stream of messages", func(t *testing.T) { c.tenKills(t, ctx, p) }},
	}
	for _, s := range steps {
		if !t.Run(s.name, s.run) {
			return
		}
		if err := c.verifyFiles(ctx); err != nil {
			t.Fatal(err)
		}
	}
	for i, h := range c.Houses {
		if resp, _, err := c.Fetch(ctx, i, first, http.Header{"Range": {"bytes=0-0"}}); err != nil || resp.StatusCode != http.StatusPartialContent {
			t.Errorf("first byte of all through %s: %v, %v", h.Name, resp, err)
		}
	}
	c.end(t, ctx)
}

// killSeed makes the kills of one run those of the next: what is random is how
// many bytes of the stream lie between two kills, whom they hit, and how large messages are.
const killSeed = 20261123

// tenKills streams messages through all nodes and kills ten times. A killed
// node is started at once, and may be killed again while it starts.
func (c *cluster) tenKills(t *testing.T, ctx context.Context, p Person) {
	r := rand.New(rand.NewPCG(killSeed, 0))
	s := &stream{c: c, p: p, contents: map[string][]byte{}, acked: map[string]bool{}, due: make(chan int, 10)}
	at := int64(0)
	for range cap(s.due) {
		at += 256<<10 + r.Int64N(r.Int64N(12<<20)+1)
		s.kills = append(s.kills, at)
		s.victims = append(s.victims, r.IntN(len(c.Houses)))
	}
	from := len(c.Mail.Messages())
	sending, stop := context.WithCancel(ctx)
	defer stop()
	var senders sync.WaitGroup
	for n := range 2 {
		senders.Go(func() { s.run(sending, n) })
	}
	for n := range cap(s.due) {
		select {
		case victim := <-s.due:
			if n%2 == 1 { // kills that follow each other at once are good, but not only those
				if err := s.another(sending); err != nil {
					stop()
					senders.Wait()
					t.Fatal(err)
				}
			}
			c.kill(victim)
			c.start(t, victim)
		case <-ctx.Done():
			stop()
			senders.Wait()
			t.Fatalf("%d kills in the time there was: %v", n, context.Cause(ctx))
		}
	}
	c.up(t, ctx)
	stop()
	senders.Wait()
	s.judge(t, c.Mail.Messages()[from:])
}

// A stream is messages that are sent without pause.
type stream struct {
	c       *cluster
	p       Person
	kills   []int64 // at how many bytes of the stream
	victims []int
	due     chan int // takes every kill without waiting
	sent    atomic.Int64
	killed  atomic.Int64

	mu       sync.Mutex // guards the fields below
	contents map[string][]byte
	acked    map[string]bool
}

func (s *stream) run(ctx context.Context, sender int) {
	r := rand.New(rand.NewPCG(killSeed, uint64(sender)+1))
	for n := 0; ctx.Err() == nil; n++ {
		name := fmt.Sprintf("s%d-%d.bin", sender, n)
		content := make([]byte, 300_000+r.IntN(1_200_000))
		fillNoise(content, byte(r.Uint32()))
		s.mu.Lock()
		s.contents[name] = content
		s.mu.Unlock()
		err := s.c.SendFrom(ctx, (n+sender)%len(s.c.Houses), s.p, to, &counted{s, bytes.NewReader(letter(name, content))})
		if err == nil {
			s.mu.Lock()
			s.acked[name] = true
			s.mu.Unlock()
			continue
		}
		select { // its node is down, or cannot send now; the next turn tries another
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// another waits until one more message is acknowledged.
func (s *stream) another(ctx context.Context) error {
	count := func() int {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.acked)
	}
	before := count()
	return s.c.Wait(ctx, "another acknowledged message", func() (bool, error) { return count() > before, nil })
}

// counted asks for the next kill when the stream has come as far.
type counted struct {
	s *stream
	r io.Reader
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p[:min(len(p), 16<<10)])
	sent := c.s.sent.Add(int64(n))
	for {
		k := c.s.killed.Load()
		if int(k) == len(c.s.kills) || sent < c.s.kills[k] {
			return n, err
		}
		if c.s.killed.CompareAndSwap(k, k+1) {
			c.s.due <- c.s.victims[k]
		}
	}
}

// judge promises what was acknowledged, and what went out although its sender
// was not told: a link that somebody holds leads to the bytes.
func (s *stream) judge(t *testing.T, caught []Caught) {
	out := map[string]bool{}
	for _, m := range caught {
		links := Links(m.Data)
		if len(links) != 1 {
			t.Errorf("got links %q in\n%s", links, head(m.Data))
			continue
		}
		name := path.Base(links[0])
		if s.contents[name] == nil || out[name] {
			t.Errorf("%q went out twice or was never sent", name)
			continue
		}
		out[name] = true
		s.c.Promise(links[0], s.contents[name])
	}
	for name := range s.acked {
		if !out[name] {
			t.Errorf("%s was acknowledged and did not go out", name)
		}
	}
	t.Logf("%d messages tried, %d acknowledged, %d went out, %d bytes of the stream", len(s.contents), len(s.acked), len(out), s.sent.Load())
}
