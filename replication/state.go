package replication

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"github.com/cockroachdb/pebble/v2"
)

// Key spaces of the state database. Only spaceUser is seen by a Tx.
const (
	spaceInternal byte = 0x00
	spaceUser     byte = 0x01
)

// Keys of spaceInternal.
var (
	keyApplied  = []byte{spaceInternal, 'a'} // index and term of the last entry applied
	keyConfig   = []byte{spaceInternal, 'c'} // raft's configuration as of that index
	keyFormat   = []byte{spaceInternal, 'f'} // the active format (L9)
	keyLineage  = []byte{spaceInternal, 'r'} // which recovery this state comes from (L10)
	keySnapshot = []byte{spaceInternal, 's'} // the snapshot this durable state covers
)

// keyNode holds a node's incarnation and released mark.
func keyNode(node string) []byte { return append([]byte{spaceInternal, 'n'}, node...) }

// keyOutcome holds the outcome of one attempt of a node.
func keyOutcome(node string, seq uint64) []byte {
	k := appendBytes([]byte{spaceInternal, 'o'}, []byte(node))
	return binary.BigEndian.AppendUint64(k, seq)
}

func userKey(key []byte) []byte {
	return append(append(make([]byte, 0, len(key)+1), spaceUser), key...)
}

// userBounds are the iterator's bounds for [from, to); nil to is no upper end.
func userBounds(from, to []byte) *pebble.IterOptions {
	o := &pebble.IterOptions{LowerBound: userKey(from), UpperBound: []byte{spaceUser + 1}}
	if to != nil {
		o.UpperBound = userKey(to)
	}
	return o
}

// A stored value is the index of the entry that wrote it, eight bytes big-endian,
// then the value.
const versionSize = 8

var errCorrupt = errors.New("ledger state is corrupt")

func splitValue(stored []byte) (index uint64, value []byte, err error) {
	if len(stored) < versionSize {
		return 0, nil, fmt.Errorf("%w: value of %d bytes", errCorrupt, len(stored))
	}
	return binary.BigEndian.Uint64(stored), stored[versionSize:], nil
}

// getUser calls found with the key's change index and value, which are valid during
// the call; it is not called if the key is absent.
func getUser(r pebble.Reader, key []byte, found func(index uint64, value []byte)) error {
	var short [64]byte
	k := append(append(short[:0], spaceUser), key...)
	stored, closer, err := r.Get(k)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read ledger state: %w", err)
	}
	defer closer.Close()
	index, value, err := splitValue(stored)
	if err != nil {
		return err
	}
	found(index, value)
	return nil
}

// readApplied reads the index and term of the last entry in r.
func readApplied(r pebble.Reader) (index, term uint64, err error) {
	stored, closer, err := r.Get(keyApplied)
	if errors.Is(err, pebble.ErrNotFound) {
		return 0, 0, nil
	}
	if err != nil {
		return 0, 0, fmt.Errorf("read applied index: %w", err)
	}
	defer closer.Close()
	if len(stored) != 16 {
		return 0, 0, fmt.Errorf("%w: applied index of %d bytes", errCorrupt, len(stored))
	}
	return binary.BigEndian.Uint64(stored), binary.BigEndian.Uint64(stored[8:]), nil
}

func encodeApplied(index, term uint64) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, index), term)
}

// A stateDB is one generation of the state on disk.
type stateDB struct {
	pdb  *pebble.DB
	name string // folder below Config.Dir

	// guarded by states.mu
	refs    int
	retired bool
}

// states hands out the current state and closes an old one after its last reader:
// Pebble's Close does not wait for its iterators.
type states struct {
	drop func(*stateDB) // closes it; called without mu, once

	mu     sync.Mutex
	idle   sync.Cond // on mu: some retired state was dropped
	cur    *stateDB
	open   int // states not yet dropped
	closed bool
}

func newStates(first *stateDB, drop func(*stateDB)) *states {
	s := &states{drop: drop, cur: first, open: 1}
	s.idle.L = &s.mu
	return s
}

// acquire returns the current state, to be released.
func (s *states) acquire() (*stateDB, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrClosed
	}
	s.cur.refs++
	return s.cur, nil
}

func (s *states) release(st *stateDB) {
	s.mu.Lock()
	st.refs--
	last := st.retired && st.refs == 0
	s.mu.Unlock()
	if last {
		s.dropped(st)
	}
}

func (s *states) dropped(st *stateDB) {
	s.drop(st)
	s.mu.Lock()
	s.open--
	s.mu.Unlock()
	s.idle.Broadcast()
}

// swap makes next the current state and retires the one before.
func (s *states) swap(next *stateDB) {
	s.mu.Lock()
	old := s.cur
	s.cur = next
	s.open++
	old.retired = true
	last := old.refs == 0
	s.mu.Unlock()
	if last {
		s.dropped(old)
	}
}

// close refuses new readers and returns when the last has gone.
func (s *states) close() {
	s.mu.Lock()
	s.closed = true
	st := s.cur
	first := !st.retired
	st.retired = true
	last := first && st.refs == 0
	s.mu.Unlock()
	if last {
		s.dropped(st)
	}
	s.mu.Lock()
	for s.open > 0 {
		s.idle.Wait()
	}
	s.mu.Unlock()
}
