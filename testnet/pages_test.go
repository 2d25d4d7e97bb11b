package testnet

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/valise-mail/valise/node/api"
)

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
