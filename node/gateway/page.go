package gateway

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"path"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/valise-mail/valise/node/web"
)

//go:embed file.html landing.html
var templates embed.FS

type pages struct{ file, landing *web.Page }

func parsePages(look *web.Look) (p pages, err error) {
	for _, t := range []struct {
		into **web.Page
		name string
	}{{&p.file, "file.html"}, {&p.landing, "landing.html"}} {
		if *t.into, err = look.Page(templates, t.name); err != nil {
			return pages{}, err
		}
	}
	return p, nil
}

// moment is a time for people and for programs.
type moment struct{ Text, RFC3339 string }

func at(t time.Time, lang web.Lang) moment {
	if t.IsZero() {
		return moment{}
	}
	return moment{lang.Time(t), t.UTC().Format(time.RFC3339)}
}

type fileView struct {
	Words            *pageWords
	Name, Kind       string
	Size, Bytes      string
	Sender           string
	Sent, Changed    moment // Changed is empty where the version is the one sent
	Version, Note    string
	Other, OtherText string // link to the other version; empty when pinned
	Download         string
}

type landingView struct {
	Words   *pageWords
	Heading string
	Sender  string
	Sent    moment
	Size    string
	Files   []landingRow
}

type landingRow struct{ Name, Kind, Size, Page, Download string }

// filePage answers a browser: who sent it, what it is, one button.
func (g *Gateway) filePage(w http.ResponseWriter, r *http.Request, req Request, o *Opened) {
	lang := g.language(r)
	words := wordsOfPages[lang]
	v := fileView{
		Words:    words,
		Name:     web.Printable(o.Name),
		Kind:     kind(o.Name),
		Size:     lang.Size(o.Size),
		Bytes:    lang.Bytes(o.Size),
		Sender:   web.Printable(o.Sender),
		Sent:     at(o.Sent, lang),
		Version:  words.AsSent,
		Note:     words.Pinned,
		Download: "?dl=1",
	}
	if req.Version == AsSent {
		v.Download = "?v=sent&dl=1"
	}
	if !o.AsSent {
		v.Changed = at(o.Modified, lang)
	}
	switch {
	case o.Pinned:
	case req.Version == AsSent:
		v.Note, v.Other, v.OtherText = words.Changes[sentChanged], "?", words.ToNew
		if o.Newest {
			v.Note = words.Changes[sentSame]
		}
	default:
		v.Version, v.Note, v.Other, v.OtherText = words.Newest, words.Changes[newestChanged], "?v=sent", words.ToSent
		if o.AsSent {
			v.Note = words.Changes[newestSame]
		}
	}
	g.show(w, r, g.pages.file, web.View{Lang: lang, Title: v.Name, Data: v})
}

// serveLanding answers /m/{token}: a page for a browser, JSON for who names
// it, and for anything else the links, one a line (text/uri-list, RFC 2483).
func (g *Gateway) serveLanding(w http.ResponseWriter, r *http.Request, l link) {
	m, err := g.c.Library.Landing(r.Context(), l.token)
	if err != nil {
		g.fail(w, r, err)
		return
	}
	if web.WantsPage(r) {
		g.landingPage(w, r, l, m)
		return
	}
	body, mediaType := g.landingList(l, m), "text/uri-list; charset=utf-8"
	if web.Accepts(r, "application/json") {
		body, mediaType = g.landingJSON(l, m), "application/json"
	}
	web.Headers(w.Header(), web.English)
	w.Header().Del("Content-Language")
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Vary", web.Vary)
	web.Send(w, r, http.StatusOK, body)
}

func (g *Gateway) landingPage(w http.ResponseWriter, r *http.Request, l link, m *Landing) {
	lang := g.language(r)
	words := wordsOfPages[lang]
	v := landingView{
		Words:  words,
		Sender: web.Printable(m.Sender),
		Sent:   at(m.Sent, lang),
	}
	switch n := len(m.Files); n {
	case 0:
		v.Heading = words.NoFile
	case 1:
		v.Heading = words.OneFile
	default:
		v.Heading = fmt.Sprintf(words.Files, n)
	}
	var total int64
	for _, f := range m.Files {
		page := filePath(f.CID, l.token, f.Name)
		v.Files = append(v.Files, landingRow{web.Printable(f.Name), kind(f.Name), lang.Size(f.Size), page, page + "?dl=1"})
		total += f.Size
	}
	v.Size = lang.Size(total)
	g.show(w, r, g.pages.landing, web.View{Lang: lang, Title: v.Heading, Data: v})
}

func (g *Gateway) landingList(l link, m *Landing) []byte {
	var b bytes.Buffer
	for _, f := range m.Files {
		fmt.Fprintf(&b, "# %s, %s\r\n", web.Printable(f.Name), web.English.Bytes(f.Size))
		fmt.Fprintf(&b, "%s\r\n", FileURL(g.c.Origin, f.CID, l.token, f.Name))
	}
	return b.Bytes()
}

// landingJSON never fails: it marshals strings, numbers and a time.
func (g *Gateway) landingJSON(l link, m *Landing) []byte {
	type file struct {
		Name string `json:"name"`
		Size int64  `json:"size"`
		URL  string `json:"url"`
	}
	files := make([]file, 0, len(m.Files))
	for _, f := range m.Files {
		files = append(files, file{f.Name, f.Size, FileURL(g.c.Origin, f.CID, l.token, f.Name)})
	}
	b, _ := json.Marshal(struct {
		Sender string `json:"sender"`
		Sent   string `json:"sent"`
		Files  []file `json:"files"`
	}{m.Sender, m.Sent.UTC().Format(time.RFC3339), files})
	return append(b, '\n')
}

// show renders and sends a page. Its ETag differs from that of any bytes.
func (g *Gateway) show(w http.ResponseWriter, r *http.Request, p *web.Page, v web.View) {
	body, err := p.Render(v)
	if err != nil {
		g.fail(w, r, err)
		return
	}
	web.Headers(w.Header(), v.Lang)
	sum := sha256.Sum256(body)
	w.Header().Set("ETag", `"page-`+hex.EncodeToString(sum[:8])+`"`)
	w.Header().Set("Vary", web.Vary)
	web.Send(w, r, http.StatusOK, body)
}

// kind is the name's extension as it stands on the picture of a sheet, or "" if
// it does not fit there.
func kind(name string) string {
	ext := strings.ToUpper(strings.TrimPrefix(path.Ext(name), "."))
	if utf8.RuneCountInString(ext) > 4 || strings.ContainsFunc(ext, func(r rune) bool {
		return r > unicode.MaxASCII || !unicode.IsLetter(r) && !unicode.IsDigit(r)
	}) {
		return ""
	}
	return ext
}
