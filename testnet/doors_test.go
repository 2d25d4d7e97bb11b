package testnet

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/valise-mail/valise/authz"
	"github.com/valise-mail/valise/node/api"
	"github.com/valise-mail/valise/replication"
)

// Rows B3 to B8 and E5 on real nodes: a link opens its one file through every
// node, and nothing else, whatever is made of it.
func TestB3B8_LinkOpensItsOneFileAndNothingElse(t *testing.T) {
	t.Parallel()
	v, ctx := village(t, Config{Sites: threeAtTwo, Adjust: twoCopies})
	p := person(t, ctx, v, "sender@example.org")
	mine := apart(t, sendFile(t, ctx, v, 0, p, "mine.bin", randomBytes(400_000)))
	other := apart(t, sendFile(t, ctx, v, 1, p, "other.bin", randomBytes(300_000)))
	revoked := apart(t, linkOf(t, ctx, v, p, "revoked.bin"))
	if _, err := v.Houses[2].Node().Admin().Revoke(ctx, api.RevokeRequest{Link: revoked.link()}); err != nil {
		t.Fatal(err)
	}
	stranger := func() pieces { // another organisation's genuine link
		w, ctx := village(t, Config{Sites: []string{"berlin"}})
		l := apart(t, sendFile(t, ctx, w, 0, person(t, ctx, w, "sender@example.org"), "mine.bin", randomBytes(300_000)))
		verify(t, ctx, w)
		return l
	}()
	raw, err := base64.RawURLEncoding.DecodeString(mine.token)
	if err != nil {
		t.Fatal(err)
	}
	more := func(cbor ...byte) string {
		return base64.RawURLEncoding.EncodeToString(append(raw[:len(raw):len(raw)], cbor...))
	}

	const invalid, denied = "invalid access", "access denied"
	cases := []struct {
		name, link, title string
	}{
		{"B8 other name", pieces{mine.origin, mine.cid, mine.token, "yours.bin"}.link(), invalid},
		{"B8 name in capitals", pieces{mine.origin, mine.cid, mine.token, "MINE.BIN"}.link(), invalid},
		{"B8 no name", pieces{mine.origin, mine.cid, mine.token, ""}.link(), invalid},
		{"B8 name with a path", pieces{mine.origin, mine.cid, mine.token, "x/../mine.bin"}.link(), invalid},
		{"B3 CID of another file", pieces{mine.origin, other.cid, mine.token, mine.name}.link(), invalid},
		{"B3 another file altogether", pieces{mine.origin, other.cid, mine.token, other.name}.link(), invalid},
		{"B3 CID of nothing", pieces{mine.origin, "bafkqaaa", mine.token, mine.name}.link(), invalid},
		{"B3 CID in capitals", pieces{mine.origin, strings.ToUpper(mine.cid), mine.token, mine.name}.link(), invalid},
		{"B3 no CID", pieces{mine.origin, "x", mine.token, mine.name}.link(), invalid},
		{"B7 another organisation's link", stranger.link(), denied},
		{"B7 another organisation's token", mine.withToken(stranger.token), denied},
		{"B7 narrowed by null", mine.withToken(more(0xf6)), denied},
		{"B7 narrowed by an empty array", mine.withToken(more(0x80)), denied},
		{"B7 narrowed by itself", mine.withToken(more(raw...)), denied},
		{"B7 with a seed behind it", mine.withToken(more(append([]byte{0x58, 32}, randomBytes(32)...)...)), denied},
		{"B7 padded", mine.withToken(mine.token + "="), denied},
		{"B7 not base64", mine.withToken("." + mine.token), denied},
		{"B7 very long", mine.withToken(strings.Repeat(mine.token, 50)), denied},
		{"B7 revoked", revoked.link(), denied},
		{"B7 revoked, on the landing page", mine.origin + "/m/" + revoked.token, denied},
		{"B7 forged, on the landing page", mine.origin + "/m/" + stranger.token, denied},
	}
	for i, h := range v.Houses {
		if err := v.Wait(ctx, h.Name+" to know of the revocation", func() (bool, error) {
			return get(t, ctx, v, i, revoked.link(), nil).Status == http.StatusForbidden, nil
		}); err != nil {
			t.Fatal(err)
		}
		for _, c := range cases {
			want := map[string]int{invalid: http.StatusNotFound, denied: http.StatusForbidden}[c.title]
			for _, header := range []http.Header{nil, {"Range": {"bytes=0-9"}}, {"If-None-Match": {`"` + mine.cid + `"`}}} {
				if got := get(t, ctx, v, i, c.link, header); got.Status != want || got.title() != c.title {
					t.Errorf("%s through %s with %v: got %d %s, want %d %q", c.name, h.Name, header, got.Status, head([]byte(got.Body)), want, c.title)
				}
			}
			if got := knock(t, ctx, v, i, http.MethodHead, c.link, "", nil); got.Status != want || got.Body != "" {
				t.Errorf("HEAD %s through %s: got %d, want %d", c.name, h.Name, got.Status, want)
			}
		}
	}
	for _, bad := range damaged(mine.token) {
		if got := get(t, ctx, v, 0, mine.withToken(bad), nil); got.Status != http.StatusForbidden || got.title() != denied {
			t.Errorf("token %s for %s: got %d %s", bad, mine.token, got.Status, got.Body)
		}
	}
	verify(t, ctx, v)
}

