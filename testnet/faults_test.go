package testnet

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/emersion/go-smtp"

	"github.com/valise-mail/valise/node"
)

// hooked calls do once, when the reader has given half of its bytes.
type hooked struct {
	r    *bytes.Reader
	half int64
	do   func()
	done atomic.Bool
}

func halfway(message []byte, do func()) io.Reader {
	return &hooked{r: bytes.NewReader(message), half: int64(len(message) / 2), do: do}
}

func (h *hooked) Read(p []byte) (int, error) {
	if int64(h.r.Len()) <= h.half && h.done.CompareAndSwap(false, true) {
		h.do()
	}
	return h.r.Read(p[:min(len(p), 16<<10)])
}

func TestE1_LosingAnyOneNodeLosesNothing(t *testing.T) {
	t.Parallel()
	for lost := range 3 {
		t.Run(fmt.Sprintf("node %d", lost+1), func(t *testing.T) {
			t.Parallel()
			v, ctx := village(t, Config{Sites: threeAtTwo, Adjust: twoCopies})
			p := person(t, ctx, v, "sender@example.org")
			content := randomBytes(3 << 20)
			link := sendFile(t, ctx, v, 0, p, "kept.bin", content)
			if err := v.Kill(lost); err != nil {
				t.Fatal(err)
			}
			for i, h := range v.Houses {
				if i == lost {
					continue
				}
				resp, got, err := v.Fetch(ctx, i, link, nil)
				if err != nil || resp.StatusCode != http.StatusOK || !bytes.Equal(got, content) {
					t.Errorf("through %s without %s: %v %v, %d bytes", h.Name, v.Houses[lost].Name, resp, err, len(got))
				}
			}
			if err := v.Restart(ctx, lost); err != nil {
				t.Fatal(err)
			}
			if err := v.Settled(ctx); err != nil {
				t.Fatal(err)
			}
			verify(t, ctx, v)
		})
	}
}

// Promise 5: kill at any step of an upload. What was acknowledged is there
// after the restart; what was not leaves only garbage.
func TestKillInTheMiddleOfAMessage(t *testing.T) {
	t.Parallel()
	for victim := range 3 {
		t.Run(fmt.Sprintf("node %d", victim+1), func(t *testing.T) {
			t.Parallel()
			v, ctx := village(t, Config{Sites: threeAtTwo, Adjust: twoCopies})
			p := person(t, ctx, v, "sender@example.org")
			sendFile(t, ctx, v, 0, p, "before.bin", randomBytes(2<<20))
			caught := len(v.Mail.Messages())
			content := randomBytes(8 << 20)
			killed := make(chan error, 1)
			err := v.SendFrom(ctx, 0, p, to, halfway(letter("during.bin", content), func() {
				go func() { killed <- v.Kill(victim) }()
			}))
			if kerr := <-killed; kerr != nil {
				t.Fatal(kerr)
			}
			switch delivered := len(v.Mail.Messages()) - caught; {
			case err == nil && delivered == 1:
				v.Promise(onlyLink(t, ctx, v, caught), content)
			case err == nil:
				t.Errorf("acknowledged, but %d messages went out", delivered)
			case victim != 0 && code(err) != 451:
				t.Errorf("got %v, want 451 or success", err)
			case delivered != 0:
				t.Errorf("refused with %v, but %d messages went out", err, delivered)
			}
			if err := v.Restart(ctx, victim); err != nil {
				t.Fatal(err)
			}
			if err := v.Settled(ctx); err != nil {
				t.Fatal(err)
			}
			sendFile(t, ctx, v, victim, p, "after.bin", randomBytes(1<<20))
			verify(t, ctx, v)
		})
	}
}

// The node that holds the SMTP session loses the majority during DATA: 451, and nothing is sent.
func TestS2_CutOffDuringDataSendsNothing(t *testing.T) {
	t.Parallel()
	v, ctx := village(t, Config{Sites: threeAtTwo, Adjust: twoCopies})
	p := person(t, ctx, v, "sender@example.org")
	err := v.SendFrom(ctx, 0, p, to, halfway(letter("never.bin", randomBytes(4<<20)), func() { v.Cut(0) }))
	if code(err) != 451 {
		t.Errorf("got %v, want 451", err)
	}
	if n := len(v.Mail.Messages()); n != 0 {
		t.Errorf("%d messages went out", n)
	}
	v.Heal()
	if err := v.Settled(ctx); err != nil {
		t.Fatal(err)
	}
	sendFile(t, ctx, v, 0, p, "after.bin", randomBytes(1<<20))
	if n := len(v.Mail.Messages()); n != 1 {
		t.Errorf("%d messages went out, want the one after healing", n)
	}
	verify(t, ctx, v)
}

