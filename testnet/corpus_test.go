package testnet

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/valise-mail/valise/mailgw/message"
	"github.com/valise-mail/valise/node"
	"github.com/valise-mail/valise/node/api"
)

// corpus returns the real messages below the folder that VALISE_MAIL_CORPUS
// names. Without one the test is skipped, but in CI.
func corpus(t *testing.T) map[string][]byte {
	t.Helper()
	dir := os.Getenv("VALISE_MAIL_CORPUS")
	if dir == "" {
		if os.Getenv("CI") == "true" {
			t.Fatal("VALISE_MAIL_CORPUS is not set: it names a folder of real messages, which CI must have")
		}
		t.Skip("VALISE_MAIL_CORPUS is not set: it names a folder of real messages, on which this is tried")
	}
	files, err := filepath.Glob(filepath.Join(dir, "*", "*.eml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no messages in VALISE_MAIL_CORPUS=%s: %v", dir, err)
	}
	all := map[string][]byte{}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all[filepath.Join(filepath.Base(filepath.Dir(f)), filepath.Base(f))] = data
	}
	return all
}

// normal is the form that counts as the original: bare LF is CRLF, bare CR a
// blank, and the last line ends.
func normal(in []byte) []byte {
	var out []byte
	for i, c := range in {
		switch {
		case c == '\n' && (i == 0 || in[i-1] != '\r'):
			out = append(out, '\r', '\n')
		case c == '\r' && (i+1 == len(in) || in[i+1] != '\n'):
			out = append(out, ' ')
		default:
			out = append(out, c)
		}
	}
	if len(out) > 0 && !bytes.HasSuffix(out, []byte("\r\n")) {
		out = append(out, '\r', '\n')
	}
	return out
}

// own makes every address that answers for the message a mailbox of the
// person's, as M2 asks. Where that cannot be, because the field holds no
// address, the message is handed on as a person does with another's: with a
// Resent-From in front.
func own(t *testing.T, ctx context.Context, v *Village, p Person, name string, in []byte) []byte {
	t.Helper()
	m, err := message.Read(ctx, bytes.NewReader(in), message.Options{Threshold: -1}, nil)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	defer m.Close()
	h := m.Header()
	f, ok := h.Responsible()
	if !ok {
		return in
	}
	list, err := f.Addresses()
	for _, a := range list {
		if err == nil {
			err = v.Houses[0].Node().Admin().AddMailbox(ctx, api.MailboxRequest{Account: p.Address, Address: a.Address, NextHop: v.Mail.Addr(), TLS: "none"})
		}
	}
	if err == nil && len(list) > 0 {
		return in
	}
	t.Logf("%s is sent on with Resent-From: %s %q: %v", name, f.Name, f.Value(), err)
	return append([]byte("Resent-From: "+p.Address+"\r\n"), in...)
}

// lessTrace takes our one Received line off.
func lessTrace(t *testing.T, name string, got []byte) []byte {
	t.Helper()
	if !bytes.HasPrefix(got, []byte("Received: from client.example.org ")) {
		t.Fatalf("%s: no trace line of ours in front:\n%s", name, head(got))
	}
	for first := true; first || bytes.HasPrefix(got, []byte("\t")); first = false {
		_, got, _ = bytes.Cut(got, []byte("\r\n"))
	}
	return got
}

