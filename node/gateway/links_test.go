package gateway

import (
	"net/url"
	"testing"
)

// What FileURL writes, splitPath reads.
func FuzzPath(f *testing.F) {
	for _, p := range []string{
		"/a/bafy/tok/name.pdf", "/a/bafy/tok/", "/a/bafy/tok", "/a//tok/x", "/a/b/t/%2F", "/a/b/t/x//y", "/a/b/t/%23%3F", "/a/b/t/%zz",
		"/m/tok", "/m/", "/m/tok/", "/a/b/t/...", "/a/b/t/a%2E", "/a/%2e%2e/t/x", "/", "",
	} {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, p string) {
		l := splitPath(p)
		switch l.kind {
		case fileLink:
			if again := splitPath(filePath(l.cid, l.token, l.name)); again != l {
				t.Fatalf("%q: got %q, want %q", p, again, l)
			}
			u, err := url.Parse(FileURL(&url.URL{Scheme: "https", Host: "files.example.org"}, l.cid, l.token, l.name))
			if err != nil || splitPath(u.EscapedPath()) != l {
				t.Fatalf("%q: through net/url: %v, %v", p, u, err)
			}
		case landingLink:
			if again := splitPath("/m/" + escape(string(l.token))); again.token != l.token && l.token[len(l.token)-1] != '/' {
				t.Fatalf("%q: got %q, want %q", p, again.token, l.token)
			}
		}
	})
}
