package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/pprof"
	"strings"
)

const (
	maxRequest  = 1 << 20
	problemType = "application/problem+json"
)

// A Problem is RFC 9457's, with the hint that an operator can act on.
type Problem struct {
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
	Hint   string `json:"hint,omitempty"`
}

func (p *Problem) Error() string { return p.Detail }

// Handler serves the admin API. explain puts an error into an operator's words,
// with the advice that travels with it.
func Handler(a Admin, explain func(error) (detail, hint string), log *slog.Logger) http.Handler {
	s := &server{admin: a, explain: explain, log: log}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, r *http.Request) {
		s.answer(w, r, func(ctx context.Context) (any, error) { return a.Status(ctx) })
	})
	mux.HandleFunc("POST /v1/tickets", handle(s, a.Invite))
	mux.HandleFunc("POST /v1/tickets/cancel", handle(s, func(ctx context.Context, r CancelRequest) (struct{}, error) {
		return struct{}{}, a.CancelTicket(ctx, r)
	}))
	mux.HandleFunc("POST /v1/members/remove", handle(s, a.Remove))
	mux.HandleFunc("POST /v1/members/drain", handle(s, a.Drain))
	mux.HandleFunc("POST /v1/members/move", handle(s, a.Move))
	mux.HandleFunc("POST /v1/passwords", handle(s, a.AddPassword))
	mux.HandleFunc("POST /v1/accounts", handle(s, a.AddAccount))
	mux.HandleFunc("POST /v1/mailboxes", handle(s, func(ctx context.Context, r MailboxRequest) (struct{}, error) {
		return struct{}{}, a.AddMailbox(ctx, r)
	}))
	mux.HandleFunc("POST /v1/revocations", handle(s, a.Revoke))
	mux.HandleFunc("POST /v1/files/list", handle(s, a.Files))
	mux.HandleFunc("POST /v1/files/delete", handle(s, a.Delete))
	mux.HandleFunc("POST /v1/receipts", handle(s, a.Receipt))
	mux.HandleFunc("PUT /v1/files", s.put)
	s.backupRoutes(mux)
	// Profiles tell much about a node: they are here, where only its operator comes, and nowhere else (F4).
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	return mux
}

type server struct {
	admin   Admin
	explain func(error) (detail, hint string)
	log     *slog.Logger
}

// handle decodes a request strictly, calls fn and encodes its answer.
func handle[Q, A any](s *server, fn func(context.Context, Q) (A, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var q Q
		d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest))
		d.DisallowUnknownFields()
		if err := d.Decode(&q); err != nil {
			s.problem(w, r, http.StatusBadRequest, fmt.Errorf("request: %w", err))
			return
		}
		s.answer(w, r, func(ctx context.Context) (any, error) { return fn(ctx, q) })
	}
}

func (s *server) answer(w http.ResponseWriter, r *http.Request, fn func(context.Context) (any, error)) {
	v, err := fn(r.Context())
	if err != nil {
		s.problem(w, r, http.StatusUnprocessableEntity, err)
		return
	}
	if r.Method != http.MethodGet {
		s.log.InfoContext(r.Context(), "admin request done", "request", r.Method+" "+r.URL.Path)
	}
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		s.log.DebugContext(r.Context(), "admin answer not delivered", "err", err)
	}
}

func (s *server) problem(w http.ResponseWriter, r *http.Request, status int, err error) {
	s.log.InfoContext(r.Context(), "admin request refused", "request", r.Method+" "+r.URL.Path, "err", err)
	detail, hint := s.explain(err)
	w.Header().Set("Content-Type", problemType)
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(Problem{Title: http.StatusText(status), Status: status, Detail: detail, Hint: hint})
}

// put takes the file as the request's body and its facts as query parameters.
// A body that breaks off stores nothing that anybody refers to.
func (s *server) put(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	req := PutRequest{Account: q.Get("account"), Name: q.Get("name"), Replace: q.Get("replace")}
	s.answer(w, r, func(ctx context.Context) (any, error) { return s.admin.Put(ctx, req, r.Body) })
}

// decodeProblem turns an answer that is no success into an error.
func decodeProblem(resp *http.Response) error {
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxRequest))
	if err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	if strings.HasPrefix(resp.Header.Get("Content-Type"), problemType) {
		var p Problem
		if err := json.Unmarshal(data, &p); err == nil && p.Detail != "" {
			return &p
		}
	}
	return errors.New("node answered " + resp.Status)
}
