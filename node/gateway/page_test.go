package gateway

import (
	"io"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/html"
	"golang.org/x/net/html/atom"
)

// A document is a parsed page.
type document struct {
	root *html.Node
	text string // what a reader sees, spaces folded
}

// parse checks that every tag closes what it opened, then reads the page.
func parse(t *testing.T, page string) document {
	t.Helper()
	var open []string
	z := html.NewTokenizer(strings.NewReader(page))
	for z.Next() != html.ErrorToken {
		switch tok := z.Token(); tok.Type {
		case html.StartTagToken:
			if !slices.Contains([]string{"meta", "link", "img", "br"}, tok.Data) {
				open = append(open, tok.Data)
			}
		case html.EndTagToken:
			if len(open) == 0 || open[len(open)-1] != tok.Data {
				t.Fatalf("</%s> closes %v in %s", tok.Data, open, page)
			}
			open = open[:len(open)-1]
		}
	}
	if z.Err() != io.EOF || len(open) > 0 {
		t.Fatalf("left open: %v, %v", open, z.Err())
	}
	root, err := html.Parse(strings.NewReader(page))
	if err != nil {
		t.Fatal(err)
	}
	d := document{root: root}
	var words []string
	for n := range root.Descendants() {
		if n.Type == html.TextNode && n.Parent.DataAtom != atom.Title {
			words = append(words, strings.Fields(n.Data)...)
		}
	}
	d.text = strings.Join(words, " ")
	return d
}

func (d document) all(a atom.Atom) (found []*html.Node) {
	for n := range d.root.Descendants() {
		if n.DataAtom == a {
			found = append(found, n)
		}
	}
	return found
}

func attr(n *html.Node, key string) string {
	for _, a := range n.Attr {
		if a.Key == key {
			return a.Val
		}
	}
	return ""
}

func text(n *html.Node) string {
	var b strings.Builder
	for c := range n.Descendants() {
		if c.Type == html.TextNode {
			b.WriteString(c.Data)
		}
	}
	return b.String()
}

func (d document) links() (hrefs []string) {
	for _, a := range d.all(atom.A) {
		hrefs = append(hrefs, attr(a, "href"))
	}
	return hrefs
}

