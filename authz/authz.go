// Package authz is the law: who exists, who may do what, what was granted to whom, and the signed tokens that carry
// a grant to its receiver.
//
// It has no I/O, no clock and no goroutine of its own. It works on a Reader or a ReadWriter (a transaction of the
// ledger satisfies both), takes times and random ids as arguments, and answers with values and errors, so that every
// node decides alike from its own copy of the ledger.
package authz

import "iter"

// A Reader shows one consistent state of the ledger. A value is valid until the transaction it came from ends.
type Reader interface {
	// Get returns the value under key.
	Get(key []byte) (value []byte, ok bool)
	// Scan yields the keys in [from, to) with their values, ascending.
	Scan(from, to []byte) iter.Seq2[[]byte, []byte]
}

// A Writer takes the changes of one transaction. They take effect together, or not at all.
type Writer interface {
	Put(key, value []byte)
	Delete(key []byte)
	// Add adds delta to the counter under key. This package does not count yet; download limits will.
	Add(key []byte, delta int64)
}

// A ReadWriter is a transaction that may write. What it wrote, it reads.
type ReadWriter interface {
	Reader
	Writer
}
