package mailgw

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"fmt"
	"io"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// A host is a small mail server, the next hop of these tests. It keeps the octets of messages as they came over its
// socket, dots and all.
type host struct {
	t    testing.TB
	l    net.Listener
	opts hostOptions
	wg   sync.WaitGroup

	mu        sync.Mutex
	said      sync.Cond // broadcast at each command
	met       int       // connections so far
	conns     map[net.Conn]bool
	commands  []string
	delivered []mailed // whose final dot arrived and was not refused
	dotted    chan struct{}
}

// hostOptions say how a host behaves. An act is an answer; or "drop", the connection is closed; or "vanish", and no other
// is accepted; or "hang", nothing.
type hostOptions struct {
	extensions []string          // default: 8BITMIME, AUTH PLAIN LOGIN
	acts       map[string]string // by stage: greeting, EHLO, HELO, STARTTLS, AUTH, MAIL, RCPT, after RCPT, NOOP, DATA, body, end
	rcpt       map[string]string // by recipient
	startTLS   bool
	implicit   bool
	tls        *tls.Config
	late       <-chan struct{} // if not nil, what the greeting waits for
	discard    bool            // messages are not kept
	noopFrom   int             // the act for NOOP counts once a message has so many recipients
	again      []hostOptions   // of the connections after the first; the last goes for all that follow
}

// of returns the options of the nth connection.
func (o hostOptions) of(n int) hostOptions {
	if n = min(n, len(o.again)); n > 0 {
		return o.again[n-1]
	}
	return o
}

type mailed struct {
	from string
	to   []string
	data string // as it came, without the final dot
}

func newHost(t testing.TB, o hostOptions) *host {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := hostOn(t, l, o)
	h.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if o.acts["body"] != "" { // so that a client that is not listened to notices soon
				c.(*net.TCPConn).SetReadBuffer(8 << 10)
			}
			h.mu.Lock()
			h.conns[c] = true
			h.mu.Unlock()
			h.wg.Go(func() { h.serve(c) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		h.hangUp()
		h.wg.Wait()
	})
	return h
}

// hostOn makes a host that does not accept yet.
func hostOn(t testing.TB, l net.Listener, o hostOptions) *host {
	h := &host{t: t, l: l, opts: o, conns: make(map[net.Conn]bool), dotted: make(chan struct{}, 100)}
	h.said.L = &h.mu
	return h
}

// hear notes what a client said, or what befell the host.
func (h *host) hear(line string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.commands = append(h.commands, line)
	h.said.Broadcast()
}

// hears waits until it was told line n times.
func (h *host) hears(line string, n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for h.heard(line) < n {
		h.said.Wait()
	}
}

// heard counts, under mu.
func (h *host) heard(line string) (n int) {
	for _, c := range h.commands {
		if c == line {
			n++
		}
	}
	return n
}

// hangUp closes every connection.
func (h *host) hangUp() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for c := range h.conns {
		c.Close()
	}
}

// meetings is how many connections it had.
func (h *host) meetings() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.met
}

func (h *host) addr() string { return h.l.Addr().String() }

func (h *host) mails() []mailed {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]mailed(nil), h.delivered...)
}

func (h *host) saw() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.Join(h.commands, "\n")
}

// dialogue is one connection to a host.
type dialogue struct {
	*host
	opts hostOptions // of this connection
	c    net.Conn
	r    *bufio.Reader
}

// act performs what is to be done at a stage and reports whether the dialogue goes on.
func (d *dialogue) act(stage, usual string) (said string, goOn bool) {
	act, ok := d.opts.acts[stage]
	if !ok {
		act = usual
	}
	switch act {
	case "vanish":
		d.l.Close()
		d.hear("vanished")
		return "drop", false
	case "drop":
		return act, false
	case "hang":
		io.Copy(io.Discard, d.c)
		return act, false
	}
	fmt.Fprint(d.c, strings.ReplaceAll(act, "\n", "\r\n")+"\r\n")
	return act, !strings.HasPrefix(act, "421")
}

