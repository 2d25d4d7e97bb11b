package message

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
)

// repeat yields s n times, without ever holding it.
type repeat struct {
	s    string
	n    int64
	rest string
}

func (r *repeat) Read(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		if r.rest == "" {
			if r.n == 0 {
				if done == 0 {
					return 0, io.EOF
				}
				break
			}
			r.n--
			r.rest = r.s
		}
		c := copy(p[done:], r.rest)
		r.rest = r.rest[c:]
		done += c
	}
	return done, nil
}

// counted yields n references, each to something else.
type counted struct {
	n    int
	rest string
}

func (c *counted) Read(p []byte) (int, error) {
	if c.rest == "" {
		if c.n == 0 {
			return 0, io.EOF
		}
		c.n--
		c.rest = fmt.Sprintf("<img src=cid:%d@example.org>\r\n", c.n)
	}
	k := copy(p, c.rest)
	c.rest = c.rest[k:]
	return k, nil
}

const mixedHead = "From: a@example.org\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"

func message(parts ...io.Reader) io.Reader { return io.MultiReader(parts...) }

func str(s string) io.Reader { return strings.NewReader(s) }

func TestPromise4_HeaderTooLarge(t *testing.T) {
	t.Parallel()
	for name, r := range map[string]io.Reader{
		"many fields":   &repeat{s: "X-A: b\r\n", n: 1 << 27},
		"one line":      message(str("X: "), &repeat{s: strings.Repeat("x", 4096), n: 1 << 18}),
		"folded":        message(str("X: a\r\n"), &repeat{s: " folded\r\n", n: 1 << 27}),
		"no colon":      &repeat{s: "x", n: 1 << 30},
		"10,001 fields": message(&repeat{s: "X:\r\n", n: maxFields}, str("From: a@example.org\r\n\r\n")),
		"bare newlines": message(str("x: \n"), &repeat{s: " y\n", n: 1 << 28}),
	} {
		_, err := Read(t.Context(), r, Options{}, discard)
		if !errors.Is(err, ErrHeaderTooLarge) {
			t.Errorf("%s: %v, want %v", name, err, ErrHeaderTooLarge)
		}
	}
}

// TestPromise4_Untouched holds messages that need bounds: they pass as they came.
func TestPromise4_Untouched(t *testing.T) {
	t.Parallel()
	pdf := "Content-Type: application/pdf; name=a.pdf\r\nContent-Transfer-Encoding: base64\r\n\r\nAAAA\r\n"
	nest := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "--b%d\r\nContent-Type: multipart/mixed; boundary=b%d\r\n\r\n", i, i+1)
		}
		return b.String()
	}
	for _, c := range []struct{ name, body, why string }{
		{"100,000 parts", strings.Repeat("--b\r\n"+pdf, 100_000) + "--b--\r\n", "too many parts"},
		{"a part header of 1 MiB", "--b\r\nX: " + strings.Repeat("x", 1<<20) + "\r\n\r\n--b--\r\n", "the header of a part is too large"},
		{"no final boundary", "--b\r\n" + pdf + "--b\r\n" + pdf, "a multipart without its end"},
		{"no part", "nothing here\r\n", "a multipart without its end"},
		{"closed without a part", "--b--\r\n", "a multipart without parts"},
		{"opened after its end", "--b\r\n" + pdf + "--b--\r\n--b\r\n" + pdf + "--b--\r\n", "a line that may be a boundary or not"},
		{"a long boundary line", "--b\r\n" + pdf + "--b" + strings.Repeat(" ", 5000) + "\r\n" + pdf + "--b--\r\n", "a line that may be a boundary or not"},
		{"a part without a body", "--b\r\nContent-Type: text/plain\r\n--b--\r\n", "a part without a body"},
		{"the same boundary inside", "--b\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n" + pdf + "--b--\r\n--b--\r\n", "a line that may be a boundary or not"},
	} {
		r := pass(t, str(mixedHead+c.body), Options{}, "en")
		if r.m.untouched != c.why || len(r.taken) > 0 {
			t.Errorf("%s: untouched %q with %d taken, want %q", c.name, r.m.untouched, len(r.taken), c.why)
		}
		if string(r.rewritten) != mixedHead+c.body {
			t.Errorf("%s: changed", c.name)
		}
	}
	for _, levels := range []int{51, 1000} {
		deep := "Content-Type: multipart/mixed; boundary=b0\r\n\r\n" + nest(levels)
		if r := pass(t, str(deep), Options{}, "en"); r.m.untouched != "too many parts" || string(r.rewritten) != deep {
			t.Errorf("%d levels: %q", levels, r.m.untouched)
		}
	}
}

