package message

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"
)

// seeds adds the project's own messages.
func seeds(f *testing.F, add func([]byte)) {
	files, err := filepath.Glob("testdata/golden/*/in.eml")
	if err != nil || len(files) == 0 {
		f.Fatalf("no messages (%v)", err)
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		add(b)
	}
}

// FuzzRead holds, for any octets: the original comes out in its normal form; the result is understood, keeps every part that
// was not taken and comes out the same the second time; the way the octets arrive changes nothing.
func FuzzRead(f *testing.F) {
	seeds(f, func(b []byte) { f.Add(b, int64(0), byte(3)); f.Add(b, int64(300), byte(200)) })
	f.Fuzz(func(t *testing.T, in []byte, threshold int64, size byte) {
		o := Options{Threshold: max(threshold, 0), MaxParts: 40, MaxDepth: 8, MaxHeaderBytes: 8 << 10}
		r, err := tryPass(t.Context(), bytes.NewReader(in), o, "en")
		if err != nil {
			if err == ErrHeaderTooLarge {
				return
			}
			t.Fatal(err)
		}
		defer r.m.Close()
		checkRewritten(t, normal(in), r)
		o.SpoolMemory = 100
		again, err := tryPass(t.Context(), &oneSize{bytes.NewReader(in), int(size) + 1}, o, "en")
		if err != nil {
			t.Fatal(err)
		}
		defer again.m.Close()
		if !bytes.Equal(again.rewritten, r.rewritten) {
			t.Error("in pieces the result differs")
		}
		if r.m.header.Count("From") > 0 {
			from, _ := r.m.Header().Responsible()
			_, _ = from.Addresses()
		}
		o.MaxHeaderBytes = 0 // the root of a taken message may have grown by ours
		twice, err := tryPass(t.Context(), bytes.NewReader(r.rewritten), o, "zh-CN")
		if err != nil {
			t.Fatal(err)
		}
		defer twice.m.Close()
		if !bytes.Equal(twice.rewritten, r.rewritten) {
			t.Error("a second pass changes the message again")
		}
	})
}

type oneSize struct {
	r io.Reader
	n int
}

func (o *oneSize) Read(p []byte) (int, error) { return o.r.Read(p[:min(o.n, len(p))]) }

func FuzzNormalise(f *testing.F) {
	for _, s := range []string{"", "\r", "a\nb", "\r\r\n\n", "a\r\nb\r", strings.Repeat("x\r\n", 100)} {
		f.Add([]byte(s), 1, 3)
	}
	f.Fuzz(func(t *testing.T, in []byte, a, b int) {
		r := Normalise(&oneSize{bytes.NewReader(in), a&1023 + 1})
		var out bytes.Buffer
		if _, err := io.CopyBuffer(struct{ io.Writer }{&out}, struct{ io.Reader }{r}, make([]byte, b&1023+1)); err != nil {
			t.Fatal(err)
		}
		want := normal(in)
		if !bytes.Equal(out.Bytes(), want) {
			t.Fatalf("%q is %q, want %q", in, out.Bytes(), want)
		}
		again, err := io.ReadAll(Normalise(bytes.NewReader(want)))
		if err != nil || !bytes.Equal(again, want) {
			t.Fatalf("%q changes again, to %q (%v)", want, again, err)
		}
	})
}

func FuzzFileName(f *testing.F) {
	for _, s := range []string{
		`attachment; filename="a.pdf"`, `attachment; filename*=UTF-8''%E6%8A%A5.pdf`, `a; filename*0*=gb18030''%B1%A8; filename*1="x"`,
		`a; filename="=?utf-8?B?5oql?= =?utf-8?Q?=E5?="`, "a; filename=\"\xb1\xa8\xb8\xe6.pdf\"", `a; filename="C:\x\y"; filename=b (c`, `a;=;;"`,
	} {
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, disposition, contentType string) {
		_, d, _ := parseParams(disposition)
		_, c, _ := parseParams(contentType)
		name := fileName(d, c, charset{ascii: true})
		if !utf8.ValidString(name) || len(name) > 255 || strings.ContainsAny(name, "/\\\r\n\x00\u202e") || name == "." || name == ".." {
			t.Errorf("file name %q", name)
		}
		if again := cleanName(name); again != name {
			t.Errorf("%q is cleaned again to %q", name, again)
		}
	})
}

func FuzzDecoders(f *testing.F) {
	for _, s := range []string{"QUJD\r\nRA==\r\n", "a=3D=\r\n b", "QQ", "= \t\r\n=", "a \r\nb"} {
		f.Add([]byte(s), 2)
	}
	f.Fuzz(func(t *testing.T, in []byte, at int) {
		in = normal(in)
		for _, name := range []string{"base64", "quoted-printable", "8bit"} {
			one, _ := newDecoder(name)
			whole, err1 := one.decode(nil, in)
			if err1 == nil {
				whole, err1 = one.finish(whole)
			}
			two, _ := newDecoder(name)
			k := max(at, 0) % (len(in) + 1)
			parts, err2 := two.decode(nil, in[:k])
			if err2 == nil {
				parts, err2 = two.decode(parts, in[k:])
			}
			if err2 == nil {
				parts, err2 = two.finish(parts)
			}
			if (err1 == nil) != (err2 == nil) || err1 == nil && !bytes.Equal(whole, parts) {
				t.Errorf("%s of %q cut at %d: %q %v, want %q %v", name, in, k, parts, err2, whole, err1)
			}
		}
	})
}
