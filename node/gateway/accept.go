package gateway

import (
	"net/http"
	"strconv"
	"strings"
)

// What chooses between the answers a link has (G5).
const vary = "Accept, Accept-Language"

// wantsPage says whether the client names text/html among what it takes.
// Browsers do; curl, download managers and most scanners send */* or nothing.
func wantsPage(r *http.Request) bool { return accepts(r, "text/html") }

// accepts says whether an Accept header lists mediaType itself with a weight above zero.
func accepts(r *http.Request, mediaType string) bool {
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
