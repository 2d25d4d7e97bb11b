package gateway

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var origin = &url.URL{Scheme: "https", Host: "files.example.org"}

func TestFileURL(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"report.pdf":  "report.pdf",
		"a b+c&d.txt": "a%20b%2Bc%26d.txt",
		"#1?.txt":     "%231%3F.txt",
		"100%.txt":    "100%25.txt",
		"(final).":    "%28final%29%2E",
		"会议.doc":      "%E4%BC%9A%E8%AE%AE.doc",
		`"it's"`:      "%22it%27s%22",
		"..x":         "..x",
	} {
		if got, want := FileURL(origin, "bafy", "tok_-1", name), "https://files.example.org/a/bafy/tok_-1/"+want; got != want {
			t.Errorf("%q: got %s, want %s", name, got, want)
		}
	}
	if got, want := LandingURL(origin, "tok"), "https://files.example.org/m/tok"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// What stands on the wire reaches the law exactly: one unescape, no cleaning.
func TestB8_PathsReachTheLawUnchanged(t *testing.T) {
	t.Parallel()
	tests := []struct {
		target string
		want   Request // zero: 404 without a question
	}{
		{"/a/bafy/TOK/report.pdf", Request{Token: "TOK", CID: "bafy", Name: "report.pdf"}},
		{"/a/bafy/TOK/report.pdf?utm_source=x&v=sent&dl=1", Request{Token: "TOK", CID: "bafy", Name: "report.pdf", Version: AsSent}},
		{"/a/bafy/TOK/a%2Fb", Request{Token: "TOK", CID: "bafy", Name: "a/b"}},
		{"/a/bafy/TOK/a%252Fb", Request{Token: "TOK", CID: "bafy", Name: "a%2Fb"}},
		{"/a/bafy/TOK/a/b", Request{Token: "TOK", CID: "bafy", Name: "a/b"}},
		{"/a/bafy/TOK/a//b", Request{Token: "TOK", CID: "bafy", Name: "a//b"}},
		{"/a/bafy/TOK//b", Request{Token: "TOK", CID: "bafy", Name: "/b"}},
		{"/a/bafy/TOK/../b", Request{Token: "TOK", CID: "bafy", Name: "../b"}},
		{"/a/bafy/TOK/..", Request{Token: "TOK", CID: "bafy", Name: ".."}},
		{"/a/bafy/TOK/.", Request{Token: "TOK", CID: "bafy", Name: "."}},
		{"/a/bafy/TOK/...", Request{Token: "TOK", CID: "bafy", Name: "..."}},
		{"/a/bafy/TOK/name.", Request{Token: "TOK", CID: "bafy", Name: "name."}},
		{"/a/bafy/TOK/name%2E", Request{Token: "TOK", CID: "bafy", Name: "name."}},
		{"/a/bafy/TOK/name/", Request{Token: "TOK", CID: "bafy", Name: "name/"}},
		{"/a/bafy/TOK/%23%3F", Request{Token: "TOK", CID: "bafy", Name: "#?"}},
		{"/a/bafy/TOK/a+b", Request{Token: "TOK", CID: "bafy", Name: "a+b"}},
		{"/a/bafy/TOK/a%20b", Request{Token: "TOK", CID: "bafy", Name: "a b"}},
		{"/a/bafy/TOK/a;b=c", Request{Token: "TOK", CID: "bafy", Name: "a;b=c"}},
		{"/a/bafy/TOK/%00%0A", Request{Token: "TOK", CID: "bafy", Name: "\x00\n"}},
		{"/a/bafy/TOK/%ff%FE", Request{Token: "TOK", CID: "bafy", Name: "\xff\xfe"}},
		{"/a/bafy/TOK/\u4f1a\u8bae.pdf", Request{Token: "TOK", CID: "bafy", Name: "会议.pdf"}},
		{"/a/bafy/TOK/[x]'%22", Request{Token: "TOK", CID: "bafy", Name: `[x]'"`}},
		{"/a/bafy/TOK", Request{Token: "TOK", CID: "bafy"}},
		{"/a/bafy/TOK/", Request{Token: "TOK", CID: "bafy"}},
		{"/a/ba%2Ffy/T%2FOK/x", Request{Token: "T/OK", CID: "ba/fy", Name: "x"}},
		{"https://files.example.org/a/bafy/TOK/x", Request{Token: "TOK", CID: "bafy", Name: "x"}},
		{"/a/bafy//x", Request{}},
		{"/a//TOK/x", Request{}},
		{"//a/bafy/TOK/x", Request{}},
		{"/A/bafy/TOK/x", Request{}},
		{"/x/../a/bafy/TOK/x", Request{}},
		{"/a%2Fbafy/TOK/x", Request{}},
		{"/%61/bafy/TOK/x", Request{}},
		{"*", Request{}},
	}
	lib := newMemory()
	s := serve(t, lib)
	for _, tt := range tests {
		t.Run(tt.target, func(t *testing.T) {
			before := len(lib.requests())
			c, err := net.Dial("tcp", s.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: files.example.org\r\nConnection: close\r\n\r\n", tt.target)
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			asked := lib.requests()[before:]
			if tt.want == (Request{}) {
				if resp.StatusCode < 400 || resp.StatusCode == 403 || len(asked) > 0 {
					t.Errorf("got %s, asked %q", resp.Status, asked)
				}
				return
			}
			if resp.StatusCode != 403 {
				t.Errorf("got %s, want 403", resp.Status)
			}
			if diff := cmp.Diff([]Request{tt.want}, asked); diff != "" {
				t.Errorf("asked (-want +got):\n%s", diff)
			}
		})
	}
}

// What FileURL writes, splitPath reads, also after a client parsed and wrote it again.
func FuzzPath(f *testing.F) {
	for _, p := range []string{
		"/a/bafy/tok/name.pdf", "/a/bafy/tok/", "/a/bafy/tok", "/a//tok/x", "/a/b/t/%2F", "/a/b/t/x//y", "/a/b/t/%23%3F", "/a/b/t/%zz",
		"/m/tok", "/m/", "/m/tok/", "/m/tok%2F", "/a/b/t/...", "/a/b/t/a%2E", "/a/%2e%2e/t/x", "/", "",
	} {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, p string) {
		l := splitPath(p)
		var written string
		switch l.kind {
		case fileLink:
			written = FileURL(origin, l.cid, l.token, l.name)
		case landingLink:
			written = LandingURL(origin, l.token)
		default:
			if l != (link{}) {
				t.Fatalf("%q: no link, but %q", p, l)
			}
			return
		}
		if l.cid == "" && l.kind == fileLink || l.token == "" {
			t.Fatalf("%q: a link without cid or token", p)
		}
		u, err := url.Parse(written)
		if err != nil {
			t.Fatalf("%q: %v", p, err)
		}
		if got := splitPath(u.EscapedPath()); got != l {
			t.Fatalf("%q: got %q, want %q", p, got, l)
		}
	})
}
