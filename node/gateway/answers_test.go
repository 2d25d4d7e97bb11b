package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/valise-mail/valise/authz"
	"github.com/valise-mail/valise/node/web"
)

const (
	browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
	good    = "/a/bafysent/TOK-good/report.pdf"
)

func TestG5_Answers(t *testing.T) {
	t.Parallel()
	const (
		page  = "text/html; charset=utf-8"
		fault = "application/problem+json"
	)
	tests := []struct {
		name, method, path string
		headers            []string
		status             int
		mediaType          string
		cache              string
		body               string // a part of it; "=" in front: all of it
		header             string // "Name: value" that must be there
	}{
		{name: "curl gets bytes", path: good, headers: []string{"Accept", "*/*"}, status: 200, mediaType: "application/pdf", cache: "private, no-cache", body: "=" + string(report), header: `ETag: "bafysent"`},
		{name: "no Accept gets bytes", path: good, status: 200, mediaType: "application/pdf", cache: "private, no-cache", body: "=" + string(report)},
		{name: "browser gets page", path: good, headers: []string{"Accept", browser}, status: 200, mediaType: page, cache: "no-store", body: "<h1>"},
		{name: "browser's download", path: good + "?dl=1", headers: []string{"Accept", browser}, status: 200, mediaType: "application/pdf", cache: "private, no-cache", body: "=" + string(report)},
		{name: "html refused by weight", path: good, headers: []string{"Accept", "text/html;q=0, */*"}, status: 200, mediaType: "application/pdf", cache: "private, no-cache"},
		{name: "any text is not html", path: good, headers: []string{"Accept", "text/*"}, status: 200, mediaType: "application/pdf", cache: "private, no-cache"},
		{name: "head", method: "HEAD", path: good, status: 200, mediaType: "application/pdf", cache: "private, no-cache", body: "=", header: "Content-Length: 65536"},
		{name: "head of page", method: "HEAD", path: good, headers: []string{"Accept", browser}, status: 200, mediaType: page, cache: "no-store", body: "="},
		{name: "range", path: good, headers: []string{"Range", "bytes=16-19"}, status: 206, mediaType: "application/pdf", cache: "private, no-cache", body: "=0123", header: "Content-Range: bytes 16-19/65536"},
		{name: "range from the end", path: good, headers: []string{"Range", "bytes=-3"}, status: 206, mediaType: "application/pdf", cache: "private, no-cache", body: "=def"},
		{name: "range of a page", path: good, headers: []string{"Range", "bytes=0-3", "Accept", browser}, status: 200, mediaType: page, cache: "no-store", body: "<!DOCTYPE html>"},
		{name: "range beyond", path: good, headers: []string{"Range", "bytes=65536-"}, status: 416, mediaType: fault, cache: "no-store", header: "Content-Range: bytes */65536"},
		{name: "known", path: good, headers: []string{"If-None-Match", `"bafysent"`}, status: 304, cache: "private, no-cache", body: "="},
		{name: "page is never known", path: good, headers: []string{"If-None-Match", `"bafysent"`, "Accept", browser}, status: 200, mediaType: page, cache: "no-store"},
		{name: "known in another version", path: good, headers: []string{"If-None-Match", `"bafynew"`}, status: 200, mediaType: "application/pdf", cache: "private, no-cache"},
		{name: "times do not validate", path: good, headers: []string{"If-Modified-Since", "Fri, 20 Nov 2027 09:41:00 GMT"}, status: 200, mediaType: "application/pdf", cache: "private, no-cache"},
		{name: "resume same", path: good, headers: []string{"Range", "bytes=65530-", "If-Range", `"bafysent"`}, status: 206, mediaType: "application/pdf", cache: "private, no-cache", body: "=abcdef"},
		{name: "resume changed", path: "/a/bafysent/TOK-changed/report.pdf", headers: []string{"Range", "bytes=5-", "If-Range", `"bafysent"`}, status: 200, mediaType: "application/pdf", cache: "private, no-cache", body: "=the newer one"},
		{name: "resume by time starts over", path: good, headers: []string{"Range", "bytes=5-", "If-Range", "Fri, 20 Nov 2026 09:41:00 GMT"}, status: 200, mediaType: "application/pdf", cache: "private, no-cache", body: "=" + string(report)},
		{name: "too many ranges", path: good, headers: []string{"Range", "bytes=0-0" + strings.Repeat(",2-2", maxRanges)}, status: 200, mediaType: "application/pdf", cache: "private, no-cache", body: "=" + string(report)},
		{name: "ranges in another unit", path: good, headers: []string{"Range", "lines=1-2"}, status: 200, mediaType: "application/pdf", cache: "private, no-cache", body: "=" + string(report)},
		{name: "range the wrong way round", path: good, headers: []string{"Range", "bytes=5-2"}, status: 416, mediaType: fault, cache: "no-store"},
		{name: "only this version", path: good, headers: []string{"If-Match", `"bafysent"`, "Range", "bytes=0-0"}, status: 206, mediaType: "application/pdf", cache: "private, no-cache", body: "=0"},
		{name: "only another version", path: good, headers: []string{"If-Match", `"bafynew"`}, status: 412, mediaType: fault, cache: "no-store", body: "precondition failed"},
		{name: "only another version, head", method: "HEAD", path: good, headers: []string{"If-Match", `"bafynew"`}, status: 412, mediaType: fault, cache: "no-store", body: "="},
		{name: "only another version, for a person", path: good + "?dl=1", headers: []string{"If-Match", `"bafynew"`, "Accept", browser}, status: 412, mediaType: page, cache: "no-store", body: "Start the download anew"},
		{name: "A4 newest", path: "/a/bafysent/TOK-changed/report.pdf", status: 200, mediaType: "application/pdf", cache: "private, no-cache", body: "=the newer one", header: `ETag: "bafynew"`},
		{name: "A4 as sent", path: "/a/bafysent/TOK-changed/report.pdf?v=sent", status: 200, mediaType: "application/pdf", cache: "private, no-cache", body: "=" + string(report), header: `ETag: "bafysent"`},
		{name: "empty file", path: "/a/bafysent/TOK-empty/empty.txt", status: 200, mediaType: "text/plain", cache: "private, no-cache", body: "=", header: "Content-Length: 0"},
		{name: "F2 active content", path: "/a/bafysent/TOK-script/%3Cscript%3Ealert(%221%22)%3C%2Fscript%3E.html", status: 200, mediaType: octets, cache: "private, no-cache", header: "Content-Security-Policy: sandbox; default-src 'none'"},

		{name: "B7 stranger", path: "/a/bafysent/TOK-no/report.pdf", status: 403, mediaType: fault, cache: "no-store", body: `"title":"access denied"`},
		{name: "B7 stranger's page", path: "/a/bafysent/TOK-no/report.pdf", headers: []string{"Accept", browser}, status: 403, mediaType: page, cache: "no-store", body: "access denied"},
		{name: "B7 range", path: "/a/bafysent/TOK-no/report.pdf", headers: []string{"Range", "bytes=0-3"}, status: 403, mediaType: fault, cache: "no-store"},
		{name: "B7 known", path: "/a/bafysent/TOK-no/report.pdf", headers: []string{"If-None-Match", `"bafysent"`}, status: 403, mediaType: fault, cache: "no-store"},
		{name: "B8 other name", path: "/a/bafysent/TOK-good/Report.pdf", status: 404, mediaType: fault, cache: "no-store", body: `"title":"invalid access"`},
		{name: "B8 other name's page", path: "/a/bafysent/TOK-good/Report.pdf", headers: []string{"Accept", browser}, status: 404, mediaType: page, cache: "no-store", body: "invalid access"},
		{name: "B8 other cid", path: "/a/bafynew/TOK-changed/report.pdf", status: 404, mediaType: fault, cache: "no-store", body: "invalid access"},
		{name: "B8 range", path: "/a/bafysent/TOK-good/x", headers: []string{"Range", "bytes=0-3"}, status: 404, mediaType: fault, cache: "no-store"},
		{name: "B8 known", path: "/a/bafysent/TOK-good/x", headers: []string{"If-None-Match", `"bafysent"`}, status: 404, mediaType: fault, cache: "no-store"},
		{name: "B8 name cut off", path: "/a/bafysent/TOK-good", status: 404, mediaType: fault, cache: "no-store", body: "invalid access"},
		{name: "G4 not yet", path: "/a/bafysent/TOK-unknown/x", status: 503, mediaType: fault, cache: "no-store", header: "Retry-After: 2"},
		{name: "unavailable", path: "/a/bafysent/TOK-unavailable/x", status: 503, mediaType: fault, cache: "no-store", header: "Retry-After: 30"},
		{name: "restoring", path: "/a/bafysent/TOK-restoring/x", status: 503, mediaType: fault, cache: "no-store", header: "Retry-After: 3600"},
		{name: "L4 stale", path: "/a/bafysent/TOK-stale/x", status: 503, mediaType: fault, cache: "no-store", header: "Retry-After: 10"},
		{name: "broken", path: "/a/bafysent/TOK-broken/x", status: 500, mediaType: fault, cache: "no-store", body: "internal error"},

		{name: "landing page", path: "/m/TOK-several", headers: []string{"Accept", browser}, status: 200, mediaType: page, cache: "no-store", body: "3 files for you"},
		{name: "landing for curl", path: "/m/TOK-several", status: 200, mediaType: "text/uri-list; charset=utf-8", cache: "no-store", body: "\r\nhttps://files.example.org/a/bafysent/TOK-several/report.pdf\r\n"},
		{name: "landing for programs", path: "/m/TOK-several", headers: []string{"Accept", "application/json"}, status: 200, mediaType: "application/json", cache: "no-store", body: `"url":"https://files.example.org/a/bafysecond/TOK-several/%E4%BC%9A`},
		{name: "landing refused", path: "/m/TOK-no", status: 403, mediaType: fault, cache: "no-store", body: "access denied"},
		{name: "landing head", method: "HEAD", path: "/m/TOK-several", status: 200, mediaType: "text/uri-list; charset=utf-8", cache: "no-store", body: "="},

		{name: "B4 root", path: "/", status: 404, mediaType: fault, cache: "no-store", body: "not found"},
		{name: "B4 no token", path: "/a/bafysent", status: 404, mediaType: fault, cache: "no-store"},
		{name: "B4 empty token", path: "/a/bafysent//report.pdf", status: 404, mediaType: fault, cache: "no-store"},
		{name: "B4 empty landing", path: "/m/", status: 404, mediaType: fault, cache: "no-store"},
		{name: "B4 post", method: "POST", path: good, status: 405, mediaType: fault, cache: "no-store", header: "Allow: GET, HEAD"},
		{name: "B4 delete", method: "DELETE", path: "/", status: 405, mediaType: fault, cache: "no-store"},
		{name: "robots", path: "/robots.txt", status: 200, mediaType: "text/plain; charset=utf-8", body: "Disallow: /\n", header: "X-Content-Type-Options: nosniff"},
		{name: "icon", path: "/favicon.ico", status: 200, mediaType: "image/svg+xml", cache: "no-store"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var log bytes.Buffer
			g := newGateway(t, newMemory(), func(c *Config) {
				c.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
			})
			method := tt.method
			if method == "" {
				method = "GET"
			}
			w := ask(g, method, tt.path, tt.headers...)
			got := []any{w.Code, w.Header().Get("Content-Type"), w.Header().Get("Cache-Control")}
			if diff := cmp.Diff([]any{tt.status, tt.mediaType, tt.cache}, got); diff != "" {
				t.Errorf("status, type, cache (-want +got):\n%s", diff)
			}
			body := w.Body.String()
			if all, ok := strings.CutPrefix(tt.body, "="); ok && body != all {
				t.Errorf("body: got %.80q (%d bytes), want %.80q", body, len(body), all)
			} else if !ok && !strings.Contains(body, tt.body) {
				t.Errorf("body: got %.300q, want %q in it", body, tt.body)
			}
			if k, v, _ := strings.Cut(tt.header, ": "); k != "" && w.Header().Get(k) != v {
				t.Errorf("%s: got %q, want %q", k, w.Header().Get(k), v)
			}
			if strings.HasPrefix(tt.path, "/a/") || strings.HasPrefix(tt.path, "/m/") {
				wantPrivate(t, w.Header())
			}
			if d := w.Header().Get("Content-Disposition"); strings.HasPrefix(d, "attachment; ") != (tt.cache == "private, no-cache") {
				t.Errorf("F2: status %d with Content-Disposition %q", w.Code, d)
			}
			if tt.mediaType == fault {
				wantProblem(t, tt.status, method, w.Body.Bytes())
			}
			if strings.Contains(log.String(), "TOK") {
				t.Errorf("a token was logged: %s", log.String())
			}
		})
	}
}

