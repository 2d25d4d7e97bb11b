package mailgw

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestM8_WhatEHLOOffers(t *testing.T) {
	t.Parallel()
	cert, pool := testCA(t, "gw.example.org")
	v := newVillage(newHost(t, hostOptions{}))
	tests := []struct {
		name   string
		source string // of the client
		tls    bool
		want   []string
	}{
		{"loopback", "127.0.0.1", false, []string{"STARTTLS", "AUTH PLAIN LOGIN"}},
		{"elsewhere", "192.0.2.7", false, []string{"STARTTLS"}},
		{"elsewhere with TLS", "192.0.2.7", true, []string{"AUTH PLAIN LOGIN"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			addr := startFrom(t, v, tt.source, func(c *Config) { c.TLS = cert })
			c := dial(t, addr)
			c.answer()
			if tt.tls {
				c = c.startTLS(pool)
			}
			got := strings.Split(c.say("EHLO client.example.org"), "\n")
			for i := range got {
				got[i] = got[i][4:]
			}
			want := append([]string{"Hello client.example.org", "PIPELINING", "8BITMIME", "ENHANCEDSTATUSCODES", "CHUNKING"}, tt.want...)
			want = append(want, "SIZE 1073741824", "LIMITS RCPTMAX=1000")
			if !slices.Equal(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

// A farAway listener gives connections another source address.
type farAway struct {
	net.Listener
	ip string
}

func (l farAway) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return farConn{c, &net.TCPAddr{IP: net.ParseIP(l.ip), Port: 1}}, nil
}

type farConn struct {
	net.Conn
	from net.Addr
}

func (c farConn) RemoteAddr() net.Addr { return c.from }

func startFrom(t *testing.T, v *village, ip string, change func(*Config)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return startOn(t, v, farAway{l, ip}, change)
}

func (c *client) startTLS(pool *x509.CertPool) *client {
	c.t.Helper()
	c.must("250", "EHLO client.example.org")
	c.must("220", "STARTTLS")
	return converse(c.t, tls.Client(c.Conn, &tls.Config{RootCAs: pool, ServerName: "gw.example.org"}))
}

func TestM1_TLSBeforeAuth(t *testing.T) {
	t.Parallel()
	cert, pool := testCA(t, "gw.example.org")
	h := newHost(t, hostOptions{})
	v := newVillage(h)
	c := dial(t, startFrom(t, v, "192.0.2.7", func(c *Config) { c.TLS = cert }))
	c.answer()
	c.must("250", "EHLO client.example.org")
	c.must("538 5.7.11", "AUTH PLAIN %s", plain("ann@example.org", "tuesday"))
	c.must("530 5.7.0", "MAIL FROM:<ann@example.org>")
	if v.asked() != 0 {
		t.Error("the Directory was asked about a password that came in the clear")
	}
	// What is said before TLS is not known after it, and what came behind STARTTLS is not heard.
	c.send("STARTTLS\r\nRSET\r\n")
	if a := c.answer(); !strings.HasPrefix(a, "220") {
		t.Fatalf("STARTTLS: %q", a)
	}
	s := converse(t, tls.Client(c.Conn, &tls.Config{RootCAs: pool, ServerName: "gw.example.org"}))
	s.must("502 5.5.1 Please introduce", "MAIL FROM:<ann@example.org>")
	if got := s.must("250", "EHLO client.example.org"); strings.Contains(got, "STARTTLS") {
		t.Errorf("STARTTLS is offered within TLS: %q", got)
	}
	s.must("502", "STARTTLS")
	s.must("235", "AUTH PLAIN %s", plain("ann@example.org", "tuesday"))
	s.envelope()
	if got := s.data(simple); !strings.HasPrefix(got, "250") {
		t.Errorf("answer %q", got)
	}
	if got := h.mails()[0].data; !strings.HasPrefix(got, "Received: from client.example.org ([192.0.2.7])\r\n\tby gw.example.org with ESMTPSA id ") {
		t.Errorf("trace line: %.200q", got)
	}
}

// A TLS dialogue ends with a close_notify, without which it looks cut off (RFC 5246, 7.2.1; OpenSSL 3 calls it an error).
func TestM1_EndOfTLS(t *testing.T) {
	t.Parallel()
	cert, pool := testCA(t, "gw.example.org")
	c := dial(t, start(t, newVillage(newHost(t, hostOptions{})), func(c *Config) { c.TLS = cert }))
	c.answer()
	c.must("250", "EHLO client.example.org")
	c.must("220", "STARTTLS")
	seen := &overheard{Conn: c.Conn}
	s := converse(t, tls.Client(seen, &tls.Config{RootCAs: pool, ServerName: "gw.example.org", MaxVersion: tls.VersionTLS12}))
	s.must("250", "EHLO client.example.org")
	s.must("221", "QUIT")
	s.gone()
	kind := byte(0)
	for b := seen.said.Bytes(); len(b) >= 5; b = b[5+int(b[3])*256+int(b[4]):] {
		kind = b[0] // of the record
	}
	if kind != 21 {
		t.Errorf("the last record is of type %d, want an alert (21)", kind)
	}
}

// overheard keeps what the other side says.
type overheard struct {
	net.Conn
	said bytes.Buffer
}

func (o *overheard) Read(p []byte) (int, error) {
	n, err := o.Conn.Read(p)
	o.said.Write(p[:n])
	return n, err
}

// Injected commands behind STARTTLS, in the very packet of the handshake's first octets, are thrown away too.
func TestM1_StartTLSWithArgument(t *testing.T) {
	t.Parallel()
	cert, _ := testCA(t, "gw.example.org")
	v := newVillage(newHost(t, hostOptions{}))
	c := dial(t, start(t, v, func(c *Config) { c.TLS = cert }))
	c.answer()
	c.must("250", "EHLO client.example.org")
	c.must("501 5.5.4", "STARTTLS now")
	c.must("501 5.5.4", "STARTTLSNOW")
	c.must("250", "NOOP")
}

func TestM1_ImplicitTLS(t *testing.T) {
	t.Parallel()
	cert, pool := testCA(t, "gw.example.org")
	h := newHost(t, hostOptions{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := startOn(t, newVillage(h), tls.NewListener(l, cert), nil)
	raw, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	c := converse(t, tls.Client(raw, &tls.Config{RootCAs: pool, ServerName: "gw.example.org"})).login().envelope()
	if got := c.bdat(simple); !strings.HasPrefix(got, "250") || !strings.Contains(h.mails()[0].data, "with ESMTPSA id") {
		t.Errorf("answer %q, %q", got, h.mails())
	}
}

func TestM1_Logins(t *testing.T) {
	t.Parallel()
	b64 := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	good := plain("ann@example.org", "tuesday")
	tests := []struct {
		name  string
		lines []string
		want  string
	}{
		{"PLAIN at once", []string{"AUTH PLAIN " + good}, "235"},
		{"PLAIN in two steps", []string{"AUTH PLAIN", good}, "235"},
		{"PLAIN, own identity", []string{"AUTH PLAIN " + b64("ann@example.org\x00ann@example.org\x00tuesday")}, "235"},
		{"PLAIN, another identity", []string{"AUTH PLAIN " + b64("bob@example.org\x00ann@example.org\x00tuesday")}, "535 5.7.8"},
		{"PLAIN, wrong", []string{"AUTH PLAIN " + plain("ann@example.org", "monday")}, "535 5.7.8"},
		{"PLAIN, unknown", []string{"AUTH PLAIN " + plain("eve@example.org", "tuesday")}, "535 5.7.8"},
		{"PLAIN, malformed", []string{"AUTH PLAIN " + b64("tuesday")}, "501 5.5.2"},
		{"PLAIN, empty", []string{"AUTH PLAIN ="}, "501 5.5.2"},
		{"PLAIN, not base64", []string{"AUTH PLAIN !"}, "454 4.7.0"},
		{"LOGIN", []string{"AUTH LOGIN", b64("ann@example.org"), b64("tuesday")}, "235"},
		{"LOGIN, user at once", []string{"AUTH LOGIN " + b64("ann@example.org"), b64("tuesday")}, "235"},
		{"LOGIN, wrong", []string{"AUTH LOGIN", b64("ann@example.org"), b64("monday")}, "535 5.7.8"},
		{"LOGIN, empty", []string{"AUTH LOGIN", "", ""}, "535 5.7.8"},
		{"LOGIN, cancelled", []string{"AUTH LOGIN", "*"}, "501"},
		{"unknown", []string{"AUTH CRAM-MD5"}, "504"},
		{"a BDAT for a password", []string{"AUTH LOGIN", "BDAT 100000"}, "454"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := dial(t, start(t, newVillage(newHost(t, hostOptions{})), nil))
			c.answer()
			c.must("250", "EHLO client.example.org")
			for i, line := range tt.lines {
				want := "334"
				if i == len(tt.lines)-1 {
					want = tt.want
				}
				c.must(want, "%s", line)
			}
			if c.must("250", "NOOP"); tt.want == "235" {
				c.must("503", "AUTH PLAIN %s", good)
				c.envelope()
			} else {
				c.must("530 5.7.0", "MAIL FROM:<ann@example.org>")
			}
		})
	}
}

// Failed logins end the connection at the third, and go-smtp counts none.
func TestM1_ThreeTries(t *testing.T) {
	t.Parallel()
	c := dial(t, start(t, newVillage(newHost(t, hostOptions{})), nil))
	c.answer()
	c.must("250", "EHLO client.example.org")
	c.must("535", "AUTH PLAIN %s", plain("ann@example.org", "1"))
	c.must("250", "RSET")
	c.must("535", "AUTH PLAIN %s", plain("ann@example.org", "2"))
	c.must("421 4.7.0", "AUTH PLAIN %s", plain("ann@example.org", "3"))
	c.gone()
}

// A source that guesses wrong too often is not listened to, from whatever connection, until time has passed.
func TestM1_GuessesOfASource(t *testing.T) {
	t.Parallel()
	v := newVillage(newHost(t, hostOptions{}))
	now := make(chan time.Time, 1)
	now <- time.Unix(1e9, 0)
	clock := func() time.Time { t := <-now; now <- t; return t }
	addr := start(t, v, func(c *Config) {
		c.Clock = clock
		c.Limits.SourceTries, c.Limits.SourceEvery = 4, time.Minute
	})
	try := func(password string) string {
		c := dial(t, addr)
		c.answer()
		c.must("250", "EHLO client.example.org")
		return c.say("AUTH PLAIN %s", plain("ann@example.org", password))
	}
	for i := range 4 {
		if got := try("wrong"); !strings.HasPrefix(got, "535") {
			t.Fatalf("guess %d: %q", i, got)
		}
		if got := try("tuesday"); i < 3 && !strings.HasPrefix(got, "235") {
			t.Fatalf("a right one between: %q", got)
		}
	}
	asked := v.asked()
	if got := try("tuesday"); !strings.HasPrefix(got, "454 4.7.0") || v.asked() != asked {
		t.Errorf("a fifth: %q, Directory asked: %v", got, v.asked() != asked)
	}
	now <- (<-now).Add(time.Minute)
	if got := try("tuesday"); !strings.HasPrefix(got, "235") {
		t.Errorf("after a minute: %q", got)
	}
}

func TestM2_ReversePath(t *testing.T) {
	t.Parallel()
	tests := []struct{ path, want, upstream string }{
		{"<ann@example.org>", "250 2.1.0 sender fine", "MAIL FROM:<ann@example.org>"},
		{"<>", "250", "MAIL FROM:<>"},
		{"<> BODY=8BITMIME", "250", "MAIL FROM:<> BODY=8BITMIME"},
		{"<ann+lists@example.org> SIZE=500", "250", "MAIL FROM:<ann+lists@example.org>"},
		{"<Ann@EXAMPLE.org> AUTH=<> BODY=7BIT", "250", "MAIL FROM:<Ann@EXAMPLE.org>"},
		{" <ann@example.org>", "250", "MAIL FROM:<ann@example.org>"},
		{"ann@example.org", "250", "MAIL FROM:<ann@example.org>"},
		{"<@a.example,@b.example:ann@example.org>", "250", "MAIL FROM:<ann@example.org>"},
		{`<"ann"@example.org>`, "250", `MAIL FROM:<"ann"@example.org>`},
		{"<bob@example.net>", "553 5.7.1", ""},
		{"<ann@example.net>", "553 5.7.1", ""},
		{"<änn@example.org>", "553 5.6.7", ""},
		{"<ann@exämple.org>", "553 5.6.7", ""},
		{"<ann@example.org> SMTPUTF8", "504 5.5.4", ""},
		{"<ann@example.org> BODY=BINARYMIME", "504 5.5.4", ""},
		{"<ann@example.org> REQUIRETLS", "504 5.5.4", ""},
		{"<ann@example.org> RET=FULL", "504 5.5.4", ""},
		{"<ann@example.org> SIZE=2000000000", "552 5.3.4", ""},
		{"<ann@example.org> SIZE=4294967295", "552 5.3.4", ""},
		{"<ann@example.org> SIZE=4294967296", "552 5.3.4", ""},
		{"<ann@example.org> size=99999999999999999999", "552 5.3.4", ""}, // more than 64 bits hold
		{"<ann@example.org> SIZE=999999999999999999999", "501", ""},      // RFC 1870: at most 20 digits
		{"<ann@example.org> SIZE=00000000000000000500", "250", "MAIL FROM:<ann@example.org>"},
		{"<ann@example.org> SIZE=-5000000000", "501", ""},
		{"<ann>", "501", ""},
		{"<ann@b@example.org>", "553 5.1.3", ""},
		{"<ann@example.org", "501", ""},
		{"<" + strings.Repeat("a", 300) + "@example.org>", "553 5.1.3", ""},
		{"<ann@example.org\rRCPT TO:<x@example.org>>", "500", ""},
		{"<ann@example.org\x00>", "500", ""},
	}
	for _, tt := range tests {
		t.Run(tt.path, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, hostOptions{})
			c := dial(t, start(t, newVillage(h), nil)).login()
			c.must(tt.want, "MAIL FROM:%s", tt.path)
			c.must("250", "RSET")
			c.must("221", "QUIT")
			if tt.upstream == "" {
				if strings.Contains(h.saw(), "MAIL") {
					t.Errorf("the next hop was asked: %s", h.saw())
				}
			} else if !slices.Contains(strings.Split(h.saw(), "\n"), tt.upstream) {
				t.Errorf("the next hop was told %s, want %s", h.saw(), tt.upstream)
			}
		})
	}
}

// A gateway that takes messages over 4 GiB takes a SIZE over 4 GiB.
func TestM8_SizeOver32Bits(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{})
	addr := start(t, newVillage(h), func(c *Config) { c.MaxMessageBytes = 6 << 30 })
	for size, want := range map[int64]string{5 << 30: "250", 6 << 30: "250", 6<<30 + 1: "552 5.3.4"} {
		c := dial(t, addr)
		c.answer()
		c.must("250", "EHLO client.example.org")
		c.must("530", "MAIL FROM:<ann@example.org> SIZE=%d", size) // first things first
		c.must("235", "AUTH PLAIN %s", plain("ann@example.org", "tuesday"))
		c.must(want, "MAIL FROM:<ann@example.org> SIZE=%d", size)
	}
	if strings.Contains(h.saw(), "SIZE") {
		t.Errorf("SIZE was passed on: %s", h.saw())
	}
}

func TestM2_HeaderSender(t *testing.T) {
	t.Parallel()
	const ok, no, unread = "250", "550 5.7.1", "550 5.1.7"
	tests := []struct{ name, header, want string }{
		{"From", "From: Ann <ann@example.org>", ok},
		{"+tag", "From: ann+lists@example.org", ok},
		{"another's", "From: ceo@example.org", no},
		{"folded", "From: Ann\r\n\t<ann@example.org>", ok},
		{"Sender before From", "From: ceo@example.org\r\nSender: ann@example.org", ok},
		{"another Sender", "From: ann@example.org\r\nSender: ceo@example.org", no},
		{"Resent-From before both", "From: ceo@example.org\r\nSender: ceo@example.org\r\nResent-From: ann@example.org", ok},
		{"Resent-Sender first of all", "Resent-Sender: ceo@example.org\r\nResent-From: ann@example.org", no},
		{"several authors, one another's", "From: ann@example.org, ceo@example.org", no},
		{"a name that looks like ours", "From: \"ann@example.org\" <ceo@example.org>", no},
		{"two From fields", "From: ann@example.org\r\nFrom: ceo@example.org", no},
		{"unparseable", "From: the boss", unread},
		{"empty", "From:", unread},
		{"nobody", "From: undisclosed:;", unread},
		{"a name in raw octets", "From: \xb8\xbd\xbc\xfe <ann@example.org>", ok},
		{"a name in an unknown charset", "From: =?x-unknown?B?uL28/g==?= <ann@example.org>", ok},
		{"another's, with a name in raw octets", "From: \xb8\xbd\xbc\xfe <ceo@example.org>", no},
		{"an address in raw octets", "From: \xb8\xbd@example.org", no},
		{"quotes that depend on the charset", "From: \"\x95\\\" <ann@example.org>", unread},
		{"none", "Subject: x", ok},
		{"a blank before the colon", "From : ceo@example.org", no},
		{"first of all, where an mbox separator may be", "From : ceo@example.org\r\nX: y", no},
		{"blanks before the colon, behind another", "From: ann@example.org\r\nSender \t: ceo@example.org", no},
		{"a name folded before the colon", "Subject: x\r\nFrom\r\n : ceo@example.org", no},
		{"a fold of blanks", "From: ceo@example.org\r\n \r\nSubject: x", no},
		{"behind a line that is no field", "nothing\r\nFrom: ceo@example.org", no},
		{"behind an mbox separator", "From ann@example.org Mon Oct  5 10:00:00 2026\r\nFrom: ceo@example.org", no},
		{"behind a bare LF", "Subject: x\nFrom: ceo@example.org", no},
		{"behind a bare CR", "Subject: x\rFrom: ceo@example.org\r\nFrom: ann@example.org", ok}, // a space in normal form: one field
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, hostOptions{})
			c := dial(t, start(t, newVillage(h), nil)).login().envelope()
			got := c.data(tt.header + "\r\n\r\nhello\r\n")
			if !strings.HasPrefix(got, tt.want) {
				t.Errorf("answer %q, want %s", got, tt.want)
			}
			if tt.want != ok && (strings.Contains(h.saw(), "DATA") || !strings.Contains(got, "header")) {
				t.Errorf("answer %q, next hop %s", got, h.saw())
			}
		})
	}
}

