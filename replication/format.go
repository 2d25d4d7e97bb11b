package replication

import (
	"context"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
)

// Formats of what the log may hold (L9). A new operation or entry version gets the next
// number here; nothing above the ledger's active format is proposed.
const (
	formatFirst   = 1 // entries of version 1 with operations 1 to 3
	formatBounded = 2 // operation 4: Add with bounds
	formatNow     = formatBounded
)

// programOf is the program that first read a format.
func programOf(format uint64) string {
	switch format {
	case formatFirst, formatBounded:
		return "valise 0.1.0"
	}
	return ""
}

// A FormatError says that the cluster's ledger is of a format that this program cannot
// read: the node must run a newer one. It is an ErrNewerVersion.
type FormatError struct {
	Active  uint64 // format of the ledger
	Known   uint64 // highest that this program reads
	Program string // the program it needs, at least
}

func (e *FormatError) Error() string {
	return fmt.Sprintf("the ledger has format %d, this program reads up to %d: it needs %s or newer",
		e.Active, e.Known, e.Program)
}

// Unwrap makes it an ErrNewerVersion.
func (e *FormatError) Unwrap() error { return ErrNewerVersion }

// Entries that are no groups. What they look like is fixed for ever: every program must
// be able to read what tells it that it is too old.
const (
	entryRaise     byte = 0xf0 // a raiseRecord: the active format from here on
	entryRecovered byte = 0xf1 // a lineageRecord: the ledger was recovered here
)

// raiseRecord is the content of entryRaise and keyFormat's value.
type raiseRecord struct {
	Format  uint64 `cbor:"1,keyasint"`
	Program string `cbor:"2,keyasint"`
}

func encodeRaise(format uint64, program string) ([]byte, error) {
	rec, err := Marshal(raiseRecord{format, program})
	return append([]byte{entryRaise}, rec...), err
}

// check refuses a format that is higher than known.
func (r raiseRecord) check(known uint64) error {
	if r.Format <= known {
		return nil
	}
	return &FormatError{Active: r.Format, Known: known, Program: r.Program}
}

// readFormat reads the active format from a state; the first where none was raised.
func readFormat(r pebble.Reader) (raiseRecord, error) {
	rec := raiseRecord{formatFirst, programOf(formatFirst)}
	err := readRecord(r, keyFormat, &rec)
	return rec, err
}

// readRecord reads a record, if it is there.
func readRecord(r pebble.Reader, key []byte, rec any) error {
	stored, closer, err := r.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read ledger state: %w", err)
	}
	defer closer.Close()
	return Unmarshal(stored, rec)
}

// raise applies entryRaise.
func (b *batch) raise(content []byte) error {
	var rec raiseRecord
	if err := Unmarshal(content, &rec); err != nil {
		return err
	}
	if err := rec.check(b.m.known); err != nil {
		return err
	}
	if rec.Format <= b.format.Format {
		return nil // it never goes back
	}
	b.format = rec
	return b.b.Set(keyFormat, content, nil)
}

// raiseFormat raises the active format to the highest that every server in raft's
// configuration has said it reads. It runs in the loop that changes the configuration,
// so that none is added meanwhile.
func (db *DB) raiseFormat() error {
	target := db.machine.known
	for _, s := range db.leader.servers() {
		if string(s.ID) == db.self {
			continue
		}
		said, ok := db.greeter.saidBy(string(s.ID))
		if !ok {
			return nil
		}
		target = min(target, said.Highest)
	}
	if target <= db.machine.active().Format {
		return nil
	}
	entry, err := encodeRaise(target, programOf(target))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(db.ctx, db.c.WriteTimeout)
	defer cancel()
	err = db.leader.await(ctx, db.raft.Apply(entry, enqueueTime))
	db.c.Logger.Info("ledger format raised", "format", target, "err", err)
	return err
}

// needs returns the lowest format that has what a group uses.
func (g *group) needs() uint64 {
	for i := range g.proposals {
		for j := range g.proposals[i].writes {
			if g.proposals[i].writes[j].op == opAddWithin {
				return formatBounded
			}
		}
	}
	return formatFirst
}