// wantPrivate checks what every answer behind a token says.
func wantPrivate(t *testing.T, h http.Header) {
	t.Helper()
	for k, v := range map[string]string{
		"Vary": web.Vary, "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff",
		"Cross-Origin-Resource-Policy": "same-origin", "X-Robots-Tag": "noindex, nofollow",
	} {
		if h.Get(k) != v {
			t.Errorf("%s: got %q, want %q", k, h.Get(k), v)
		}
	}
	if csp := h.Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") {
		t.Errorf("Content-Security-Policy: got %q", csp)
	}
}

func wantProblem(t *testing.T, status int, method string, body []byte) {
	t.Helper()
	if method == "HEAD" {
		return
	}
	var p struct {
		Title, Detail string
		Status        int
	}
	if err := json.Unmarshal(body, &p); err != nil || p.Status != status || p.Title == "" || p.Detail == "" {
		t.Errorf("problem: got %s, %v", body, err)
	}
}

// S302 and S303 and a bad token share one answer, byte for byte, for persons and programs.
func TestB6_B7_OneAnswer(t *testing.T) {
	t.Parallel()
	for _, accept := range []string{"*/*", browser} {
		var want string
		for i, reason := range []error{
			authz.ErrAccessDenied,
			&authz.Refusal{Step: "token", Answer: authz.ErrAccessDenied, Reason: authz.ErrBadToken},
			&authz.Refusal{Step: "S302", Answer: authz.ErrAccessDenied, Reason: authz.ErrUnknownSender},
			&authz.Refusal{Step: "S303", Answer: authz.ErrAccessDenied, Reason: authz.ErrRevoked},
		} {
			lib := newMemory()
			lib.grants["TOK-good"].err = reason
			// The rest of the request must not show in the answer either.
			path := []string{good, "/a/x/TOK-good/y", "/a/bafysent/TOK-good/report.pdf?v=sent&dl=0", "/m/TOK-good"}[i]
			var b bytes.Buffer
			if err := ask(newGateway(t, lib), "GET", path, "Accept", accept).Result().Write(&b); err != nil {
				t.Fatal(err)
			}
			if want == "" {
				want = b.String()
			}
			if diff := cmp.Diff(want, b.String()); diff != "" {
				t.Errorf("%v (-first +this):\n%s", reason, diff)
			}
		}
	}
}

