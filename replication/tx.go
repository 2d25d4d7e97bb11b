package replication

import (
	"bytes"
	"iter"
	"maps"
	"slices"

	"github.com/cockroachdb/pebble/v2"
)

// maxScanned is how many keys one Update may scan (L1).
const maxScanned = 1000

// A Tx is one transaction, used by one goroutine, valid until its function returns.
// Errors of reading or writing are sticky: later reads find nothing and View or
// Update returns the first.
type Tx struct {
	snap   *pebble.Snapshot
	update bool
	format uint64 // active format when it began
	err    error

	index   uint64 // 0: not read yet
	reads   map[string]uint64
	ranges  []readRange
	writes  map[string]write // one per key; key unset
	scanned int
	size    int // roughly what the proposal will take, encoded
}

// PrefixEnd is the first key after all keys that begin with prefix, nil if there is none.
func PrefixEnd(prefix []byte) []byte {
	for i := len(prefix) - 1; i >= 0; i-- {
		if prefix[i] != 0xff {
			end := bytes.Clone(prefix[:i+1])
			end[i]++
			return end
		}
	}
	return nil
}

// fail makes err sticky.
func (tx *Tx) fail(err error) {
	if tx.err == nil {
		tx.err = err
	}
}

// Index is the index of the last entry this transaction sees.
func (tx *Tx) Index() uint64 {
	if tx.index == 0 && tx.err == nil {
		index, _, err := readApplied(tx.snap)
		if err != nil {
			tx.fail(err)
		}
		tx.index = index
	}
	return tx.index
}

// Get returns key's value, valid until the transaction ends and beyond.
func (tx *Tx) Get(key []byte) (value []byte, ok bool) {
	if tx.err != nil {
		return nil, false
	}
	w, own := tx.writes[string(key)]
	if own && !w.adds() {
		return bytes.Clone(w.value), w.op == opPut
	}
	_, value, ok = tx.read(key)
	if own && tx.err == nil {
		return tx.sum(value, ok, w.delta), tx.err == nil
	}
	return value, ok
}

// sum is a counter with this transaction's own Adds.
func (tx *Tx) sum(base []byte, exists bool, delta int64) []byte {
	v := int64(0)
	if exists {
		var counter bool
		if v, counter = counterValue(base); !counter {
			tx.fail(ErrNotCounter)
			return nil
		}
	}
	return counterBytes(v + delta)
}

// read reads a key of the snapshot and remembers that it was read.
func (tx *Tx) read(key []byte) (index uint64, value []byte, ok bool) {
	err := getUser(tx.snap, key, func(at uint64, stored []byte) {
		index, value, ok = at, append(make([]byte, 0, len(stored)), stored...), true
	})
	if err != nil {
		tx.fail(err)
		return 0, nil, false
	}
	if tx.update {
		if tx.reads == nil {
			tx.reads = make(map[string]uint64)
		}
		tx.reads[string(key)] = index
		tx.size += len(key) + 12
	}
	return index, value, ok
}

// ChangeIndex is the index of the entry that last changed key; 0 is absent. This
// transaction's own writes do not count.
func (tx *Tx) ChangeIndex(key []byte) uint64 {
	if tx.err != nil {
		return 0
	}
	index, _, _ := tx.read(key)
	return index
}

// Put sets key to value. Both are copied.
func (tx *Tx) Put(key, value []byte) {
	tx.write(key, write{op: opPut, value: bytes.Clone(value)})
}

// Delete removes key, if it is there.
func (tx *Tx) Delete(key []byte) { tx.write(key, write{op: opDelete}) }

// Add adds delta to a counter: 8 bytes, big-endian two's complement, absent is 0. It
// wraps around. It conflicts with nothing (L8); a value of another length fails the
// whole Update with ErrNotCounter.
func (tx *Tx) Add(key []byte, delta int64) {
	w := tx.writes[string(key)]
	switch w.op {
	case opPut:
		tx.write(key, write{op: opPut, value: tx.sum(w.value, true, delta)})
	case opDelete:
		tx.write(key, write{op: opPut, value: counterBytes(delta)})
	case opAddWithin:
		w.delta += delta
		tx.write(key, w)
	default:
		tx.write(key, write{op: opAdd, delta: w.delta + delta})
	}
}

