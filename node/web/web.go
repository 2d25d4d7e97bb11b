// Package web holds what all pages share: the layout, the style sheet, and how
// sizes, times and names are written in each language.
//
// Pages need no script, and none would run: Headers forbids it.
package web

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"strconv"
	"strings"
	"time"
)

//go:embed layout.html refusal.html style.css icon.svg
var files embed.FS

// A Look is the layout and the assets of one face. It does not change once
// made, so that its methods may be called concurrently.
type Look struct {
	organisation string
	layout       *template.Template
	assets       []asset
	refusal      *Page
}

// An asset is served as /-/NAME-HASH.EXT. The hash is the content's, so that
// browsers may keep it for good; another hash gets the present content, uncached: while
// a cluster is being upgraded, page and style sheet may come from nodes of two versions.
type asset struct {
	prefix, hash, suffix string
	mediaType            string
	body                 []byte
}

func (a asset) path() string { return a.prefix + a.hash + a.suffix }

// New makes a Look. The organisation is named at the foot of every page.
func New(organisation string) (*Look, error) {
	l := &Look{organisation: organisation}
	for _, f := range []struct{ name, ext, mediaType string }{
		{"style", ".css", "text/css; charset=utf-8"},
		{"icon", ".svg", "image/svg+xml"},
	} {
		body, err := files.ReadFile(f.name + f.ext)
		if err != nil {
			return nil, fmt.Errorf("asset %s: %w", f.name, err)
		}
		sum := sha256.Sum256(body)
		l.assets = append(l.assets, asset{"/-/" + f.name + "-", hex.EncodeToString(sum[:8]), f.ext, f.mediaType, body})
	}
	var err error
	l.layout, err = template.ParseFS(files, "layout.html")
	if err != nil {
		return nil, fmt.Errorf("layout: %w", err)
	}
	if l.refusal, err = l.Page(files, "refusal.html"); err != nil {
		return nil, err
	}
	return l, nil
}

// A Page is a template inside the layout.
type Page struct {
	look *Look
	t    *template.Template
}

// Page parses a file that defines the template "main", which is executed with a View.
func (l *Look) Page(fsys fs.FS, name string) (*Page, error) {
	t, err := l.layout.Clone()
	if err == nil {
		t, err = t.ParseFS(fsys, name)
	}
	if err != nil {
		return nil, fmt.Errorf("page %s: %w", name, err)
	}
	return &Page{look: l, t: t}, nil
}

// A View is what a page shows.
type View struct {
	Lang  Lang
	Title string // of the window; shown through Printable
	Data  any    // the page's own
}

// Render returns the whole page.
func (p *Page) Render(v View) ([]byte, error) {
	var b bytes.Buffer
	err := p.t.ExecuteTemplate(&b, "layout.html", struct {
		View
		Organisation, Style, Icon string
	}{
		View:         View{v.Lang, Printable(v.Title), v.Data},
		Organisation: p.look.organisation,
		Style:        p.look.assets[0].path(),
		Icon:         p.look.assets[1].path(),
	})
	if err != nil {
		return nil, fmt.Errorf("render page: %w", err)
	}
	return b.Bytes(), nil
}

// Headers says for one page: no script, nothing from elsewhere, no frame around it, no
// trace of its address in the next request, nothing kept.
func Headers(h http.Header, lang Lang) {
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Language", string(lang))
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	h.Set("Cache-Control", "no-store")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Robots-Tag", "noindex, nofollow")
}

// NoBody is for faces that want nothing but a request's header. What a client
// announces to follow it and does not send, net/http would wait for without end, before it
// answers and after: so the connection ends with the answer, and the wait after
// wait.
func NoBody(w http.ResponseWriter, r *http.Request, wait time.Duration) {
	if r.ContentLength == 0 {
		return
	}
	if r.ProtoMajor == 1 { // on HTTP/2 it would end the other streams, too; there only this one is reset
		w.Header().Set("Connection", "close")
	}
	// The body stays unread, so that no reading ahead in the background meets
	// this deadline in a long answer. Writers that know none, as in tests, have none.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(wait))
}

// Asset serves path if it is the style sheet or the icon, and says whether it did.
// The caller has seen to it that the method is GET or HEAD.
func (l *Look) Asset(w http.ResponseWriter, r *http.Request) bool {
	path := r.URL.Path
	if path == "/favicon.ico" {
		path = l.assets[1].path()
	}
	for _, a := range l.assets {
		if !strings.HasPrefix(path, a.prefix) || !strings.HasSuffix(path, a.suffix) {
			continue
		}
		h := w.Header()
		h.Set("Content-Type", a.mediaType)
		h.Set("Content-Length", strconv.Itoa(len(a.body)))
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; sandbox")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		if r.URL.Path == a.path() { // not /favicon.ico, which keeps its name when the icon changes
			h.Set("Cache-Control", "public, max-age=31536000, immutable")
		} else {
			h.Set("Cache-Control", "no-store")
		}
		if r.Method != http.MethodHead {
			_, _ = w.Write(a.body) // a client that went away needs no answer
		}
		return true
	}
	return false
}
