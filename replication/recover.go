package replication

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/hashicorp/raft"
	"github.com/libp2p/go-libp2p/core/peer"
)

// Recovered says what Recover found: what an operator needs to judge what may be missing.
// All that a majority acknowledged after Last is gone, if there was anything.
type Recovered struct {
	Number uint64 // recoveries of this cluster so far, this one included

	// Up to Applied this copy knew that a majority had every entry. Those behind it, up to
	// Last, are kept too, though some may never have been acknowledged to anybody.
	Applied, AppliedTerm uint64
	Last, LastTerm       uint64
	// LastTime is when the entry at Last was made, by the clock of the leader of then; zero
	// if the log is empty, being in the snapshot.
	LastTime time.Time

	Servers []RecoveredServer // of the cluster as this copy knew it
}

// A RecoveredServer was a server of the cluster before it was recovered.
type RecoveredServer struct {
	ID    peer.ID
	Voter bool
}

// recoveredRecord is the stable value of keyRecovered: what the last Recover here did.
type recoveredRecord struct {
	Number      uint64            `cbor:"1,keyasint"`
	At          uint64            `cbor:"2,keyasint"` // index of its configuration entry
	Applied     uint64            `cbor:"3,keyasint"`
	AppliedTerm uint64            `cbor:"4,keyasint"`
	Last        uint64            `cbor:"5,keyasint"`
	LastTerm    uint64            `cbor:"6,keyasint"`
	LastTime    int64             `cbor:"7,keyasint,omitempty"` // ns since 1970; 0: unknown
	Servers     []recoveredServer `cbor:"8,keyasint"`
}

type recoveredServer struct {
	ID    string `cbor:"1,keyasint"`
	Voter bool   `cbor:"2,keyasint"`
}

const keyRecovered = "valise-recovered"

// Recover makes the copy of a stopped node the ledger of a cluster of one voter, this
// node, after the majority of voters was lost for good (L10). It keeps all that this
// copy has. The ledger gets a new lineage: nodes of before, should they come back, are
// refused and stop with a RecoveredError; they join anew. It must be called on one node
// only, the one whose copy is newest; if it was called on two, one of them stops as soon
// as they meet. Killed at any moment it has happened or not; repeated it only reports.
// ErrWhole: this node was the only voter anyhow. Config.Lane is not used.
func Recover(c Config) (Recovered, error) {
	if c.Dir == "" || c.ID == "" {
		return Recovered{}, errors.New("replication: Recover needs Config.Dir and Config.ID")
	}
	c = c.withDefaults()
	db := &DB{c: c, self: c.ID.String()}
	db.ctx, db.cancel = context.WithCancel(context.Background())
	defer db.cancel()
	db.fatal = newFatal(c.Logger)
	defer db.fatal.unparkAll()
	var rec recoveredRecord
	err := db.onDisk(func() error {
		err := db.openFiles()
		if err == nil {
			rec, err = db.recover()
			err = errors.Join(err, db.closeFiles())
		}
		return err
	})
	if err != nil {
		return Recovered{}, fmt.Errorf("recover ledger: %w", err)
	}
	return rec.report()
}

// recover appends the entries that say so, in one synced write with all that belongs to
// them: before it nothing has happened, after it everything.
func (db *DB) recover() (recoveredRecord, error) {
	conf, confIndex, err := db.lastConfiguration()
	if err != nil {
		return recoveredRecord{}, err
	}
	if alone(conf, db.self) {
		return db.recoveredBefore()
	}
	rec := recoveredRecord{Applied: db.machine.applied.Load(), AppliedTerm: db.machine.term.Load()}
	if err := db.logEnd(&rec, conf, confIndex); err != nil {
		return rec, err
	}
	for _, s := range conf.Servers {
		rec.Servers = append(rec.Servers, recoveredServer{string(s.ID), s.Suffrage == raft.Voter})
	}
	later, err := db.log.getLineage(keyLeftBehind)
	if err != nil {
		return rec, err
	}
	next := lineage{number: max(db.kin.lineage().number, later.number) + 1, id: randomID()}
	rec.Number, rec.At = next.number, rec.Last+2
	return rec, db.log.recover(rec, next, db.self)
}

func randomID() string {
	id := make([]byte, 16)
	rand.Read(id)
	return string(id)
}

// alone says whether id is the only voter.
func alone(conf raft.Configuration, id string) bool {
	voters, self := 0, false
	for _, s := range conf.Servers {
		if s.Suffrage == raft.Voter {
			voters++
			self = self || string(s.ID) == id
		}
	}
	return self && voters == 1
}

