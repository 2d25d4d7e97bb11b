package message

import (
	"bytes"
	"encoding/base64"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// onEverything runs a test on the project's own messages and one on the corpus, which is skipped where that is absent.
func onEverything(t *testing.T, run func(t *testing.T, messages map[string][]byte)) {
	t.Run("own", func(t *testing.T) {
		t.Parallel()
		run(t, ownMessages(t))
	})
	t.Run("corpus", func(t *testing.T) {
		t.Parallel()
		run(t, corpus(t))
	})
}

// ownMessages are those of testdata.
func ownMessages(t *testing.T) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	files, err := filepath.Glob("testdata/golden/*/in.eml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no messages of our own (%v)", err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all[f] = b
	}
	return all
}

// structure returns a message's tree without taking anything.
func structure(t *testing.T, in []byte) *Message {
	t.Helper()
	m, err := Read(t.Context(), bytes.NewReader(in), Options{Threshold: math.MaxInt64, SpoolMemory: 64 << 20}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func allLeaves(m *Message) []*node {
	return leaves(m.root, nil, func(*node) bool { return true })
}

// checkRewritten holds what must be true of every result against its input, which is in normal form.
func checkRewritten(t *testing.T, in []byte, r result) {
	t.Helper()
	if !bytes.Equal(r.original, in) {
		t.Error("the original is not the normal form")
	}
	if len(r.taken) == 0 {
		if !bytes.Equal(r.rewritten, in) {
			t.Error("nothing is taken, and yet the message changed")
		}
		return
	}
	after := structure(t, r.rewritten)
	if after.untouched != "" {
		t.Fatalf("the result is not understood: %s", after.untouched)
	}
	raw := func(b []byte, n *node) string { return string(b[n.head:n.end]) }
	rest := allLeaves(after)
	for _, n := range allLeaves(r.m) {
		switch {
		case n.taken:
			d, _ := newDecoder(n.encoding)
			want, err := d.decode(nil, in[n.body:n.end])
			if err == nil {
				want, err = d.finish(want)
			}
			if err != nil || !bytes.Equal(r.taken[n.index], want) {
				t.Errorf("content of part %d is not what its octets stand for (%v)", n.index, err)
			}
			if len(r.m.texts) == 0 && n == r.m.place {
				rest = rest[1:]
			}
		case slices.Contains(r.m.texts, n) && n.text != nil:
			got, want := raw(r.rewritten, rest[0]), raw(in, n)
			if e := insertion(r.m, n, r.rewritten, rest[0]); e == "" {
				t.Errorf("text %d changed by more than an insertion:\n%q\n%q", n.index, want, got)
			}
			rest = rest[1:]
		default:
			if len(rest) == 0 || raw(in, n) != raw(r.rewritten, rest[0]) {
				t.Fatalf("part %d is not byte-identical", n.index)
			}
			rest = rest[1:]
		}
	}
	if len(rest) > 0 {
		t.Errorf("%d parts too many", len(rest))
	}
}

// insertion returns what was put into the raw octets of n, but for a quantum of base64.
func insertion(m *Message, n *node, out []byte, now *node) string {
	at := n.text.end
	for _, o := range m.texts {
		if o.text.quotes {
			at = n.text.top
		}
	}
	before := make([]byte, at.at-n.head)
	after := make([]byte, n.end-at.to)
	if _, err := m.spool.ReadAt(before, n.head); err != nil && err != io.EOF {
		return ""
	}
	if _, err := m.spool.ReadAt(after, at.to); err != nil && err != io.EOF {
		return ""
	}
	got := out[now.head:now.end]
	if len(got) < len(before)+len(after) || !bytes.HasPrefix(got, before) || !bytes.HasSuffix(got, after) {
		return ""
	}
	return string(got[len(before) : len(got)-len(after)])
}

func TestM3_Properties(t *testing.T) {
	t.Parallel()
	onEverything(t, func(t *testing.T, messages map[string][]byte) {
		for name, in := range messages {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				for _, o := range []Options{{}, {Threshold: 100}, {Threshold: 1400}, {Threshold: 256 << 10}, {Threshold: -1}} {
					r := pass(t, bytes.NewReader(in), o, "en")
					checkRewritten(t, normal(in), r)
					again := pass(t, bytes.NewReader(r.rewritten), o, "zh-CN")
					if !bytes.Equal(again.rewritten, r.rewritten) {
						t.Errorf("threshold %d: a second pass changes the message again", o.Threshold)
					}
				}
			})
		}
	})
}

