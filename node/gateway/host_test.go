package gateway

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
)

func TestF1_Host(t *testing.T) {
	t.Parallel()
	tests := []struct {
		origin, host string
		status       int
	}{
		{"https://files.example.org", "files.example.org", 200},
		{"https://files.example.org", "FILES.example.org", 200},
		{"https://files.example.org", "files.example.org:443", 200},
		{"https://files.example.org", "files.example.org.", 200},
		{"https://files.example.org", "files.example.org:80", 421},
		{"https://files.example.org", "app.example.org", 421},
		{"https://files.example.org", "files.example.org.evil.example.net", 421},
		{"https://files.example.org", "", 421},
		{"https://files.example.org:8443", "files.example.org:8443", 200},
		{"https://files.example.org:8443", "files.example.org", 421},
		{"http://files.example.org", "files.example.org:80", 200},
		{"http://[::1]:8080", "[::1]:8080", 200},
		{"http://127.0.0.1:8080", "localhost:8080", 200}, // listed below
		{"http://127.0.0.1:8080", "localhost:8081", 421},
	}
	for _, tt := range tests {
		t.Run(tt.origin+" "+tt.host, func(t *testing.T) {
			t.Parallel()
			u, err := url.Parse(tt.origin)
			if err != nil {
				t.Fatal(err)
			}
			lib := newMemory()
			g := newGateway(t, lib, func(c *Config) { c.Origin, c.Hosts = u, []string{"localhost:8080"} })
			for _, path := range []string{good, "/robots.txt", "/", "/m/TOK-good"} {
				r := httptest.NewRequest("GET", path, nil)
				r.Host = tt.host
				r.Header.Set("X-Forwarded-Host", "files.example.org")
				w := httptest.NewRecorder()
				g.ServeHTTP(w, r)
				want := tt.status
				if path == "/" && want == 200 {
					want = 404
				}
				if w.Code != want {
					t.Errorf("%s: got %d, want %d", path, w.Code, want)
				}
			}
			if tt.status == 421 && len(lib.requests()) > 0 {
				t.Error("the law was asked for a wrong host")
			}
		})
	}
}

// URLs carry the configured origin, whatever a request says of itself.
func TestF1_URLsComeFromConfig(t *testing.T) {
	t.Parallel()
	g := newGateway(t, newMemory(), func(c *Config) {
		c.Hosts = []string{"10.0.0.1:8080"}
		c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}
	})
	r := httptest.NewRequest("GET", "http://10.0.0.1:8080/m/TOK-several", nil)
	for _, h := range []string{"X-Forwarded-Host", "X-Original-Host", "Forwarded"} {
		r.Header.Set(h, "evil.example.net")
	}
	r.Header.Set("X-Forwarded-Proto", "gopher")
	w := httptest.NewRecorder()
	g.ServeHTTP(w, r)
	if n := strings.Count(w.Body.String(), "\nhttps://files.example.org/a/"); n != 3 || strings.Contains(w.Body.String(), "evil") {
		t.Errorf("%d of 3 URLs in %s", n, w.Body)
	}
}

func TestF1_ForwardedForCountsFromListedProxies(t *testing.T) {
	t.Parallel()
	p := proxies{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
	tests := []struct {
		remote string
		xff    []string
		want   string
	}{
		{"192.0.2.1:5", nil, "192.0.2.1"},
		{"192.0.2.1:5", []string{"198.51.100.1"}, "192.0.2.1"},
		{"10.1.1.1:5", []string{"198.51.100.1"}, "198.51.100.1"},
		{"[::ffff:10.1.1.1]:5", []string{"198.51.100.1"}, "198.51.100.1"},
		{"10.1.1.1:5", []string{"203.0.113.9, 198.51.100.1"}, "198.51.100.1"},
		{"10.1.1.1:5", []string{"203.0.113.9, 198.51.100.1, 10.2.2.2"}, "198.51.100.1"},
		{"10.1.1.1:5", []string{"203.0.113.9", "198.51.100.1,10.2.2.2"}, "198.51.100.1"},
		{"[fd00::1]:5", []string{"2001:db8::7"}, "2001:db8::7"},
		{"10.1.1.1:5", []string{"nonsense"}, "10.1.1.1"},
		{"10.1.1.1:5", []string{"198.51.100.1, nonsense"}, "10.1.1.1"},
		{"10.1.1.1:5", nil, "10.1.1.1"},
		{"@", nil, "invalid IP"},
	}
	for _, tt := range tests {
		r := &http.Request{RemoteAddr: tt.remote, Header: http.Header{"X-Forwarded-For": tt.xff}}
		if got := p.client(r).String(); got != tt.want {
			t.Errorf("%s %q: got %s, want %s", tt.remote, tt.xff, got, tt.want)
		}
	}
}

func TestNewRefusesABadConfig(t *testing.T) {
	t.Parallel()
	lib := newMemory()
	for name, c := range map[string]Config{
		"no library":     {Origin: origin},
		"no origin":      {Library: lib},
		"no host":        {Library: lib, Origin: &url.URL{Scheme: "https"}},
		"other scheme":   {Library: lib, Origin: &url.URL{Scheme: "ftp", Host: "files.example.org"}},
		"a path":         {Library: lib, Origin: &url.URL{Scheme: "https", Host: "files.example.org", Path: "/files"}},
		"a password":     {Library: lib, Origin: &url.URL{Scheme: "https", Host: "files.example.org", User: url.UserPassword("a", "b")}},
		"other language": {Library: lib, Origin: origin, Language: "tlh"},
	} {
		if _, err := New(c); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := New(Config{Library: lib, Origin: &url.URL{Scheme: "http", Host: "127.0.0.1:8080", Path: "/"}, Language: "zh-CN"}); err != nil {
		t.Error(err)
	}
}
