package mailgw

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/valise-mail/valise/authz"
)

// A village is an in-memory Publisher and Directory with switches for what may fail. Its one account is ann's.
type village struct {
	mu       sync.Mutex
	hop      NextHop
	puts     map[string][32]byte // by file name
	sizes    map[string]int64
	grants   map[SendingID]Sending
	undone   []SendingID
	logins   int
	any      bool // every address is the account's
	fail     error
	failAt   string // Authenticate, Upstream, Put, Put at its end, Grant, Grant after it happened, Undo
	granting func() // called by Grant
	hang     string // Put or Grant wait for the end of their context
	panicAt  string
	lang     string
}

func newVillage(h *host) *village {
	return &village{hop: NextHop{Addr: h.addr(), TLS: authz.NoTLS, User: "upstream", Password: "secret"},
		puts: make(map[string][32]byte), sizes: make(map[string]int64), grants: make(map[SendingID]Sending)}
}

func (v *village) at(stage string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.panicAt == stage {
		panic("a broken promise")
	}
	if v.failAt == stage {
		return fmt.Errorf("%s: %w", stage, v.fail)
	}
	return nil
}

func (v *village) Put(ctx context.Context, m Meta, r io.Reader) (Stored, error) {
	if err := v.at("Put"); err != nil {
		return Stored{}, err
	}
	hash := sha256.New()
	n, err := io.Copy(hash, r)
	if err != nil {
		return Stored{}, fmt.Errorf("put %s: %w", m.Name, err)
	}
	if v.hang == "Put" {
		<-ctx.Done()
		return Stored{}, ctx.Err()
	}
	if err := v.at("Put at its end"); err != nil {
		return Stored{}, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.puts[m.Name] = [32]byte(hash.Sum(nil))
	v.sizes[m.Name] = n
	return Stored{Name: m.Name, Size: n, ID: m.Name}, nil
}

func (v *village) Grant(ctx context.Context, s Sending, files []Stored) (Links, error) {
	if err := v.at("Grant"); err != nil {
		return Links{}, err
	}
	if v.granting != nil {
		v.granting()
	}
	if v.hang == "Grant" {
		<-ctx.Done()
		return Links{}, ctx.Err()
	}
	v.mu.Lock()
	v.grants[s.ID] = s
	v.mu.Unlock()
	if err := v.at("Grant after it happened"); err != nil {
		return Links{}, err
	}
	l := Links{Landing: "https://files.example.org/m/" + string(s.ID), Lang: v.lang}
	for _, f := range files {
		l.Files = append(l.Files, "https://files.example.org/a/"+fmt.Sprint(f.ID))
	}
	return l, nil
}

func (v *village) Undo(ctx context.Context, id SendingID) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	v.mu.Lock()
	delete(v.grants, id)
	v.undone = append(v.undone, id)
	v.mu.Unlock()
	return v.at("Undo")
}

func (v *village) Authenticate(_ context.Context, l Login) (Sender, error) {
	v.mu.Lock()
	v.logins++
	v.mu.Unlock()
	if err := v.at("Authenticate"); err != nil {
		return Sender{}, err
	}
	if l.User != "ann@example.org" || l.Password != "tuesday" {
		return Sender{}, fmt.Errorf("login of %s: %w", l.User, ErrBadCredentials)
	}
	return Sender{Account: "ann", Mailbox: l.User}, nil
}

func (v *village) Upstream(ctx context.Context, s Sender, from string) (NextHop, error) {
	if err := v.at("Upstream"); err != nil {
		return NextHop{}, err
	}
	if from != "" {
		if err := v.Owns(ctx, s, from); err != nil {
			return NextHop{}, err
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.hop, nil
}

func (v *village) Owns(_ context.Context, _ Sender, addr string) error {
	a, err := authz.ParseAddress(addr)
	if v.any || err == nil && (a == "ann@example.org" || a == "ann+lists@example.org") {
		return nil
	}
	return fmt.Errorf("%s: %w", addr, ErrNotYours)
}

func (v *village) state() (granted, undone int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.grants), len(v.undone)
}

// stored is how many bytes were put, granted or not.
func (v *village) stored() (n int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, size := range v.sizes {
		n += size
	}
	return n
}

func (v *village) asked() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.logins
}

// start runs a gateway for a village and returns the address of its listener.
func start(t testing.TB, v *village, change func(*Config)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return startOn(t, v, l, change)
}

