package mailgw

import (
	"context"
	"errors"
	"io"
	"time"
)

// A patience bounds how long storing may take (S2): while a message arrives, twice the time that a client may be silent
// without taking a single octet of it; after its end, Timeouts.Copies in all.
type patience struct {
	ctx    context.Context // for whatever stores
	cancel context.CancelCauseFunc
	limits *Timeouts
	timer  *time.Timer
	dot    time.Time // when the message had come to its end
}

func newPatience(ctx context.Context, limits *Timeouts) *patience {
	p := &patience{limits: limits}
	p.ctx, p.cancel = context.WithCancelCause(ctx)
	p.timer = time.AfterFunc(2*limits.Idle, func() { p.cancel(errStalled) })
	return p
}

// ended starts the last stretch.
func (p *patience) ended() {
	if !p.dot.IsZero() {
		return
	}
	p.timer.Stop()
	p.dot = time.Now()
	p.timer = time.AfterFunc(p.limits.Copies, func() { p.cancel(errCopiesLate) })
}

// stop ends the watch and says what ended the context before, if anything did.
func (p *patience) stop() error {
	p.timer.Stop()
	err := context.Cause(p.ctx)
	p.cancel(nil)
	return err
}

// because adds what ended the context to err, if that is why it came.
func (p *patience) because(err error) error {
	if cause := context.Cause(p.ctx); cause != nil {
		return errors.Join(cause, err)
	}
	return err
}

// An arrival is a message on its way in.
type arrival struct {
	*body
	p *patience
}

// Read implements io.Reader.
func (a arrival) Read(p []byte) (int, error) {
	n, err := a.body.Read(p)
	if err == io.EOF {
		a.p.ended()
	} else {
		a.p.timer.Reset(2 * a.p.limits.Idle)
	}
	return n, err
}

// A remembering reader knows what it ended with.
type remembering struct {
	r   io.Reader
	err error
}

// Read implements io.Reader.
func (r *remembering) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if err != nil {
		r.err = err
	}
	return n, err
}

// A clientError is what ended a message on the client's side.
type clientError struct{ err error }

// Error implements error.
func (e *clientError) Error() string { return "read message from client: " + e.err.Error() }

// Unwrap implements errors.
func (e *clientError) Unwrap() error { return e.err }