// linkOf sends a file and promises nothing about it.
func linkOf(t *testing.T, ctx context.Context, v *Village, p Person, name string) string {
	t.Helper()
	caught := len(v.Mail.Messages())
	if err := v.Send(ctx, 0, p, to, letter(name, randomBytes(300_000))); err != nil {
		t.Fatal(err)
	}
	return onlyLink(t, ctx, v, caught)
}

// Rows B6 and B7: a sender who is no longer known and a link that was revoked
// get one answer, byte for byte, as does a forged token. No verb removes a
// mailbox yet, so it is taken out of the ledger of a node that stands still.
func TestB6B7_OneAnswerForUnknownSenderRevokedAndForged(t *testing.T) {
	t.Parallel()
	v, ctx := village(t, Config{Sites: []string{"berlin"}})
	p := person(t, ctx, v, "sender@example.org")
	if err := v.Houses[0].Node().Admin().AddMailbox(ctx, api.MailboxRequest{
		Account: p.Address, Address: "leaving@example.org", NextHop: v.Mail.Addr(), TLS: "none",
	}); err != nil {
		t.Fatal(err)
	}
	sendFile(t, ctx, v, 0, p, "stays.bin", randomBytes(300_000))
	revoked := linkOf(t, ctx, v, p, "secret.bin")
	leaver := Person{Account: p.Account, Address: "leaving@example.org", Password: p.Password}
	if err := v.Send(ctx, 0, leaver, to, bytes.Replace(letter("secret.bin", randomBytes(300_000)), []byte("From: sender@"), []byte("From: leaving@"), 1)); err != nil {
		t.Fatal(err)
	}
	unknown := onlyLink(t, ctx, v, 2)
	if got := get(t, ctx, v, 0, unknown, nil); got.Status != http.StatusOK {
		t.Fatalf("before: got %d", got.Status)
	}
	if _, err := v.Houses[0].Node().Admin().Revoke(ctx, api.RevokeRequest{Link: revoked}); err != nil {
		t.Fatal(err)
	}
	inLedger(t, ctx, v, 0, func(tx *replication.Tx) error {
		return authz.RemoveMailbox(tx, authz.MailboxKey("leaving@example.org"))
	})
	forged := apart(t, revoked)
	links := []string{unknown, revoked, forged.withToken(damaged(forged.token)[0])}
	for _, header := range []http.Header{nil, browser, chinese} {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			want := knock(t, ctx, v, 0, method, revoked, "", header)
			if want.Status != http.StatusForbidden || header == nil && method == http.MethodGet && want.title() != "access denied" {
				t.Errorf("%s with %v: got %d %s, want access denied", method, header, want.Status, want.Body)
			}
			for _, link := range links {
				if diff := cmp.Diff(want, knock(t, ctx, v, 0, method, link, "", header)); diff != "" {
					t.Errorf("%s %s with %v can be told from a revoked link:\n%s", method, link, header, diff)
				}
			}
		}
	}
	verify(t, ctx, v)
}

