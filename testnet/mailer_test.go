package testnet

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"net"
	"net/textproto"
	"slices"
	"testing"
)

// A mailer is a mail program that hands over octets as they are: no line end is made better on the way.
type mailer struct {
	t    *testing.T
	conn *textproto.Conn
	from string
}

func newMailer(t *testing.T, ctx context.Context, v *Village, p Person) *mailer {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", v.Houses[0].cfg.Listen.SMTP)
	if err != nil {
		t.Fatal(err)
	}
	m := &mailer{t, textproto.NewConn(conn), p.Address}
	t.Cleanup(func() { m.conn.Close() })
	stop := context.AfterFunc(ctx, func() { m.conn.Close() })
	t.Cleanup(func() { stop() })
	m.want(220)
	m.say(250, "EHLO client.example.org")
	m.say(235, "AUTH PLAIN "+base64.StdEncoding.EncodeToString([]byte("\x00"+p.Address+"\x00"+p.Password)))
	return m
}

func (m *mailer) want(code int) {
	m.t.Helper()
	if _, _, err := m.conn.ReadResponse(code); err != nil {
		m.t.Fatalf("want %d: %v", code, err)
	}
}

func (m *mailer) say(code int, line string) {
	m.t.Helper()
	if err := m.conn.PrintfLine("%s", line); err != nil {
		m.t.Fatal(err)
	}
	m.want(code)
}

func (m *mailer) envelope(in []byte) {
	m.t.Helper()
	from := "MAIL FROM:<" + m.from + ">"
	if slices.ContainsFunc(in, func(c byte) bool { return c >= 0x80 }) {
		from += " BODY=8BITMIME"
	}
	m.say(250, from)
	m.say(250, "RCPT TO:<"+to[0]+">")
}

// bdat sends every octet as it is.
func (m *mailer) bdat(in []byte) {
	m.t.Helper()
	m.envelope(in)
	fmt.Fprintf(m.conn.W, "BDAT %d LAST\r\n", len(in))
	m.conn.W.Write(in)
	if err := m.conn.W.Flush(); err != nil {
		m.t.Fatal(err)
	}
	m.want(250)
}

// data sends a message that ends with CRLF; a dot is doubled where a line
// begins, which is after CRLF and nowhere else.
func (m *mailer) data(in []byte) {
	m.t.Helper()
	m.envelope(in)
	m.say(354, "DATA")
	stuffed := bytes.ReplaceAll(in, []byte("\r\n."), []byte("\r\n.."))
	if bytes.HasPrefix(in, []byte(".")) {
		stuffed = append([]byte("."), stuffed...)
	}
	m.conn.W.Write(stuffed)
	m.conn.W.WriteString(".\r\n")
	if err := m.conn.W.Flush(); err != nil {
		m.t.Fatal(err)
	}
	m.want(250)
}