// blowUp replaces the body of each part that is taken at threshold 0 by 1 MiB.
func blowUp(t *testing.T, in []byte, m *Message) []byte {
	t.Helper()
	var out bytes.Buffer
	at := int64(0)
	for _, n := range m.taken {
		out.Write(in[at:n.body])
		data := make([]byte, 1<<20)
		_, _ = rand.NewChaCha8([32]byte{byte(n.index)}).Read(data)
		switch n.encoding {
		case "base64":
			out.Write(encodeBase64(data))
		case "quoted-printable":
			out.Write(encodeQP(data))
		default:
			out.Write(encodeBase64(data)) // any text
		}
		at = n.end
	}
	out.Write(in[at:])
	return normal(out.Bytes())
}

func TestM3_BlownUp(t *testing.T) {
	t.Parallel()
	onEverything(t, blownUp)
}

func blownUp(t *testing.T, messages map[string][]byte) {
	n := 0
	for name, in := range messages {
		small := pass(t, bytes.NewReader(in), Options{}, "en")
		if len(small.taken) == 0 {
			continue
		}
		big := blowUp(t, normal(in), small.m)
		r := pass(t, bytes.NewReader(big), Options{Threshold: 256 << 10, SpoolMemory: 8 << 20}, "en")
		if len(r.taken) != len(small.taken) {
			t.Errorf("%s: %d parts of 1 MiB taken, want %d", name, len(r.taken), len(small.taken))
		}
		checkRewritten(t, big, r)
		again := pass(t, bytes.NewReader(r.rewritten), Options{SpoolMemory: 8 << 20}, "en")
		if !bytes.Equal(again.rewritten, r.rewritten) {
			t.Errorf("%s: a second pass changes it again", name)
		}
		n++
	}
	if n < 25 {
		t.Errorf("%d messages with something to take, want 25 at least", n)
	}
}

// pieces reads at random boundaries.
type pieces struct {
	r   io.Reader
	rnd *rand.Rand
	max int
}

func (p *pieces) Read(b []byte) (int, error) {
	return p.r.Read(b[:min(len(b), p.rnd.IntN(p.max))])
}

func TestM4_RandomReadBoundaries(t *testing.T) {
	t.Parallel()
	onEverything(t, inPieces)
}

func inPieces(t *testing.T, messages map[string][]byte) {
	for name, in := range messages {
		for seed, limit := range []int{2, 5, 80, 3000} {
			for _, threshold := range []int64{0, 1000} {
				o := Options{Threshold: threshold, SpoolMemory: 700}
				want := pass(t, bytes.NewReader(in), Options{Threshold: threshold}, "en")
				got := pass(t, &pieces{bytes.NewReader(in), rand.New(rand.NewPCG(uint64(seed), 1)), limit}, o, "en")
				if !bytes.Equal(got.rewritten, want.rewritten) || !bytes.Equal(got.original, want.original) {
					t.Errorf("%s: in pieces of up to %d octets the result differs", name, limit)
				}
				for i, c := range want.taken {
					if !bytes.Equal(got.taken[i], c) {
						t.Errorf("%s: content of part %d differs", name, i)
					}
				}
			}
		}
	}
}

func TestM4_NormaliseInPieces(t *testing.T) {
	t.Parallel()
	for _, in := range []string{"", "a", "a\r", "\n", "\r", "\r\r\n", "a\nb\r\nc\rd", "\n\n\r\n\r", "a\r\n", "\r\n\r\r\r\n\n", "x\x00\ny"} {
		for size := 1; size < 5; size++ {
			var out []byte
			r := Normalise(&pieces{bytes.NewReader([]byte(in)), rand.New(rand.NewPCG(1, uint64(size))), 3})
			buf := make([]byte, size)
			for {
				n, err := r.Read(buf)
				out = append(out, buf[:n]...)
				if err != nil {
					break
				}
			}
			if want := normal([]byte(in)); !bytes.Equal(out, want) {
				t.Errorf("Normalise(%q) read by %d is %q, want %q", in, size, out, want)
			}
		}
	}
}

func TestBase64_Content(t *testing.T) {
	t.Parallel()
	data := make([]byte, 300<<10)
	_, _ = rand.NewChaCha8([32]byte{7}).Read(data)
	for _, width := range []int{1, 3, 4, 60, 75, 76, 77, 1000, 1 << 20} {
		enc := base64.StdEncoding.EncodeToString(data)
		var body bytes.Buffer
		for len(enc) > 0 {
			k := min(width, len(enc))
			body.WriteString(enc[:k] + "\r\n")
			enc = enc[k:]
		}
		for _, o := range []Options{{}, {Threshold: 256 << 10}} {
			r := pass(t, bytes.NewReader(withAttachment("base64", body.Bytes())), o, "en")
			if !bytes.Equal(r.taken[1], data) {
				t.Errorf("lines of %d: the content differs", width)
			}
		}
	}
}
