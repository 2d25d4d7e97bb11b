package authz

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

func TestLinks_CleanName(t *testing.T) {
	t.Parallel()
	a := strings.Repeat("a", 300)
	tests := map[string]struct{ in, want string }{
		"plain":                     {"plan.pdf", "plan.pdf"},
		"inner space stays":         {"my plan (2).pdf", "my plan (2).pdf"},
		"outer space goes":          {" \u00a0plan.pdf\t ", "plan.pdf"},
		"Chinese":                   {"报告 2026.xlsx", "报告 2026.xlsx"},
		"decomposed":                {"Bu\u0308cher.pdf", "B\u00fccher.pdf"},
		"composes across a control": {"u\x01\u0308.pdf", "\u00fc.pdf"},
		"compatibility forms stay":  {"ﬁle ①.pdf", "ﬁle ①.pdf"},
		"slashes":                   {"../../etc/passwd", "....etcpasswd"},
		"backslashes":               {`C:\a\b.txt`, "C:ab.txt"},
		"controls":                  {"a\x00b\r\nc\x7fd\u0085e.txt", "abcde.txt"},
		"bidi":                      {"a\u202egpj.exe\u202c\u2066\u2069\u200f\u061c", "agpj.exe"},
		"separators":                {"a\u2028b\u2029c", "abc"},
		"joiner stays":              {"👩\u200d🌾.png", "👩\u200d🌾.png"},
		"invalid UTF-8":             {"a\xff\xfeb.txt", "a\ufffdb.txt"},
		"empty":                     {"", "attachment"},
		"nothing left":              {"/\\\x00\u202e ", "attachment"},
		"dot":                       {".", "attachment"},
		"two dots":                  {"..", "attachment"},
		"two dots after cleaning":   {"./.", "attachment"},
		"three dots":                {"...", "..."},
		"hidden":                    {".profile", ".profile"},
		"255 octets":                {a[:251] + ".pdf", a[:251] + ".pdf"},
		"256 octets":                {a[:252] + ".pdf", a[:251] + ".pdf"},
		"no extension":              {a, a[:255]},
		"endless extension":         {"x." + a, "x." + a[:253]},
		"on a rune boundary":        {strings.Repeat("é", 150) + ".pdf", strings.Repeat("é", 125) + ".pdf"},
		"space before the cut":      {a[:254] + " " + a, a[:254]},
		"extension in Chinese":      {a + ".报告", a[:248] + ".报告"},
	}
	for name, tt := range tests {
		if got := CleanName(tt.in); got != tt.want {
			t.Errorf("%s: got %q, want %q", name, got, tt.want)
		}
	}
}

func FuzzCleanName(f *testing.F) {
	for _, s := range []string{"plan.pdf", "../..", " . ", "u\x01\u0308", strings.Repeat("é", 200) + ".tar.gz", "\u1100\u1161\x00\u11a8", "\xff\u202e", strings.Repeat("x", 254) + " .a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := CleanName(s)
		if again := CleanName(got); again != got {
			t.Errorf("%q becomes %q, which becomes %q", s, got, again)
		}
		bad := func(r rune) bool {
			return r == '/' || r == '\\' || unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r)
		}
		if got == "" || got == "." || got == ".." || len(got) > 255 || !utf8.ValidString(got) || !norm.NFC.IsNormalString(got) || strings.ContainsFunc(got, bad) {
			t.Errorf("%q becomes %q", s, got)
		}
	})
}