func startOn(t testing.TB, v *village, l net.Listener, change func(*Config)) string {
	t.Helper()
	c := Config{Hostname: "gw.example.org", Publisher: v, Directory: v, SpoolDir: t.TempDir(), Threshold: 256 << 10}
	if _, bench := t.(*testing.B); !bench {
		c.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	if change != nil {
		change(&c)
	}
	g, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return l.Addr().String()
}

// A client is a mail program's connection, or an attacker's.
type client struct {
	t testing.TB
	net.Conn
	r *bufio.Reader
}

func dial(t testing.TB, addr string) *client {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return converse(t, c)
}

func converse(t testing.TB, c net.Conn) *client {
	t.Helper()
	c.SetDeadline(time.Now().Add(3 * time.Minute))
	t.Cleanup(func() { c.Close() })
	return &client{t, c, bufio.NewReaderSize(c, 64<<10)}
}

// answer reads one reply, its lines joined by newlines.
func (c *client) answer() string {
	c.t.Helper()
	a, err := c.tryAnswer()
	if err != nil {
		c.t.Fatalf("read reply after %q: %v", a, err)
	}
	return a
}

func (c *client) tryAnswer() (string, error) {
	var lines []string
	for {
		line, err := c.r.ReadString('\n')
		if err != nil {
			return strings.Join(lines, "\n"), err
		}
		line = strings.TrimSuffix(line, "\r\n")
		lines = append(lines, line)
		if len(line) < 4 || line[3] != '-' {
			return strings.Join(lines, "\n"), nil
		}
	}
}

// say sends a line and reads the reply.
func (c *client) say(format string, args ...any) string {
	c.t.Helper()
	c.send(fmt.Sprintf(format, args...) + "\r\n")
	return c.answer()
}

func (c *client) send(s string) {
	c.t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		c.t.Fatalf("send: %v", err)
	}
}

// must sends a line whose reply must begin with want.
func (c *client) must(want, format string, args ...any) string {
	c.t.Helper()
	got := c.say(format, args...)
	if !strings.HasPrefix(got, want) {
		c.t.Fatalf("%s: got %q, want %s", fmt.Sprintf(format, args...), got, want)
	}
	return got
}

// login greets and logs in.
func (c *client) login() *client {
	c.t.Helper()
	if g := c.answer(); !strings.HasPrefix(g, "220") {
		c.t.Fatalf("greeting: %q", g)
	}
	c.must("250", "EHLO client.example.org")
	c.must("235", "AUTH PLAIN %s", plain("ann@example.org", "tuesday"))
	return c
}

// gone waits for the end of the connection.
func (c *client) gone() {
	c.t.Helper()
	if _, err := io.Copy(io.Discard, c.r); err != nil && strings.Contains(err.Error(), "timeout") {
		c.t.Fatal("the connection stays open")
	}
}

// data sends a message by DATA, as clients should, and returns the answer to it.
func (c *client) data(msg string) string {
	c.t.Helper()
	c.must("354", "DATA")
	c.send(stuff(msg) + ".\r\n")
	return c.answer()
}

// bdat sends a message by BDAT in one chunk.
func (c *client) bdat(msg string) string {
	c.t.Helper()
	c.send(fmt.Sprintf("BDAT %d LAST\r\n%s", len(msg), msg))
	return c.answer()
}

// envelope sends MAIL and RCPT.
func (c *client) envelope() *client {
	c.t.Helper()
	c.must("250", "MAIL FROM:<ann@example.org>")
	c.must("250", "RCPT TO:<bob@example.net>")
	return c
}

func plain(user, password string) string {
	return base64.StdEncoding.EncodeToString([]byte("\x00" + user + "\x00" + password))
}

// stuff doubles dots at the start of lines.
func stuff(msg string) string {
	return strings.TrimPrefix(strings.ReplaceAll("\n"+msg, "\n.", "\n.."), "\n")
}

const simple = "From: Ann <ann@example.org>\r\nTo: bob@example.net\r\nMessage-ID: <1@example.org>\r\nSubject: hello\r\n\r\nHello,\r\n.a dot\r\n..\r\n"

// letter is a message with an attachment of size bytes.
func letter(size int) string {
	return letterHead + wrap64(size) + letterFoot
}

const (
	letterHead = "From: ann@example.org\r\nTo: bob@example.net\r\nMessage-ID: <2@example.org>\r\nMIME-Version: 1.0\r\n" +
		"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: text/plain\r\n\r\nSee the report.\r\n" +
		"--b\r\nContent-Type: application/pdf; name=report.pdf\r\nContent-Disposition: attachment; filename=report.pdf\r\nContent-Transfer-Encoding: base64\r\n\r\n"
	letterFoot = "--b--\r\n"
)

// wrap64 is size bytes in base64, 76 characters a line.
func wrap64(size int) string {
	all := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("0123456789", size/10+1)[:size]))
	var b strings.Builder
	for len(all) > 0 {
		n := min(76, len(all))
		b.WriteString(all[:n] + "\r\n")
		all = all[n:]
	}
	return b.String()
}

// body returns what follows our one Received line, and fails if that is not there.
func body1(t testing.TB, data string) string {
	t.Helper()
	rest, ok := strings.CutPrefix(data, "Received: from client.example.org ([127.0.0.1])\r\n\tby gw.example.org with ESMTPA id ")
	if !ok {
		t.Fatalf("no Received line of ours in front of %.300q", data)
	}
	_, rest, _ = strings.Cut(rest, "\r\n\t")
	_, rest, _ = strings.Cut(rest, "\r\n")
	return rest
}