// The leader dies elsewhere during DATA: the message goes out once, after the election.
func TestL2_LeaderDiesElsewhereAndTheMessageGoesOutOnce(t *testing.T) {
	t.Parallel()
	v, ctx := village(t, Config{Sites: threeAtTwo})
	p := person(t, ctx, v, "sender@example.org")
	leader, err := v.Leader(ctx)
	if err != nil {
		t.Fatal(err)
	}
	door := (leader + 1) % 3
	content := randomBytes(4 << 20)
	killed := make(chan error, 1)
	err = v.SendFrom(ctx, door, p, to, halfway(letter("once.bin", content), func() {
		go func() { killed <- v.Kill(leader) }()
	}))
	if kerr := <-killed; kerr != nil {
		t.Fatal(kerr)
	}
	if err != nil {
		t.Fatalf("send while the leader dies: %v", err)
	}
	if n := len(v.Mail.Messages()); n != 1 {
		t.Fatalf("%d messages went out, want 1", n)
	}
	v.Promise(onlyLink(t, ctx, v, 0), content)
	if err := v.Restart(ctx, leader); err != nil {
		t.Fatal(err)
	}
	if err := v.Settled(ctx); err != nil {
		t.Fatal(err)
	}
	verify(t, ctx, v)
}

func TestS1_RefusedByTheNextHopTakesTheGrantBack(t *testing.T) {
	t.Parallel()
	v, ctx := village(t, Config{Sites: []string{"berlin"}})
	p := person(t, ctx, v, "sender@example.org")
	content := randomBytes(400_000)
	refused := func(files int) {
		t.Helper()
		v.Mail.Refuse(&smtp.SMTPError{Code: 554, EnhancedCode: smtp.EnhancedCode{5, 7, 1}, Message: "not this one"})
		defer v.Mail.Refuse(nil)
		seen := len(v.Mail.Refused())
		if err := v.Send(ctx, 0, p, to, letter("refused.bin", content)); code(err) != 554 {
			t.Errorf("got %v, want the next hop's 554", err)
		}
		all := v.Mail.Refused()[seen:]
		if len(all) != 1 || len(Links(all[0].Data)) != 1 {
			t.Fatalf("the next hop refused %d messages, want one with one link", len(all))
		}
		if got := get(t, ctx, v, 0, Links(all[0].Data)[0], nil); got.Status != http.StatusForbidden || got.title() != "access denied" {
			t.Errorf("the link of a refused message: got %d %s", got.Status, got.title())
		}
		left, err := v.Houses[0].Node().Files(p.Account)
		if err != nil || len(left) != files {
			t.Errorf("got files %v, %v, want %d", left, err, files)
		}
	}
	refused(0)
	sendFile(t, ctx, v, 0, p, "refused.bin", content)
	refused(1) // the file of a message that went out: it stays, and only the new link goes
	verify(t, ctx, v)
}

// The next hop takes the message and drops the line: the mail may be out, so the link must work.
func TestS1_NoAnswerAfterTheFinalDotKeepsTheGrant(t *testing.T) {
	t.Parallel()
	v, ctx := village(t, Config{Sites: []string{"berlin"}})
	p := person(t, ctx, v, "sender@example.org")
	v.Mail.Drop(true)
	content := randomBytes(400_000)
	err := v.Send(ctx, 0, p, to, letter("perhaps.bin", content))
	if code(err) != 451 {
		t.Errorf("got %v, want 451", err)
	}
	v.Promise(onlyLink(t, ctx, v, 0), content)
	verify(t, ctx, v)
}

// T8: free space under the reserve refuses attachments with 452, and the node goes on.
func TestT8_ReserveIsKept(t *testing.T) {
	t.Parallel()
	var free atomic.Int64
	free.Store(1 << 40)
	v, ctx := village(t, Config{Sites: []string{"berlin"}, Adjust: func(_ int, c *node.Config) {
		c.Store.Reserve = 1 << 20
		c.Seams.Free = func() (int64, error) { return free.Load(), nil }
	}})
	p := person(t, ctx, v, "sender@example.org")
	kept := sendFile(t, ctx, v, 0, p, "first.bin", randomBytes(400_000))
	free.Store(1 << 10)
	if err := v.Send(ctx, 0, p, to, letter("second.bin", randomBytes(400_000))); code(err) != 452 {
		t.Errorf("got %v, want 452", err)
	}
	if resp, _, err := v.Fetch(ctx, 0, kept, nil); err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("fetch while the disk is full: %v, %v", resp, err)
	}
	if err := v.Send(ctx, 0, p, to, []byte("From: sender@example.org\r\nSubject: no attachment\r\n\r\nHello.\r\n")); err != nil {
		t.Errorf("a message without attachment while the disk is full: %v", err)
	}
	free.Store(1 << 40)
	sendFile(t, ctx, v, 0, p, "third.bin", randomBytes(400_000))
	verify(t, ctx, v)
}

