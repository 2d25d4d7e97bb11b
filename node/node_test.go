package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/valise-mail/valise/authz"
	"github.com/valise-mail/valise/mailgw"
	"github.com/valise-mail/valise/node/api"
	"github.com/valise-mail/valise/node/gateway"
	"github.com/valise-mail/valise/replication"
)

// alone is the config of a one-node cluster in memory, on ports the system chooses.
func alone(t *testing.T) Config {
	t.Helper()
	c := DefaultConfig(0)
	c.Organisation, c.Site, c.Dir = "example.org", "berlin", "/node"
	for _, addr := range []*string{&c.Listen.SMTP, &c.Listen.Files, &c.Listen.App, &c.Listen.Metrics, &c.Listen.Libp2p, &c.Listen.Ledger} {
		*addr = "127.0.0.1:0"
	}
	c.Store.Reserve = 0
	c.Seams.Fast = true
	c.Seams.FS = vfs.NewMem()
	c.Seams.Free = func() (int64, error) { return 1 << 40, nil }
	c.Logger = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	return c
}

func start(t *testing.T, c Config) *Node {
	t.Helper()
	n, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	eventually(t, "a quorum", func() bool { s := n.ledger.Status(); return s.Quorum && len(n.roster.holders()) == 1 })
	return n
}

func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !done(); {
		if time.Now().After(end) {
			t.Fatalf("waited a minute for %s", what)
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		}
	}
}

