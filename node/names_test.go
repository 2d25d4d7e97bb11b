package node

import (
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/valise-mail/valise/node/api"
	"github.com/valise-mail/valise/replication/copies"
)

func TestLogsNameNodes(t *testing.T) {
	t.Parallel()
	ids := make([]member, 3)
	for i, name := range []string{"berlin", "paris", "paris"} {
		id, err := newIdentity()
		if err != nil {
			t.Fatal(err)
		}
		ids[i] = member{ID: id.id, memberRecord: memberRecord{Name: name}}
	}
	berlin, paris := ids[0].ID, ids[1].ID
	stranger, err := newIdentity()
	if err != nil {
		t.Fatal(err)
	}
	var r roster
	book := &logBook{}
	log := slog.New(namingHandler{slog.NewTextHandler(book, nil), &r})
	log.Info("before", "peer", berlin)
	r.set(ids)
	log.With("peer", berlin).WithGroup("g").Info("bound", "x", 1)
	log.Info("plain", "peer", berlin.String(), "n", 1)
	log.Info("failed", "err", errors.New("reach "+paris.String()+": no route"))
	log.Info("unknown", "peer", stranger.id)
	tail := paris.String()[len(paris.String())-6:]
	for _, want := range [][]string{
		{"msg=before peer=" + berlin.String() + "\n"},
		{"msg=bound peer=" + berlin.String() + " peer_name=berlin g.x=1"},
		{"msg=plain peer=" + berlin.String() + " peer_name=berlin n=1"},
		{`msg=failed err="reach paris-` + tail + `: no route"`},
		{"msg=unknown peer=" + stranger.id.String() + "\n"},
	} {
		if !book.has(want...) {
			t.Errorf("no line with %q in\n%s", want, book.buf.String())
		}
	}
}

// A put that cannot have its copies says so in a sentence: which node, by name, and what to do.
func TestPutNamesTheNodeThatIsAway(t *testing.T) {
	t.Parallel()
	berlin, paris, book := pair(t, func(c *Config) { c.Name = "paris-1" })
	account(t, berlin)
	eventually(t, "copies to be wanted in paris", func() bool { return book.has("changed the table of copies", "nodes=2") })
	paris.Close()
	_, err := berlin.Admin().Put(t.Context(), api.PutRequest{Account: "sender@example.org", Name: "a.txt"}, strings.NewReader("hello"))
	const want = "too few copies could be made: paris-1 is not in reach; nothing was stored"
	if !errors.Is(err, copies.ErrNotDurable) || err.Error() != want || Hint(err) == "" {
		t.Errorf("got %v, hint %q, want %s", err, Hint(err), want)
	}
	if !book.has("upload did not reach a node", "paris-1") {
		t.Errorf("the log does not name the node:\n%s", book.buf.String())
	}
}
