package dht

import (
	"crypto/ed25519"
	"errors"
)

// A List is the member list (R3): everybody this cluster's gate admits.
type List struct {
	// Number is the ledger's change index of the list; the higher is the newer.
	Number uint64
	// ClusterID is ClusterID of the key that signs the list.
	ClusterID string
	Peers     []Peer
}

var (
	// ErrForeign says that a list or ticket belongs to another cluster.
	ErrForeign = errors.New("belongs to another cluster")
	// ErrBadList says that a signed list is malformed, breaks a rule of its
	// format, or does not carry a good signature.
	ErrBadList = errors.New("not a genuine member list")
)

// SignList returns l, signed with the organisation's key, in the form that is
// stored, served and opened by OpenList. The same list gives the same bytes.
func SignList(org ed25519.PrivateKey, l List) ([]byte, error) { return nil, errors.ErrUnsupported }

// OpenList verifies a signed list and returns it. Its errors are ErrBadList
// and ErrForeign.
func OpenList(org ed25519.PublicKey, signed []byte) (List, error) {
	return List{}, errors.ErrUnsupported
}

// ClusterID returns the name of the cluster whose organisation has this key.
func ClusterID(org ed25519.PublicKey) string { return "" }
