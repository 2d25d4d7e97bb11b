package replication

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// View runs fn on a consistent snapshot of this node's copy. It needs no leader.
func (db *DB) View(fn func(tx *Tx) error) error {
	if err := db.begin(); err != nil {
		return err
	}
	defer db.ops.Done()
	_, err := db.run(false, fn)
	return err
}

// run runs fn once. An error of the transaction itself comes before fn's.
func (db *DB) run(update bool, fn func(tx *Tx) error) (*Tx, error) {
	st, err := db.states.acquire()
	if err != nil {
		return nil, err
	}
	defer db.states.release(st)
	tx := &Tx{snap: st.pdb.NewSnapshot(), update: update, format: db.machine.active().Format}
	defer func() {
		tx.fail(errTxEnded)
		tx.snap.Close()
	}()
	err = fn(tx)
	if tx.err != nil {
		return tx, &txError{tx.err}
	}
	return tx, err
}

// errTxEnded is what a transaction kept beyond its function meets.
var errTxEnded = errors.New("ledger transaction has ended")

// A txError is the transaction's own failure, not fn's opinion of what it read.
type txError struct{ err error }

func (e *txError) Error() string { return e.err.Error() }
func (e *txError) Unwrap() error { return e.err }

// Update runs fn and applies what it wrote, serializably. fn may run again after a
// conflict, so it touches nothing but tx. On return the change is visible here and
// durable at two sites as far as two are live (L3). An error of fn's own is
// returned as it is, once it is confirmed that fn saw nothing stale. Otherwise:
// ErrNoQuorum (certainly not proposed), ErrUnknown (may have happened), ErrTooLarge,
// ErrTooManyScanned, ErrWriteOnce, ErrNotCounter, ErrBound, ErrOldFormat.
func (db *DB) Update(ctx context.Context, fn func(tx *Tx) error) error {
	if err := db.begin(); err != nil {
		return err
	}
	defer db.ops.Done()
	for try := 0; ; try++ {
		tx, err := db.run(true, fn)
		if _, own := errors.AsType[*txError](err); own || tx == nil {
			return err
		}
		var again bool
		if err != nil || len(tx.writes) == 0 {
			again, err = db.confirmReads(ctx, tx, err)
		} else {
			again, err = db.propose(ctx, tx)
		}
		if !again {
			return err
		}
		db.reruns.Add(1)
		// Rivals that met once should not meet again.
		pause(ctx, rand.N(time.Millisecond<<min(try, 6)))
		if ctx.Err() != nil {
			return fmt.Errorf("update: %w: %w", ErrNoQuorum, ctx.Err())
		}
	}
}

// confirmReads ends an Update that writes nothing: what it read must still hold
// after a read index, or fn runs again.
func (db *DB) confirmReads(ctx context.Context, tx *Tx, result error) (again bool, err error) {
	if len(tx.reads) == 0 && len(tx.ranges) == 0 {
		return false, result
	}
	if err := db.readIndex(ctx); err != nil {
		if result != nil {
			return false, fmt.Errorf("%w (unconfirmed: %v)", err, result)
		}
		return false, err
	}
	st, err := db.states.acquire()
	if err != nil {
		return false, err
	}
	defer db.states.release(st)
	snap := st.pdb.NewSnapshot()
	defer snap.Close()
	p := tx.proposal()
	changed, _, err := readsChanged(snap, p.keys, p.ranges)
	if err != nil || changed {
		return changed && err == nil, err
	}
	return false, result
}

// propose sends one attempt and waits for its outcome.
func (db *DB) propose(ctx context.Context, tx *Tx) (again bool, err error) {
	a, err := db.proposer.submit(tx.proposal())
	if err != nil {
		return false, err
	}
	limit := time.NewTimer(db.c.WriteTimeout)
	defer limit.Stop()
	var o outcome
	select {
	case o = <-a.outcome:
	case <-ctx.Done():
		return false, db.gaveUp(a, ctx.Err())
	case <-db.ctx.Done():
		return false, db.gaveUp(a, ErrClosed)
	case <-limit.C:
		return false, db.gaveUp(a, fmt.Errorf("no answer in %s", db.c.WriteTimeout))
	}
	switch o.verdict {
	case conflicted:
		return true, nil // read from our own applied state, which therefore has the rival
	case writeOnceHit:
		return false, ErrWriteOnce
	case notCounter:
		return false, ErrNotCounter
	case outOfBounds:
		return false, ErrBound
	}
	// It has happened; what is left is that two sites have it.
	select {
	case <-a.durable:
		return false, nil
	case <-ctx.Done():
		err = ctx.Err()
	case <-db.ctx.Done():
		err = ErrClosed
	case <-limit.C:
		err = fmt.Errorf("not durable at two sites in %s", db.c.WriteTimeout)
	}
	return false, db.gaveUp(a, err)
}

// gaveUp says what can be said about an attempt without outcome.
func (db *DB) gaveUp(a *attempt, why error) error {
	if db.proposer.giveUp(a) {
		return fmt.Errorf("update: %w: %w", ErrUnknown, why)
	}
	if errors.Is(why, ErrClosed) {
		return ErrClosed
	}
	return fmt.Errorf("update: %w: %w", ErrNoQuorum, why)
}

// sendGroup gives a group to whoever leads.
func (db *DB) sendGroup(ctx context.Context, group []byte, propose func() bool) sendResult {
	id, err := db.leaderID()
	if err != nil {
		return sendNoLeader
	}
	if id == db.c.ID {
		if !propose() {
			return sendNoLeader
		}
		_, result := db.leader.propose(ctx, group)
		return result
	}
	question := sealFrame(append(frame(askPropose, len(group)), group...))
	status, _, err := db.caller.ask(ctx, id, question, propose)
	switch {
	case errors.Is(err, errNotSent):
		db.caller.dropIdle(id)
		return sendNoLeader
	case err != nil:
		db.caller.dropIdle(id)
		return sendUncertain
	case status == statusOK:
		return sendDurable
	case status == statusNotLeader:
		return sendNoLeader
	}
	return sendUncertain
}
