package replication

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/cockroachdb/pebble/v2"
	"github.com/hashicorp/raft"
)

// snapshotStore lists a snapshot only when the durable state covers it (L6): the
// state is the snapshot. Its description lies in the state database itself, so the
// two can never part. A stream is made when a follower needs one.
type snapshotStore struct {
	folder *folder
	states *states
	fatal  *fatal

	mu      sync.Mutex
	meta    *raft.SnapshotMeta // nil: none yet
	pending string             // id of a received snapshot that raft has not restored
	next    *stateDB           // what it was unpacked into; nil: the present state covers it
}

// snapshotRecord is keySnapshot's value.
type snapshotRecord struct {
	Index         uint64 `cbor:"1,keyasint"`
	Term          uint64 `cbor:"2,keyasint"`
	Configuration []byte `cbor:"3,keyasint"`
	ConfigIndex   uint64 `cbor:"4,keyasint"`
	Ahead         uint64 `cbor:"5,keyasint,omitempty"` // index of the state, where it was newer than a received one
}

func encodeSnapshotMeta(m *raft.SnapshotMeta) ([]byte, error) {
	return Marshal(recordOf(m))
}

func recordOf(m *raft.SnapshotMeta) snapshotRecord {
	return snapshotRecord{Index: m.Index, Term: m.Term, Configuration: raft.EncodeConfiguration(m.Configuration),
		ConfigIndex: m.ConfigurationIndex}
}

// snapshotCovers returns up to where a state may be that has no log; 0 if no snapshot
// was ever made.
func snapshotCovers(r pebble.Reader) (uint64, error) {
	var rec snapshotRecord
	err := readRecord(r, keySnapshot, &rec)
	return max(rec.Index, rec.Ahead), err
}

// readSnapshotMeta returns the description of the snapshot r covers, nil if none.
func readSnapshotMeta(r pebble.Reader) (*raft.SnapshotMeta, error) {
	return readMeta(r, keySnapshot)
}

func readMeta(r pebble.Reader, key []byte) (*raft.SnapshotMeta, error) {
	stored, closer, err := r.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read ledger snapshot: %w", err)
	}
	defer closer.Close()
	var rec snapshotRecord
	if err := Unmarshal(stored, &rec); err != nil {
		return nil, err
	}
	return &raft.SnapshotMeta{
		Version: raft.SnapshotVersionMax, ID: snapshotID(rec.Index, rec.Term), Index: rec.Index, Term: rec.Term,
		Configuration: raft.DecodeConfiguration(rec.Configuration), ConfigurationIndex: rec.ConfigIndex,
	}, nil
}

func snapshotID(index, term uint64) string { return fmt.Sprintf("%d-%d", term, index) }

// List implements raft.SnapshotStore: the newest, or nothing.
func (s *snapshotStore) List() ([]*raft.SnapshotMeta, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.meta == nil {
		return nil, nil
	}
	m := *s.meta
	return []*raft.SnapshotMeta{&m}, nil
}

// Open implements raft.SnapshotStore. raft opens a received snapshot once, to
// restore it: that is unpacked already. Otherwise a stream of the present state is
// made, and described as what it is: its own index, term and configuration, which may
// be newer than the snapshot's.
func (s *snapshotStore) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	s.mu.Lock()
	meta, pending := s.meta, s.pending
	s.mu.Unlock()
	if meta == nil || meta.ID != id {
		return nil, nil, fmt.Errorf("ledger snapshot %s is gone", id)
	}
	m := *meta
	if pending == id {
		return &m, io.NopCloser(eofReader{}), nil
	}
	st, err := s.states.acquire()
	if err != nil {
		return nil, nil, err
	}
	r := &snapshotReader{states: s.states, st: st, snap: st.pdb.NewSnapshot()}
	if err := describe(r.snap, &m); err != nil {
		return nil, nil, errors.Join(err, r.finish())
	}
	var w *io.PipeWriter
	r.PipeReader, w = io.Pipe()
	r.done.Go(func() { w.CloseWithError(writeStream(w, r.snap)) })
	return &m, r, nil
}

// describe makes m say what r shows.
func describe(r pebble.Reader, m *raft.SnapshotMeta) (err error) {
	if m.Index, m.Term, err = readApplied(r); err != nil {
		return err
	}
	conf, err := readMeta(r, keyConfig)
	if err != nil {
		return err
	}
	if conf != nil {
		m.Configuration, m.ConfigurationIndex = conf.Configuration, conf.ConfigurationIndex
	}
	m.Size, err = streamSize(r)
	return err
}

var errUnpack = errors.New("unpacking did not end")

type eofReader struct{}

func (eofReader) Read([]byte) (int, error) { return 0, io.EOF }

type snapshotReader struct {
	*io.PipeReader
	states *states
	st     *stateDB
	snap   *pebble.Snapshot
	done   sync.WaitGroup
}

// Close ends the stream and frees the state it was reading.
func (r *snapshotReader) Close() error {
	r.PipeReader.Close()
	r.done.Wait()
	return r.finish()
}

func (r *snapshotReader) finish() error {
	err := r.snap.Close()
	r.states.release(r.st)
	return err
}

// Create implements raft.SnapshotStore. Persist marks a sink as local; anything
// written to it makes it a received one.
func (s *snapshotStore) Create(_ raft.SnapshotVersion, index, term uint64, conf raft.Configuration,
	confIndex uint64, _ raft.Transport) (raft.SnapshotSink, error) {
	return &snapshotSink{store: s, meta: raft.SnapshotMeta{
		Version: raft.SnapshotVersionMax, ID: snapshotID(index, term), Index: index, Term: term,
		Configuration: conf, ConfigurationIndex: confIndex,
	}}, nil
}

