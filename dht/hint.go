package dht

// hinted is an error with a word of advice for the operator. Whoever prints
// errors finds it by interface{ Hint() string }.
type hinted struct {
	error
	advice string
}

func hint(err error, advice string) error { return hinted{err, advice} }

// Hint says what an operator can do about the error.
func (h hinted) Hint() string  { return h.advice }
func (h hinted) Unwrap() error { return h.error }
