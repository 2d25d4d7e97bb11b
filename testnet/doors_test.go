package testnet

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/valise-mail/valise/authz"
	"github.com/valise-mail/valise/node/api"
	"github.com/valise-mail/valise/replication"
)

// An answer is what a stranger can tell of a response.
type answer struct {
	Status int
	Header http.Header
	Body   string
}

// title is what a program reads of a refusal.
func (a answer) title() string {
	var p struct{ Title string }
	if json.Unmarshal([]byte(a.Body), &p) != nil {
		return ""
	}
	return p.Title
}

// knock makes one request to house i. host is the Host that is claimed, "" the right one.
func knock(t *testing.T, ctx context.Context, v *Village, i int, method, link, host string, header http.Header) answer {
	t.Helper()
	u, err := url.Parse(link)
	if err != nil {
		t.Fatal(err)
	}
	u.Host = v.Houses[i].cfg.Listen.Files
	return knockAt(t, ctx, method, u.String(), host, header)
}

func knockAt(t *testing.T, ctx context.Context, method, to, host string, header http.Header) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, to, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = host
	for k, values := range header {
		req.Header[k] = values
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true}}).Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, to, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, to, err)
	}
	resp.Header.Del("Date")
	return answer{resp.StatusCode, resp.Header, string(body)}
}

func get(t *testing.T, ctx context.Context, v *Village, i int, link string, header http.Header) answer {
	t.Helper()
	return knock(t, ctx, v, i, http.MethodGet, link, "", header)
}

var (
	browser = http.Header{"Accept": {"text/html,application/xhtml+xml,*/*;q=0.8"}, "Accept-Language": {"en"}}
	chinese = http.Header{"Accept": {"text/html,application/xhtml+xml,*/*;q=0.8"}, "Accept-Language": {"zh-CN,zh;q=0.9,en;q=0.5"}}
)

// pieces are what a link is made of.
type pieces struct{ origin, cid, token, name string }

func apart(t *testing.T, link string) pieces {
	t.Helper()
	origin, rest, ok := strings.Cut(link, "/a/")
	parts := strings.Split(rest, "/")
	if !ok || len(parts) != 3 {
		t.Fatalf("%s is no link to a file", link)
	}
	return pieces{origin, parts[0], parts[1], parts[2]}
}

func (p pieces) link() string { return p.origin + "/a/" + p.cid + "/" + p.token + "/" + p.name }

func (p pieces) withToken(token string) string {
	p.token = token
	return p.link()
}

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

// damaged is a token with each of its characters changed, and each of its beginnings.
func damaged(token string) []string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	var out []string
	for i := range token {
		at := strings.IndexByte(alphabet, token[i])
		out = append(out, token[:i]+alphabet[at^1:at^1+1]+token[i+1:])
		if i > 0 {
			out = append(out, token[:i])
		}
	}
	return out
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

