package web

import (
	"net/http"
	"strconv"
	"strings"
)

// Vary is what chooses between the answers an address has (G5).
const Vary = "Accept, Accept-Language"

// WantsPage says whether the client names text/html among what it takes.
// Browsers do; curl, download managers and most scanners send */* or nothing.
func WantsPage(r *http.Request) bool { return Accepts(r, "text/html") }

// Accepts says whether an Accept header lists mediaType itself with a weight above zero.
func Accepts(r *http.Request, mediaType string) bool {
	for _, line := range r.Header.Values("Accept") {
		for item := range strings.SplitSeq(line, ",") {
			name, params, _ := strings.Cut(item, ";")
			if strings.EqualFold(strings.TrimSpace(name), mediaType) && weight(params) > 0 {
				return true
			}
		}
	}
	return false
}

func weight(params string) float64 {
	for p := range strings.SplitSeq(params, ";") {
		k, v, _ := strings.Cut(p, "=")
		if strings.EqualFold(strings.TrimSpace(k), "q") {
			q, err := strconv.ParseFloat(strings.TrimSpace(v), 64)
			if err != nil {
				return 0
			}
			return q
		}
	}
	return 1
}

// PlainHost is a Host in one spelling: without the scheme's own port, capitals
// and the root's dot.
func PlainHost(scheme, host string) string {
	host = strings.ToLower(host)
	port := ":80"
	if scheme == "https" {
		port = ":443"
	}
	return strings.TrimSuffix(strings.TrimSuffix(host, port), ".")
}
