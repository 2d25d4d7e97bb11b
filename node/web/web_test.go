package web

import (
	"encoding/xml"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestChooseLang(t *testing.T) {
	t.Parallel()
	for header, want := range map[string]Lang{
		"": Chinese, "en": English, "en-US,en;q=0.5": English, "zh": Chinese, "zh-Hant-HK": Chinese,
		"fr": Chinese, "fr, en;q=0.1": English, "en;q=0.1, zh;q=0.2": Chinese, "*": Chinese,
		"en;q=x": Chinese, "\x00": Chinese, strings.Repeat("en,", 1000): Chinese,
	} {
		if got := ChooseLang(header, Chinese); got != want {
			t.Errorf("%.40q: got %s, want %s", header, got, want)
		}
	}
}

func TestParseLang(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]Lang{"": English, "en": English, "zh-CN": Chinese} {
		if got, err := ParseLang(s); got != want || err != nil {
			t.Errorf("%q: got %s, %v", s, got, err)
		}
	}
	for _, s := range []string{"de", "zh", "EN"} {
		if _, err := ParseLang(s); err == nil {
			t.Errorf("%q: no error", s)
		}
	}
}

func TestSize(t *testing.T) {
	t.Parallel()
	for n, want := range map[int64]string{
		0: "0 bytes", 1: "1 byte", 999: "999 bytes", 1000: "1.0 kB", 1049: "1.0 kB", 9949: "9.9 kB", 9950: "10 kB", 99_500: "100 kB",
		999_499: "999 kB", 999_500: "1.0 MB", 4_194_304: "4.2 MB", 1_500_000_000: "1.5 GB", 999_500_000_000: "1.0 TB", math.MaxInt64: "9.2 EB",
	} {
		if got := English.Size(n); got != want {
			t.Errorf("%d: got %s, want %s", n, got, want)
		}
	}
	for n, want := range map[int64]string{0: "0 字节", 999: "999 字节", 1000: "1,000 字节", 1234567: "1,234,567 字节"} {
		if got := Chinese.Bytes(n); got != want {
			t.Errorf("%d: got %s, want %s", n, got, want)
		}
	}
}

func TestTime(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.FixedZone("", 3600))
	if got, want := English.Time(at), "2 January 2026, 02:04 UTC"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, want := Chinese.Time(at), "2026年1月2日 02:04 UTC"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestPrintable(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]string{
		"a\u202Eb": "ab", "a\r\nb\x00": "ab", "会议": "会议", "a\xff": "a\uFFFD", "\u2066x\u2069": "x", "a\u2028b": "ab", "é": "é",
	} {
		if got := Printable(s); got != want {
			t.Errorf("%q: got %q, want %q", s, got, want)
		}
	}
}

func newLook(t *testing.T) *Look {
	t.Helper()
	l, err := New("Example & <Co>")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestRender(t *testing.T) {
	t.Parallel()
	p, err := newLook(t).Page(fstest.MapFS{"p.html": {Data: []byte(`{{define "main"}}<h1>{{.Data}}</h1>{{end}}`)}}, "p.html")
	if err != nil {
		t.Fatal(err)
	}
	b, err := p.Render(View{Lang: Chinese, Title: "a\u202E</title>", Data: "<script>"})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`<html lang="zh-CN">`, "<title>a&lt;/title&gt;</title>", "<h1>&lt;script&gt;</h1>", "由 <bdi dir=\"auto\">Example &amp; &lt;Co&gt;</bdi> 使用 Valise 发送"} {
		if !strings.Contains(string(b), want) {
			t.Errorf("%s is not in %s", want, b)
		}
	}
}