// recoveredBefore reports again what an earlier Recover did.
func (db *DB) recoveredBefore() (rec recoveredRecord, err error) {
	stored, err := db.log.Get([]byte(keyRecovered))
	if errors.Is(err, errStableMissing) {
		return rec, ErrWhole
	}
	if err == nil {
		err = Unmarshal(stored, &rec)
	}
	return rec, err
}

// lastConfiguration is the newest that this copy knows, committed or not.
func (db *DB) lastConfiguration() (conf raft.Configuration, index uint64, err error) {
	st, err := db.states.acquire()
	if err != nil {
		return conf, 0, err
	}
	defer db.states.release(st)
	for _, key := range [][]byte{keySnapshot, keyConfig} {
		m, err := readMeta(st.pdb, key)
		if err != nil {
			return conf, 0, err
		}
		if m != nil && m.ConfigurationIndex >= index {
			conf, index = m.Configuration, m.ConfigurationIndex
		}
	}
	var l raft.Log
	for i := max(db.log.first, index+1); i > 0 && i <= db.log.last; i++ {
		if err := db.log.read(i, &l); err != nil {
			return conf, 0, err
		}
		if l.Type == raft.LogConfiguration {
			conf, index = raft.DecodeConfiguration(l.Data), i
		}
	}
	if index == 0 {
		return conf, 0, fmt.Errorf("this copy never was of a cluster: %w", ErrNoLedger)
	}
	return conf, index, nil
}

// logEnd fills in where this copy ends: in the log, or, if that is empty, in the state.
func (db *DB) logEnd(rec *recoveredRecord, conf raft.Configuration, confIndex uint64) error {
	if db.log.last == 0 {
		// The state may be newer than the snapshot that emptied the log. It is to be
		// one itself, so that the log goes on behind it without a gap.
		rec.Last, rec.LastTerm = rec.Applied, rec.AppliedTerm
		st, err := db.states.acquire()
		if err != nil {
			return err
		}
		defer db.states.release(st)
		return cover(st, &raft.SnapshotMeta{Index: rec.Last, Term: rec.LastTerm, Configuration: conf, ConfigurationIndex: confIndex})
	}
	var l raft.Log
	if err := db.log.read(db.log.last, &l); err != nil {
		return err
	}
	rec.Last, rec.LastTerm = l.Index, l.Term
	rec.LastTime = max(l.AppendedAt.UnixNano(), 0) // the first entry of all has none
	return nil
}

// recover ends the log with the new lineage and a configuration of self alone, in a term
// that nobody of before was in.
func (s *logStore) recover(rec recoveredRecord, next lineage, self string) error {
	term, err := s.GetUint64([]byte("CurrentTerm"))
	if err != nil && !errors.Is(err, errStableMissing) {
		return err
	}
	term = max(term, rec.LastTerm) + 1
	kin, err := Marshal(next.record())
	if err != nil {
		return err
	}
	stored, err := Marshal(rec)
	if err != nil {
		return err
	}
	b := s.pdb.NewBatch()
	defer b.Close()
	now := time.Now()
	for i, l := range []*raft.Log{
		{Type: raft.LogCommand, Data: append([]byte{entryRecovered}, kin...)},
		{Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(onlyVoter(self))},
	} {
		l.Index, l.Term, l.AppendedAt = rec.Last+1+uint64(i), term, now
		err = errors.Join(err, b.Set(logKey(l.Index), encodeLog(l), nil))
	}
	err = errors.Join(err, b.Set(stableKey([]byte("CurrentTerm")), encodeApplied(term, 0)[:8], nil),
		b.Set(stableKey([]byte(keyLineageHere)), kin, nil), b.Set(stableKey([]byte(keyRecovered)), stored, nil),
		b.Delete(stableKey([]byte(keyLeftBehind)), nil))
	if err == nil {
		err = b.Commit(pebble.Sync)
	}
	if err != nil {
		s.fatal.park(fmt.Errorf("write ledger log: %w", err))
	}
	return nil
}

func (rec recoveredRecord) report() (Recovered, error) {
	r := Recovered{Number: rec.Number, Applied: rec.Applied, AppliedTerm: rec.AppliedTerm, Last: rec.Last, LastTerm: rec.LastTerm}
	if rec.LastTime != 0 {
		r.LastTime = time.Unix(0, rec.LastTime)
	}
	for _, s := range rec.Servers {
		id, err := peer.Decode(s.ID)
		if err != nil {
			return r, fmt.Errorf("server %q of the old configuration: %w", s.ID, err)
		}
		r.Servers = append(r.Servers, RecoveredServer{id, s.Voter})
	}
	return r, nil
}
