package replication

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
)

type verdict byte

// What became of an attempt.
const (
	applied      verdict = 1
	conflicted   verdict = 2 // index: the entry that got in between
	writeOnceHit verdict = 3
	notCounter   verdict = 4
	outOfBounds  verdict = 5
)

// An outcome is recorded per attempt until its node releases it (L2).
type outcome struct {
	verdict verdict
	index   uint64
}

func (o outcome) encode() []byte {
	return binary.BigEndian.AppendUint64([]byte{byte(o.verdict)}, o.index)
}

func decodeOutcome(b []byte) (outcome, error) {
	if len(b) != 9 {
		return outcome{}, fmt.Errorf("%w: outcome of %d bytes", errCorrupt, len(b))
	}
	return outcome{verdict(b[0]), binary.BigEndian.Uint64(b[1:])}, nil
}

// nodeOutcomes is what the state machine remembers about one proposing node. It
// mirrors keyNode and keyOutcome.
type nodeOutcomes struct {
	incarnation uint64
	released    uint64
	outcomes    map[uint64]outcome
}

// begin brings the record to a group's incarnation and released mark. It reports
// false for a group of an earlier incarnation: nothing of it is ever applied.
func (n *nodeOutcomes) begin(b *pebble.Batch, g *group) (bool, error) {
	if g.incarnation < n.incarnation {
		return false, nil
	}
	changed := false
	if g.incarnation > n.incarnation {
		for seq := range n.outcomes {
			if err := b.Delete(keyOutcome(g.node, seq), nil); err != nil {
				return false, err
			}
		}
		clear(n.outcomes)
		n.incarnation, n.released, changed = g.incarnation, 0, true
	}
	if g.released > n.released {
		if err := n.release(b, g.node, g.released); err != nil {
			return false, err
		}
		changed = true
	}
	if !changed {
		return true, nil
	}
	v := binary.AppendUvarint(binary.AppendUvarint(nil, n.incarnation), n.released)
	return true, b.Set(keyNode(g.node), v, nil)
}

// release forgets the outcomes below mark.
func (n *nodeOutcomes) release(b *pebble.Batch, node string, mark uint64) error {
	forget := func(seq uint64) error {
		delete(n.outcomes, seq)
		return b.Delete(keyOutcome(node, seq), nil)
	}
	if mark-n.released > uint64(len(n.outcomes)) {
		for seq := range n.outcomes {
			if seq < mark {
				if err := forget(seq); err != nil {
					return err
				}
			}
		}
	} else {
		for seq := n.released; seq < mark; seq++ {
			if _, ok := n.outcomes[seq]; ok {
				if err := forget(seq); err != nil {
					return err
				}
			}
		}
	}
	n.released = mark
	return nil
}

func (n *nodeOutcomes) record(b *pebble.Batch, node string, seq uint64, o outcome) error {
	n.outcomes[seq] = o
	return b.Set(keyOutcome(node, seq), o.encode(), nil)
}

// loadOutcomes reads all nodes' outcomes from the state.
func loadOutcomes(r pebble.Reader) (map[string]*nodeOutcomes, error) {
	nodes := make(map[string]*nodeOutcomes)
	err := scanSpace(r, []byte{spaceInternal, 'n'}, func(key, value []byte) error {
		incarnation, n := binary.Uvarint(value)
		released, m := binary.Uvarint(value[max(n, 0):])
		if n <= 0 || m <= 0 {
			return fmt.Errorf("%w: node record", errCorrupt)
		}
		nodes[string(key)] = &nodeOutcomes{incarnation, released, make(map[uint64]outcome)}
		return nil
	})
	if err != nil {
		return nil, err
	}
	err = scanSpace(r, []byte{spaceInternal, 'o'}, func(key, value []byte) error {
		d := decoder{rest: key}
		node := nodes[string(d.bytes())]
		o, err := decodeOutcome(value)
		if node == nil || d.err != nil || len(d.rest) != 8 {
			err = fmt.Errorf("%w: outcome key", errCorrupt)
		}
		if err != nil {
			return err
		}
		node.outcomes[binary.BigEndian.Uint64(d.rest)] = o
		return nil
	})
	return nodes, err
}

// scanSpace calls fn with every key below prefix, cut of it, and its value.
func scanSpace(r pebble.Reader, prefix []byte, fn func(key, value []byte) error) error {
	it, err := r.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: PrefixEnd(prefix)})
	if err != nil {
		return fmt.Errorf("read ledger state: %w", err)
	}
	for ok := it.First(); ok; ok = it.Next() {
		if err := fn(it.Key()[len(prefix):], it.Value()); err != nil {
			return errors.Join(err, it.Close())
		}
	}
	return it.Close()
}