func TestM8_Received(t *testing.T) {
	t.Parallel()
	for _, line := range []string{"Received: from here\r\n", "RECEIVED : from here\r\n", "Received: from here\r\n \t\r\n"} {
		for n, want := range map[int]string{50: "250", 51: "554 5.4.6"} {
			h := newHost(t, hostOptions{})
			c := dial(t, start(t, newVillage(h), nil)).login().envelope()
			if got := c.data(strings.Repeat(line, n) + simple); !strings.HasPrefix(got, want) {
				t.Errorf("%d lines %q: %q, want %s", n, line, got, want)
			}
			if n > 50 && strings.Contains(h.saw(), "DATA") {
				t.Errorf("the next hop was told %s", h.saw())
			}
		}
	}
}

// What the header forbids is refused before anything is stored, and before the message is whole; the rest of it is not
// taken for commands, and the session goes on.
func TestM2_M8_JudgedBeforeAnythingIsStored(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ header, want string }{
		"another's":     {"Sender: ceo@example.org\r\n", "550 5.7.1"},
		"two senders":   {"From: ann@example.org\r\n", "550 5.7.1"},
		"in circles":    {strings.Repeat("Received: from here\r\n", 51), "554 5.4.6"},
		"nothing amiss": {"", "250"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, hostOptions{})
			v := newVillage(h)
			c := dial(t, start(t, v, nil)).login()
			for _, send := range []func(string) string{c.data, c.bdat} {
				c.envelope()
				if got := send(tt.header + letter(1<<20)); !strings.HasPrefix(got, tt.want) {
					t.Errorf("answer %q, want %s", got, tt.want)
				}
			}
			c.must("250", "NOOP")
			if stored := v.stored(); stored > 0 != (tt.want == "250") {
				t.Errorf("%d bytes were stored", stored)
			}
			// By BDAT the refusal is the answer to the chunk that ends behind the header.
			c.envelope()
			head := tt.header + letterHead
			c.send(fmt.Sprintf("BDAT %d\r\n%s", len(head), head))
			if got := c.answer(); tt.want != "250" && !strings.HasPrefix(got, tt.want) {
				t.Errorf("answer to the first chunk: %q, want %s", got, tt.want)
			}
		})
	}
}

