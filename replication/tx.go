package replication

import "iter"

// A Tx is one transaction, used by one goroutine, valid until its function returns.
// Errors of reading or writing are sticky: later reads find nothing and View or
// Update returns the first.
type Tx struct{}

// Get returns key's value, valid until the transaction ends.
func (tx *Tx) Get(key []byte) (value []byte, ok bool) { return nil, false }

// Scan yields the keys in [from, to) in ascending order, as they were when Scan
// began; nil to means no upper end. Breaking off early records only what was scanned.
func (tx *Tx) Scan(from, to []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func([]byte, []byte) bool) {}
}

// Put sets key to value. Both are copied.
func (tx *Tx) Put(key, value []byte) {}

// Delete removes key, if it is there.
func (tx *Tx) Delete(key []byte) {}

// Add adds delta to a counter: 8 bytes, big-endian two's complement, absent is 0.
// It conflicts with nothing (L8).
func (tx *Tx) Add(key []byte, delta int64) {}

// Index is the index of the last entry this transaction sees.
func (tx *Tx) Index() uint64 { return 0 }

// ChangeIndex is the index of the entry that last changed key; 0 is absent.
func (tx *Tx) ChangeIndex(key []byte) uint64 { return 0 }

// PrefixEnd is the first key after all keys that begin with prefix, nil if there is none.
func PrefixEnd(prefix []byte) []byte {
	for i := len(prefix) - 1; i >= 0; i-- {
		if prefix[i] != 0xff {
			end := append([]byte(nil), prefix[:i+1]...)
			end[i]++
			return end
		}
	}
	return nil
}