// Row A1 and M4: real messages, none of which has an attachment above the
// default threshold, leave the node as they came, by BDAT and, where they end
// as DATA can say, by DATA.
func TestA1M4_CorpusLeavesTheVillageAsItCame(t *testing.T) {
	t.Parallel()
	all := corpus(t)
	v, ctx := village(t, Config{Sites: []string{"berlin"}})
	p := person(t, ctx, v, "sender@example.org")
	m := newMailer(t, ctx, v, p)
	byData := 0
	for _, name := range slices.Sorted(maps.Keys(all)) {
		in := own(t, ctx, v, p, name, all[name])
		ways := []func([]byte){m.bdat}
		if bytes.HasSuffix(in, []byte("\r\n")) {
			ways = append(ways, m.data)
			byData++
		}
		for _, send := range ways {
			caught := len(v.Mail.Messages())
			send(in)
			got, err := v.Mail.Next(ctx, caught)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(normal(in)), string(lessTrace(t, name, got.Data))); diff != "" {
				t.Errorf("%s changed on its way:\n%s", name, diff)
			}
		}
	}
	t.Logf("%d messages by BDAT, %d of them by DATA, too", len(all), byData)
	if files, err := v.Houses[0].Node().Files(p.Account); err != nil || len(files) != 0 {
		t.Errorf("files %v were stored, %v", files, err)
	}
	verify(t, ctx, v)
}

// M3 and M5 at threshold 0: what every link of a real message gives is what
// another parser decodes one of its parts to.
func TestM3M5_CorpusLinksGiveWhatTheSecondParserDecodes(t *testing.T) {
	t.Parallel()
	all := corpus(t)
	v, ctx := village(t, Config{Sites: []string{"berlin"}, Adjust: func(_ int, c *node.Config) { c.Mail.Threshold = 0 }})
	p := person(t, ctx, v, "sender@example.org")
	m := newMailer(t, ctx, v, p)
	names := slices.Sorted(maps.Keys(all))
	var normals, delivered [][]byte
	for i, name := range names {
		in := own(t, ctx, v, p, name, all[name])
		m.bdat(in)
		got, err := v.Mail.Next(ctx, i)
		if err != nil {
			t.Fatal(err)
		}
		normals, delivered = append(normals, normal(in)), append(delivered, lessTrace(t, name, got.Data))
	}
	before, after := secondParser(t, ctx, normals), secondParser(t, ctx, delivered)
	taken := 0
	for i, sent := range before {
		known := Links([]byte(sent.Text))
		links := slices.DeleteFunc(Links([]byte(after[i].Text)), func(l string) bool { return slices.Contains(known, l) })
		if len(links) == 0 && !bytes.Equal(normals[i], delivered[i]) {
			t.Errorf("%s: nothing was taken, and yet it changed", names[i])
		}
		files := fileLinks(t, ctx, v, links)
		if want := takenFrom(t, ctx, normals[i]); len(files) != want {
			t.Errorf("%s: %d parts can be fetched, %d should be taken", names[i], len(files), want)
		}
		for _, f := range files {
			a := get(t, ctx, v, 0, f, nil)
			sum := sha256.Sum256([]byte(a.Body))
			at := slices.Index(sent.Sums, hex.EncodeToString(sum[:]))
			if a.Status != http.StatusOK || at < 0 {
				t.Errorf("%s: %s: got %d, and python decodes no part to these %d bytes: %.200q", names[i], f, a.Status, len(a.Body), a.Body)
				continue
			}
			sent.Sums = slices.Delete(sent.Sums, at, at+1)
			v.Promise(f, []byte(a.Body))
			taken++
		}
	}
	t.Logf("%d messages, %d parts taken and compared", len(names), taken)
	if before != nil && taken == 0 {
		t.Error("no part was compared")
	}
	verify(t, ctx, v)
}

// takenFrom is how many parts of a message are taken at threshold 0.
func takenFrom(t *testing.T, ctx context.Context, in []byte) int {
	t.Helper()
	m, err := message.Read(ctx, bytes.NewReader(in), message.Options{}, func(_ context.Context, _ message.Part, r io.Reader) error {
		_, err := io.Copy(io.Discard, r)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	return len(m.Taken())
}

// fileLinks follows what a message's text has for links, each file once.
func fileLinks(t *testing.T, ctx context.Context, v *Village, links []string) []string {
	t.Helper()
	var files []string
	for _, link := range links {
		more, err := v.FileLinks(ctx, 0, link)
		if err != nil {
			t.Errorf("%s: %v", link, err)
		}
		for _, f := range more {
			if !slices.Contains(files, f) {
				files = append(files, f)
			}
		}
	}
	return files
}