// Every page, in both languages: one heading, its language named, a view port for telephones,
// nothing that runs, nothing from elsewhere, names kept apart from the text around them.
func TestF3_Pages(t *testing.T) {
	t.Parallel()
	script := "%3Cscript%3Ealert%28%221%22%29%3C%2Fscript%3E.html"
	tests := []struct {
		name, path string
		en, zh     []string // in the text
		links      []string
	}{
		{"unchanged", good,
			[]string{"report.pdf", "66 kB", "65,536 bytes", "wang.fang@example.org", "20 November 2026, 09:41 UTC", "Newest", "has not changed", "Download", "Sent with Valise by Example & Co"},
			[]string{"report.pdf", "66 kB", "65,536 字节", "wang.fang@example.org", "2026年11月20日 09:41 UTC", "最新版本", "没有变化", "下载", "由 Example & Co 使用 Valise 发送"},
			[]string{"?dl=1", "?v=sent"}},
		{"newest", "/a/bafysent/TOK-changed/report.pdf",
			[]string{"13 bytes", "Newest", "changed this file", "22 November 2026, 11:41 UTC"}, []string{"13 字节", "最新版本", "更新了此文件", "2026年11月22日 11:41 UTC"},
			[]string{"?dl=1", "?v=sent"}},
		{"as sent", "/a/bafysent/TOK-changed/report.pdf?v=sent",
			[]string{"65,536 bytes", "As sent", "has changed it since"}, []string{"发送时的版本", "更新了此文件"},
			[]string{"?v=sent&dl=1", "?"}},
		{"pinned", "/a/bafysent/TOK-pinned/report.pdf", []string{"As sent", "will not change"}, []string{"发送时的版本", "不会改变"}, []string{"?dl=1"}},
		{"Chinese name", "/a/bafysent/TOK-chinese/%E4%BC%9A%E8%AE%AE%E7%BA%AA%E8%A6%81%EF%BC%88%E6%9C%80%E7%BB%88%E7%89%88%EF%BC%89.docx",
			[]string{"会议纪要（最终版）.docx"}, []string{"会议纪要（最终版）.docx"}, []string{"?dl=1", "?v=sent"}},
		{"script", "/a/bafysent/TOK-script/" + script, []string{`<script>alert("1")</script>.html`}, []string{`<script>alert("1")</script>.html`}, []string{"?dl=1", "?v=sent"}},
		{"bidi", "/a/bafysent/TOK-bidi/annexe%E2%80%AEfdp.exe", []string{"annexefdp.exe"}, []string{"annexefdp.exe"}, []string{"?dl=1", "?v=sent"}},
		{"landing", "/m/TOK-several",
			[]string{"3 files for you", "wang.fang@example.org", "68 kB", "会议纪要.docx", `<script>alert("1")</script>.html`},
			[]string{"您收到 3 个文件", "wang.fang@example.org", "68 kB", "会议纪要.docx"},
			[]string{
				"/a/bafysent/TOK-several/report.pdf", "/a/bafysent/TOK-several/report.pdf?dl=1",
				"/a/bafysecond/TOK-several/%E4%BC%9A%E8%AE%AE%E7%BA%AA%E8%A6%81.docx", "/a/bafysecond/TOK-several/%E4%BC%9A%E8%AE%AE%E7%BA%AA%E8%A6%81.docx?dl=1",
				"/a/bafythird/TOK-several/" + script, "/a/bafythird/TOK-several/" + script + "?dl=1",
			}},
		{"landing of one", "/m/TOK-good", []string{"One file for you"}, []string{"您收到 1 个文件"}, []string{good, good + "?dl=1"}},
		{"landing of none", "/m/TOK-none", []string{"The files of this message were withdrawn", "wang.fang@example.org"}, []string{"此邮件的文件已被撤回"}, nil},
		{"B6 B7", "/a/x/TOK-no/y", []string{"This link does not open", "ask the sender for a new link", "403 access denied"}, []string{"此链接无法打开", "请向发件人索取新的链接", "403 access denied"}, nil},
		{"B8", "/a/x/TOK-good/y", []string{"ask the sender for a new link", "404 invalid access"}, []string{"请向发件人索取新的链接", "404 invalid access"}, nil},
		{"G4", "/a/x/TOK-unknown/y", []string{"Just a moment", "Try again"}, []string{"请稍候", "重试"}, []string{""}},
		{"unavailable", "/a/x/TOK-unavailable/y", []string{"cannot be fetched right now"}, []string{"暂时无法取得文件"}, []string{""}},
		{"restoring", "/a/x/TOK-restoring/y", []string{"restoring its files"}, []string{"正在恢复"}, []string{""}},
		{"stale", "/a/x/TOK-stale/y", []string{"cut off for the moment"}, []string{"失去联系"}, []string{""}},
		{"broken", "/a/x/TOK-broken/y", []string{"Something went wrong here"}, []string{"服务器出错了"}, nil},
		{"nothing", "/", []string{"There is nothing here"}, []string{"这里什么也没有"}, nil},
	}
	languages := []struct{ header, lang string }{
		{"en-GB,en;q=0.9", "en"}, {"zh-CN,zh;q=0.9,en;q=0.8", "zh-CN"}, {"zh-TW", "zh-CN"}, {"fr-FR, zh;q=0.2, en;q=0.1", "zh-CN"}, {"", "en"}, {"fr", "en"}, {"*", "en"}, {strings.Repeat("zh,", 1000), "en"},
	}
	for _, tt := range tests {
		for _, l := range languages {
			t.Run(tt.name+"/"+l.header[:min(len(l.header), 8)], func(t *testing.T) {
				t.Parallel()
				g := newGateway(t, newMemory(), func(c *Config) { c.Logger = nil })
				w := ask(g, "GET", tt.path, "Accept", browser, "Accept-Language", l.header)
				d := parse(t, w.Body.String())
				want := tt.en
				if l.lang == "zh-CN" {
					want = tt.zh
				}
				for _, s := range want {
					if !strings.Contains(d.text, s) {
						t.Errorf("%q is not in %q", s, d.text)
					}
				}
				if got := d.links(); !slices.Equal(got, tt.links) {
					t.Errorf("links: got %q, want %q", got, tt.links)
				}
				if w.Header().Get("Content-Language") != l.lang || attr(d.all(atom.Html)[0], "lang") != l.lang {
					t.Errorf("language: got %q, want %q", w.Header().Get("Content-Language"), l.lang)
				}
				wantSound(t, g, d)
			})
		}
	}
}

func wantSound(t *testing.T, g *Gateway, d document) {
	t.Helper()
	for _, a := range []atom.Atom{atom.H1, atom.Main, atom.Title, atom.Article, atom.Footer} {
		if n := len(d.all(a)); n != 1 {
			t.Errorf("%d <%s>, want 1", n, a)
		}
	}
	for _, a := range []atom.Atom{atom.Script, atom.Style, atom.Iframe, atom.Object, atom.Embed, atom.Form, atom.Base} {
		if len(d.all(a)) > 0 {
			t.Errorf("<%s> on a page", a)
		}
	}
	if strings.ContainsAny(d.text, "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069") {
		t.Error("a bidi control on a page")
	}
	for n := range d.root.Descendants() {
		for _, a := range n.Attr {
			if strings.HasPrefix(a.Key, "on") || a.Key == "style" {
				t.Errorf("<%s %s=%q>", n.Data, a.Key, a.Val)
			}
			if (a.Key == "src" || a.Key == "href") && n.DataAtom != atom.A {
				if w := ask(g, "GET", a.Val); w.Code != 200 || !strings.Contains(w.Header().Get("Cache-Control"), "immutable") {
					t.Errorf("<%s %s=%q>: %d", n.Data, a.Key, a.Val, w.Code)
				}
			}
		}
	}
	for _, n := range d.all(atom.Bdi) {
		if attr(n, "dir") != "auto" {
			t.Errorf("no dir=auto on %q", text(n))
		}
	}
	for _, n := range d.all(atom.A) { // what a screen reader says of a link
		if strings.TrimSpace(text(n)) == "" && attr(n, "aria-label") == "" {
			t.Errorf("no name on the link to %q", attr(n, "href"))
		}
	}
	for _, n := range d.all(atom.Svg) {
		if attr(n, "aria-hidden") != "true" {
			t.Error("a picture is read aloud")
		}
	}
	viewport := slices.ContainsFunc(d.all(atom.Meta), func(n *html.Node) bool { return attr(n, "name") == "viewport" })
	if !viewport {
		t.Error("no view port")
	}
}
