package mailgw

import (
	"bufio"
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/valise-mail/valise/authz"
)

// TestHop_TLS walks how a next hop may be encrypted, and how that may go wrong: then no password leaves.
func TestHop_TLS(t *testing.T) {
	t.Parallel()
	cert, pool := testCA(t, "host.example.net")
	_, other := testCA(t, "host.example.net")
	tests := []struct {
		name               string
		startTLS, implicit bool
		mode               authz.TLSMode
		host               string
		roots              *x509.CertPool
		want               string
	}{
		{"STARTTLS", true, false, authz.StartTLS, "host.example.net", pool, "250"},
		{"STARTTLS is the default", true, false, 0, "host.example.net", pool, "250"},
		{"implicit", false, true, authz.Implicit, "host.example.net", pool, "250"},
		{"STARTTLS not offered", false, false, authz.StartTLS, "host.example.net", pool, "451 4.7.0"},
		{"another name", true, false, authz.StartTLS, "mail.example.net", pool, "451 4.7.0"},
		{"the dialled name", true, false, authz.StartTLS, "", pool, "451 4.7.0"},
		{"another authority", true, false, authz.StartTLS, "host.example.net", other, "451 4.7.0"},
		{"implicit, another authority", false, true, authz.Implicit, "host.example.net", other, "451 4.7.0"},
		{"implicit, and it is not", false, false, authz.Implicit, "host.example.net", pool, "451 4.7.0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, hostOptions{tls: cert, startTLS: tt.startTLS, implicit: tt.implicit})
			v := newVillage(h)
			v.hop.TLS, v.hop.Host, v.hop.RootCAs = tt.mode, tt.host, tt.roots
			c := dial(t, start(t, v, nil)).login()
			got, at := converseTo(c, simple)
			if !strings.HasPrefix(got, tt.want) {
				t.Errorf("answer to %s: %q, want %s", at, got, tt.want)
			}
			if tt.want != "250" && strings.Contains(h.saw(), "AUTH") {
				t.Errorf("a password left: %s", h.saw())
			}
		})
	}
}

// A host that lets its clients wait for its greeting (many do, against spam) longer than dialling may take has the time of
// a command for it, with STARTTLS as without.
func TestHop_LateGreeting(t *testing.T) {
	t.Parallel()
	cert, pool := testCA(t, "host.example.net")
	late := make(chan struct{})
	h := newHost(t, hostOptions{tls: cert, startTLS: true, late: late})
	v := newVillage(h)
	v.hop.TLS, v.hop.Host, v.hop.RootCAs = authz.StartTLS, "host.example.net", pool
	c := dial(t, start(t, v, func(c *Config) {
		c.Timeouts.Connect = time.Second
		c.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			context.AfterFunc(ctx, func() { time.AfterFunc(time.Second, func() { close(late) }) })
			return new(net.Dialer).DialContext(ctx, network, addr)
		}
	})).login()
	c.must("250", "MAIL FROM:<ann@example.org>")
}

// A man in the middle who answers ahead of the handshake is not believed (the STARTTLS injection of 2011, our side).
func TestHop_InjectedBehindStartTLS(t *testing.T) {
	t.Parallel()
	cert, pool := testCA(t, "host.example.net")
	h := newHost(t, hostOptions{tls: cert, startTLS: true, extensions: []string{"AUTH PLAIN"}, acts: map[string]string{"STARTTLS": "220 go\n250-host.example.net\n250 8BITMIME"}})
	v := newVillage(h)
	v.hop.TLS, v.hop.Host, v.hop.RootCAs = authz.StartTLS, "host.example.net", pool
	c := dial(t, start(t, v, nil)).login()
	c.must("250", "MAIL FROM:<ann@example.org> BODY=8BITMIME") // AUTH PLAIN was heard, which only the true EHLO offers
	if strings.Contains(h.saw(), "BODY=8BITMIME") {
		t.Errorf("the injected extension is believed: %s", h.saw())
	}
}

func TestHop_Unreachable(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{})
	v := newVillage(h)
	h.l.Close()
	c := dial(t, start(t, v, nil)).login()
	c.must("451 4.4.1", "MAIL FROM:<ann@example.org>")
	c.must("250", "NOOP")
}

