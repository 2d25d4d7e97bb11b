package gateway

import (
	"net/http"
	"strings"
	"time"

	"github.com/valise-mail/valise/node/web"
)

// maxRanges bounds how many ranges one request may ask for. Each costs a
// chunk to fetch and open, however short it is; with more, the whole file is
// the answer, as RFC 9110, 14.2 allows.
const maxRanges = 16

// serveBytes answers with the file itself: Range, If-Range, If-None-Match and
// HEAD as net/http's ServeContent knows them. The decision has been made; 206
// and 304 come after it like any other answer.
func (g *Gateway) serveBytes(w http.ResponseWriter, r *http.Request, req Request, o *Opened) {
	h := w.Header()
	h.Set("Cache-Control", "private, no-cache")
	h.Set("Content-Disposition", disposition(o.Name))
	h.Set("Content-Security-Policy", "sandbox; default-src 'none'")
	h.Set("Content-Type", mediaType(o.MediaType, o.Name))
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("ETag", `"`+o.Root+`"`)
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Vary", web.Vary)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Robots-Tag", "noindex, nofollow")
	if !o.Modified.IsZero() {
		h.Set("Last-Modified", o.Modified.UTC().Format(http.TimeFormat))
	}
	if ranges := r.Header.Get("Range"); ranges != "" && !answered(ranges) {
		r = r.Clone(r.Context())
		r.Header.Del("Range")
	}

	t := g.newTransfer(w, r, req, o)
	defer t.close()
	// No time is given, so that only the ETag validates: two versions may be
	// made in one second, or by nodes whose clocks disagree (R6).
	http.ServeContent(t, r, "", time.Time{}, t.body)
	t.finish()
}

// answered says whether a Range header is one that we answer. A unit that is
// not ours must be ignored (RFC 9110, 14.2); ServeContent would refuse it.
func answered(ranges string) bool {
	return strings.HasPrefix(ranges, "bytes=") && strings.Count(ranges, ",") < maxRanges
}
