package web

import (
	"encoding/json"
	"net/http"
	"strconv"
)

// A Refusal is one answer other than what was asked for, in one language. It
// repeats nothing of the request.
type Refusal struct {
	Lang   Lang
	Status int
	Title  string // for programs and support desks, the same in every language
	Retry  int    // seconds, for Retry-After; 0: trying again does not help

	Heading, Reason, Next string // what a person reads: what happened, and what to do next
}

// Refuse answers with f: a page for a person, application/problem+json
// (RFC 9457) for anything else. An error means that the page could not be made;
// the other form went out instead.
func (l *Look) Refuse(w http.ResponseWriter, r *http.Request, f Refusal) error {
	h := w.Header()
	Headers(h, f.Lang)
	h.Set("Vary", Vary)
	if f.Retry > 0 {
		h.Set("Retry-After", strconv.Itoa(f.Retry))
	}
	if !WantsPage(r) {
		f.sendProblem(w, r)
		return nil
	}
	body, err := l.refusal.Render(View{Lang: f.Lang, Title: f.Heading, Data: struct {
		Refusal
		Again string
	}{f, f.Lang.Pick("Try again", "重试")}})
	if err != nil {
		f.sendProblem(w, r)
		return err
	}
	Send(w, r, f.Status, body)
	return nil
}

func (f Refusal) sendProblem(w http.ResponseWriter, r *http.Request) {
	b, _ := json.Marshal(struct { // never fails: strings and a number
		Title  string `json:"title"`
		Status int    `json:"status"`
		Detail string `json:"detail"`
	}{f.Title, f.Status, f.Reason + " " + f.Next})
	w.Header().Set("Content-Type", "application/problem+json")
	Send(w, r, f.Status, append(b, '\n'))
}

// Send writes a whole answer, its body not for HEAD. A client that went away needs none.
func Send(w http.ResponseWriter, r *http.Request, status int, body []byte) {
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body)
	}
}
