package replication

import (
	"context"
	"iter"
)

// A DB is this node's copy of the ledger. Its methods may be called concurrently.
type DB struct{}

// Create makes a new empty ledger in c.Dir. With bootstrap it becomes a cluster of
// this one node; without, it waits to be added by a leader. It refuses with
// ErrExists where one exists.
func Create(c Config, bootstrap bool) error { return ErrClosed }

// Open starts the ledger in c.Dir. It refuses with ErrNoLedger where none was
// created (L10). If it returns an error, nothing is left running.
func Open(ctx context.Context, c Config) (*DB, error) { return nil, ErrClosed }

// View runs fn on a consistent snapshot of this node's copy. It needs no leader.
func (db *DB) View(fn func(tx *Tx) error) error { return ErrClosed }

// Update runs fn and applies what it wrote, serializably. fn may run again after a
// conflict, so it touches nothing but tx. On return the change is visible here and
// durable at two sites as far as two are live (L3). An error of fn's own is
// returned as it is. Otherwise: ErrNoQuorum (certainly not proposed), ErrUnknown
// (may have happened), ErrTooLarge, ErrTooManyScanned, ErrWriteOnce, ErrNotCounter.
func (db *DB) Update(ctx context.Context, fn func(tx *Tx) error) error { return ErrClosed }

// Watch yields the present state of prefix, a Synced mark, then changes, coalesced
// per key. After a snapshot install or an overflow it yields Reset and starts over
// (L5). It ends with an error when ctx ends or the ledger closes.
func (db *DB) Watch(ctx context.Context, prefix []byte) iter.Seq2[Change, error] {
	return func(yield func(Change, error) bool) {}
}

// ReadIndex returns nil once everything committed anywhere before the call is
// visible here.
func (db *DB) ReadIndex(ctx context.Context) error { return ErrClosed }

// SetServers says who should be a server of the ledger; whoever leads makes it so.
func (db *DB) SetServers(servers []Server) {}

// Status reports what this node knows about the ledger now.
func (db *DB) Status() Status { return Status{} }

// Fatal yields one error when this copy can no longer be trusted to write (L11);
// the node must stop.
func (db *DB) Fatal() <-chan error { return nil }

// TransferLeadership hands leadership to another voter; nil if this node does not lead.
func (db *DB) TransferLeadership(ctx context.Context) error { return ErrClosed }

// Close stops the ledger. It waits for running Views and Updates.
func (db *DB) Close() error { return nil }
