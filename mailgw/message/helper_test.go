package message

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// result is one pass through the gateway's message room.
type result struct {
	m         *Message
	taken     map[int][]byte // content of the parts of Taken, by index
	offered   []Part         // parts given to Take, in order
	original  []byte
	rewritten []byte
}

// pass reads a message and writes it both ways. It stays open until the test ends. Every part offered is read to its end.
func pass(t testing.TB, r io.Reader, o Options, lang string) result {
	t.Helper()
	res, err := tryPass(t.Context(), r, o, lang)
	if err != nil {
		t.Fatalf("pass: %v", err)
	}
	t.Cleanup(func() { res.m.Close() })
	return res
}

func tryPass(ctx context.Context, r io.Reader, o Options, lang string) (result, error) {
	var res result
	contents := map[int][]byte{}
	m, err := Read(ctx, r, o, func(_ context.Context, p Part, content io.Reader) error {
		res.offered = append(res.offered, p)
		b, err := io.ReadAll(content)
		contents[p.Index] = b
		return err
	})
	if err != nil {
		return res, err
	}
	res.m, res.taken = m, map[int][]byte{}
	for _, p := range m.Taken() {
		res.taken[p.Index] = contents[p.Index]
	}
	var buf bytes.Buffer
	if err := m.WriteOriginal(&buf, nil); err != nil {
		return res, err
	}
	res.original = bytes.Clone(buf.Bytes())
	buf.Reset()
	err = m.WriteRewritten(&buf, nil, testBlock(m, res.taken, lang))
	res.rewritten = buf.Bytes()
	return res, err
}

// testBlock makes links as long as real ones, which say what they lead to.
func testBlock(m *Message, taken map[int][]byte, lang string) Block {
	token := strings.Repeat("hEOhATdjoFg--NoRealToken_", 6)
	b := Block{Lang: lang, Landing: "https://files.example.org/m/" + token}
	for _, p := range m.Taken() {
		sum := sha256.Sum256(taken[p.Index])
		name := p.Name
		if name == "" {
			name = "attachment"
		}
		b.Files = append(b.Files, File{
			Name: p.Name, Size: p.Size,
			URL: "https://files.example.org/a/" + hex.EncodeToString(sum[:]) + "/" + token + "/" + url.PathEscape(name),
		})
	}
	return b
}

// normal is the simple form of Normalise.
func normal(in []byte) []byte {
	var out []byte
	for i := 0; i < len(in); i++ {
		switch {
		case in[i] == '\r' && i+1 < len(in) && in[i+1] == '\n':
			out = append(out, '\r', '\n')
			i++
		case in[i] == '\n':
			out = append(out, '\r', '\n')
		case in[i] == '\r':
			out = append(out, ' ')
		default:
			out = append(out, in[i])
		}
	}
	if len(out) > 0 && out[len(out)-1] != '\n' {
		out = append(out, '\r', '\n')
	}
	return out
}

// corpus returns the real messages in the folder that VALISE_MAIL_CORPUS names. Without one the test is skipped, but in CI.
func corpus(t testing.TB) map[string][]byte {
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
		t.Fatalf("no messages in VALISE_MAIL_CORPUS=%s (%v)", dir, err)
	}
	all := map[string][]byte{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		name, _ := filepath.Rel(dir, f)
		all[name] = b
	}
	return all
}