func TestHop_Login(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name       string
		extensions []string
		user       string
		want       string
	}{
		{"PLAIN", []string{"8BITMIME", "AUTH PLAIN"}, "upstream", "250"},
		{"LOGIN", []string{"8bitmime", "auth login"}, "upstream", "250"},
		{"none needed", []string{"8BITMIME"}, "", "250"},
		{"none offered", []string{"8BITMIME"}, "upstream", "451 4.7.0"},
		{"others offered", []string{"AUTH GSSAPI XOAUTH2"}, "upstream", "451 4.7.0"},
		{"wrong password", nil, "somebody", "451 4.7.0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, hostOptions{extensions: tt.extensions})
			v := newVillage(h)
			v.hop.User = tt.user
			c := dial(t, start(t, v, nil)).login()
			if got, at := converseTo(c, simple); !strings.HasPrefix(got, tt.want) {
				t.Errorf("answer to %s: %q, want %s", at, got, tt.want)
			}
		})
	}
}

// An old server that knows only HELO takes mail, too.
func TestHop_HELO(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{acts: map[string]string{"EHLO": "502 what?"}})
	v := newVillage(h)
	v.hop.User = ""
	c := dial(t, start(t, v, nil)).login()
	if got, _ := converseTo(c, simple); !strings.HasPrefix(got, "250") || !strings.Contains(h.saw(), "HELO gw.example.org") {
		t.Errorf("answer %q, dialogue %s", got, h.saw())
	}
}

// TestHop_8BITMIME: honoured where the next hop has it, refused honestly where it is needed, and passed where it is not.
func TestHop_8BITMIME(t *testing.T) {
	t.Parallel()
	const eight, seven = "From: ann@example.org\r\n\r\nGrüße\r\n", simple
	tests := []struct {
		name, param, msg string
		has              bool
		want, mail       string
	}{
		{"declared", " BODY=8BITMIME", eight, true, "250", "MAIL FROM:<ann@example.org> BODY=8BITMIME"},
		{"not declared", "", eight, true, "250", "MAIL FROM:<ann@example.org>"},
		{"declared 7BIT", " BODY=7BIT", seven, true, "250", "MAIL FROM:<ann@example.org>"},
		{"declared, not there", " BODY=8BITMIME", eight, false, "554 5.6.3", "MAIL FROM:<ann@example.org>"},
		{"not declared, not there", "", eight, false, "554 5.6.3", "MAIL FROM:<ann@example.org>"},
		{"declared, not there, not needed", " BODY=8BITMIME", seven, false, "250", "MAIL FROM:<ann@example.org>"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			ext := []string{"AUTH PLAIN"}
			if tt.has {
				ext = append(ext, "8BITMIME")
			}
			h := newHost(t, hostOptions{extensions: ext})
			c := dial(t, start(t, newVillage(h), nil)).login()
			c.must("250", "MAIL FROM:<ann@example.org>%s", tt.param)
			c.must("250", "RCPT TO:<bob@example.net>")
			if got := c.data(tt.msg); !strings.HasPrefix(got, tt.want) {
				t.Errorf("answer %q, want %s", got, tt.want)
			}
			if !slices.Contains(strings.Split(h.saw(), "\n"), tt.mail) {
				t.Errorf("next hop was told %s, want %s", h.saw(), tt.mail)
			}
		})
	}
}

// A next hop without TLS is this machine's own, or none.
func TestHop_ClearTextIsLoopback(t *testing.T) {
	t.Parallel()
	h := &hop{conn: farConn{&replay{Reader: strings.NewReader("220 hi\r\n")}, &net.TCPAddr{IP: net.ParseIP("192.0.2.1")}}}
	h.use(h.conn)
	err := h.open(t.Context(), "gw", NextHop{TLS: authz.NoTLS})
	if got := answer(err); got.code != 451 || got.enh[1] != 7 {
		t.Errorf("got %v", err)
	}
}