// Whatever opens a link, how often and in what order, changes nothing for those after it.
func TestG3_ScannersChangeNothing(t *testing.T) {
	t.Parallel()
	lib := newMemory()
	g := newGateway(t, lib)
	var want bytes.Buffer
	if err := ask(g, "GET", good).Result().Write(&want); err != nil {
		t.Fatal(err)
	}
	t.Run("scan", func(t *testing.T) {
		for _, headers := range [][]string{
			{},
			{"Sec-Purpose", "prefetch;prerender", "Accept", browser},
			{"Purpose", "prefetch"},
			{"X-Moz", "prefetch"},
			{"Range", "bytes=0-0"},
			{"Range", "bytes=0-0,5-6,9-9"},
			{"User-Agent", "Mozilla/5.0 (compatible; link scanner)", "Accept", browser},
		} {
			for _, method := range []string{"HEAD", "GET", "POST"} {
				t.Run(method, func(t *testing.T) {
					t.Parallel()
					for _, path := range []string{good, good + "?dl=1", good + "?v=sent", "/m/TOK-good"} {
						if w := ask(g, method, path, headers...); method != "POST" && w.Code > 206 {
							t.Errorf("%s %s %v: %d", method, path, headers, w.Code)
						}
					}
				})
			}
		}
	})
	var got bytes.Buffer
	if err := ask(g, "GET", good).Result().Write(&got); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want.Bytes()) {
		t.Error("the answer is another one after scanning")
	}
	waitFor(t, "all contents closed", func() bool { return lib.opened.Load() == lib.closed.Load() })
}

