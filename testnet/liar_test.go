package testnet

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/valise-mail/valise/node"
)

// A hearer remembers which messages were logged.
type hearer struct {
	slog.Handler
	heard *heard
}

type heard struct {
	mu    sync.Mutex // guards the field below
	lines map[string]int
}

func (h hearer) Enabled(context.Context, slog.Level) bool { return true }

func (h hearer) Handle(ctx context.Context, r slog.Record) error {
	h.heard.mu.Lock()
	h.heard.lines[r.Message]++
	h.heard.mu.Unlock()
	if h.Handler.Enabled(ctx, r.Level) {
		return h.Handler.Handle(ctx, r)
	}
	return nil
}

func (h hearer) WithAttrs(as []slog.Attr) slog.Handler {
	return hearer{h.Handler.WithAttrs(as), h.heard}
}
func (h hearer) WithGroup(name string) slog.Handler {
	return hearer{h.Handler.WithGroup(name), h.heard}
}

func (h *heard) times(line string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.lines[line]
}

// lying is the disk of a member turned bad: nothing that it reads from a pack is what was written. Others see
// a node that acknowledged copies and has dropped them since, and that serves wrong bytes.
func lying(op, _ string) Fate { return Fate{Lost: op == "read"} }

// liars builds three nodes at two sites of which the last can be made to lie, and returns what each has logged.
func liars(t *testing.T, scrub time.Duration) (*Village, context.Context, []*heard) {
	t.Helper()
	logs := make([]*heard, 3)
	v, ctx := village(t, Config{Sites: threeAtTwo, Adjust: func(i int, c *node.Config) {
		twoCopies(i, c)
		logs[i] = &heard{lines: map[string]int{}}
		c.Logger = slog.New(hearer{c.Logger.Handler(), logs[i]})
		c.Store.ScrubEvery = node.Duration(scrub)
	}})
	return v, ctx, logs
}

// T7, a member turned bad: it dropped copies that it acknowledged, and its disk gives wrong bytes. Whoever reads,
// through it or through another node, gets the right ones from an honest holder, or none; never others. Its own
// program notices when it is asked for them; where the program lies as well, the reader does (replication/copies).
func TestT7_MemberThatLies(t *testing.T) {
	t.Parallel()
	v, ctx, logs := liars(t, 0)
	p := person(t, ctx, v, "sender@example.org")
	content := randomBytes(3 << 20)
	link := sendFile(t, ctx, v, 0, p, "kept.bin", content)
	names, err := v.Houses[0].Node().Holders(cidOf(link))
	if err != nil || !slices.Contains(names, v.Houses[2].Name) || len(names) != 2 {
		t.Fatalf("held by %v, %v; the liar should have claimed a copy", names, err)
	}
	v.Trouble(2, lying)
	for i, h := range v.Houses {
		resp, data, err := v.Fetch(ctx, i, link, nil)
		if err != nil || resp.StatusCode != http.StatusOK || !bytes.Equal(data, content) {
			t.Errorf("through %s: %v, %v, %d bytes", h.Name, resp, err, len(data))
		}
	}
	honest := slices.IndexFunc(v.Houses, func(h *House) bool { return h.Name == names[0] || h.Name == names[1] })
	reader := 1 - honest

	// Another file, so that the reader's cache has nothing of it. With the honest holder away, only the liar answers.
	v.Trouble(2, nil)
	other := randomBytes(2 << 20)
	second := sendFile(t, ctx, v, honest, p, "second.bin", other)
	names, err = v.Houses[0].Node().Holders(cidOf(second))
	if err != nil || !slices.Contains(names, v.Houses[honest].Name) || !slices.Contains(names, v.Houses[2].Name) {
		t.Fatalf("held by %v, %v", names, err)
	}
	v.Trouble(2, lying)
	if err := v.Stop(honest); err != nil {
		t.Fatal(err)
	}
	resp, data, err := v.Fetch(ctx, reader, second, nil)
	if err == nil && resp.StatusCode == http.StatusOK {
		t.Errorf("the liar's bytes were served: %d of them, the right ones: %v", len(data), bytes.Equal(data, other))
	}
	if logs[2].times("a block kept here cannot be read") == 0 {
		t.Error("the liar's own program did not notice what its disk gave it")
	}
	if err := v.Restart(ctx, honest); err != nil {
		t.Fatal(err)
	}
	if err := v.Settled(ctx); err != nil {
		t.Fatal(err)
	}
	verify(t, ctx, v)
}

// T7: a disk that dropped what it acknowledged is found out by its own node's scrub, before anybody reads.
func TestT7_ScrubFindsTheCopyThatIsNotThere(t *testing.T) {
	t.Parallel()
	v, ctx, logs := liars(t, 500*time.Millisecond)
	p := person(t, ctx, v, "sender@example.org")
	content := randomBytes(1 << 20)
	sendFile(t, ctx, v, 0, p, "kept.bin", content)
	v.Trouble(2, lying)
	if err := v.Wait(ctx, "the scrub to find it", func() (bool, error) {
		return logs[2].times("block on disk is corrupt") > 0, nil
	}); err != nil {
		t.Error(err)
	}
	for i := range 2 {
		if n := logs[i].times("block on disk is corrupt"); n > 0 {
			t.Errorf("%s finds %d corrupt blocks on an honest disk", v.Houses[i].Name, n)
		}
	}
	verify(t, ctx, v)
}
