package replication

import "errors"

var (
	// ErrNoQuorum says that no majority was reachable in time and that the change
	// was certainly not proposed. Retry is safe.
	ErrNoQuorum = errors.New("ledger has no quorum")
	// ErrUnknown says that the change was proposed and its outcome was not learned
	// in time: it may have happened. Retry only what may happen twice.
	ErrUnknown = errors.New("ledger outcome unknown")
	// ErrTooLarge says that one Update's reads and writes exceed 1 MiB encoded (L8).
	ErrTooLarge = errors.New("ledger entry too large")
	// ErrTooManyScanned says that one Update scanned more than 1,000 keys (L1).
	ErrTooManyScanned = errors.New("ledger update scanned too many keys")
	// ErrWriteOnce says that a write-once key (first byte 'w') already exists (L8).
	// Nothing of the Update was applied.
	ErrWriteOnce = errors.New("ledger key is write-once")
	// ErrNotCounter says that Add met a value that is not 8 bytes long. Nothing of
	// the Update was applied.
	ErrNotCounter = errors.New("ledger value is no counter")
	// ErrBound says that AddWithin would have left its bounds. Nothing of the Update
	// was applied.
	ErrBound = errors.New("ledger counter would leave its bounds")
	// ErrOldFormat says that an Update used what not every server of the ledger can
	// read yet (L9). It works once all run a newer program.
	ErrOldFormat = errors.New("not every server of the ledger can read that yet")
	// ErrWhole says that Recover found nothing to recover: this node is the only voter.
	ErrWhole = errors.New("this node is the only voter of its ledger: there is nothing to recover")
	// ErrReadOnly says that a View tried to write.
	ErrReadOnly = errors.New("ledger view cannot write")
	// ErrClosed says that the ledger was closed here.
	ErrClosed = errors.New("ledger closed")
	// ErrNoLedger says that Open found no created ledger: a node's key without its
	// log must not start (L10).
	ErrNoLedger = errors.New("no ledger in this folder")
	// ErrExists says that Create found a ledger.
	ErrExists = errors.New("a ledger exists in this folder")
	// ErrNewerVersion says that a record, entry or snapshot must be understood by a
	// newer program than this one (L9).
	ErrNewerVersion = errors.New("written by a newer version")
)
