package node

import "errors"

// A HintError is an operator's mistake or trouble together with the next thing
// to try. Its text is that of Err; Hint is printed on a line of its own.
type HintError struct {
	Err  error
	Hint string
}

func (e *HintError) Error() string { return e.Err.Error() }
func (e *HintError) Unwrap() error { return e.Err }

func hint(err error, text string) error {
	return &HintError{Err: err, Hint: text}
}

// Hint returns the advice that travels with err, or "". Lower rooms give theirs with a method.
func Hint(err error) string {
	if h, ok := errors.AsType[*HintError](err); ok {
		return h.Hint
	}
	if h, ok := errors.AsType[interface {
		error
		Hint() string
	}](err); ok {
		return h.Hint()
	}
	return ""
}
