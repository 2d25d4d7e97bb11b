package node

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/valise-mail/valise/authz"
	"github.com/valise-mail/valise/replication"
)

// rotatedKinds are the secrets that begin a new epoch when a node goes (R5).
// The organisation's key stays: the cluster's id is a hash of it.
var rotatedKinds = []string{kindContent, kindMail, kindSigning, kindCookie}

// vouchFor is for how long after a signing key's epoch has ended by the clock
// of the node that ended it a grant of that epoch may say it was made. share
// refuses an ended epoch whatever the clock, so this only bounds how wrong the
// clock of the node that made the grant may have been.
const vouchFor = 24 * time.Hour

// errKeysChanged says that new epochs began while something was sealed or
// signed under the old ones. Doing it again uses the new.
var errKeysChanged = errors.New("the organisation's keys have just changed")

// epochsRecord says which epoch of each kind is in force. Wraps of a later one
// may lie in the ledger already: they count for nothing until it is.
type epochsRecord struct {
	InForce map[string]uint32 `cbor:"1,keyasint"`
	Attempt []byte            `cbor:"2,keyasint,omitempty"` // whose wraps of the next epochs are being written in steps
	replication.Unknown
}

// of is the epoch in force; a ledger that says nothing has the first.
func (r *epochsRecord) of(kind string) uint32 { return max(r.InForce[kind], 1) }

func epochsIn(tx *replication.Tx) (epochsRecord, error) {
	var r epochsRecord
	_, err := get(tx, keyEpochs, &r)
	return r, err
}

// checkEpoch refuses what was made under an epoch that is not in force any more:
// of what a node knows that has gone, nothing new is made.
func checkEpoch(tx *replication.Tx, kind string, epoch uint32) error {
	r, err := epochsIn(tx)
	if err == nil && r.of(kind) != epoch {
		err = fmt.Errorf("%s key %d: %w", kind, epoch, errKeysChanged)
	}
	return err
}

// underNewestKeys runs do again, with the keys loaded anew, when new epochs began meanwhile.
func (n *Node) underNewestKeys(do func() error) error {
	for again := 0; ; again++ {
		err := do()
		if !errors.Is(err, errKeysChanged) || again == 3 {
			return err
		}
		if err := n.ledger.View(n.keys.load); err != nil {
			return err
		}
	}
}

// A rotation is the next epoch of every secret that a node which goes knows.
// Its secrets are made once, before the transaction that puts them in force.
type rotation struct {
	cluster string
	secrets map[string][]byte
	attempt []byte
	// Set once the wraps for all members but the one that goes were written in steps.
	prepared bool
	at       uint64 // change index of the membership they were written for
}

func newRotation(cluster string) *rotation {
	r := &rotation{cluster: cluster, secrets: map[string][]byte{}, attempt: make([]byte, 16)}
	rand.Read(r.attempt)
	for _, kind := range rotatedKinds {
		r.secrets[kind] = make([]byte, 32)
		rand.Read(r.secrets[kind])
	}
	return r
}

// atOnce is how many nodes one transaction wraps new secrets for: four for each
// node, some 200 bytes each, and a scan of as many keys (L1, L8).
const atOnce = 200

// begin puts the next epochs in force, wrapped to the members in rest, and ends the old signing key.
func (r *rotation) begin(tx *replication.Tx, rest []member, now time.Time) error {
	epochs, err := epochsIn(tx)
	if err != nil {
		return err
	}
	if r.prepared && (tx.ChangeIndex(keyVersion) != r.at || !bytes.Equal(epochs.Attempt, r.attempt)) {
		return errMembersChanged
	}
	if !r.prepared {
		if err := r.wrapTo(tx, epochs, rest, now); err != nil {
			return err
		}
	}
	old := epochs.of(kindSigning)
	inForce := map[string]uint32{}
	for kind, epoch := range epochs.InForce {
		inForce[kind] = epoch
	}
	for _, kind := range rotatedKinds {
		inForce[kind] = epochs.of(kind) + 1
	}
	epochs.InForce, epochs.Attempt = inForce, nil
	put(tx, keyEpochs, epochs)
	return r.handOver(tx, old, now)
}

// handOver makes the new signing key known and distrusts the old one: from here
// on its tokens count where a grant has recorded them, so that links issued
// before go on working and whoever keeps the old key can make no other (J4).
func (r *rotation) handOver(tx *replication.Tx, old uint32, now time.Time) error {
	keys, err := authz.SigningKeys(tx)
	if err != nil {
		return err
	}
	for _, k := range keys {
		if k.ID == authz.KeyID(old) && k.DistrustedAfter.IsZero() {
			k.DistrustedAfter = now.Add(vouchFor)
			if err := authz.PutSigningKey(tx, k); err != nil {
				return err
			}
		}
	}
	public := ed25519.NewKeyFromSeed(r.secrets[kindSigning]).Public().(ed25519.PublicKey)
	return authz.PutSigningKey(tx, authz.SigningKey{ID: authz.KeyID(old + 1), Public: public, Created: now})
}

// wrapTo writes the next epochs' wraps for full nodes.
func (r *rotation) wrapTo(tx *replication.Tx, epochs epochsRecord, to []member, now time.Time) error {
	for _, m := range to {
		if !m.full() {
			continue
		}
		for _, kind := range rotatedKinds {
			epoch := epochs.of(kind) + 1
			sealed, err := wrap(r.cluster, kind, epoch, m.ID, m.SealKey, r.secrets[kind])
			if err != nil {
				return err
			}
			put(tx, secretKey(kind, epoch, m.ID), wrappedRecord{Sealed: sealed, Created: now})
		}
	}
	return nil
}

// forget removes what was wrapped to a node that goes.
func forget(tx *replication.Tx, id peer.ID) error {
	epochs, err := epochsIn(tx)
	if err != nil {
		return err
	}
	for _, kind := range kinds {
		for epoch := uint32(1); epoch <= epochs.of(kind); epoch++ {
			tx.Delete(secretKey(kind, epoch, id))
		}
	}
	return nil
}