// A snapshotSink becomes a listed snapshot when it is closed.
type snapshotSink struct {
	store   *snapshotStore
	meta    raft.SnapshotMeta
	covered *stateDB // local: the state that is the snapshot

	// received: being unpacked into st
	st    *stateDB
	pipe  *io.PipeWriter
	done  sync.WaitGroup
	index uint64
	err   error
}

// ID implements raft.SnapshotSink.
func (s *snapshotSink) ID() string { return s.meta.ID }

// Write unpacks a received stream as it comes.
func (s *snapshotSink) Write(p []byte) (int, error) {
	if s.pipe == nil {
		st, err := s.store.folder.newState()
		if err != nil {
			return 0, err
		}
		var r *io.PipeReader
		s.st = st
		s.err = errUnpack // until it is done: a failing disk ends that goroutine early
		r, s.pipe = io.Pipe()
		s.done.Go(func() {
			s.index, s.err = unpackStream(r, st.pdb)
			r.CloseWithError(s.err)
		})
	}
	return s.pipe.Write(p)
}

// Cancel drops what was received.
func (s *snapshotSink) Cancel() error {
	if s.pipe == nil {
		return nil
	}
	s.pipe.CloseWithError(errors.New("snapshot cancelled"))
	s.done.Wait()
	return s.store.folder.discard(s.st)
}

// Close makes the snapshot durable and lists it.
func (s *snapshotSink) Close() error {
	if s.covered != nil {
		return s.store.finishLocal(s)
	}
	if s.pipe == nil {
		return fmt.Errorf("ledger snapshot %s is empty", s.meta.ID)
	}
	s.pipe.Close()
	s.done.Wait()
	if s.err == nil && s.index != s.meta.Index {
		s.err = fmt.Errorf("%w: it shows %d, not %d", errStream, s.index, s.meta.Index)
	}
	if s.err != nil {
		return errors.Join(s.err, s.store.folder.discard(s.st))
	}
	return s.store.finishReceived(s)
}

// cover writes the description into a state after syncing everything before it.
func cover(st *stateDB, m *raft.SnapshotMeta) error {
	return coverAhead(st, m, 0)
}

// coverAhead is cover where a received snapshot is older than the state at ahead: it
// empties the log nevertheless.
func coverAhead(st *stateDB, m *raft.SnapshotMeta, ahead uint64) error {
	if err := st.pdb.Flush(); err != nil {
		return fmt.Errorf("sync ledger state: %w", err)
	}
	rec := recordOf(m)
	rec.Ahead = ahead
	data, err := Marshal(rec)
	if err != nil {
		return err
	}
	return st.pdb.Set(keySnapshot, data, pebble.Sync)
}

// coverInstalled is cover for a state that came as a stream, which lacks what
// describes a node's own: the configuration as of its index.
func coverInstalled(st *stateDB, m *raft.SnapshotMeta) error {
	rec, err := encodeSnapshotMeta(m)
	if err != nil {
		return err
	}
	if err := st.pdb.Set(keyConfig, rec, pebble.NoSync); err != nil {
		return err
	}
	return cover(st, m)
}

func (s *snapshotStore) finishLocal(sink *snapshotSink) error {
	if err := cover(sink.covered, &sink.meta); err != nil {
		return err
	}
	cur, err := s.states.acquire()
	if err != nil {
		return err
	}
	defer s.states.release(cur)
	s.mu.Lock()
	defer s.mu.Unlock()
	if cur != sink.covered || s.pending != "" {
		return fmt.Errorf("ledger snapshot %s was overtaken by an installed one", sink.meta.ID)
	}
	s.meta = &sink.meta
	return nil
}

// finishReceived switches CURRENT to the unpacked state, unless the present state
// is newer: then that is what the snapshot is covered by.
func (s *snapshotStore) finishReceived(sink *snapshotSink) error {
	cur, err := s.states.acquire()
	if err != nil {
		return errors.Join(err, s.folder.discard(sink.st))
	}
	defer s.states.release(cur)
	have, _, err := readApplied(cur.pdb)
	if err != nil {
		return errors.Join(err, s.folder.discard(sink.st))
	}
	next := sink.st
	if have > sink.index {
		if err := s.folder.discard(sink.st); err != nil {
			return err
		}
		next = nil
		err = coverAhead(cur, &sink.meta, have)
	} else if err = coverInstalled(next, &sink.meta); err == nil {
		err = s.folder.setCurrent(next.name)
	}
	if err != nil {
		// Half switched is not a state to go on from.
		s.fatal.park(fmt.Errorf("install ledger snapshot %s: %w", sink.meta.ID, err))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.meta, s.pending, s.next = &sink.meta, sink.meta.ID, next
	return nil
}

// takeInstalled hands the unpacked state to the machine, once.
func (s *snapshotStore) takeInstalled() (*stateDB, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pending == "" {
		return nil, errors.New("no ledger snapshot was received")
	}
	next := s.next
	s.pending, s.next = "", nil
	return next, nil
}

// close drops a received state that was never restored; CURRENT names it already.
func (s *snapshotStore) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next == nil {
		return nil
	}
	next := s.next
	s.next = nil
	return next.pdb.Close()
}
