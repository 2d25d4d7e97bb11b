package mailgw

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime/debug"
	"strings"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
)

// A session is one dialogue with a client, as go-smtp drives it: one call after another, from one goroutine.
type session struct {
	h      *hall
	w      *wire
	c      *smtp.Conn
	log    *slog.Logger
	sender Sender
	known  bool // sender has logged in
	fails  int
	tx     *transaction // nil outside MAIL
}

// newSession implements smtp.BackendFunc.
func (h *hall) newSession(c *smtp.Conn) (smtp.Session, error) {
	w, ok := c.Conn().(*wire)
	if !ok {
		return nil, fmt.Errorf("session over %T", c.Conn())
	}
	return &session{h: h, w: w, c: c, log: h.g.log.With("remote", w.RemoteAddr().String())}, nil
}

// AuthMechanisms implements smtp.AuthSession. Nothing is offered in the clear but to this machine itself (M1).
func (s *session) AuthMechanisms() []string {
	if !s.mayAuth() {
		return nil
	}
	return []string{sasl.Plain, sasl.Login}
}

func (s *session) mayAuth() bool { return s.w.isTLS || ipOf(s.w.RemoteAddr()).IsLoopback() }

// Auth implements smtp.AuthSession.
func (s *session) Auth(mech string) (sasl.Server, error) {
	if !s.mayAuth() {
		return nil, s.refuse("login refused", errNeedsTLS)
	}
	failed := func(err error) error { return s.authFailed(err) }
	switch mech {
	case sasl.Plain:
		return countedServer{newPlain(s.authenticate), failed}, nil
	case sasl.Login:
		return countedServer{&loginServer{check: s.authenticate}, failed}, nil
	}
	return nil, smtp.ErrAuthUnknownMechanism
}

// authenticate asks the Directory, if the source has tries left.
func (s *session) authenticate(user, password string) (err error) {
	defer s.guard(&err)
	src := source(s.w.RemoteAddr())
	d := s.h.g.door
	if !d.guess(src) {
		return errTooManyTries
	}
	ctx, cancel := context.WithTimeout(s.h.ctx, s.h.g.c.Timeouts.Command)
	defer cancel()
	l := Login{User: user, Password: password, Remote: ipOf(s.w.RemoteAddr()).String(), TLS: s.w.isTLS}
	s.sender, err = s.h.g.c.Directory.Authenticate(ctx, l)
	if !errors.Is(err, ErrBadCredentials) { // right, or our own fault
		d.right(src)
	}
	if err != nil {
		return err
	}
	s.known = true
	s.w.admitted()
	s.log = s.log.With("account", s.sender.Account)
	return nil
}

// authFailed counts, and ends the connection at the last try.
func (s *session) authFailed(err error) error {
	if s.fails++; s.fails >= s.h.g.c.Limits.LoginTries {
		err = errors.Join(errLastTry, err)
	}
	return s.refuse("login refused", err)
}

// Mail implements smtp.Session. The way to the next hop is opened here, so that it is known to be there before a
// message is taken.
func (s *session) Mail(_ string, opts *smtp.MailOptions) (err error) {
	defer s.answer("sender refused", &err)
	defer s.guard(&err)
	switch {
	case !s.known:
		return errStrangers
	case s.tx != nil:
		return errNested
	case s.w.huge:
		return errSize
	}
	from, err := s.path()
	if err != nil {
		return err
	}
	tx, rep, err := s.begin(from, opts.Body == smtp.Body8BitMIME)
	if err != nil {
		return err
	}
	s.tx = tx
	s.w.instead = rep.wire()
	return nil
}

// Rcpt implements smtp.Session. The next hop's answer is the client's.
func (s *session) Rcpt(_ string, _ *smtp.RcptOptions) (err error) {
	defer s.answer("recipient refused", &err)
	defer s.guard(&err)
	to, err := s.path()
	if err != nil {
		return err
	}
	if to == "" {
		return errBadPath
	}
	rep, err := s.tx.rcpt(to)
	if err != nil {
		return err
	}
	s.w.instead = rep.wire()
	return nil
}

// path returns the path of the command that is being handled, as the client wrote it.
func (s *session) path() (string, error) {
	_, path, _ := strings.Cut(s.w.line, ":")
	return parsePath(path)
}

// Data implements smtp.Session. The message comes from the wire, not from go-smtp.
func (s *session) Data(io.Reader) (err error) {
	defer s.answer("message refused", &err)
	defer s.guard(&err)
	rep, err := s.tx.deliver(s.w.body)
	if err != nil {
		return err
	}
	s.w.instead = rep.wire()
	return &smtp.SMTPError{Code: rep.code, EnhancedCode: rep.enh}
}

// Reset implements smtp.Session.
func (s *session) Reset() {
	if s.tx != nil {
		s.tx.vigil.end()
		s.tx = nil
	}
}

// Logout implements smtp.Session.
func (s *session) Logout() error {
	s.Reset()
	return nil
}

// guard turns a panic into an error: one message must not end the others' sessions.
func (s *session) guard(err *error) {
	if p := recover(); p != nil {
		s.log.Error("panic in the mail gateway", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		*err = errPanic
	}
}

// answer turns an error into what go-smtp is to say.
func (s *session) answer(what string, err *error) {
	if _, ok := (*err).(*smtp.SMTPError); ok || *err == nil {
		return
	}
	*err = s.refuse(what, *err)
}

// refuse logs an error and makes the answer that stands for it.
func (s *session) refuse(what string, err error) error {
	rep := answer(err)
	s.log.InfoContext(s.h.ctx, what, "answer", rep.code, "err", err)
	if !errors.Is(err, errAborted) {
		s.w.instead = rep.wire()
	}
	if rep.code == 421 {
		s.w.hangUp = true
	}
	return &smtp.SMTPError{Code: rep.code, EnhancedCode: rep.enh}
}