// Pipelined commands (RFC 2920) are answered one by one, a refused recipient among them does not end the rest.
func TestE4_Pipelined(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{rcpt: map[string]string{"no@example.net": "550 5.1.1 nobody here", "far@example.net": "251 2.1.5 will forward"}})
	c := dial(t, start(t, newVillage(h), nil)).login()
	msg := stuff(simple)
	c.send("MAIL FROM:<ann@example.org>\r\nRCPT TO:<bob@example.net>\r\nRCPT TO:<no@example.net>\r\nRCPT TO:<far@example.net>\r\nDATA\r\n")
	for _, want := range []string{"250 2.1.0 sender fine", "250 2.1.5 recipient fine", "550 5.1.1 nobody here", "251 2.1.5 will forward", "354"} {
		if got := c.answer(); !strings.HasPrefix(got, want) {
			t.Fatalf("got %q, want %s", got, want)
		}
	}
	// The next transaction follows the dot in the same packet.
	c.send(msg + ".\r\nMAIL FROM:<ann@example.org>\r\nRCPT TO:<bob@example.net>\r\n" +
		fmt.Sprintf("BDAT 10\r\n%sBDAT %d LAST\r\n%sNOOP\r\nQUIT\r\n", simple[:10], len(simple)-10, simple[10:]))
	for _, want := range []string{"250 2.0.0 queued", "250", "250", "250 2.0.0 chunk", "250 2.0.0 queued", "250", "221"} {
		if got := c.answer(); !strings.HasPrefix(got, want) {
			t.Fatalf("got %q, want %s", got, want)
		}
	}
	c.gone()
	mails := h.mails()
	if len(mails) != 2 || !slices.Equal(mails[0].to, []string{"bob@example.net", "far@example.net"}) || body1(t, mails[1].data) != msg {
		t.Errorf("delivered %q", mails)
	}
}

