package mailgw

import (
	"context"
	"errors"
	"io"
	"time"
)

// A patience bounds how long storing may take (S2): Timeouts.Copies from the message's end to the recorded grant, and
// the same for each piece of the message before, since a store that holds up a piece also holds up the sight of the
// final dot. The time in which the client is waited for does not count.
type patience struct {
	ctx    context.Context // for whatever stores
	cancel context.CancelCauseFunc
	limit  time.Duration
	timer  *time.Timer
	dot    time.Time // when the message had come to its end
}

func newPatience(ctx context.Context, limits *Timeouts) *patience {
	p := &patience{limit: limits.Copies}
	p.ctx, p.cancel = context.WithCancelCause(ctx)
	p.timer = time.AfterFunc(p.limit, func() { p.cancel(errCopiesLate) })
	return p
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
	if !a.p.dot.IsZero() {
		return 0, io.EOF
	}
	a.p.timer.Stop()
	n, err := a.body.Read(p)
	a.p.timer.Reset(a.p.limit)
	if err == io.EOF {
		a.p.dot = time.Now()
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