func (h *host) serve(c net.Conn) {
	defer func() {
		c.Close()
		h.mu.Lock()
		delete(h.conns, c)
		h.mu.Unlock()
	}()
	h.mu.Lock()
	d := &dialogue{host: h, opts: h.opts.of(h.met), c: c}
	h.met++
	h.mu.Unlock()
	if d.opts.implicit {
		d.c = tls.Server(c, d.opts.tls)
	}
	d.r = bufio.NewReaderSize(d.c, 64<<10)
	if d.opts.late != nil {
		select {
		case <-d.opts.late:
		case <-h.t.Context().Done():
			return
		}
	}
	if _, goOn := d.act("greeting", "220 host.example.net ESMTP"); !goOn {
		return
	}
	var m mailed
	for {
		line, err := d.r.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimSuffix(line, "\r\n")
		h.hear(line)
		verb, _, _ := strings.Cut(strings.ToUpper(line), " ")
		goOn := true
		switch verb {
		case "EHLO":
			_, goOn = d.act("EHLO", d.ehlo())
		case "HELO":
			_, goOn = d.act("HELO", "250 hello")
		case "STARTTLS":
			var said string
			if said, goOn = d.act("STARTTLS", "220 go"); strings.HasPrefix(said, "220") {
				d.c = tls.Server(d.c, d.opts.tls)
				d.r = bufio.NewReaderSize(d.c, 64<<10)
			}
		case "AUTH":
			goOn = d.auth(line)
		case "MAIL":
			m = mailed{from: line[len("MAIL FROM:"):]}
			_, goOn = d.act("MAIL", "250 2.1.0 sender fine")
		case "RCPT":
			to := strings.Trim(line[len("RCPT TO:"):], "<>")
			usual := "250 2.1.5 recipient fine"
			if r, ok := d.opts.rcpt[to]; ok {
				usual = r
			}
			var said string
			if said, goOn = d.act("RCPT", usual); said[0] == '2' {
				m.to = append(m.to, to)
				if _, ok := d.opts.acts["after RCPT"]; ok {
					_, goOn = d.act("after RCPT", "")
				}
			}
		case "NOOP":
			if len(m.to) < d.opts.noopFrom {
				fmt.Fprint(d.c, "250 2.0.0 awake\r\n")
				break
			}
			_, goOn = d.act("NOOP", "250 2.0.0 awake")
		case "DATA":
			var said string
			if said, goOn = d.act("DATA", "354 go on"); strings.HasPrefix(said, "354") {
				goOn = d.message(m)
			}
		case "RSET":
			m = mailed{}
			_, goOn = d.act("RSET", "250 2.0.0 fine")
		case "QUIT":
			fmt.Fprint(d.c, "221 2.0.0 bye\r\n")
			return
		default:
			fmt.Fprint(d.c, "500 5.5.2 what?\r\n")
		}
		if !goOn {
			return
		}
	}
}

func (d *dialogue) ehlo() string {
	ext := d.opts.extensions
	if ext == nil {
		ext = []string{"8BITMIME", "AUTH PLAIN LOGIN", "SIZE 1000"}
	}
	if _, in := d.c.(*tls.Conn); d.opts.startTLS && !in {
		ext = []string{"STARTTLS"}
	}
	lines := append([]string{"host.example.net"}, ext...)
	for i := range lines {
		sep := "-"
		if i == len(lines)-1 {
			sep = " "
		}
		lines[i] = "250" + sep + lines[i]
	}
	return strings.Join(lines, "\n")
}

func (d *dialogue) auth(line string) bool {
	f := strings.Fields(line)
	var got string
	if f[1] == "PLAIN" {
		b, _ := base64.StdEncoding.DecodeString(f[2])
		got = string(b)
	} else {
		for range 2 {
			fmt.Fprint(d.c, "334 \r\n")
			line, err := d.r.ReadString('\n')
			if err != nil {
				return false
			}
			b, _ := base64.StdEncoding.DecodeString(strings.TrimSpace(line))
			got += "\x00" + string(b)
		}
	}
	usual := "235 2.7.0 welcome"
	if got != "\x00upstream\x00secret" {
		usual = "535 5.7.8 go away"
	}
	_, goOn := d.act("AUTH", usual)
	return goOn
}

// message reads a message to its final dot.
func (d *dialogue) message(m mailed) bool {
	if act := d.opts.acts["body"]; act != "" {
		io.CopyN(io.Discard, d.r, 10)
		_, goOn := d.act("body", "")
		if act != "drop" && act != "hang" { // said no and went
			return false
		}
		return goOn
	}
	var b bytes.Buffer
	for start := true; ; {
		line, err := d.r.ReadSlice('\n')
		if err != nil && err != bufio.ErrBufferFull {
			return false
		}
		if start && string(line) == ".\r\n" {
			break
		}
		start = bytes.HasSuffix(line, []byte("\r\n"))
		if !d.opts.discard {
			b.Write(line)
		}
	}
	m.data = b.String()
	act := d.opts.acts["end"]
	if !strings.HasPrefix(act, "4") && !strings.HasPrefix(act, "5") {
		d.mu.Lock()
		d.delivered = append(d.delivered, m)
		d.mu.Unlock()
	}
	select {
	case d.dotted <- struct{}{}:
	default: // nobody counts
	}
	_, goOn := d.act("end", "250 2.0.0 queued as ABC123")
	return goOn
}

// undot gives back what DATA carried.
func undot(data string) string {
	return strings.TrimPrefix(strings.ReplaceAll("\r\n"+data, "\r\n.", "\r\n"), "\r\n")
}

// testCA makes a certificate authority and a certificate for names.
func testCA(t testing.TB, names ...string) (*tls.Config, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "host"}, NotBefore: ca.NotBefore, NotAfter: ca.NotAfter, DNSNames: names,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, ca, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	root, err := x509.ParseCertificate(caDER)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(root)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{leafDER}, PrivateKey: key}}}, pool
}
