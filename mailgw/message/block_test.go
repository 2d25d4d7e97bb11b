package message

import (
	"bytes"
	"errors"
	"io"
	"mime/quotedprintable"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// encoded is a part whose text stands in an encoding.
func encoded(t *testing.T, contentType, encoding, text string) string {
	t.Helper()
	c, _ := charsetOf("")
	if i := strings.Index(contentType, "charset="); i >= 0 {
		name, _, _ := strings.Cut(contentType[i+8:], ";")
		c, _ = charsetOf(name)
	}
	raw := []byte(text)
	if c.enc != nil {
		var err error
		if raw, err = c.enc.NewEncoder().Bytes(raw); err != nil {
			t.Fatal(err)
		}
	}
	switch encoding {
	case "base64":
		raw = encodeBase64(raw)
	case "quoted-printable":
		raw = encodeQP(raw)
	}
	return "Content-Type: " + contentType + "\r\nContent-Transfer-Encoding: " + encoding + "\r\n\r\n" + string(raw)
}

// decoded returns the text of the first leaf of a message, by the standard library's decoders.
func decoded(t *testing.T, in []byte) string {
	t.Helper()
	m := structure(t, in)
	n := allLeaves(m)[0]
	var r io.Reader = bytes.NewReader(in[n.body:n.end])
	switch n.encoding {
	case "base64":
		d, _ := newDecoder("base64")
		b, err := d.decode(nil, in[n.body:n.end])
		if err == nil {
			b, err = d.finish(b)
		}
		if err != nil {
			t.Fatal(err)
		}
		r = bytes.NewReader(b)
	case "quoted-printable":
		r = quotedprintable.NewReader(r)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	c, _ := charsetOf(n.charset)
	return c.decode(b)
}

// TestM6_WhatTheReaderSees decodes rewritten texts, in every encoding and with every alignment of base64: the old text is
// there, cut at the right place, and the block between.
func TestM6_WhatTheReaderSees(t *testing.T) {
	t.Parallel()
	file := attached("Content-Type: application/pdf; name=\"a.pdf\"")
	const mark = "\x00" // where the block must be
	for _, c := range []struct{ kind, text string }{
		{"text/plain; charset=us-ascii", "Hello.\r\n" + mark},
		{"text/plain; charset=us-ascii", "no line end" + mark},
		{"text/plain; charset=us-ascii", mark + "see below\r\n\r\n> quoted\r\n"},
		{"text/plain; charset=utf-8", "您好 Grüße\r\n" + mark},
		{"text/plain; charset=utf-8", "\ufeff" + mark + "您好\r\n> x\r\n"},
		{"text/plain; charset=iso-2022-jp", "資料\r\n" + mark},
		{"text/plain; charset=utf-8; format=flowed", "a line that \r\n" + mark},
		{"text/html; charset=utf-8", "<html><body>您好" + mark + "</body></html>\r\n"},
		{"text/html; charset=utf-8", "<p>" + mark + "</BODY ><!-- </body> <b> -- > -->\r\n"},
		{"text/html; charset=utf-8", "<body></body>\r\n<p>a footer</p>" + mark + "</body>\r\n"},
		{"text/html; charset=utf-8", "<body><!--></body>--><p>x" + mark + "</body>"},
		{"text/html; charset=utf-8", "<a title=\"</body>\">x</a><script>'</body>'</script><textarea></body></textarea>" + mark + "</html>"},
		{"text/html; charset=utf-8", "a < b <3 </p>" + mark},
		{"text/html; charset=utf-8", "<!DOCTYPE html><html><head></head><body class=x>" + mark + "<p>Hi<blockquote>old</blockquote></body></html>"},
		{"text/html; charset=utf-8", "<html>" + mark + "<p>Hi<div class=gmail_quote>old</div>"},
		{"text/html; charset=utf-8", mark + "<p>Hi<div id=\"x_divRplyFwdMsg\">old</div>"},
		{"text/html; charset=utf-8", mark + "<p>Hi<p>------------------&nbsp;原始邮件&nbsp;------------------<p>old"},
		{"text/html; charset=utf-8", mark + "<p>Hi<p>---------- Forwarded message ---------<br>old"},
		{"text/html; charset=utf-8", "<p>Hi<p>----------------<br>Anna -- and Bert" + mark},
		{"text/html; charset=shift_jis", "<body>表示" + mark + "</body>"},
		{"text/html; charset=iso-2022-jp", "<body>次の資料" + mark + "</body>"},
	} {
		for pad := range 7 {
			before, after, _ := strings.Cut(c.text, mark)
			if strings.Trim(before, "\ufeff") != "" {
				before = strings.Repeat("x", pad) + before
			} else {
				after += strings.Repeat("x", pad)
			}
			text := before + after
			for _, encoding := range []string{"8bit", "quoted-printable", "base64"} {
				in := mixed(encoded(t, c.kind, encoding, text), file)
				r := pass(t, str(in), Options{}, "en")
				got := decoded(t, r.rewritten)
				block := strings.TrimSuffix(strings.TrimPrefix(got, before), after)
				if !strings.HasPrefix(got, before) || !strings.HasSuffix(got, after) || len(got) < len(before)+len(after) {
					t.Fatalf("%s, %s, %q: the reader sees %q", c.kind, encoding, text, got)
				}
				link := testBlock(r.m, r.taken, "en").Files[0].URL
				if !strings.Contains(block, link) || strings.Contains(before+after, link) {
					t.Errorf("%s, %s, %q: no link in %q", c.kind, encoding, text, block)
				}
				if strings.HasPrefix(c.kind, "text/plain") && !strings.Contains(block, "\r\n<"+link+">\r\n") {
					t.Errorf("%s, %s: the link has no line of its own in %q", c.kind, encoding, block)
				}
				for line := range bytes.Lines(r.rewritten) {
					if encoding == "quoted-printable" && len(line) > 78 {
						t.Errorf("a line of %d octets: %q", len(line), line)
					}
				}
			}
		}
	}
}

// TestM6_Fallback holds where the block becomes a part of its own.
func TestM6_Fallback(t *testing.T) {
	t.Parallel()
	file := attached("Content-Type: application/pdf; name=\"a.pdf\"")
	alternative := func(parts ...string) string {
		return "Content-Type: multipart/alternative; boundary=c\r\n\r\n--c\r\n" + strings.Join(parts, "\r\n--c\r\n") + "\r\n--c--"
	}
	inner := "Content-Type: multipart/mixed; boundary=d\r\n\r\n--d\r\nContent-Type: text/html\r\n\r\n<p>\r\n--d\r\n" + file + "\r\n--d--"
	for name, c := range map[string]struct {
		in   string
		want string // "own" part, "text", "whole" message untouched
	}{
		"text":                        {mixed(hello, file), "text"},
		"no text":                     {mixed(file), "own"},
		"UTF-7":                       {mixed("Content-Type: text/plain; charset=utf-7\r\n\r\nx", file), "own"},
		"unknown charset":             {mixed("Content-Type: text/plain; charset=x-mine\r\n\r\nx", file), "own"},
		"broken base64":               {mixed("Content-Type: text/plain\r\nContent-Transfer-Encoding: base64\r\n\r\nQUJ", file), "own"},
		"with a digest":               {mixed("Content-MD5: Q2hlY2sgSW50ZWdyaXR5IQ==\r\n"+hello, file), "own"},
		"open script":                 {mixed("Content-Type: text/html\r\n\r\n<script> </body>", file), "own"},
		"an attached text first":      {mixed("Content-Disposition: attachment\r\n"+hello, file), "own"},
		"alternatives":                {mixed(alternative(hello, "Content-Type: text/html\r\n\r\n<p>"), file), "text"},
		"one cannot be written":       {mixed(alternative(hello, "Content-Type: text/html; charset=utf-7\r\n\r\n<p>"), file), "own"},
		"one is no text":              {mixed(alternative(hello, "Content-Type: text/enriched\r\n\r\nx"), file), "own"},
		"one is a calendar":           {mixed(alternative(hello, "Content-Type: text/calendar\r\n\r\nx"), file), "text"},
		"file in an alternative":      {"Subject: x\r\n" + alternative(hello, inner) + "\r\n", "text"},
		"nowhere":                     {"Subject: x\r\n" + alternative("Content-Type: text/enriched\r\n\r\nx", inner) + "\r\n", "whole"},
		"an alternative of a file":    {mixed(hello, alternative(hello, "Content-Type: multipart/mixed; boundary=d\r\n\r\n--d\r\n"+file+"\r\n--d--")), "whole"},
		"text in another kind":        {mixed("Content-Type: multipart/digest; boundary=c\r\n\r\n--c\r\n"+hello+"--c--", file), "own"},
		"text in a multipart/related": {mixed("Content-Type: multipart/related; boundary=c\r\n\r\n--c\r\n"+hello+"--c--", file), "text"},
	} {
		r := pass(t, str(c.in), Options{}, "en")
		got := "text"
		switch {
		case len(r.taken) == 0:
			got = "whole"
		case bytes.Contains(r.rewritten, []byte(ownHeader)):
			got = "own"
		}
		if got != c.want {
			t.Errorf("%s: the block is in %s, want %s (%s)\n%s", name, got, c.want, r.m.untouched, r.rewritten)
		}
		checkRewritten(t, []byte(c.in), r)
	}
}

// TestM6_LongLines holds that a link too long for a line of the body goes where it can be folded.
func TestM6_LongLines(t *testing.T) {
	t.Parallel()
	in := mixed(hello, attached("Content-Type: application/pdf; name=a.pdf"))
	m, err := Read(t.Context(), str(in), Options{}, discard)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	link := "https://files.example.org/" + strings.Repeat("-x", 600)
	var out bytes.Buffer
	if err := m.WriteRewritten(&out, nil, Block{Files: []File{{Name: "a", URL: link}}}); err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(out.Bytes()) {
		if len(line) > 1000 {
			t.Errorf("a line of %d octets", len(line))
		}
	}
	text, err := io.ReadAll(quotedprintable.NewReader(&out))
	if err != nil || !bytes.Contains(text, []byte("<"+link+">")) {
		t.Errorf("the link is not whole (%v): %q", err, text)
	}
	// Another block may be written afterwards.
	out.Reset()
	if err := m.WriteRewritten(&out, nil, Block{Files: []File{{Name: "a", URL: "https://x.example/"}}}); err != nil || !strings.Contains(out.String(), hello) {
		t.Errorf("second block: %v\n%s", err, out.String())
	}
}

func TestBlock_Check(t *testing.T) {
	t.Parallel()
	in := mixed(hello, attached("Content-Type: application/pdf"), attached("Content-Type: application/pdf"))
	r := pass(t, str(in), Options{}, "en")
	files := []File{{URL: "https://x.example/1"}, {URL: "https://x.example/2"}}
	for name, b := range map[string]Block{
		"no files":        {},
		"too few":         {Files: files[:1], Landing: "https://x.example/"},
		"no landing link": {Files: files},
		"a blank":         {Files: files, Landing: "https://x.example/ y"},
		"a line end":      {Files: files, Landing: "https://x.example/\r\n"},
		"a bracket":       {Files: files, Landing: "https://x.example/>"},
		"not ASCII":       {Files: files, Landing: "https://x.example/ü"},
	} {
		var out bytes.Buffer
		if err := r.m.WriteRewritten(&out, []byte("X: y\r\n"), b); !errors.Is(err, ErrBadBlock) || out.Len() > 0 {
			t.Errorf("%s: %v after %d octets, want %v before the first", name, err, out.Len(), ErrBadBlock)
		}
	}
}

func TestBlock_Lines(t *testing.T) {
	t.Parallel()
	b := Block{Lang: "zh-CN", Landing: "https://x.example/m", Files: []File{
		{Name: "../../etc/报告.pdf", Size: 999}, {Name: "evil\r\nBcc: x\u202e", Size: 1000}, {Size: 25 << 20}, {Name: "> From \t", Size: 5e12},
	}}
	utf8 := func(string) bool { return true }
	want := []string{
		"本邮件的 4 个附件由发件人保存，请从此处下载：", "<https://x.example/m>",
		"- 报告.pdf (999 字节)", "- evil  Bcc: x (1.0 kB)", "- attachment (26.2 MB)", "- > From (5.0 TB)",
	}
	if d := cmp.Diff(want, b.plain(utf8)); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	want[0] = "The 4 attachments of this message are kept by their sender. Download them here:"
	want[2] = "- %E6%8A%A5%E5%91%8A.pdf (999 bytes)"
	if d := cmp.Diff(want, b.plain(isASCII)); d != "" {
		t.Errorf("in ASCII, -want +got:\n%s", d)
	}
	html := strings.Join(b.html(), "\n")
	if !isASCII(html) || !strings.Contains(html, `lang="zh-CN"`) || !strings.Contains(html, "&#25253;&#21578;.pdf") || !strings.Contains(html, "&gt; From") {
		t.Errorf("html: %s", html)
	}
	for lang := range catalogue {
		one := Block{Lang: lang, Files: []File{{Name: "a", URL: "https://x.example/"}}}
		for _, l := range append(one.plain(utf8), b.plain(utf8)...) {
			if strings.HasSuffix(l, " ") || strings.HasPrefix(l, ">") || strings.HasPrefix(l, "--") || len(l) > 200 {
				t.Errorf("%s: a line that may be changed on the way: %q", lang, l)
			}
		}
	}
}

func TestEncodeQP(t *testing.T) {
	t.Parallel()
	for _, s := range []string{
		"", "a", "a\r\n", "\r\n\r\n", "trailing \r\n", "tab\t", ".dot\r\n..\r\n", "From x\r\n", "--b\r\n---\r\n",
		strings.Repeat("x", 75), strings.Repeat("x", 76), strings.Repeat("x", 77) + "\r\n", strings.Repeat("x", 75) + "--", strings.Repeat("=", 200),
		strings.Repeat("x", 74) + "é\r\n", strings.Repeat("-", 300), strings.Repeat("x", 75) + ".", "\x00\x7f\x1b(B",
	} {
		enc := encodeQP([]byte(s))
		back, err := io.ReadAll(quotedprintable.NewReader(bytes.NewReader(enc)))
		if err != nil || string(back) != s {
			t.Errorf("%q is %q, which reads as %q (%v)", s, enc, back, err)
		}
		for line := range bytes.Lines(enc) {
			if len(bytes.TrimRight(line, "\r\n")) > 76 || bytes.HasPrefix(line, []byte("--")) || line[0] == '.' || bytes.HasPrefix(line, []byte("From ")) {
				t.Errorf("%q has the line %q", s, line)
			}
		}
	}
}