func TestE4_Order(t *testing.T) {
	t.Parallel()
	h := newHost(t, hostOptions{rcpt: map[string]string{"no@example.net": "550 5.1.1 nobody here"}})
	c := dial(t, start(t, newVillage(h), nil))
	c.answer()
	c.must("502", "MAIL FROM:<ann@example.org>")
	c.must("250", "EHLO client.example.org")
	c.must("530 5.7.0", "MAIL FROM:<ann@example.org>")
	c.must("235", "AUTH PLAIN %s", plain("ann@example.org", "tuesday"))
	c.must("502", "RCPT TO:<bob@example.net>")
	c.must("502", "DATA")
	c.send("BDAT 20 LAST\r\nQUIT\r\nQUIT\r\nQUIT\r\nQU") // its octets are not commands, refused or not
	if got := c.answer(); !strings.HasPrefix(got, "502") {
		t.Errorf("BDAT first of all: %q", got)
	}
	c.must("250", "MAIL FROM:<ann@example.org>")
	c.must("503 5.5.1", "MAIL FROM:<ann@example.org>")
	c.must("550 5.1.1", "RCPT TO:<no@example.net>")
	c.must("553 5.6.7", "RCPT TO:<bøb@example.net>")
	c.must("501", "RCPT TO:<>")
	c.must("502", "DATA")
	c.must("250", "RCPT TO:<bob@example.net>")
	c.must("250", "EHLO client.example.org") // resets
	c.must("502", "DATA")
	c.must("221", "QUIT")
	if len(h.mails()) != 0 {
		t.Errorf("delivered %q", h.mails())
	}
}

