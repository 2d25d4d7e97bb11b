package node

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// What is written as a config reads back as the same config.
func TestConfigRoundTrip(t *testing.T) {
	t.Parallel()
	c := DefaultConfig(3000)
	c.Organisation, c.Site, c.Name = "example.org", "berlin", "berlin-1"
	c.Advertise = []string{"node1.example.org"}
	var buf bytes.Buffer
	if err := c.WriteTOML(&buf); err != nil {
		t.Fatal(err)
	}
	got, err := ParseConfig(buf.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(c, got, cmpopts.IgnoreFields(Config{}, "Seams", "Logger")); diff != "" {
		t.Error(diff)
	}
}

func TestListenBaseMovesAllPorts(t *testing.T) {
	t.Parallel()
	want := Listen{SMTP: "127.0.0.1:3000", Files: "127.0.0.1:3001", App: "127.0.0.1:3002", Metrics: "127.0.0.1:3003", Libp2p: "127.0.0.1:3004", Ledger: "127.0.0.1:3005"}
	if diff := cmp.Diff(want, DefaultConfig(3000).Listen); diff != "" {
		t.Error(diff)
	}
}

func TestSize(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text string
		want Size
		ok   bool
	}{
		{"0", 0, true}, {"1500", 1500, true}, {"256KiB", 256 << 10, true}, {"25 MiB", 25 << 20, true}, {"2GiB", 2 << 30, true},
		{"-1", 0, false}, {"1MB", 0, false}, {"", 0, false}, {"9999999999TiB", 0, false}, {"1.5GiB", 0, false},
	} {
		t.Run(c.text, func(t *testing.T) {
			t.Parallel()
			var s Size
			if err := s.UnmarshalText([]byte(c.text)); (err == nil) != c.ok || s != c.want {
				t.Fatalf("got %d, %v; want %d, ok %v", s, err, c.want, c.ok)
			}
			if !c.ok {
				return
			}
			var again Size
			if err := again.UnmarshalText([]byte(s.String())); err != nil || again != s {
				t.Errorf("%q reads back as %d, %v", s, again, err)
			}
		})
	}
}

func TestConfigMistakesHaveHints(t *testing.T) {
	t.Parallel()
	const good = "organisation = \"example.org\"\nsite = \"berlin\"\n"
	for _, c := range []struct{ name, text, want string }{
		{"no organisation", "site = \"berlin\"", "organisation is empty"},
		{"no site", "organisation = \"example.org\"", "site"},
		{"site with a slash", "organisation = \"example.org\"\nsite = \"a/b\"", "is no site name"},
		{"language", good + "language = \"fr\"", "language"},
		{"port", good + "[listen]\nfiles = \"127.0.0.1:99999\"", "listen.files"},
		{"files face open without certificate", good + "[listen]\nfiles = \"0.0.0.0:80\"", "no certificate"},
		{"half a certificate", good + "[tls]\ncert = \"a.pem\"", "go together"},
		{"proxies", good + "[public]\ntrusted-proxies = [\"10.0.0.1\"]", "trusted-proxies"},
		{"size", good + "[store]\nreserve = \"lots\"", "is no size"},
		{"unknown table", good + "[mial]\nx = 1", "unknown key"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := ParseConfig([]byte(c.text))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want %q", err, c.want)
			}
			if Hint(err) == "" {
				t.Errorf("%v has no hint", err)
			}
		})
	}
}