// TestPromise4_Memory sends 12 MiB and more in shapes that invite to keep them, and looks at the heap while they pass.
func TestPromise4_Memory(t *testing.T) {
	line := strings.Repeat("QUJD", 19) + "\r\n"
	n := int64(12<<20) / int64(len(line))
	part := "--b\r\nContent-Type: %s\r\nContent-Transfer-Encoding: %s\r\n\r\n"
	file := fmt.Sprintf(part, "application/pdf; name=a.pdf", "base64")
	text := fmt.Sprintf(part, "text/plain", "7bit")
	html := fmt.Sprintf(part, "text/html", "quoted-printable")
	end := "\r\n--b--\r\n"
	large := func(header string) io.Reader {
		h := fmt.Sprintf("--b\r\nContent-Type: "+header, strings.Repeat("X", 60_000))
		return message(str(mixedHead), &repeat{s: h + "\r\n\r\n\r\n", n: 300}, str("--b--\r\n"))
	}
	for _, c := range []struct {
		name  string
		in    io.Reader
		taken int
	}{
		{"base64", message(str(mixedHead+file), &repeat{s: line, n: n}, str(end)), 1},
		{"one line of base64", message(str(mixedHead+file), &repeat{s: "QUJD", n: 3 << 20}, str(end)), 1},
		{"one endless line of text", message(str(mixedHead+text), &repeat{s: "QUJD", n: 3 << 20}, str("\r\n"+file+"AAAA"+end)), 1},
		{"HTML full of references", message(str(mixedHead+html), &counted{n: 300_000}, str("\r\n"+file+"AAAA"+end)), 1},
		{"an endless tag", message(str(mixedHead+html+"<a "), &repeat{s: "href=cid:x ", n: 1 << 20}, str("\r\n"+file+"AAAA"+end)), 1},
		{"almost boundaries", message(str(mixedHead+text), &repeat{s: "--\r\n", n: 3 << 20}, str("\r\n"+file+"AAAA"+end)), 1},
		{"blanks in base64", message(str(mixedHead+file), &repeat{s: "QUJD ", n: 3 << 20}, str(end)), 1},
		{"a preamble", message(str(mixedHead), &repeat{s: line, n: n}, str(file+"AAAA"+end)), 1},
		{"long identifiers", large("X/Y\r\nContent-ID: <%s>"), 0},
		{"long places", large("X/Y\r\nContent-Location: %s"), 0},
		{"long types", large("X/Y%s"), 0},
		{"long encodings", large("X/Y\r\nContent-Transfer-Encoding: X%s"), 0},
		{"long boundaries", large("multipart/X; boundary=%s"), 0},
		{"long names", large("X/Y; name=\"%s/a\""), 300},
		{"nothing but lines", &repeat{s: "\n", n: 6 << 20}, 0},
	} {
		var most uint64
		take := func(_ context.Context, _ Part, content io.Reader) error {
			buf := make([]byte, 64<<10)
			var m runtime.MemStats
			for i := 0; ; i++ {
				if i%100 == 0 {
					runtime.GC()
					runtime.ReadMemStats(&m)
					most = max(most, m.HeapAlloc)
				}
				if _, err := content.Read(buf); err == io.EOF {
					return nil
				} else if err != nil {
					return err
				}
			}
		}
		runtime.GC()
		var before runtime.MemStats
		runtime.ReadMemStats(&before)
		m, err := Read(t.Context(), c.in, Options{}, take)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		runtime.GC()
		var after runtime.MemStats
		runtime.ReadMemStats(&after)
		most = max(most, after.HeapAlloc)
		if grown := int64(most) - int64(before.HeapAlloc); grown > 4<<20 {
			t.Errorf("%s: the heap grew by %d MiB", c.name, grown>>20)
		}
		if len(m.Taken()) != c.taken {
			t.Errorf("%s: %d parts taken, want %d (%s)", c.name, len(m.Taken()), c.taken, m.untouched)
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestRead_Errors(t *testing.T) {
	t.Parallel()
	errWire, errDisk := errors.New("connection reset"), errors.New("no copies")
	in := string(withAttachment("base64", base64Lines(5000)))
	broken := func(n int) io.Reader { return message(str(in[:n]), iotest.ErrReader(errWire)) }
	for _, n := range []int{0, 10, 200, 1000, len(in) - 3} {
		for _, threshold := range []int64{-1, 0, 1000} {
			if _, err := Read(t.Context(), broken(n), Options{Threshold: threshold}, discard); !errors.Is(err, errWire) {
				t.Errorf("input broken at %d, threshold %d: %v, want %v", n, threshold, err, errWire)
			}
		}
	}
	// Take may hide that its content broke off: the message is not whole all the same.
	hide := func(_ context.Context, _ Part, content io.Reader) error {
		_, _ = io.Copy(io.Discard, content)
		return nil
	}
	if _, err := Read(t.Context(), broken(2000), Options{}, hide); !errors.Is(err, errWire) {
		t.Errorf("hidden: %v, want %v", err, errWire)
	}
	refuse := func(context.Context, Part, io.Reader) error { return errDisk }
	if _, err := Read(t.Context(), str(in), Options{}, refuse); !errors.Is(err, errDisk) {
		t.Errorf("Take refuses: %v, want %v", err, errDisk)
	}
	lazy := func(_ context.Context, _ Part, content io.Reader) error {
		_, err := content.Read(make([]byte, 10))
		return err
	}
	if _, err := Read(t.Context(), str(in), Options{}, lazy); !errors.Is(err, ErrUnread) {
		t.Errorf("Take does not read on: %v, want %v", err, ErrUnread)
	}
	ctx, cancel := context.WithCancel(t.Context())
	stop := func(_ context.Context, _ Part, content io.Reader) error {
		cancel()
		_, err := io.Copy(io.Discard, content)
		return err
	}
	if _, err := Read(ctx, &repeat{s: in, n: 1000}, Options{}, stop); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v, want %v", err, context.Canceled)
	}
	if _, err := Read(t.Context(), &repeat{s: in, n: 1000}, Options{SpoolDir: "/nonexistent"}, discard); err == nil {
		t.Error("no spool, and no error")
	}
}

// TestRead_LeftParts holds what Take sees of parts that cannot be taken after all.
func TestRead_LeftParts(t *testing.T) {
	t.Parallel()
	in := string(withAttachment("base64", append(base64Lines(50_000), "!!!!\r\n"...)))
	for _, threshold := range []int64{0, 1000, 1 << 20} {
		offered := 0
		m, err := Read(t.Context(), str(in), Options{Threshold: threshold}, func(_ context.Context, _ Part, content io.Reader) error {
			offered++
			if _, err := io.Copy(io.Discard, content); !errors.Is(err, ErrLeft) {
				t.Errorf("threshold %d: content ends with %v, want %v", threshold, err, ErrLeft)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := m.WriteRewritten(&out, []byte("Received: by us\r\n"), Block{}); err != nil {
			t.Fatal(err)
		}
		if len(m.Taken()) > 0 || out.String() != "Received: by us\r\n"+in {
			t.Errorf("threshold %d: %d parts taken of a broken one", threshold, len(m.Taken()))
		}
		if want := map[bool]int{true: 0, false: 1}[threshold == 1<<20]; offered != want {
			t.Errorf("threshold %d: offered %d times, want %d", threshold, offered, want)
		}
		m.Close()
	}
}
