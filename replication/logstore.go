package replication

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/hashicorp/raft"
)

// Keys of the log database.
const (
	spaceLog    byte = 'l' // index, big-endian -> entry
	spaceStable byte = 's' // raft's and our own small durable values
)

// keyIncarnation counts the Opens of this ledger.
const keyIncarnation = "valise-incarnation"

// errStableMissing has the one text that raft takes for an absent value.
var errStableMissing = errors.New("not found")

// logStore is raft's log and stable store on Pebble. Every change is synced before
// it returns, one sync per batch. A failing write parks the caller (L11).
type logStore struct {
	pdb   *pebble.DB
	fatal *fatal

	mu          sync.Mutex
	first, last uint64 // 0, 0: empty
}

var (
	_ raft.LogStore          = (*logStore)(nil)
	_ raft.StableStore       = (*logStore)(nil)
	_ raft.MonotonicLogStore = (*logStore)(nil)
)

// newLogStore reads the bounds of the log in pdb. It has no gap: StoreLogs makes none.
func newLogStore(pdb *pebble.DB, f *fatal) (*logStore, error) {
	s := &logStore{pdb: pdb, fatal: f}
	it, err := pdb.NewIter(&pebble.IterOptions{LowerBound: []byte{spaceLog}, UpperBound: []byte{spaceLog + 1}})
	if err != nil {
		return nil, fmt.Errorf("read ledger log: %w", err)
	}
	defer it.Close()
	if it.First() {
		s.first = binary.BigEndian.Uint64(it.Key()[1:])
	}
	if it.Last() {
		s.last = binary.BigEndian.Uint64(it.Key()[1:])
	}
	return s, it.Error()
}

// IsMonotonic implements raft.MonotonicLogStore: no gaps, so that raft empties the
// log after installing a snapshot.
func (s *logStore) IsMonotonic() bool { return true }

// FirstIndex implements raft.LogStore.
func (s *logStore) FirstIndex() (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.first, nil
}

// LastIndex implements raft.LogStore.
func (s *logStore) LastIndex() (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last, nil
}

func logKey(index uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{spaceLog}, index)
}

// logVersion is the first byte of a stored log record.
const logVersion = 1

func encodeLog(l *raft.Log) []byte {
	b := make([]byte, 0, 32+len(l.Data)+len(l.Extensions))
	b = append(b, logVersion, byte(l.Type))
	b = binary.AppendUvarint(b, l.Term)
	b = binary.AppendVarint(b, l.AppendedAt.UnixNano())
	b = appendBytes(b, l.Extensions)
	return append(b, l.Data...)
}

func decodeLog(index uint64, stored []byte, l *raft.Log) error {
	d := decoder{rest: stored}
	if v := d.byte(); v != logVersion {
		return fmt.Errorf("ledger log entry %d of version %d: %w", index, v, ErrNewerVersion)
	}
	*l = raft.Log{Index: index, Type: raft.LogType(d.byte()), Term: d.uvarint(), AppendedAt: time.Unix(0, d.varint())}
	if ext := d.bytes(); len(ext) > 0 {
		l.Extensions = append([]byte(nil), ext...)
	}
	l.Data = append([]byte(nil), d.rest...)
	if d.err != nil {
		return fmt.Errorf("ledger log entry %d: %w", index, d.err)
	}
	return nil
}

// GetLog implements raft.LogStore. Where an entry is there and cannot be read, raft
// panics; that too is a failure of this copy alone (L11).
func (s *logStore) GetLog(index uint64, l *raft.Log) error {
	err := s.read(index, l)
	if err != nil && !errors.Is(err, raft.ErrLogNotFound) {
		s.fatal.park(err)
	}
	return err
}

// read is GetLog for those who can do without the entry.
func (s *logStore) read(index uint64, l *raft.Log) error {
	stored, closer, err := s.pdb.Get(logKey(index))
	if errors.Is(err, pebble.ErrNotFound) {
		return raft.ErrLogNotFound
	}
	if err != nil {
		return fmt.Errorf("read ledger log entry %d: %w", index, err)
	}
	defer closer.Close()
	return decodeLog(index, stored, l)
}

