package gateway

import (
	"errors"
	"log/slog"
	"net/http"

	"github.com/valise-mail/valise/authz"
	"github.com/valise-mail/valise/node/web"
)

// A refusal is one answer other than what was asked for. It is the same for
// everybody who gets it, so that it tells nothing about what was asked.
type refusal struct {
	status int
	title  string // for programs and support desks, the same in every language
	retry  int    // seconds, for Retry-After
	words  map[web.Lang]refusalWords
}

type refusalWords struct{ heading, reason, next string }

// The table from kind to answer. A stranger is told access denied; the log says why.
var (
	accessDenied  = &refusal{status: http.StatusForbidden, title: authz.ErrAccessDenied.Error(), words: deniedWords}
	invalidAccess = &refusal{status: http.StatusNotFound, title: authz.ErrInvalidAccess.Error(), words: invalidWords}
	notYet        = &refusal{status: http.StatusServiceUnavailable, title: "not known here yet", retry: 2, words: notYetWords}
	unavailable   = &refusal{status: http.StatusServiceUnavailable, title: "file not reachable now", retry: 30, words: unavailableWords}
	stale         = &refusal{status: http.StatusServiceUnavailable, title: "cut off from the cluster", retry: 10, words: staleWords}
	restoring     = &refusal{status: http.StatusServiceUnavailable, title: "the organisation is restoring", retry: 3600, words: restoringWords}
	broken        = &refusal{status: http.StatusInternalServerError, title: "internal error", words: brokenWords}
	notFound      = &refusal{status: http.StatusNotFound, title: "not found", words: notFoundWords}
	wrongMethod   = &refusal{status: http.StatusMethodNotAllowed, title: "method not allowed", words: methodWords}
	wrongRange    = &refusal{status: http.StatusRequestedRangeNotSatisfiable, title: "range not satisfiable", words: rangeWords}
	changed       = &refusal{status: http.StatusPreconditionFailed, title: "precondition failed", words: changedWords}
	misdirected   = &refusal{status: http.StatusMisdirectedRequest, title: "misdirected request", words: misdirectedWords}
)

func refusalFor(err error) *refusal {
	switch {
	case errors.Is(err, authz.ErrAccessDenied):
		return accessDenied
	case errors.Is(err, authz.ErrInvalidAccess):
		return invalidAccess
	case errors.Is(err, ErrNotYet), errors.Is(err, authz.ErrUnknownGrant):
		return notYet
	case errors.Is(err, ErrUnavailable):
		return unavailable
	case errors.Is(err, ErrStale):
		return stale
	case errors.Is(err, ErrRestoring):
		return restoring
	}
	return broken
}

// fail answers with the refusal for err, and logs why.
func (g *Gateway) fail(w http.ResponseWriter, r *http.Request, err error) {
	f := refusalFor(err)
	if r.Context().Err() != nil {
		g.refuse(w, r, unavailable) // the client left, or this node is closing; err is a consequence
		return
	}
	level := slog.LevelDebug // what strangers try is counted elsewhere; it shall not fill a log
	switch f {
	case broken:
		level = slog.LevelError
	case unavailable, stale, notYet, restoring:
		level = slog.LevelWarn
	}
	g.log.Log(r.Context(), level, "refused", "status", f.status, "client", g.proxies.client(r), "error", err)
	g.refuse(w, r, f)
}

// refuse writes f.
func (g *Gateway) refuse(w http.ResponseWriter, r *http.Request, f *refusal) {
	lang := g.language(r)
	words := f.words[lang]
	if err := g.look.Refuse(w, r, web.Refusal{
		Lang: lang, Status: f.status, Title: f.title, Retry: f.retry,
		Heading: words.heading, Reason: words.reason, Next: words.next,
	}); err != nil {
		g.log.ErrorContext(r.Context(), "render page", "error", err)
	}
}

func (g *Gateway) language(r *http.Request) web.Lang {
	return web.ChooseLang(r.Header.Get("Accept-Language"), g.lang)
}