// No bytes are looked for unless bytes go out.
func TestG1_BytesLast(t *testing.T) {
	t.Parallel()
	lib := newMemory()
	g := newGateway(t, lib)
	ask(g, "HEAD", good)
	ask(g, "HEAD", good, "Range", "bytes=3-4")
	ask(g, "GET", good, "Accept", browser)
	ask(g, "GET", good, "If-None-Match", `"bafysent"`)
	ask(g, "GET", good, "Range", "bytes=99999-")
	ask(g, "GET", "/a/bafysent/TOK-good/x")
	ask(g, "GET", "/a/bafysent/TOK-empty/empty.txt")
	if n := lib.opened.Load(); n != 0 {
		t.Errorf("content was opened %d times, want 0", n)
	}
	ask(g, "GET", good)
	if n := lib.opened.Load(); n != 1 {
		t.Errorf("content was opened %d times, want 1", n)
	}
}

func TestG5_PageAndBytesHaveDifferentTags(t *testing.T) {
	t.Parallel()
	g := newGateway(t, newMemory())
	seen := make(map[string]string)
	for name, headers := range map[string][]string{"bytes": nil, "page": {"Accept", browser}, "Chinese page": {"Accept", browser, "Accept-Language", "zh"}} {
		tag := ask(g, "GET", good, headers...).Header().Get("ETag")
		if other := seen[tag]; other != "" || tag == "" || strings.HasPrefix(tag, "W/") {
			t.Errorf("%s and %s share %q", name, other, tag)
		}
		seen[tag] = name
	}
}

