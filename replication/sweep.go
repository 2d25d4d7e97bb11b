package replication

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
)

// Bounds of one step of a Sweep, well below those of an Update, so that what Do reads
// and writes besides has room.
const (
	sweepKeys  = 500
	sweepBytes = 256 << 10
)

// A Sweep changes all keys under a prefix, however many they are (L8): step by step,
// each an Update of its own. It is no snapshot: a key that comes or goes meanwhile may be
// visited or not, also one that Do itself makes.
type Sweep struct {
	Prefix []byte
	// From is the first key to be visited, as Swept.Next said; empty: the first of all.
	From []byte
	// Cursor is a key of the ledger, not under Prefix, where each step keeps, in its own
	// transaction, how far it came: then every key is visited once, whatever fails
	// and whoever goes on. A sweep that finds it begins there, and the last step deletes
	// it. nil: progress is kept by the caller alone, who may have to repeat a step.
	Cursor []byte
	// Do is called with each key and its value, in ascending order. Like Update's
	// function it may run again. Its error ends the sweep; the step has then done nothing.
	Do func(tx *Tx, key, value []byte) error
}

// Swept is what one step has done.
type Swept struct {
	Next []byte // where to go on
	Keys int    // keys visited by this step
	Done bool   // there are no more
}

// Sweep runs s and yields after each step that is durable as Update's are. An error ends
// it, being Update's or Do's; one may go on later from the last Next, or from the cursor.
func (db *DB) Sweep(ctx context.Context, s Sweep) iter.Seq2[Swept, error] {
	return func(yield func(Swept, error) bool) {
		from, limit, going := s.From, sweepKeys, false
		for {
			done, err := db.sweepStep(ctx, &s, from, limit, going)
			tooMuch := errors.Is(err, ErrTooLarge) || errors.Is(err, ErrTooManyScanned)
			switch {
			case tooMuch && limit > 1:
				limit /= 2 // Do reads or writes much for each key
				continue
			case err != nil:
				yield(Swept{Next: from}, fmt.Errorf("sweep %q from %q: %w", s.Prefix, from, err))
				return
			}
			if !yield(done, nil) || done.Done {
				return
			}
			from, limit, going = done.Next, min(2*limit, sweepKeys), true
		}
	}
}

// sweepStep is one Update over at most limit keys; going says that it is not the first.
func (db *DB) sweepStep(ctx context.Context, s *Sweep, from []byte, limit int, going bool) (done Swept, err error) {
	err = db.Update(ctx, func(tx *Tx) error {
		at, kept, err := s.begin(tx, from)
		if err != nil {
			return err
		}
		done = Swept{Next: at, Done: true}
		if going && s.Cursor != nil && !kept {
			return nil // somebody else took the last step
		}
		for key, value := range tx.Scan(at, PrefixEnd(s.Prefix)) {
			if err := s.Do(tx, key, value); err != nil {
				return err
			}
			done.Keys++
			done.Next = append(bytes.Clone(key), 0)
			if done.Keys == limit || tx.size > sweepBytes {
				done.Done = false
				break
			}
		}
		switch {
		case s.Cursor != nil && !done.Done:
			tx.Put(s.Cursor, append([]byte{cursorVersion}, done.Next...))
		case kept:
			tx.Delete(s.Cursor)
		}
		return nil
	})
	return done, err
}

// cursorVersion is the first byte of a cursor; the next key follows.
const cursorVersion = 1

// begin returns the first key of a step, and whether the cursor says so.
func (s *Sweep) begin(tx *Tx, from []byte) (at []byte, kept bool, err error) {
	at = s.Prefix
	if bytes.Compare(from, at) > 0 {
		at = from
	}
	if s.Cursor == nil {
		return at, false, nil
	}
	value, ok := tx.Get(s.Cursor)
	if !ok {
		return at, false, nil
	}
	if len(value) == 0 || value[0] != cursorVersion {
		return nil, false, fmt.Errorf("sweep's cursor %q: %w", s.Cursor, ErrNewerVersion)
	}
	return value[1:], true, nil
}