// P2: a wiped store has another id and holds nothing; the keeper fills it again.
func TestP2_WipedNodeIsFilledAgain(t *testing.T) {
	t.Parallel()
	v, ctx := village(t, Config{Sites: []string{"berlin", "paris"}})
	p := person(t, ctx, v, "sender@example.org")
	link := sendFile(t, ctx, v, 0, p, "twice.bin", randomBytes(2<<20))
	if err := v.Stop(1); err != nil {
		t.Fatal(err)
	}
	if err := v.Wipe(1); err != nil {
		t.Fatal(err)
	}
	if err := v.Restart(ctx, 1); err != nil {
		t.Fatal(err)
	}
	waitForHolders(t, ctx, v, link, 2)
	if err := v.Stop(0); err != nil { // what node 2 serves now comes from its own disk
		t.Fatal(err)
	}
	if resp, _, err := v.Fetch(ctx, 1, link, nil); err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("from the filled node alone: %v, %v", resp, err)
	}
	if err := v.Restart(ctx, 0); err != nil {
		t.Fatal(err)
	}
	if err := v.Settled(ctx); err != nil {
		t.Fatal(err)
	}
	verify(t, ctx, v)
}

func waitForHolders(t *testing.T, ctx context.Context, v *Village, link string, want int) {
	t.Helper()
	if err := v.Wait(ctx, fmt.Sprintf("%d copies", want), func() (bool, error) {
		// The last house is the one that was wiped or away: it knows its own store first.
		names, err := v.Houses[len(v.Houses)-1].Node().Holders(cidOf(link))
		return len(names) == want, err
	}); err != nil {
		t.Fatal(err)
	}
}

// P3: a copy that could not be made during the upload is made by the keeper when its node is back.
func TestP3_KeeperMakesTheMissingCopy(t *testing.T) {
	t.Parallel()
	v, ctx := village(t, Config{Sites: []string{"berlin", "berlin", "paris"}})
	p := person(t, ctx, v, "sender@example.org")
	if err := v.Stop(1); err != nil {
		t.Fatal(err)
	}
	link := sendFile(t, ctx, v, 0, p, "late.bin", randomBytes(2<<20))
	names, err := v.Houses[0].Node().Holders(cidOf(link))
	if err != nil || len(names) != 2 {
		t.Fatalf("got holders %q, %v; want the two nodes that were up", names, err)
	}
	if err := v.Restart(ctx, 1); err != nil {
		t.Fatal(err)
	}
	waitForHolders(t, ctx, v, link, 3)
	verify(t, ctx, v)
}

// Promise 3: downloads need no leader and no quorum.
func TestG4_DownloadsGoOnWithoutQuorum(t *testing.T) {
	t.Parallel()
	v, ctx := village(t, Config{Sites: threeAtTwo})
	p := person(t, ctx, v, "sender@example.org")
	link := sendFile(t, ctx, v, 0, p, "alone.bin", randomBytes(2<<20))
	waitForHolders(t, ctx, v, link, 3)
	v.Cut(0)
	v.Cut(1)
	v.Cut(2)
	for _, h := range v.Houses { // a majority in reach a moment ago counts for a while
		if err := v.Wait(ctx, h.Name+" to miss its majority", func() (bool, error) {
			s, err := h.Node().Admin().Status(ctx)
			return err == nil && !s.Ledger.Quorum, err
		}); err != nil {
			t.Fatal(err)
		}
	}
	for i, h := range v.Houses {
		if resp, _, err := v.Fetch(ctx, i, link, nil); err != nil || resp.StatusCode != http.StatusOK {
			t.Errorf("through %s, alone: %v, %v", h.Name, resp, err)
		}
	}
	if err := v.Send(ctx, 0, p, to, letter("not now.bin", randomBytes(400_000))); code(err) != 451 {
		t.Errorf("send without quorum: got %v, want 451", err)
	}
	v.Heal()
	if err := v.Settled(ctx); err != nil {
		t.Fatal(err)
	}
	verify(t, ctx, v)
}

// A node restarts into a cluster that moved on, and everything stopped at once comes back.
func TestWholeVillageRestarts(t *testing.T) {
	t.Parallel()
	v, ctx := village(t, Config{Sites: threeAtTwo, Adjust: twoCopies})
	p := person(t, ctx, v, "sender@example.org")
	sendFile(t, ctx, v, 0, p, "kept.bin", randomBytes(1<<20))
	for i := range v.Houses {
		if err := v.Kill(i); err != nil {
			t.Fatal(err)
		}
	}
	for i := range v.Houses {
		if err := v.Restart(ctx, i); err != nil {
			t.Fatal(err)
		}
	}
	if err := v.Settled(ctx); err != nil {
		t.Fatal(err)
	}
	sendFile(t, ctx, v, 1, p, "more.bin", randomBytes(1<<20))
	verify(t, ctx, v)
}
