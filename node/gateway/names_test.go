package gateway

import (
	"mime"
	"path"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/valise-mail/valise/node/web"
)

// Both spellings of a name, as old and new clients read them.
func TestDisposition(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, ascii, ext string }{
		{"report.pdf", "report.pdf", "report.pdf"},
		{"a b.pdf", "a b.pdf", "a%20b.pdf"},
		{"会议纪要.docx", "attachment.docx", "%E4%BC%9A%E8%AE%AE%E7%BA%AA%E8%A6%81.docx"},
		{"Q3 会议 v2.docx", "Q3 _ v2.docx", "Q3%20%E4%BC%9A%E8%AE%AE%20v2.docx"},
		{"Übersicht für März.pdf", "Ubersicht fur Marz.pdf", "%C3%9Cbersicht%20f%C3%BCr%20M%C3%A4rz.pdf"},
		{`say "hi".txt`, "say _hi_.txt", "say%20%22hi%22.txt"},
		{"100%.txt", "100_.txt", "100%25.txt"},
		{"a;b,c=d.txt", "a;b,c=d.txt", "a%3Bb%2Cc%3Dd.txt"},
		{"it's.txt", "it's.txt", "it%27s.txt"},
		{"a\r\nSet-Cookie: x.txt", "aSet-Cookie: x.txt", "aSet-Cookie%3A%20x.txt"},
		{"annexe\u202Efdp.exe", "annexefdp.exe", "annexefdp.exe"},
		{"../../etc/passwd", "attachment._etc_passwd", ".._.._etc_passwd"},
		{`C:\x.txt`, "C:_x.txt", "C%3A_x.txt"},
		{"😀.png", "attachment.png", "%F0%9F%98%80.png"},
		{"\xff.bin", "attachment.bin", "%EF%BF%BD.bin"},
		{"", "attachment", ""},
	}
	for _, tt := range tests {
		want := `attachment; filename="` + tt.ascii + `"; filename*=UTF-8''` + tt.ext
		if got := disposition(tt.name); got != want {
			t.Errorf("%q: got %s, want %s", tt.name, got, want)
		}
	}
}

func FuzzDisposition(f *testing.F) {
	for _, s := range []string{"report.pdf", "会议.docx", `a"b\c`, "a\r\nb", "\xff", "%41", "", "\u0301", "...", "\u202E"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		d := disposition(name)
		if strings.ContainsFunc(d, func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Fatalf("%q: %q is not a header", name, d)
		}
		ascii, _, ok := strings.Cut(strings.TrimPrefix(d, `attachment; filename="`), `"; filename*=UTF-8''`)
		if !ok || ascii == "" || strings.ContainsAny(ascii, `"\%/`) {
			t.Fatalf("%q: %q", name, d)
		}
		want := strings.NewReplacer("/", "_", `\`, "_").Replace(web.Printable(name))
		_, params, err := mime.ParseMediaType(`attachment; filename*=UTF-8''` + escapeExt(want))
		if err != nil || params["filename"] != want || !utf8.ValidString(want) {
			t.Fatalf("%q: got %q, want %q, %v", name, params["filename"], want, err)
		}
	})
}

// Nothing goes out under a type that a browser runs, whatever the message said.
func TestF2_MediaType(t *testing.T) {
	t.Parallel()
	tests := []struct{ stated, name, want string }{
		{"", "report.PDF", "application/pdf"},
		{"application/pdf", "report", "application/pdf"},
		{"Image/PNG; name=x", "y", "image/png"},
		{"text/html", "x", octets},
		{"text/html", "x.html", octets},
		{"text/html", "x.pdf", "application/pdf"},
		{"image/svg+xml", "x.svg", octets},
		{"application/xhtml+xml", "x.xhtml", octets},
		{"text/xml", "x.xml", octets},
		{"text/javascript", "x.js", octets},
		{"text/plain; charset=utf-7", "x", "text/plain"},
		{"multipart/x-mixed-replace", "x", octets},
		{"application/x-shockwave-flash", "x.swf", octets},
		{"nonsense\r\nX: y", "x", octets},
		{"", "", octets},
		{"", ".pdf", "application/pdf"},
	}
	for _, tt := range tests {
		if got := mediaType(tt.stated, tt.name); got != tt.want {
			t.Errorf("%q %q: got %s, want %s", tt.stated, tt.name, got, tt.want)
		}
	}
	seen := make(map[string]string)
	for m, exts := range harmless {
		if strings.Contains(m, "html") || strings.Contains(m, "xml") && !strings.Contains(m, "openxmlformats") || strings.Contains(m, "script") {
			t.Errorf("%s runs in a browser", m)
		}
		for _, e := range exts {
			if seen[e] != "" || e != strings.ToLower(e) || path.Ext("x."+e) != "."+e {
				t.Errorf("%s: %s, also %s", e, m, seen[e])
			}
			seen[e] = m
		}
	}
}

func TestKind(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{"a.pdf": "PDF", "a.docx": "DOCX", "a.tar.gz": "GZ", "Makefile": "", "a.numbers": "", "a.会议": "", "a.<b>": "", "a.": ""} {
		if got := kind(name); got != want {
			t.Errorf("%q: got %q, want %q", name, got, want)
		}
	}
}

func FuzzAccept(f *testing.F) {
	f.Add("text/html,application/xhtml+xml;q=0.9,*/*;q=0.8", "zh-CN,zh;q=0.9", "bytes=0-1,5-")
	f.Add("text/html;q=", "*-x;q=9", "bytes=-")
	g := newGateway(f, newMemory(), func(c *Config) { c.Logger = nil })
	f.Fuzz(func(t *testing.T, accept, language, ranges string) {
		w := ask(g, "GET", good, "Accept", accept, "Accept-Language", language, "Range", ranges)
		if w.Code != 200 && w.Code != 206 && w.Code != 416 {
			t.Fatalf("%q %q %q: %d", accept, language, ranges, w.Code)
		}
	})
}