// A node that closes, or a client that left, never makes an empty 200.
func TestEndedRequestIsNoAnswer(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	lib := newMemory()
	lib.grants["TOK-ended"] = one("x", report)
	lib.grants["TOK-ended"].files[0].versions[0].open = func(ctx context.Context) (io.ReadSeekCloser, error) { return nil, ctx.Err() }
	lib.grants["TOK-ended"].files[0].versions[0].size = 100
	lib.grants["TOK-waited"] = &memoryGrant{err: context.Canceled}
	for _, path := range []string{"/a/bafysent/TOK-ended/x", "/a/bafysent/TOK-waited/x", "/m/TOK-waited"} {
		r := httptest.NewRequestWithContext(ctx, "GET", "https://files.example.org"+path, nil)
		w := httptest.NewRecorder()
		newGateway(t, lib).ServeHTTP(w, r)
		if w.Code != 503 {
			t.Errorf("%s: got %d, want 503", path, w.Code)
		}
	}
}

// An operator reads of a download how it went, from where, and of a refusal why.
func TestLog(t *testing.T) {
	t.Parallel()
	tests := []struct{ token, want string }{
		{"good", `level=INFO msg=download status=200 client=192.0.2.1 bytes=65536 `},
		{"cut", `level=WARN msg="download broken off" status=200 client=192.0.2.1 bytes=4096 `},
		{"short", `level=INFO msg="download broken off" status=200 client=192.0.2.1 bytes=65536 `},
		{"no", `level=DEBUG msg=refused status=403 client=192.0.2.1 error="access denied"`},
		{"unavailable", `level=WARN msg=refused status=503 client=192.0.2.1 error="no holder of the file can be reached now"`},
		{"broken", `level=ERROR msg=refused status=500 client=192.0.2.1 error="io: read/write on closed pipe"`},
	}
	for _, tt := range tests {
		t.Run(tt.token, func(t *testing.T) {
			t.Parallel()
			lib := newMemory()
			lib.grants["TOK-cut"] = endless(1<<20, aheadSize, ErrUnavailable)
			lib.grants["TOK-cut"].files[0].name = "report.pdf"
			lib.grants["TOK-short"] = short("report.pdf")
			broken := tt.token == "cut" || tt.token == "short"
			var log bytes.Buffer
			g := newGateway(t, lib, func(c *Config) {
				c.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
			})
			func() {
				defer func() {
					if p := recover(); (p == http.ErrAbortHandler) != broken {
						t.Errorf("panic: %v", p)
					}
				}()
				ask(g, "GET", "/a/bafysent/TOK-"+tt.token+"/report.pdf")
			}()
			if !strings.Contains(log.String(), tt.want) {
				t.Errorf("got %s, want %s", log.String(), tt.want)
			}
		})
	}
}
