package testnet

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/textproto"
	"os"
	"runtime/pprof"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/valise-mail/valise/node"
	"github.com/valise-mail/valise/node/api"
)

// testTimeout bounds a whole village test. It is generous: machines are loaded.
const testTimeout = 3 * time.Minute

var threeAtTwo = []string{"berlin", "berlin", "paris"}

// twoCopies makes a village where one of three nodes holds no copy.
func twoCopies(_ int, c *node.Config) { c.Copies.Wanted, c.Copies.Ack = 2, 2 }

func village(t *testing.T, c Config) (*Village, context.Context) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	t.Cleanup(cancel)
	level := slog.LevelWarn
	if os.Getenv("VALISE_TEST_LOG") != "" {
		level = slog.LevelDebug
	}
	c.Logger = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: level}))
	v, err := Open(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.Close() })
	// What a node starts for a test that asks it directly carries the label, too.
	pprof.SetGoroutineLabels(pprof.WithLabels(context.Background(), pprof.Labels("village", v.label)))
	return v, ctx
}

func verify(t *testing.T, ctx context.Context, v *Village) {
	t.Helper()
	if err := v.Verify(ctx); err != nil {
		t.Error(err)
	}
}

func person(t *testing.T, ctx context.Context, v *Village, address string) Person {
	t.Helper()
	p, err := v.AddPerson(ctx, 0, address)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}

// letter makes a message with a text and one attachment.
func letter(name string, content []byte) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "From: sender@example.org\r\nTo: recipient@example.net\r\nSubject: test\r\nDate: Mon, 02 Nov 2026 10:00:00 +0000\r\nMessage-ID: <%x@example.org>\r\n", randomBytes(8))
	b.WriteString("MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=XX\r\n\r\n--XX\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nHello.\r\n")
	fmt.Fprintf(&b, "--XX\r\nContent-Type: application/octet-stream\r\nContent-Disposition: attachment; filename=%q\r\nContent-Transfer-Encoding: base64\r\n\r\n", name)
	encoded := base64.StdEncoding.EncodeToString(content)
	for len(encoded) > 0 {
		n := min(76, len(encoded))
		b.WriteString(encoded[:n] + "\r\n")
		encoded = encoded[n:]
	}
	b.WriteString("--XX--\r\n")
	return b.Bytes()
}

var to = []string{"recipient@example.net"}

// sendFile sends content through house i and returns its link, promised to the verifier.
func sendFile(t *testing.T, ctx context.Context, v *Village, i int, p Person, name string, content []byte) string {
	t.Helper()
	caught := len(v.Mail.Messages())
	if err := v.Send(ctx, i, p, to, letter(name, content)); err != nil {
		t.Fatalf("send through %s: %v", v.Houses[i].Name, err)
	}
	link := onlyLink(t, ctx, v, caught)
	v.Promise(link, content)
	return link
}

func onlyLink(t *testing.T, ctx context.Context, v *Village, caught int) string {
	t.Helper()
	m, err := v.Mail.Next(ctx, caught)
	if err != nil {
		t.Fatal(err)
	}
	links := Links(m.Data)
	if len(links) != 1 {
		t.Fatalf("got links %q in\n%s", links, head(m.Data))
	}
	return links[0]
}

func head(b []byte) []byte { return b[:min(len(b), 2000)] }

func code(err error) int {
	if e, ok := errors.AsType[*textproto.Error](err); ok {
		return e.Code
	}
	return 0
}