func TestReply(t *testing.T) {
	t.Parallel()
	tests := []struct{ in, want string }{
		{"250 ok\r\n", "250 2.0.0 ok\r\n"},
		{"250 2.1.5 ok\n", "250 2.1.5 ok\r\n"},
		{"250\r\n", "250 2.0.0 \r\n"},
		{"550-5.1.1 a\r\n550-5.1.1 b\r\n550 5.1.1 c\r\n", "550-5.1.1 a\r\n550-5.1.1 b\r\n550 5.1.1 c\r\n"},
		{"550 4.1.1 class differs\r\n", "550 5.0.0 4.1.1 class differs\r\n"},
		{"550 5.1.1\r\n", "550 5.1.1\r\n"},
		{"550 5.1 x\r\n", "550 5.0.0 5.1 x\r\n"},
		{"550 5.1.1 a\rb\x00c\x7f\r\n", "550 5.1.1 a?b?c?\r\n"},
		{"550 5.1.1 größe\r\n", "550 5.1.1 größe\r\n"},
		{"550-a\r\n551 b\r\n", ""},
		{"150 a\r\n", ""},
		{"650 a\r\n", ""},
		{"25 a\r\n", ""},
		{"2x0 a\r\n", ""},
		{"250_a\r\n", ""},
		{"", ""},
		{"250-a\r\n", ""},
		{"250 no end", ""},
		{"250 " + strings.Repeat("x", 3000) + "\r\n", ""},
		{strings.Repeat("250-x\r\n", 1000) + "250 x\r\n", ""},
	}
	for _, tt := range tests {
		got, err := readReply(bufio.NewReader(strings.NewReader(tt.in)))
		if err != nil {
			if tt.want != "" {
				t.Errorf("%q: %v", tt.in, err)
			}
			continue
		}
		if string(got.wire()) != tt.want {
			t.Errorf("%.100q: got %q, want %q", tt.in, got.wire(), tt.want)
		}
	}
}

func TestDotWriter(t *testing.T) {
	t.Parallel()
	for _, in := range []string{"", ".", "..", "a.b\r\n", ".\r\n", "a\r\n.b\r\n..\r\n\r\n.", "\r\n.\r\n.\r\n"} {
		for split := range len(in) + 1 {
			var b bytes.Buffer
			d := &dotWriter{w: &b}
			for _, p := range []string{in[:split], in[split:]} {
				if n, err := d.Write([]byte(p)); n != len(p) || err != nil {
					t.Fatalf("Write %q: %d, %v", p, n, err)
				}
			}
			if got := b.String(); got != stuff(in) {
				t.Errorf("%q split at %d: %q, want %q", in, split, got, stuff(in))
			}
		}
	}
}

// TestSecretsAreNotShown prints what holds passwords in every way that logs and errors print.
func TestSecretsAreNotShown(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	log := slog.New(slog.NewJSONHandler(&b, nil))
	hop, login := NextHop{Addr: "mail.example.net:587", User: "u", Password: "sesame"}, Login{User: "u", Password: "sesame"}
	log.Info("x", "hop", hop, "login", login, "pointer", &hop)
	fmt.Fprintf(&b, "%v %+v %#v %s %v %+v %#v %s", hop, hop, hop, hop, login, login, login, login)
	if strings.Contains(b.String(), "sesame") {
		t.Errorf("shown: %s", b.String())
	}
	// Nor in a dialogue that goes wrong.
	b.Reset()
	h := newHost(t, hostOptions{})
	v := newVillage(h)
	v.hop.Password = "sesame"
	c := dial(t, start(t, v, func(c *Config) { c.Logger = log }))
	c.answer()
	c.must("250", "EHLO client.example.org")
	c.must("535", "AUTH PLAIN %s", plain("ann@example.org", "sesame"))
	c.must("235", "AUTH PLAIN %s", plain("ann@example.org", "tuesday"))
	c.must("451", "MAIL FROM:<ann@example.org>")
	c.must("221", "QUIT")
	c.gone()
	if s := b.String(); strings.Contains(s, "sesame") || strings.Contains(s, "tuesday") || strings.Contains(s, plain("ann@example.org", "sesame")) {
		t.Errorf("logged: %s", s)
	}
}