// G5 at every node, whether it holds the file or not: bytes for programs, pages
// for browsers in their language, and only GET and HEAD, and only under our names.
func TestG5_ReceiversDoor(t *testing.T) {
	t.Parallel()
	v, ctx := village(t, Config{Sites: threeAtTwo, Adjust: twoCopies})
	p := person(t, ctx, v, "sender@example.org")
	caught := len(v.Mail.Messages())
	old, changed := string(randomBytes(400_000)), string(randomBytes(500_000))
	if err := v.Send(ctx, 0, p, to, letter("plan.bin", []byte(old))); err != nil {
		t.Fatal(err)
	}
	link := onlyLink(t, ctx, v, caught)
	put, err := v.Houses[1].Node().Admin().Put(ctx, api.PutRequest{Account: p.Address, Name: "plan.bin", Replace: fileBehind(t, ctx, v, p, "plan.bin")}, strings.NewReader(changed))
	if err != nil {
		t.Fatal(err)
	}
	v.Promise(link, []byte(changed))
	v.Promise(link+"?v=sent", []byte(old))
	tag, tagSent := `"`+put.CID+`"`, `"`+cidOf(link)+`"`

	for i, h := range v.Houses {
		if err := v.Wait(ctx, h.Name+" to know the new version", func() (bool, error) {
			return get(t, ctx, v, i, link, nil).Body == changed, nil
		}); err != nil {
			t.Fatal(err)
		}
		t.Run(h.Name, func(t *testing.T) {
			for _, c := range []struct {
				name, method, query string
				header              http.Header
				status              int
				body                string
				want                map[string]string
			}{
				{"newest", "GET", "", nil, 200, changed, map[string]string{"Etag": tag, "Accept-Ranges": "bytes", "Cache-Control": "private, no-cache", "Content-Disposition": `attachment; filename="plan.bin"; filename*=UTF-8''plan.bin`, "Content-Length": "500000"}},
				{"as sent", "GET", "?v=sent", nil, 200, old, map[string]string{"Etag": tagSent}},
				{"HEAD", "HEAD", "", nil, 200, "", map[string]string{"Etag": tag, "Content-Length": "500000"}},
				{"HEAD as sent", "HEAD", "?v=sent", nil, 200, "", map[string]string{"Etag": tagSent, "Content-Length": "400000"}},
				{"range", "GET", "", http.Header{"Range": {"bytes=300000-300099"}}, 206, changed[300000:300100], map[string]string{"Content-Range": "bytes 300000-300099/500000", "Etag": tag}},
				{"end of the range open", "GET", "", http.Header{"Range": {"bytes=499990-"}}, 206, changed[499990:], nil},
				{"last bytes", "GET", "?v=sent", http.Header{"Range": {"bytes=-10"}}, 206, old[399990:], nil},
				{"resume of the version it began with", "GET", "", http.Header{"Range": {"bytes=100-"}, "If-Range": {tag}}, 206, changed[100:], nil},
				{"resume of another version", "GET", "", http.Header{"Range": {"bytes=100-"}, "If-Range": {tagSent}}, 200, changed, nil},
				{"range that cannot be", "GET", "", http.Header{"Range": {"bytes=500000-"}}, 416, "", map[string]string{"Content-Range": "bytes */500000"}},
				{"known already", "GET", "", http.Header{"If-None-Match": {tag}}, 304, "", map[string]string{"Etag": tag}},
				{"another version known", "GET", "", http.Header{"If-None-Match": {tagSent}}, 200, changed, nil},
				{"a browser's button", "GET", "?dl=1", browser, 200, changed, map[string]string{"Etag": tag}},
				{"a browser's button, as sent", "GET", "?v=sent&dl=1", chinese, 200, old, map[string]string{"Etag": tagSent}},
				{"POST", "POST", "", nil, 405, "", map[string]string{"Allow": "GET, HEAD"}},
				{"PUT", "PUT", "", nil, 405, "", nil},
				{"DELETE", "DELETE", "?dl=1", browser, 405, "", nil},
			} {
				got := knock(t, ctx, v, i, c.method, link+c.query, "", c.header)
				if got.Status != c.status || c.status < 400 && got.Body != c.body {
					t.Errorf("%s: got %d with %d bytes, want %d with %d", c.name, got.Status, len(got.Body), c.status, len(c.body))
				}
				for k, want := range c.want {
					if got.Header.Get(k) != want {
						t.Errorf("%s: %s is %q, want %q", c.name, k, got.Header.Get(k), want)
					}
				}
				if c.status < 400 && !strings.Contains(got.Header.Get("Vary"), "Accept") {
					t.Errorf("%s: Vary is %q", c.name, got.Header.Get("Vary"))
				}
			}
			for _, c := range []struct {
				header http.Header
				lang   string
				query  string
				words  []string
			}{
				{browser, "en", "", []string{"plan.bin", "sender@example.org", ">Download<", "Newest", `href="?dl=1"`, `href="?v=sent"`}},
				{chinese, "zh-CN", "", []string{"plan.bin", "sender@example.org", ">下载<", "最新版本", `href="?dl=1"`, `href="?v=sent"`}},
				{browser, "en", "?v=sent", []string{"As sent", `href="?v=sent&amp;dl=1"`}},
				{chinese, "zh-CN", "?v=sent", []string{"发送时的版本"}},
			} {
				got := get(t, ctx, v, i, link+c.query, c.header)
				if got.Status != http.StatusOK || got.Header.Get("Content-Language") != c.lang || got.Header.Get("Cache-Control") != "no-store" || got.Header.Get("Etag") == tag {
					t.Errorf("page in %s: got %d %v", c.lang, got.Status, got.Header)
				}
				for _, w := range c.words {
					if !strings.Contains(got.Body, w) {
						t.Errorf("page in %s%s lacks %q:\n%s", c.lang, c.query, w, got.Body)
					}
				}
			}
			app := "http://" + h.cfg.Listen.App + "/"
			if got := knockAt(t, ctx, "GET", app, "", browser); got.Status != http.StatusOK {
				t.Errorf("app face: got %d", got.Status)
			}
			for _, host := range []string{"files.example.net", "127.0.0.1", "localhost:1"} {
				for _, header := range []http.Header{nil, browser, chinese} {
					if got := knock(t, ctx, v, i, "GET", link, host, header); got.Status != http.StatusMisdirectedRequest {
						t.Errorf("files face as %s: got %d, want 421", host, got.Status)
					}
					if got := knockAt(t, ctx, "GET", app, host, header); got.Status != http.StatusMisdirectedRequest {
						t.Errorf("app face as %s: got %d, want 421", host, got.Status)
					}
				}
			}
			if got := knockAt(t, ctx, "POST", app, "", nil); got.Status != http.StatusMethodNotAllowed {
				t.Errorf("POST to the app face: got %d, want 405", got.Status)
			}
		})
	}
	verify(t, ctx, v)
}

