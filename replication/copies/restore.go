package copies

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/ipfs/go-cid"
)

// What a cluster that is founded anew from a backup needs: its one node has all there is.

// Found writes the first table of a cluster of one node, which holds every row.
func Found(tx ReadWriter, self Node) {
	t := Compute(Table{}, []Node{self}, 1)
	for g := range tableKeys {
		tx.Put(tableKey(g), t.group(g).encode())
	}
}

// Adopt records a root in a cluster that Found began. lacking says that its one node does not have all
// of it: then its keeper goes on looking for it. A root that is recorded stays as it is.
func Adopt(tx ReadWriter, self Node, root cid.Cid, lacking bool) error {
	if _, ok := tx.Get(rootKey(root)); ok {
		return nil
	}
	digest := root.Hash()
	if len(digest) < 4 {
		return fmt.Errorf("adopt %s: %w", root, errors.New("that is no root"))
	}
	rec := &rootRecord{Partition: binary.BigEndian.Uint16(digest[len(digest)-2:]) % Partitions}
	if lacking {
		rec.miss(self.ID)
		tx.Put(missingKey(self.ID, root), present)
	}
	tx.Put(partitionKey(rec.Partition, root), present)
	return putRecord(tx, root, rec)
}

// RecordedRoot reads the root from the key of its record; false for any other key.
func RecordedRoot(key []byte) (cid.Cid, bool) {
	if len(key) <= len(rootPrefix) || string(key[:len(rootPrefix)]) != rootPrefix {
		return cid.Undef, false
	}
	root, err := cid.Cast(append([]byte(nil), key[len(rootPrefix):]...))
	return root, err == nil
}

// Recorded says whether the ledger has a record of a root.
func Recorded(tx Reader, root cid.Cid) bool {
	_, ok := tx.Get(rootKey(root))
	return ok
}
