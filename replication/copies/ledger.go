package copies

import (
	"context"
	"iter"

	"github.com/valise-mail/valise/replication"
)

// A scanner reads the ledger's ranges, too. *replication.Tx is one.
type scanner interface {
	Reader
	Scan(from, to []byte) iter.Seq2[[]byte, []byte]
}

// A ledgerTx is what this package asks of a transaction.
type ledgerTx interface {
	ReadWriter
	Scan(from, to []byte) iter.Seq2[[]byte, []byte]
}

// A ledger is what this package asks of the ledger.
type ledger interface {
	View(fn func(tx scanner) error) error
	Update(ctx context.Context, fn func(tx ledgerTx) error) error
	Watch(ctx context.Context, prefix []byte) iter.Seq2[replication.Change, error]
}

// dbLedger is the real one.
type dbLedger struct{ db *replication.DB }

var _ ledgerTx = (*replication.Tx)(nil)

func (l dbLedger) View(fn func(tx scanner) error) error {
	return l.db.View(func(tx *replication.Tx) error { return fn(tx) })
}

func (l dbLedger) Update(ctx context.Context, fn func(tx ledgerTx) error) error {
	return l.db.Update(ctx, func(tx *replication.Tx) error { return fn(tx) })
}

func (l dbLedger) Watch(ctx context.Context, prefix []byte) iter.Seq2[replication.Change, error] {
	return l.db.Watch(ctx, prefix)
}
