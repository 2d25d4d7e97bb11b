package replication

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"sync"
)

// A lineage says which of a cluster's recoveries a ledger comes from: how many there
// were, and, since two might have been made apart, which. The zero lineage was never
// recovered. They are ordered; where two meet, only the higher goes on (L10).
type lineage struct {
	number uint64
	id     string // 16 random bytes
}

func (l lineage) compare(o lineage) int {
	return cmp.Or(cmp.Compare(l.number, o.number), bytes.Compare([]byte(l.id), []byte(o.id)))
}

// lineageRecord is the content of entryRecovered and the value of keyLineage.
type lineageRecord struct {
	Number uint64 `cbor:"1,keyasint"`
	ID     []byte `cbor:"2,keyasint"`
}

func (l lineage) record() lineageRecord  { return lineageRecord{l.number, []byte(l.id)} }
func (r lineageRecord) lineage() lineage { return lineage{r.Number, string(r.ID)} }

// A RecoveredError says that the cluster was recovered without this node: what this
// copy holds beyond it is no part of the cluster any more. The node must join anew.
type RecoveredError struct {
	Number uint64 // recoveries of the cluster
	Here   uint64 // recoveries this copy has seen
}

func (e *RecoveredError) Error() string {
	return fmt.Sprintf("the cluster was recovered without this node (recovery %d, this copy is of recovery %d): join it anew",
		e.Number, e.Here)
}

// Stable values about lineages.
const (
	keyLineageHere = "valise-lineage" // the lineage of this copy: a lineageRecord
	keyLeftBehind  = "valise-left"    // the lineage that went on without it, likewise
)

// kinship is the lineage of this copy, kept beside raft's log: raft must not hear of a
// node of another before anything is applied.
type kinship struct {
	log   *logStore
	fresh func() bool // nothing is in this copy yet: it may become of any lineage

	mu   sync.Mutex
	here lineage
}

// openKinship reads this copy's lineage: what the state shows or what was noted before.
func openKinship(log *logStore, shown lineage, fresh func() bool) (*kinship, error) {
	k := &kinship{log: log, fresh: fresh, here: shown}
	noted, err := log.getLineage(keyLineageHere)
	if err == nil && noted.compare(shown) > 0 {
		k.here = noted
	}
	return k, err
}

// leftBehind returns a RecoveredError where this copy was met by a later lineage.
func (k *kinship) leftBehind() error {
	later, err := k.log.getLineage(keyLeftBehind)
	if err == nil && later.compare(k.here) > 0 {
		err = &RecoveredError{later.number, k.here.number}
	}
	return err
}

func (k *kinship) lineage() lineage {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.here
}

// errOtherLineage is what a stream of an earlier lineage is refused with.
var errOtherLineage = errors.New("peer's ledger is from before the cluster was recovered")

// meet compares with a peer's lineage. A fresh copy becomes of a later one, durably
// before it answers; any other copy is left behind by it, and remembers that.
func (k *kinship) meet(theirs lineage, fresh bool) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	order := theirs.compare(k.here)
	switch {
	case order == 0, order < 0 && fresh:
		return nil
	case order < 0:
		return errOtherLineage
	case k.fresh():
		k.log.setLineage(keyLineageHere, theirs)
		k.here = theirs
		return nil
	}
	k.log.setLineage(keyLeftBehind, theirs)
	return &RecoveredError{theirs.number, k.here.number}
}

func (s *logStore) getLineage(key string) (lineage, error) {
	stored, err := s.Get([]byte(key))
	if errors.Is(err, errStableMissing) {
		return lineage{}, nil
	}
	var rec lineageRecord
	if err == nil {
		err = Unmarshal(stored, &rec)
	}
	if err != nil {
		return lineage{}, fmt.Errorf("read ledger %s: %w", key, err)
	}
	return rec.lineage(), nil
}

// setLineage is durable on return.
func (s *logStore) setLineage(key string, l lineage) {
	s.Set([]byte(key), must(Marshal(l.record())))
}
