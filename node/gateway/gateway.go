// Package gateway is the receiver's door: the pages and bytes behind a link.
//
// It decides nothing. What a request presents goes to a Library, which asks
// the law; what the Library opens goes out as a page for a person or as bytes
// for anything else.
package gateway

import (
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"time"
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
	c Config
}

// New makes a Gateway. It must be a server's own handler: a ServeMux in front
// of it would clean paths, and with them names.
func New(c Config) (*Gateway, error) {
	if c.Library == nil {
		return nil, errors.New("gateway: no library")
	}
	return &Gateway{c: c}, nil
}

// ServeHTTP answers one request.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	http.NotFound(w, r)
}