// G6: a message with several files carries one link, to a page that lists them.
func TestG6_LandingPageOfSeveralFiles(t *testing.T) {
	t.Parallel()
	v, ctx := village(t, Config{Sites: threeAtTwo, Adjust: twoCopies})
	p := person(t, ctx, v, "sender@example.org")
	contents := map[string][]byte{"one.bin": randomBytes(300_000), "two words.bin": randomBytes(350_000), "三.bin": randomBytes(310_000)}
	message := letter("one.bin", contents["one.bin"])
	for _, name := range []string{"two words.bin", "三.bin"} {
		_, part, _ := bytes.Cut(letter(name, contents[name]), []byte("Hello.\r\n"))
		message = append(bytes.TrimSuffix(message, []byte("--XX--\r\n")), part...)
	}
	if err := v.Send(ctx, 0, p, to, message); err != nil {
		t.Fatal(err)
	}
	landing := onlyLink(t, ctx, v, 0)
	for i, h := range v.Houses {
		if err := v.Wait(ctx, h.Name+" to know the message", func() (bool, error) {
			return get(t, ctx, v, i, landing, nil).Status == http.StatusOK, nil
		}); err != nil {
			t.Fatal(err)
		}
		if got := get(t, ctx, v, i, landing, browser); got.Status != 200 || !strings.Contains(got.Body, "3 files for you") || !strings.Contains(got.Body, "sender@example.org") {
			t.Errorf("through %s: got %d\n%s", h.Name, got.Status, got.Body)
		}
		if got := get(t, ctx, v, i, landing, chinese); got.Status != 200 || !strings.Contains(got.Body, "您收到 3 个文件") || got.Header.Get("Content-Language") != "zh-CN" {
			t.Errorf("through %s in Chinese: got %d\n%s", h.Name, got.Status, got.Body)
		}
		files, err := v.FileLinks(ctx, i, landing)
		if err != nil || len(files) != 3 {
			t.Fatalf("through %s: files %q, %v", h.Name, files, err)
		}
		for _, f := range files {
			name, err := url.PathUnescape(apart(t, f).name)
			if err != nil {
				t.Fatal(err)
			}
			if got := get(t, ctx, v, i, f, nil); got.Status != http.StatusOK || got.Body != string(contents[name]) {
				t.Errorf("%s through %s: got %d with %d bytes", name, h.Name, got.Status, len(got.Body))
			}
			if i == 0 {
				v.Promise(f, contents[name])
			}
		}
		var list struct {
			Sender string
			Files  []struct {
				Name string
				Size int
				URL  string
			}
		}
		got := get(t, ctx, v, i, landing, http.Header{"Accept": {"application/json"}})
		if err := json.Unmarshal([]byte(got.Body), &list); err != nil || list.Sender != "sender@example.org" || len(list.Files) != 3 {
			t.Errorf("as JSON through %s: %v, %+v", h.Name, err, list)
		}
		for _, f := range list.Files {
			if f.Size != len(contents[f.Name]) {
				t.Errorf("as JSON through %s: %q has size %d", h.Name, f.Name, f.Size)
			}
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