func running(t *testing.T) *Node {
	t.Helper()
	c := alone(t)
	if err := Init(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	return start(t, c)
}

func account(t *testing.T, n *Node) authz.AccountID {
	t.Helper()
	a, err := n.Admin().AddAccount(t.Context(), api.AccountRequest{Address: "sender@example.org"})
	if err != nil {
		t.Fatal(err)
	}
	return authz.AccountID(a.Account)
}

// aSharing is one file of the account, stored and not yet shared.
func aSharing(t *testing.T, n *Node, id authz.AccountID, name, text string) sharing {
	t.Helper()
	up, err := n.upload(t.Context(), id, "text/plain", strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return sharing{mode: authz.Following, files: []sharedFile{{name: name, upload: up}}, sending: authz.Sending{
		ID: authz.SendingID(authz.NewID()), Account: id, From: "sender@example.org", Created: n.cfg.now(),
	}}
}

// S1: an Undo that comes before the grant it is to take back leaves a mark that the grant meets.
func TestS1_UndoBeforeTheGrantIsStillAnUndo(t *testing.T) {
	t.Parallel()
	n := running(t)
	s := aSharing(t, n, account(t, n), "a.txt", "hello")
	if err := n.undo(t.Context(), s.sending.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := n.share(t.Context(), s); !errors.Is(err, errUndone) {
		t.Errorf("share after its undo: got %v, want %v", err, errUndone)
	}
	files, err := n.Files(string(s.sending.Account))
	if err != nil || len(files) != 0 {
		t.Errorf("files %v, %v", files, err)
	}
}

// S1: undoing takes away exactly what came with the messages that were undone.
func TestS1_UndoTakesTheFileWhenTheLastMessageIsUndone(t *testing.T) {
	t.Parallel()
	n := running(t)
	id := account(t, n)
	first, second := aSharing(t, n, id, "a.txt", "hello"), aSharing(t, n, id, "a.txt", "hello")
	second.sending.Created = second.sending.Created.Add(time.Second)
	for _, s := range []sharing{first, second} {
		if _, err := n.share(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	for i, s := range []sharing{first, second, second} {
		if err := n.undo(t.Context(), s.sending.ID); err != nil {
			t.Fatal(err)
		}
		files, err := n.Files(string(id))
		if err != nil || len(files) != max(0, 1-i) {
			t.Errorf("after undo %d: files %v, %v", i+1, files, err)
		}
	}
}

// What the signed list forbids is refused before it is written, and what was written already stops nobody.
func TestR3_BadRecordsDoNotStopANode(t *testing.T) {
	t.Parallel()
	c := alone(t)
	if err := Init(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	n := start(t, c)
	for _, site := range []string{"", "a b", "a/b", strings.Repeat("x", maxSite+1), "tab\t"} {
		if _, err := n.Admin().Invite(t.Context(), api.InviteRequest{Site: site}); err == nil || Hint(err) == "" {
			t.Errorf("site %q: got %v, want an error with a hint", site, err)
		}
	}
	if err := n.ledger.Update(t.Context(), func(tx *replication.Tx) error {
		put(tx, ticketKey(n.id.id), ticketRecord{Site: "paris", Created: n.cfg.now(), Expires: n.cfg.now().Add(time.Hour)})
		bumpMembers(tx)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := n.follow(); err != nil {
		t.Errorf("a ticket with a member's id: %v", err)
	}
	if _, err := n.Admin().Invite(t.Context(), api.InviteRequest{Site: "paris"}); err != nil {
		t.Errorf("invite afterwards: %v", err)
	}
	n.Close()
	c.Seams.FS = n.fs
	start(t, c)
}

// R4: a ticket that leaked can be ended.
func TestR4_CancelledTicketAdmitsNobody(t *testing.T) {
	t.Parallel()
	n := running(t)
	ticket, err := n.Admin().Invite(t.Context(), api.InviteRequest{Site: "paris"})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := n.Admin().CancelTicket(t.Context(), api.CancelRequest{Ticket: ticket.Ticket}); err != nil {
			t.Fatal(err)
		}
	}
	joiner := alone(t)
	if _, err := Join(t.Context(), joiner, ticket.Ticket); err == nil || Hint(err) == "" {
		t.Errorf("join: got %v, want an error with a hint", err)
	}
}

// R4: a cluster without a majority cannot admit anybody, and the joiner is told when to come again.
func TestR4_JoinWithoutAQuorumSaysSo(t *testing.T) {
	t.Parallel()
	berlin, paris, book := pair(t, nil)
	ticket, err := berlin.Admin().Invite(t.Context(), api.InviteRequest{Site: "rome"})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "paris to vote", func() bool { return book.has("step=promote", "err=<nil>") })
	paris.Close()
	if _, err := Join(t.Context(), alone(t), ticket.Ticket); err == nil || !strings.Contains(Hint(err), "majority") {
		t.Errorf("got %v, hint %q", err, Hint(err))
	}
}

// A mailbox of another account is not taken over, and the operator is told whose it is not.
func TestMailboxOfAnotherAccount(t *testing.T) {
	t.Parallel()
	n := running(t)
	account(t, n)
	if _, err := n.Admin().AddAccount(t.Context(), api.AccountRequest{Address: "other@example.org"}); err != nil {
		t.Fatal(err)
	}
	err := n.Admin().AddMailbox(t.Context(), api.MailboxRequest{Account: "other@example.org", Address: "sender@example.org", NextHop: "127.0.0.1:25", TLS: "none"})
	if !errors.Is(err, authz.ErrAddressTaken) || Hint(err) == "" {
		t.Errorf("got %v, hint %q", err, Hint(err))
	}
}

// L11: a store that can no longer write its index stops the node, with a hint.
func TestL11_BrokenStoreStopsTheNode(t *testing.T) {
	t.Parallel()
	c := alone(t)
	if err := Init(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	var broken sync.Map
	c.Seams.FS = errorfs.Wrap(c.Seams.FS, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if _, on := broken.Load("on"); on && op.Kind.ReadOrWrite() == errorfs.OpIsWrite && strings.Contains(op.Path, "/store/index/") {
			return errors.New("input/output error")
		}
		return nil
	}))
	n := start(t, c)
	id := account(t, n)
	broken.Store("on", true)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	go func() { _, _ = n.upload(ctx, id, "", bytes.NewReader(make([]byte, 1000))) }() // it may wait for ever
	select {
	case <-n.Done():
	case <-ctx.Done():
		t.Fatal("the node runs on")
	}
	if err := n.Err(); err == nil || Hint(err) == "" {
		t.Errorf("got %v, want an error with a hint", err)
	}
}

// Views of the members that were taken earlier never come after newer ones.
func TestFollowNeverGoesBack(t *testing.T) {
	t.Parallel()
	n := running(t)
	for round := range 20 {
		var wg sync.WaitGroup
		name := fmt.Sprintf("name-%d", round)
		for range 4 {
			wg.Go(func() {
				if err := n.follow(); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Go(func() {
			if err := n.ledger.Update(t.Context(), func(tx *replication.Tx) error {
				var m memberRecord
				if _, err := get(tx, memberKey(n.id.id), &m); err != nil {
					return err
				}
				m.Name = name
				put(tx, memberKey(n.id.id), m)
				return nil
			}); err != nil {
				t.Error(err)
			}
			if err := n.follow(); err != nil {
				t.Error(err)
			}
		})
		wg.Wait()
		if m, _ := n.roster.find(n.id.id); m.Name != name {
			t.Fatalf("round %d: the roster says %q", round, m.Name)
		}
	}
}

// G4: a node without a first copy of the ledger refuses nobody.
func TestG4_WithoutALedgerNobodyIsRefused(t *testing.T) {
	t.Parallel()
	n := running(t)
	n.roster.set(nil)
	if _, err := (library{n}).Open(t.Context(), gateway.Request{Token: "x"}); !errors.Is(err, gateway.ErrNotYet) {
		t.Errorf("a link: got %v, want %v", err, gateway.ErrNotYet)
	}
	if _, err := (directory{n}).Authenticate(t.Context(), mailgw.Login{User: "sender@example.org", Password: "x"}); !errors.Is(err, mailgw.ErrTryLater) {
		t.Errorf("a log-in: got %v, want %v", err, mailgw.ErrTryLater)
	}
}