// AddWithin is an Add that fails the whole Update with ErrBound when the sum would be
// below low or above high; several to one key are checked as one, against all their
// bounds. The state machine decides, so it too conflicts with nothing. It fails with
// ErrOldFormat while a server of the ledger cannot read it.
func (tx *Tx) AddWithin(key []byte, delta, low, high int64) {
	if tx.format < formatBounded {
		tx.fail(ErrOldFormat)
		return
	}
	w := tx.writes[string(key)]
	bounded := write{op: opAddWithin, delta: w.delta + delta, low: low, high: high}
	base, counter := int64(0), true
	switch w.op {
	case opAddWithin:
		bounded.low, bounded.high = max(low, w.low), min(high, w.high)
	case opPut:
		bounded.delta = delta
		if base, counter = counterValue(w.value); !counter {
			tx.fail(ErrNotCounter)
		}
		fallthrough
	case opDelete:
		if !bounded.allows(base) {
			tx.fail(ErrBound)
		}
		bounded = write{op: opPut, value: counterBytes(base + delta)}
	}
	tx.write(key, bounded)
}

func (w *write) adds() bool { return w.op == opAdd || w.op == opAddWithin }

func (tx *Tx) write(key []byte, w write) {
	if !tx.update {
		tx.fail(ErrReadOnly)
	}
	if tx.err != nil {
		return
	}
	if tx.writes == nil {
		tx.writes = make(map[string]write)
	}
	tx.writes[string(key)] = w
	tx.size += len(key) + len(w.value) + 40
}

// Scan yields the keys in [from, to) in ascending order, as they were when Scan
// began, this transaction's own writes included; nil to means no upper end. Keys and
// values belong to the caller. Breaking off early records only what was scanned.
func (tx *Tx) Scan(from, to []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func([]byte, []byte) bool) {
		if tx.err != nil || to != nil && bytes.Compare(from, to) >= 0 {
			return
		}
		s := &scan{tx: tx, own: tx.ownKeys(from, to), seen: readRange{from: bytes.Clone(from), to: to}}
		if to != nil {
			s.seen.to = append([]byte{}, to...)
		}
		var err error
		if s.it, err = tx.snap.NewIter(userBounds(from, to)); err != nil {
			tx.fail(err)
			return
		}
		defer s.close()
		s.run(yield)
	}
}

// ownKeys are this transaction's written keys in [from, to), sorted.
func (tx *Tx) ownKeys(from, to []byte) []string {
	var own []string
	for key := range tx.writes {
		if key >= string(from) && (to == nil || key < string(to)) {
			own = append(own, key)
		}
	}
	slices.Sort(own)
	return own
}

// A scan merges the snapshot with the transaction's own writes.
type scan struct {
	tx   *Tx
	it   *pebble.Iterator
	own  []string
	seen readRange
}

func (s *scan) close() {
	if err := s.it.Close(); err != nil {
		s.tx.fail(err)
	}
	if s.tx.update {
		s.tx.ranges = append(s.tx.ranges, s.seen)
	}
}

func (s *scan) run(yield func([]byte, []byte) bool) {
	more := s.it.First()
	for s.tx.err == nil && (more || len(s.own) > 0) {
		order := 1 // own key first: -1 snapshot, 0 both
		switch {
		case len(s.own) == 0:
			order = -1
		case more:
			order = bytes.Compare(s.it.Key()[1:], []byte(s.own[0]))
		}
		var key, value []byte
		exists := false
		if order <= 0 {
			key, value, exists = s.base()
			more = s.it.Next()
		}
		if order >= 0 {
			key = []byte(s.own[0])
			w := s.tx.writes[s.own[0]]
			s.own = s.own[1:]
			switch w.op {
			case opPut:
				value, exists = bytes.Clone(w.value), true
			case opDelete:
				exists = false
			case opAdd, opAddWithin:
				value, exists = s.tx.sum(value, exists, w.delta), true
			}
		}
		if s.tx.err != nil {
			return
		}
		if exists && !yield(key, value) {
			s.seen.to = append(bytes.Clone(key), 0)
			return
		}
	}
}

// base copies the snapshot's present key and counts it as scanned.
func (s *scan) base() (key, value []byte, ok bool) {
	index, stored, err := splitValue(s.it.Value())
	if err != nil {
		s.tx.fail(err)
		return nil, nil, false
	}
	s.tx.scanned++
	if s.tx.update && s.tx.scanned > maxScanned {
		s.tx.fail(ErrTooManyScanned)
		return nil, nil, false
	}
	s.seen.count++
	s.seen.highest = max(s.seen.highest, index)
	k := s.it.Key()[1:]
	both := append(append(make([]byte, 0, len(k)+len(stored)), k...), stored...)
	return both[:len(k):len(k)], both[len(k):], true
}

// proposal is what the transaction asks of the state machine, in key order.
func (tx *Tx) proposal() *proposal {
	p := &proposal{ranges: tx.ranges}
	for _, key := range slices.Sorted(maps.Keys(tx.reads)) {
		p.keys = append(p.keys, readKey{[]byte(key), tx.reads[key]})
	}
	for _, key := range slices.Sorted(maps.Keys(tx.writes)) {
		w := tx.writes[key]
		w.key = []byte(key)
		p.writes = append(p.writes, w)
	}
	return p
}
