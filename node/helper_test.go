package node

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/valise-mail/valise/node/api"
)

// A logBook is what a node logged, as people read it.
type logBook struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBook) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBook) has(words ...string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for line := range strings.Lines(b.buf.String()) {
		all := true
		for _, w := range words {
			all = all && strings.Contains(line, w)
		}
		if all {
			return true
		}
	}
	return false
}

func (b *logBook) logger() *slog.Logger { return slog.New(slog.NewTextHandler(b, nil)) }

// pair is a cluster of two running nodes, berlin and paris; adjust changes the config of the second.
func pair(t *testing.T, adjust func(*Config)) (berlin, paris *Node, book *logBook) {
	t.Helper()
	book = &logBook{}
	first := alone(t)
	first.Logger = book.logger()
	if err := Init(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	berlin = start(t, first)
	return berlin, join(t, berlin, adjust), book
}

func join(t *testing.T, at *Node, adjust func(*Config)) *Node {
	t.Helper()
	want := len(at.roster.all()) + 1
	ticket, err := at.Admin().Invite(t.Context(), api.InviteRequest{Site: "paris"})
	if err != nil {
		t.Fatal(err)
	}
	c := alone(t)
	c.Seams.FS = vfs.NewMem()
	if adjust != nil {
		adjust(&c)
	}
	if c, err = Join(t.Context(), c, ticket.Ticket); err != nil {
		t.Fatal(err)
	}
	n, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	eventually(t, "all nodes to hold copies", func() bool {
		return len(at.roster.holders()) == want && len(n.roster.holders()) == want && at.ledger.Status().Quorum && n.reached(at.id.id) && at.reached(n.id.id)
	})
	return n
}