// The main job: three nodes at two sites, a mail with attachments, the file
// through a node that never held it.
func TestMainJob(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	d, err := OpenDemo(ctx, t.TempDir(), DemoConfig{Out: t.Output(), Keep: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	r, err := d.Run(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Attachments) != 2 || !r.OK {
		t.Fatalf("got %+v, want two attachments", r)
	}
	for _, a := range r.Attachments {
		if len(a.Nodes) != 2 || a.Nodes[0][:5] == a.Nodes[1][:5] {
			t.Errorf("%s: copies on %q, want two nodes at two sites", a.Name, a.Nodes)
		}
	}
	if r.Attachments[0].Name != "site plan.pdf" || r.Attachments[1].Name != "Foto 照片.png" {
		t.Errorf("got names %q and %q", r.Attachments[0].Name, r.Attachments[1].Name)
	}
	verify(t, ctx, d.Village)
}

func TestA1_MessageWithoutAttachmentPassesByteForByte(t *testing.T) {
	t.Parallel()
	v, ctx := village(t, Config{Sites: []string{"berlin"}})
	p := person(t, ctx, v, "sender@example.org")
	message := "From: sender@example.org\r\nTo: recipient@example.net\r\nSubject:  odd   spacing\r\n\tfolded\r\nX-Strange: \r\n\r\nBody with trailing blanks   \r\n.leading dot\r\n\r\n\r\n"
	if err := v.Send(ctx, 0, p, to, []byte(message)); err != nil {
		t.Fatal(err)
	}
	m, err := v.Mail.Next(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	got := string(m.Data)
	if !strings.HasPrefix(got, "Received: ") {
		t.Fatalf("no trace header in front:\n%s", got)
	}
	for strings.HasPrefix(got, "Received: ") || strings.HasPrefix(got, "\t") || strings.HasPrefix(got, " ") {
		_, got, _ = strings.Cut(got, "\r\n")
	}
	if diff := cmp.Diff(message, got); diff != "" {
		t.Error(diff)
	}
	verify(t, ctx, v)
}

func TestA2A7_ContentIsStoredOnceForAllMailboxes(t *testing.T) {
	t.Parallel()
	v, ctx := village(t, Config{Sites: []string{"berlin"}})
	p := person(t, ctx, v, "sender@example.org")
	admin := v.Houses[0].Node().Admin()
	if err := admin.AddMailbox(ctx, api.MailboxRequest{Account: p.Address, Address: "private@example.com", NextHop: v.Mail.Addr(), TLS: "none"}); err != nil {
		t.Fatal(err)
	}
	content := randomBytes(1 << 20)
	first := sendFile(t, ctx, v, 0, p, "report.bin", content)
	before := blockBytes(t, v.Houses[0])
	p.Address = "private@example.com"
	message := bytes.Replace(letter("report.bin", content), []byte("From: sender@example.org"), []byte("From: private@example.com"), 1)
	if err := v.Send(ctx, 0, p, to, message); err != nil {
		t.Fatal(err)
	}
	second := onlyLink(t, ctx, v, 1)
	v.Promise(second, content)
	if first == second {
		t.Error("two messages have one link: neither can be revoked alone")
	}
	if cidOf(first) != cidOf(second) {
		t.Errorf("equal content has CIDs %s and %s", cidOf(first), cidOf(second))
	}
	s, err := admin.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if s.Copies.Files != 1 {
		t.Errorf("got %d contents in the ledger, want 1", s.Copies.Files)
	}
	if grown := blockBytes(t, v.Houses[0]) - before; grown > 64<<10 {
		t.Errorf("sending the same megabyte again stored %d bytes", grown)
	}
	verify(t, ctx, v)
}

func cidOf(link string) string {
	_, rest, _ := strings.Cut(link, "/a/")
	cid, _, _ := strings.Cut(rest, "/")
	return cid
}

// blockBytes is how much the packs of a house hold on its disk.
func blockBytes(t *testing.T, h *House) int64 {
	t.Helper()
	var sum int64
	var walk func(dir string)
	walk = func(dir string) {
		names, err := h.disk.List(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			full := h.disk.PathJoin(dir, name)
			info, err := h.disk.Stat(full)
			if err != nil {
				continue // removed meanwhile
			}
			if info.IsDir() {
				walk(full)
			} else if strings.HasSuffix(name, ".car") {
				sum += info.Size()
			}
		}
	}
	walk(h.cfg.Dir + "/store")
	if sum == 0 {
		t.Fatal("found no pack")
	}
	return sum
}

func TestA4_ChangedFileReachesSentLink(t *testing.T) {
	t.Parallel()
	v, ctx := village(t, Config{Sites: threeAtTwo, Adjust: twoCopies})
	p := person(t, ctx, v, "sender@example.org")
	old, changed := randomBytes(600_000), randomBytes(700_000)
	caught := len(v.Mail.Messages())
	if err := v.Send(ctx, 0, p, to, letter("plan.bin", old)); err != nil {
		t.Fatal(err)
	}
	link := onlyLink(t, ctx, v, caught)
	file := fileBehind(t, ctx, v, p, "plan.bin")
	put, err := v.Houses[2].Node().Admin().Put(ctx, api.PutRequest{Account: p.Address, Name: "plan.bin", Replace: file}, bytes.NewReader(changed))
	if err != nil {
		t.Fatal(err)
	}
	for i, h := range v.Houses { // acknowledged is not yet heard of everywhere
		if err := v.Wait(ctx, h.Name+" to know the new version", func() (bool, error) {
			return knock(t, ctx, v, i, http.MethodHead, link, "", nil).Header.Get("Etag") == `"`+put.CID+`"`, nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	v.Promise(link, changed)
	v.Promise(link+"?v=sent", old)
	if got := len(v.Mail.Messages()); got != caught+1 {
		t.Errorf("%d messages went out, want none for the change", got-caught-1)
	}
	verify(t, ctx, v)
}

// fileBehind finds a file's id by storing nothing: the account's list tells.
func fileBehind(t *testing.T, ctx context.Context, v *Village, p Person, name string) string {
	t.Helper()
	files, err := v.Houses[0].Node().Files(p.Account)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if f.Name == name {
			return string(f.ID)
		}
	}
	t.Fatalf("no file %q among %v", name, files)
	return ""
}

// What was made at one node a moment ago is known at another when somebody asks there.
func TestA7_JustMadeElsewhere(t *testing.T) {
	t.Parallel()
	v, ctx := village(t, Config{Sites: threeAtTwo, Adjust: twoCopies})
	for i := range 10 {
		at, elsewhere := v.Houses[i%3].Node().Admin(), v.Houses[(i+1)%3].Node().Admin()
		address := fmt.Sprintf("sender%d@example.org", i)
		if _, err := at.AddAccount(ctx, api.AccountRequest{Address: address}); err != nil {
			t.Fatal(err)
		}
		put, err := elsewhere.Put(ctx, api.PutRequest{Account: address, Name: "a.txt"}, strings.NewReader("first"))
		if err != nil {
			t.Fatalf("account made elsewhere: %v", err)
		}
		if _, err := at.Put(ctx, api.PutRequest{Account: address, Name: "a.txt", Replace: put.File}, strings.NewReader("second")); err != nil {
			t.Fatalf("file made elsewhere: %v", err)
		}
		if _, err := elsewhere.Put(ctx, api.PutRequest{Account: address, Name: "a.txt", Replace: put.Link}, strings.NewReader("third")); err != nil {
			t.Fatalf("link made elsewhere: %v", err)
		}
	}
	verify(t, ctx, v)
}

func TestA8_MailboxPasswordIsSealedOnDisk(t *testing.T) {
	t.Parallel()
	v, ctx := village(t, Config{Sites: []string{"berlin"}})
	p := person(t, ctx, v, "sender@example.org")
	const secret = "correct horse battery staple 4711"
	if err := v.Houses[0].Node().Admin().AddMailbox(ctx, api.MailboxRequest{
		Account: p.Address, Address: p.Address, NextHop: v.Mail.Addr(), TLS: "none", User: "sender", Password: secret,
	}); err != nil {
		t.Fatal(err)
	}
	h := v.Houses[0]
	if err := v.Stop(0); err != nil {
		t.Fatal(err)
	}
	if found := grepDisk(t, h, []byte("example.org")); len(found) == 0 {
		t.Fatal("the search finds nothing at all")
	}
	if found := grepDisk(t, h, []byte(secret)); len(found) > 0 {
		t.Errorf("the mailbox's password is readable in %q", found)
	}
	if err := v.Restart(ctx, 0); err != nil {
		t.Fatal(err)
	}
	verify(t, ctx, v)
}

func grepDisk(t *testing.T, h *House, what []byte) []string {
	t.Helper()
	var found []string
	var walk func(dir string)
	walk = func(dir string) {
		names, err := h.disk.List(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			full := h.disk.PathJoin(dir, name)
			info, err := h.disk.Stat(full)
			if err != nil {
				t.Fatal(err)
			}
			if info.IsDir() {
				walk(full)
				continue
			}
			f, err := h.disk.Open(full)
			if err != nil {
				t.Fatal(err)
			}
			data, err := io.ReadAll(f)
			f.Close()
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Contains(data, what) {
				found = append(found, full)
			}
		}
	}
	walk(h.cfg.Dir)
	return found
}

func TestE3_RevocationReachesEveryNode(t *testing.T) {
	t.Parallel()
	v, ctx := village(t, Config{Sites: threeAtTwo, Adjust: twoCopies})
	p := person(t, ctx, v, "sender@example.org")
	if err := v.Send(ctx, 0, p, to, letter("secret.bin", randomBytes(400_000))); err != nil {
		t.Fatal(err)
	}
	link := onlyLink(t, ctx, v, 0)
	for i := range v.Houses {
		if resp, _, err := v.Fetch(ctx, i, link, nil); err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("before: %v, %v", resp, err)
		}
	}
	if _, err := v.Houses[1].Node().Admin().Revoke(ctx, api.RevokeRequest{Link: link}); err != nil {
		t.Fatal(err)
	}
	for i, h := range v.Houses {
		err := v.Wait(ctx, h.Name+" to refuse", func() (bool, error) {
			resp, body, err := v.Fetch(ctx, i, link, nil)
			return err == nil && resp.StatusCode == http.StatusForbidden && bytes.Contains(body, []byte("access denied")), err
		})
		if err != nil {
			t.Error(err)
		}
	}
	verify(t, ctx, v)
}
