package node

import (
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/valise-mail/valise/replication"
)

// Both daemons of a copied folder, and everybody they speak to, say what is wrong.
func TestCopiedFolderIsNoticed(t *testing.T) {
	t.Parallel()
	first, second := &logBook{}, &logBook{}
	disk := vfs.NewMem()
	berlin, paris, book := pair(t, func(c *Config) { c.Name, c.Seams.FS, c.Logger = "paris-1", disk, first.logger() })
	if err := paris.Close(); err != nil {
		t.Fatal(err)
	}
	stolen := vfs.NewMem()
	if _, err := vfs.Clone(disk, stolen, "/node", "/node"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		disk *vfs.MemFS
		book *logBook
	}{{disk, first}, {stolen, second}} {
		cfg := paris.cfg
		cfg.Seams.FS, cfg.Logger = c.disk, c.book.logger()
		n, err := Open(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { n.Close() })
		if c.disk == disk {
			eventually(t, "the restarted node", func() bool { return berlin.reached(n.id.id) && n.reached(berlin.id.id) })
			if book.has("one identity") {
				t.Error("a restart was taken for a copy")
			}
		}
	}
	eventually(t, "everybody to notice", func() bool {
		return book.has("level=ERROR", "two running nodes have one identity", "peer_name=paris-1", "hint=") &&
			first.has("level=ERROR", "another running node has this node's identity", "hint=") &&
			second.has("level=ERROR", "another running node has this node's identity", "hint=")
	})
}

// A node whose own record somebody else writes says so, wherever the other is.
func TestForeignHandInOwnRecordIsNoticed(t *testing.T) {
	t.Parallel()
	c := alone(t)
	book := &logBook{}
	c.Logger = book.logger()
	if err := Init(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	n := start(t, c)
	eventually(t, "its own record to be written", func() bool { return n.twins.lastWritten() != nil })
	const told = "written by another running node"
	if err := n.follow(); err != nil || book.has(told) {
		t.Fatalf("the node does not know its own hand: %v", err)
	}
	elsewhere := multiaddr.StringCast("/ip4/192.0.2.7/tcp/4101").Bytes()
	if err := n.ledger.Update(t.Context(), func(tx *replication.Tx) error {
		var m memberRecord
		if _, err := get(tx, memberKey(n.id.id), &m); err != nil {
			return err
		}
		m.Bulk = [][]byte{elsewhere}
		put(tx, memberKey(n.id.id), m)
		bumpMembers(tx)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the node to notice", func() bool { return book.has("level=ERROR", told, "192.0.2.7", "same_store=true", "hint=") })
}

func TestTwins(t *testing.T) {
	t.Parallel()
	const id = peer.ID("paris")
	begin := time.Unix(1e9, 0)
	type word struct {
		after time.Duration
		run   byte
		twin  string
		news  bool
	}
	for name, words := range map[string][]word{
		"one run":               {{0, 1, "", false}, {time.Second, 1, "", false}},
		"a restart":             {{0, 1, "", false}, {time.Second, 2, "", false}, {10 * time.Second, 2, "", false}},
		"last words come late":  {{0, 1, "", false}, {time.Second, 2, "", false}, {1500 * time.Millisecond, 1, "", false}, {4 * time.Second, 2, "", false}},
		"a copy":                {{0, 1, "", false}, {time.Second, 2, "", false}, {4 * time.Second, 1, "2", true}, {5 * time.Second, 2, "1", false}},
		"the copy was stopped":  {{0, 1, "", false}, {time.Second, 2, "", false}, {4 * time.Second, 1, "2", true}, {30 * time.Second, 1, "", false}},
		"a copy begun long ago": {{0, 1, "", false}, {time.Minute, 2, "", false}, {2 * time.Minute, 1, "", false}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var w twins
			for i, word := range words {
				twin, news := w.heard(id, runID{word.run}, string('0'+rune(word.run)), begin.Add(word.after))
				if twin != word.twin || news != word.news {
					t.Errorf("word %d: got %q, %v, want %q, %v", i, twin, news, word.twin, word.news)
				}
			}
		})
	}
}
