package node

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/valise-mail/valise/authz"
	"github.com/valise-mail/valise/node/drive"
	"github.com/valise-mail/valise/replication"
)

// What verifiers, demonstrations and fault tests ask of a running node.

// ID is the node's peer id.
func (n *Node) ID() peer.ID { return n.id.id }

// Holders returns the names of the nodes that hold a copy of the root, as the ledger has it.
func (n *Node) Holders(root string) ([]string, error) {
	c, err := cid.Decode(root)
	if err != nil {
		return nil, err
	}
	var names []string
	err = n.ledger.View(func(tx *replication.Tx) error {
		ids, err := n.copies.Holders(tx, c)
		names = nil
		for _, id := range ids {
			names = append(names, n.roster.label(id))
		}
		return err
	})
	return names, err
}

// Digest returns a hash over every key and value of the ledger after a fresh
// read index, with the index it is of: equal indexes must have equal hashes.
func (n *Node) Digest(ctx context.Context) (index uint64, sum [32]byte, err error) {
	if err := n.ledger.ReadIndex(ctx); err != nil {
		return 0, sum, err
	}
	err = n.ledger.View(func(tx *replication.Tx) error {
		h := sha256.New()
		for k, v := range tx.Scan(nil, nil) {
			for _, part := range [][]byte{k, v} {
				h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(part))))
				h.Write(part)
			}
			h.Write(binary.BigEndian.AppendUint64(nil, tx.ChangeIndex(k)))
		}
		index = tx.Index()
		h.Sum(sum[:0])
		return nil
	})
	return index, sum, err
}

// Disconnect closes every connection to other nodes. With a Reach that says
// no, that is a cut cable.
func (n *Node) Disconnect() {
	for _, m := range n.roster.all() {
		if m.ID != n.id.id {
			n.road.Disconnect(m.ID)
		}
	}
}

// Files lists an account's attachments container, by name.
func (n *Node) Files(account string) ([]drive.File, error) {
	var files []drive.File
	err := n.ledger.View(func(tx *replication.Tx) error {
		for f, err := range drive.List(tx, authz.AccountID(account), drive.Attachments) {
			if err != nil {
				return err
			}
			files = append(files, f)
		}
		return nil
	})
	return files, err
}

// OrganisationKey is the public key that verifies the member list and receipts.
func (n *Node) OrganisationKey() ed25519.PublicKey { return ed25519.PublicKey(n.cluster.OrgKey) }