// StoreLog implements raft.LogStore.
func (s *logStore) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

// StoreLogs implements raft.LogStore: the entries are on disk when it returns.
func (s *logStore) StoreLogs(logs []*raft.Log) error {
	if len(logs) == 0 {
		return nil
	}
	s.mu.Lock()
	last := s.last
	s.mu.Unlock()
	b := s.pdb.NewBatch()
	defer b.Close()
	for i, l := range logs {
		if at := logs[0].Index + uint64(i); l.Index != at || (last > 0 && at > last+uint64(i)+1) {
			return fmt.Errorf("ledger log entry %d does not follow %d", l.Index, last)
		}
		if err := b.Set(logKey(l.Index), encodeLog(l), nil); err != nil {
			s.fatal.park(fmt.Errorf("write ledger log: %w", err))
		}
	}
	if err := b.Commit(pebble.Sync); err != nil {
		s.fatal.park(fmt.Errorf("write ledger log: %w", err))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.first == 0 {
		s.first = logs[0].Index
	}
	s.last = max(s.last, logs[len(logs)-1].Index)
	return nil
}

// DeleteRange implements raft.LogStore; both ends are included.
func (s *logStore) DeleteRange(low, high uint64) error {
	if err := s.pdb.DeleteRange(logKey(low), logKey(high+1), pebble.Sync); err != nil {
		s.fatal.park(fmt.Errorf("cut ledger log: %w", err))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case low <= s.first && high >= s.last:
		s.first, s.last = 0, 0
	case low <= s.first:
		s.first = max(s.first, high+1)
	case high >= s.last:
		s.last = min(s.last, low-1)
	}
	return nil
}

func stableKey(key []byte) []byte { return append([]byte{spaceStable}, key...) }

// Set implements raft.StableStore.
func (s *logStore) Set(key, value []byte) error {
	if err := s.pdb.Set(stableKey(key), value, pebble.Sync); err != nil {
		s.fatal.park(fmt.Errorf("write ledger vote: %w", err))
	}
	return nil
}

// Get implements raft.StableStore.
func (s *logStore) Get(key []byte) ([]byte, error) {
	stored, closer, err := s.pdb.Get(stableKey(key))
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, errStableMissing
	}
	if err != nil {
		return nil, err
	}
	defer closer.Close()
	return append([]byte(nil), stored...), nil
}

// SetUint64 implements raft.StableStore.
func (s *logStore) SetUint64(key []byte, value uint64) error {
	return s.Set(key, binary.BigEndian.AppendUint64(nil, value))
}

// GetUint64 implements raft.StableStore.
func (s *logStore) GetUint64(key []byte) (uint64, error) {
	stored, err := s.Get(key)
	if err != nil {
		return 0, err
	}
	if len(stored) != 8 {
		return 0, fmt.Errorf("%w: %q has %d bytes", errCorrupt, key, len(stored))
	}
	return binary.BigEndian.Uint64(stored), nil
}

// opened says whether a ledger with this log was ever open. What cannot be read counts as yes.
func (s *logStore) opened() bool {
	_, err := s.Get([]byte(keyIncarnation))
	return !errors.Is(err, errStableMissing)
}

// nextIncarnation counts one Open, durably, so that no attempt id is used twice.
func (s *logStore) nextIncarnation() (uint64, error) {
	n, err := s.GetUint64([]byte(keyIncarnation))
	if err != nil && !errors.Is(err, errStableMissing) {
		return 0, err
	}
	return n + 1, s.SetUint64([]byte(keyIncarnation), n+1)
}

// cutAgainst empties the log where it does not continue the snapshot: a kill
// between installing one and emptying the log leaves an old log behind (L6).
func (s *logStore) cutAgainst(index, term uint64) error {
	if index == 0 || s.last == 0 {
		return nil
	}
	var at raft.Log
	err := s.read(index, &at)
	switch {
	case s.last < index, s.first > index+1, err == nil && at.Term != term:
		return s.DeleteRange(s.first, s.last)
	case err != nil && !errors.Is(err, raft.ErrLogNotFound):
		return err
	}
	return nil
}
