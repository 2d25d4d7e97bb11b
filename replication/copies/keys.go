package copies

import (
	"encoding/binary"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
)

// The ledger keys of this room:
//
//	ct ‖ group            group of 256 rows of the table        (table.go)
//	cr ‖ root             record of a root                      (root.go)
//	cp ‖ partition ‖ root 1; which roots a partition has, for whoever has to fetch it whole
//	cm ‖ peer ‖ root      1; what a node has to fetch: it is in the record's missing list and in the row
//	cx ‖ peer ‖ root      1; where the node's copy is extra
//	co ‖ peer             uvarint; the node's epoch of collection (epochs.go)
//
// group is one byte from '0' to '9' and 'a' to 'f', partition two bytes big-endian, root the bytes
// of its CID, peer a length byte and the bytes of its id.
const (
	tablePrefix     = "ct"
	rootPrefix      = "cr"
	partitionPrefix = "cp"
	missingPrefix   = "cm"
	extraPrefix     = "cx"
	epochPrefix     = "co"
)

var present = []byte{1}

func tableKey(g int) []byte { return append([]byte(tablePrefix), "0123456789abcdef"[g]) }

func rootKey(root cid.Cid) []byte { return append([]byte(rootPrefix), root.Bytes()...) }

func partitionKeys(partition uint16) []byte {
	return binary.BigEndian.AppendUint16([]byte(partitionPrefix), partition)
}

func partitionKey(partition uint16, root cid.Cid) []byte {
	return append(partitionKeys(partition), root.Bytes()...)
}

func missingKeys(id peer.ID) []byte {
	return append(append([]byte(missingPrefix), byte(len(id))), id...)
}

func missingKey(id peer.ID, root cid.Cid) []byte { return append(missingKeys(id), root.Bytes()...) }

func extraKeys(id peer.ID) []byte {
	return append(append([]byte(extraPrefix), byte(len(id))), id...)
}

func extraKey(id peer.ID, root cid.Cid) []byte { return append(extraKeys(id), root.Bytes()...) }

func epochKey(id peer.ID) []byte { return append(append([]byte(epochPrefix), byte(len(id))), id...) }