func TestLimits_Recipients(t *testing.T) {
	t.Parallel()
	c := dial(t, start(t, newVillage(newHost(t, hostOptions{})), func(c *Config) { c.Limits.Recipients = 1 })).login().envelope()
	c.must("452 4.5.3", "RCPT TO:<bob@example.net>")
}

func TestLimits_CommandLine(t *testing.T) {
	t.Parallel()
	c := dial(t, start(t, newVillage(newHost(t, hostOptions{})), nil))
	c.answer()
	c.must("250", "EHLO client.example.org")
	junk := bytes.Repeat([]byte("x"), 64<<10)
	var refused error
	for range 1 << 14 { // a gigabyte, if anybody listens
		if _, refused = c.Write(junk); refused != nil {
			break
		}
	}
	if refused == nil {
		t.Fatal("a gigabyte was listened to")
	}
	if got, err := c.tryAnswer(); err == nil && !strings.HasPrefix(got, "500") {
		t.Errorf("answer %q", got)
	}
}

// A stranger that is one too many where TLS comes first, and says nothing, holds up nobody.
func TestLimits_SilentBeforeTLS(t *testing.T) {
	t.Parallel()
	cert, pool := testCA(t, "gw.example.org")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := startOn(t, newVillage(newHost(t, hostOptions{})), tls.NewListener(l, cert), func(c *Config) { c.Limits.Sessions = 1 })
	connect := func() *client {
		return converse(t, tls.Client(dial(t, addr).Conn, &tls.Config{RootCAs: pool, ServerName: "gw.example.org"}))
	}
	first := connect().login()
	silent := dial(t, addr)
	silent.SetDeadline(time.Now().Add(20 * time.Second))
	silent.gone()
	first.must("221", "QUIT")
	first.gone()
	for { // room again, once the gateway has seen it go
		if got, err := connect().tryAnswer(); err == nil && strings.HasPrefix(got, "220") {
			break
		}
	}
}

func TestLimits_Sessions(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, source string
		limits       Limits
		want         string
	}{
		{"in all", "127.0.0.1", Limits{Sessions: 2}, "421 4.7.0"},
		{"from one source", "192.0.2.1", Limits{PerSource: 2}, "421 4.7.0"},
		{"loopback is many", "127.0.0.1", Limits{PerSource: 2}, "220"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			addr := startFrom(t, newVillage(newHost(t, hostOptions{})), tt.source, func(c *Config) { c.Limits = tt.limits })
			first := dial(t, addr)
			first.answer()
			dial(t, addr).answer()
			if got := dial(t, addr).answer(); !strings.HasPrefix(got, tt.want) {
				t.Errorf("third: %q, want %s", got, tt.want)
			}
			first.must("221", "QUIT")
			first.gone()
			for { // room again, once the gateway has seen it go
				if got := dial(t, addr).answer(); strings.HasPrefix(got, "220") {
					break
				}
			}
		})
	}
}