func TestAssets(t *testing.T) {
	t.Parallel()
	l := newLook(t)
	style := l.assets[0].path()
	tests := []struct {
		path, mediaType, cache string
		served                 bool
	}{
		{style, "text/css; charset=utf-8", "public, max-age=31536000, immutable", true},
		{"/-/style-0123456789abcdef.css", "text/css; charset=utf-8", "no-store", true}, // of another version of this program
		{l.assets[1].path(), "image/svg+xml", "public, max-age=31536000, immutable", true},
		{"/favicon.ico", "image/svg+xml", "no-store", true},
		{"/-/layout.html", "", "", false},
		{"/-/", "", "", false},
		{"/style.css", "", "", false},
	}
	for _, tt := range tests {
		for _, method := range []string{"GET", "HEAD"} {
			w := httptest.NewRecorder()
			served := l.Asset(w, httptest.NewRequest(method, tt.path, nil))
			if served != tt.served || w.Header().Get("Content-Type") != tt.mediaType || w.Header().Get("Cache-Control") != tt.cache {
				t.Errorf("%s: %v %v", tt.path, served, w.Header())
			}
			if hasBody := w.Body.Len() > 0; hasBody != (served && method == "GET") {
				t.Errorf("%s %s: %d bytes", method, tt.path, w.Body.Len())
			}
		}
	}
}

// F3: what every page forbids.
func TestF3_Headers(t *testing.T) {
	t.Parallel()
	got := http.Header{}
	Headers(got, Chinese)
	want := http.Header{
		"Content-Type":                 {"text/html; charset=utf-8"},
		"Content-Language":             {"zh-CN"},
		"Content-Security-Policy":      {"default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"},
		"Cache-Control":                {"no-store"},
		"Cross-Origin-Opener-Policy":   {"same-origin"},
		"Cross-Origin-Resource-Policy": {"same-origin"},
		"Referrer-Policy":              {"no-referrer"},
		"X-Content-Type-Options":       {"nosniff"},
		"X-Robots-Tag":                 {"noindex, nofollow"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// The style sheet and the icon fetch nothing.
func TestAssetsStayHere(t *testing.T) {
	t.Parallel()
	css := string(newLook(t).assets[0].body)
	if regexp.MustCompile(`url\(|@import|//`).MatchString(css) {
		t.Error("the style sheet refers to something else")
	}
	if strings.Count(css, "{") != strings.Count(css, "}") {
		t.Error("braces do not match")
	}
	d := xml.NewDecoder(strings.NewReader(string(newLook(t).assets[1].body)))
	for {
		tok, err := d.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if e, ok := tok.(xml.StartElement); ok && (e.Name.Local == "script" || e.Name.Local == "image") {
			t.Errorf("<%s> in the icon", e.Name.Local)
		}
	}
}

// Text keeps a contrast of at least 4.5 to what is behind it, by day and by night (WCAG 2.2, 1.4.3).
func TestContrast(t *testing.T) {
	t.Parallel()
	css := string(newLook(t).assets[0].body)
	_, night, ok := strings.Cut(css, "prefers-color-scheme: dark")
	if !ok {
		t.Fatal("no dark colours")
	}
	for name, part := range map[string]string{"day": css, "night": night} {
		for _, pair := range [][2]string{
			{"ink", "paper"}, {"ink", "card"}, {"ink", "tint"}, {"soft", "card"}, {"soft", "paper"}, {"accent", "card"}, {"accent", "tint"},
			{"accent-strong", "card"}, {"on-accent", "accent"}, {"on-accent", "accent-strong"},
		} {
			a, b := luminance(t, part, pair[0]), luminance(t, part, pair[1])
			if c := (max(a, b) + .05) / (min(a, b) + .05); c < 4.5 {
				t.Errorf("%s: %s on %s has a contrast of %.2f", name, pair[0], pair[1], c)
			}
		}
	}
}

// luminance is that of the first colour called name in css (WCAG 2.2).
func luminance(t *testing.T, css, name string) float64 {
	t.Helper()
	m := regexp.MustCompile(`--` + name + `: #([0-9a-f]{6});`).FindStringSubmatch(css)
	if m == nil {
		t.Fatalf("no colour %s", name)
	}
	var sum float64
	for i, weight := range []float64{.2126, .7152, .0722} {
		c := float64(hexByte(m[1][2*i:])) / 255
		if c <= .04045 {
			c /= 12.92
		} else {
			c = math.Pow((c+.055)/1.055, 2.4)
		}
		sum += weight * c
	}
	return sum
}

func hexByte(s string) int {
	const digits = "0123456789abcdef"
	return strings.IndexByte(digits, s[0])<<4 | strings.IndexByte(digits, s[1])
}