// inLedger changes the ledger of the only node while that stands still.
func inLedger(t *testing.T, ctx context.Context, v *Village, i int, change func(*replication.Tx) error) {
	t.Helper()
	if err := v.Stop(i); err != nil {
		t.Fatal(err)
	}
	h := v.Houses[i]
	db, err := replication.Open(ctx, replication.Config{
		Dir: h.disk.PathJoin(h.cfg.Dir, "ledger"), FS: h.disk, ID: h.peer, Site: h.cfg.Site, Lane: noLane{}, Logger: v.cfg.Logger,
	})
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(ctx, change)
	if cerr := db.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Restart(ctx, i); err != nil {
		t.Fatal(err)
	}
	if err := v.Settled(ctx); err != nil {
		t.Fatal(err)
	}
}

// noLane is the lane of a ledger that is alone.
type noLane struct{}

func (noLane) Handle(string, func(network.Stream)) {}
func (noLane) Dial(context.Context, peer.ID, string) (network.Stream, error) {
	return nil, net.ErrClosed
}

// Promise 6: no web face waits for a body that a stranger announces and does not send.
func TestPromise6_AnnouncedBodyIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	v, ctx := village(t, Config{Sites: []string{"berlin"}})
	l := v.Houses[0].cfg.Listen
	for face, addr := range map[string]string{"files": l.Files, "app": l.App, "metrics": l.Metrics} {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		if err := conn.SetDeadline(time.Now().Add(startBound)); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: %s\r\nContent-Length: 1000\r\n\r\nabc", addr)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		conn.Close()
		if err != nil {
			t.Errorf("%s face: %v", face, err)
			continue
		}
		if resp.StatusCode < 400 || !resp.Close {
			t.Errorf("%s face: got %s, connection closes: %v", face, resp.Status, resp.Close)
		}
	}
	verify(t, ctx, v)
}

// G4: a node that is cut off and never heard of a grant does not refuse a
// genuine token; it says that it does not know yet. A forged one it refuses.
func TestG4_GrantUnknownAtANodeCutOff(t *testing.T) {
	t.Parallel()
	v, ctx := village(t, Config{Sites: threeAtTwo, Adjust: twoCopies})
	p := person(t, ctx, v, "sender@example.org")
	known := sendFile(t, ctx, v, 0, p, "known.bin", randomBytes(300_000))
	if err := v.Wait(ctx, "the node to know the first", func() (bool, error) {
		return get(t, ctx, v, 2, known, nil).Status == http.StatusOK, nil
	}); err != nil {
		t.Fatal(err)
	}
	v.Cut(2)
	link := sendFile(t, ctx, v, 0, p, "news.bin", randomBytes(300_000))
	news := apart(t, link)
	for _, c := range []struct { // each waits two seconds for the news
		link, words string
		header      http.Header
	}{{link, "not known here yet", nil}, {link, "Just a moment", browser}, {news.origin + "/m/" + news.token, "请稍候", chinese}} {
		got := get(t, ctx, v, 2, c.link, c.header)
		if got.Status != http.StatusServiceUnavailable || got.Header.Get("Retry-After") == "" || !strings.Contains(got.Body, c.words) {
			t.Errorf("%s at the node cut off: got %d, Retry-After %q\n%s", c.link, got.Status, got.Header.Get("Retry-After"), got.Body)
		}
	}
	if got := get(t, ctx, v, 2, news.withToken(damaged(news.token)[20]), nil); got.Status != http.StatusForbidden {
		t.Errorf("forged token at the node cut off: got %d, want 403", got.Status)
	}
	if got := get(t, ctx, v, 0, link, nil); got.Status != http.StatusOK {
		t.Errorf("at a node of the majority: got %d", got.Status)
	}
	v.Heal()
	if err := v.Settled(ctx); err != nil {
		t.Fatal(err)
	}
	if err := v.Wait(ctx, "the healed node to serve the link", func() (bool, error) {
		got := get(t, ctx, v, 2, link, nil)
		if got.Status != http.StatusOK && got.Status != http.StatusServiceUnavailable {
			return false, fmt.Errorf("got %d %s", got.Status, got.Body)
		}
		return got.Status == http.StatusOK, nil
	}); err != nil {
		t.Error(err)
	}
	verify(t, ctx, v)
}
