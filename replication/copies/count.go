package copies

import (
	"iter"

	"github.com/valise-mail/valise/replication"
)

// A Scanner reads ranges of the ledger. *replication.Tx is one.
type Scanner interface {
	Scan(from, to []byte) iter.Seq2[[]byte, []byte]
}

// Count says how many roots the ledger records, and how many copies of them some node still has to
// fetch. It reads one key for each, and keeps none.
func Count(tx Scanner) (roots, missing int) {
	count := func(prefix string) (n int) {
		for range tx.Scan([]byte(prefix), replication.PrefixEnd([]byte(prefix))) {
			n++
		}
		return n
	}
	return count(rootPrefix), count(missingPrefix)
}
