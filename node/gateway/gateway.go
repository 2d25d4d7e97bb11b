// Package gateway is the receiver's door: the pages and bytes behind a link.
//
// It decides nothing. What a request presents goes to a Library, which asks
// the law; what the Library opens goes out as a page for a person or as bytes
// for anything else.
package gateway

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/valise-mail/valise/node/web"
)

// A Config is everything a Gateway is told.
type Config struct {
	Library        Library
	Origin         *url.URL       // public URL of the files face: scheme and host, nothing else
	Hosts          []string       // further Host values served, such as a listen address; URLs still carry Origin
	Organisation   string         // who runs this, shown on every page; default the host of Origin
	Language       string         // of those who ask for no language we have: "en" (default) or "zh-CN"
	TrustedProxies []netip.Prefix // whose X-Forwarded-For counts

	Stall time.Duration // a write that takes longer ends the transfer; default 60 s
	Still time.Duration // how often a transfer under way is decided anew; default 500 ms

	Logger *slog.Logger // nil discards
}

// A Gateway answers the requests of the files face. Its methods may be called
// concurrently.
type Gateway struct {
	c       Config
	log     *slog.Logger
	hosts   map[string]bool
	lang    web.Lang // of those who ask for none we have
	proxies proxies
	look    *web.Look
	pages   pages
	buffers sync.Pool // of *[]byte, copyBuffer long
}

// New makes a Gateway. It must be a server's own handler: a ServeMux in front
// of it would clean paths, and with them names.
func New(c Config) (*Gateway, error) {
	if c.Library == nil {
		return nil, errors.New("gateway: no library")
	}
	if c.Origin == nil || c.Origin.Host == "" || c.Origin.Scheme != "http" && c.Origin.Scheme != "https" {
		return nil, fmt.Errorf("gateway: origin %v: want scheme and host, such as https://files.example.org", c.Origin)
	}
	if bare := root(c.Origin); bare != strings.TrimSuffix(c.Origin.String(), "/") {
		return nil, fmt.Errorf("gateway: origin %s: want nothing behind the host, such as %s", c.Origin.Redacted(), bare)
	}
	if c.Organisation == "" {
		c.Organisation = c.Origin.Hostname()
	}
	lang, err := web.ParseLang(c.Language)
	if err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	if c.Stall <= 0 {
		c.Stall = time.Minute
	}
	if c.Still <= 0 {
		c.Still = 500 * time.Millisecond
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}

	g := &Gateway{c: c, log: c.Logger, hosts: make(map[string]bool), lang: lang, proxies: c.TrustedProxies}
	for _, h := range append([]string{c.Origin.Host}, c.Hosts...) {
		g.hosts[web.PlainHost(c.Origin.Scheme, h)] = true
	}
	g.buffers.New = func() any { b := make([]byte, copyBuffer); return &b }
	if g.look, err = web.New(c.Organisation); err == nil {
		g.pages, err = parsePages(g.look)
	}
	if err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	return g, nil
}

// ServeHTTP answers one request. It changes nothing, whoever asks and however (G3).
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.keepMoving(http.NewResponseController(w))
	web.NoBody(w, r, g.c.Stall)
	g.route(w, r)
}

// keepMoving gives the writes that follow Stall to end. net/http takes the
// deadline off after the answer. Writers that know none, as in tests, have none.
func (g *Gateway) keepMoving(rc *http.ResponseController) {
	_ = rc.SetWriteDeadline(time.Now().Add(g.c.Stall))
}

func (g *Gateway) route(w http.ResponseWriter, r *http.Request) {
	switch l := splitPath(r.URL.EscapedPath()); {
	case !g.hosts[web.PlainHost(g.c.Origin.Scheme, r.Host)]:
		g.refuse(w, r, misdirected)
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		g.refuse(w, r, wrongMethod)
	case l.kind == fileLink:
		g.serveFile(w, r, l)
	case l.kind == landingLink:
		g.serveLanding(w, r, l)
	case r.URL.Path == "/robots.txt":
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		_, _ = io.WriteString(w, "User-agent: *\nDisallow: /\n")
	case g.look.Asset(w, r):
	default:
		g.refuse(w, r, notFound)
	}
}

// serveFile answers /a/{cid}/{token}/{name}.
func (g *Gateway) serveFile(w http.ResponseWriter, r *http.Request, l link) {
	q := r.URL.Query()
	req := Request{Token: l.token, CID: l.cid, Name: l.name}
	if q.Get("v") == "sent" {
		req.Version = AsSent
	}
	o, err := g.c.Library.Open(r.Context(), req)
	if err != nil {
		g.fail(w, r, err)
		return
	}
	if web.WantsPage(r) && q.Get("dl") != "1" {
		g.filePage(w, r, req, o)
		return
	}
	g.serveBytes(w, r, req, o)
}
