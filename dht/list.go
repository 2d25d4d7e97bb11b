package dht

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/libp2p/go-libp2p/core/peer"
)

// A List is the member list (R3): everybody this cluster's gate admits.
type List struct {
	// Number is the ledger's change index of the list, from 1; the higher is
	// the newer.
	Number uint64
	// ClusterID is ClusterID of the key that signs the list.
	ClusterID string
	Peers     []Peer // at most 4,096, no id twice; an opened list is sorted by id
}

var (
	// ErrForeign says that a list or ticket belongs to another cluster.
	ErrForeign = errors.New("belongs to another cluster")
	// ErrBadList says that a signed list is malformed, breaks a rule of its
	// format, or does not carry a good signature.
	ErrBadList = errors.New("not a genuine member list")
	// ErrNewerList says that a list is signed in a format of a newer version of
	// this program.
	ErrNewerList = errors.New("member list has a newer format than this version understands")
)

const (
	listVersion = 1
	maxPeers    = 4096
	maxList     = 4 << 20 // bytes of a signed list
	// listContext separates this signature from all others of the same key.
	listContext = "valise member list 1\x00"
)

// ClusterID returns the name of the cluster whose organisation has this key:
// the first 16 bytes of the key's SHA-256 in lowercase base32, 26 characters.
// Nobody else can sign for that name.
func ClusterID(org ed25519.PublicKey) string {
	sum := sha256.Sum256(org)
	return strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:16]))
}

// signedList is the outer form: a CBOR array of version, body and signature.
// The signature covers listContext and the body's bytes, which are kept as
// they came, so that fields of a later version survive being handed on.
type signedList struct {
	_       struct{} `cbor:",toarray"`
	Version uint64
	Body    []byte
	Sig     []byte
}

type wireList struct {
	Number  uint64     `cbor:"1,keyasint"`
	Cluster string     `cbor:"2,keyasint"`
	Peers   []wirePeer `cbor:"3,keyasint"`
}

type wirePeer struct {
	ID     []byte   `cbor:"1,keyasint"`
	Class  uint8    `cbor:"2,keyasint"`
	Site   string   `cbor:"3,keyasint,omitempty"`
	Bulk   [][]byte `cbor:"4,keyasint,omitempty"`
	Ledger [][]byte `cbor:"5,keyasint,omitempty"`
	Until  int64    `cbor:"6,keyasint,omitempty"` // Unix seconds
}

// SignList returns l, signed with the organisation's key, in the form that is
// stored, served and opened by OpenList. The same peers in any order give the
// same bytes.
func SignList(org ed25519.PrivateKey, l List) ([]byte, error) {
	if want := ClusterID(org.Public().(ed25519.PublicKey)); l.ClusterID != want {
		return nil, fmt.Errorf("sign member list of cluster %q with the key of %s: %w", l.ClusterID, want, ErrForeign)
	}
	w := wireList{Number: l.Number, Cluster: l.ClusterID, Peers: []wirePeer{}}
	for _, p := range l.Peers {
		wp := wirePeer{ID: []byte(p.ID), Class: uint8(p.Class), Site: p.Site, Bulk: packAddrs(p.Bulk), Ledger: packAddrs(p.Ledger)}
		if !p.Until.IsZero() {
			wp.Until = p.Until.Unix()
		}
		if err := p.check(); err != nil {
			return nil, fmt.Errorf("sign member list: %w", err)
		}
		w.Peers = append(w.Peers, wp)
	}
	slices.SortFunc(w.Peers, func(a, b wirePeer) int { return bytes.Compare(a.ID, b.ID) })
	if _, err := w.list(); err != nil {
		return nil, fmt.Errorf("sign member list: %w", err)
	}
	body, err := encode(w)
	if err != nil {
		return nil, fmt.Errorf("sign member list: %w", err)
	}
	signed, err := encode(signedList{Version: listVersion, Body: body, Sig: ed25519.Sign(org, append([]byte(listContext), body...))})
	if err == nil && len(signed) > maxList {
		err = fmt.Errorf("%d bytes, at most %d", len(signed), maxList)
	}
	if err != nil {
		return nil, fmt.Errorf("sign member list: %w", err)
	}
	return signed, nil
}

// OpenList verifies a signed list and returns it. Its errors are ErrBadList,
// ErrForeign and ErrNewerList; none of them goes away by trying again.
func OpenList(org ed25519.PublicKey, signed []byte) (List, error) {
	bad := func(format string, a ...any) (List, error) {
		return List{}, fmt.Errorf("open member list: %w: %w", ErrBadList, fmt.Errorf(format, a...))
	}
	if len(org) != ed25519.PublicKeySize {
		return bad("the organisation's key has %d bytes", len(org))
	}
	if len(signed) > maxList {
		return bad("%d bytes, at most %d", len(signed), maxList)
	}
	var s signedList
	if err := decode(signed, &s); err != nil {
		return bad("%w", err)
	}
	if s.Version > listVersion {
		return List{}, fmt.Errorf("open member list: %w (version %d)", ErrNewerList, s.Version)
	}
	if again, err := encode(s); err != nil || s.Version != listVersion || !bytes.Equal(again, signed) {
		return bad("not in the one form of version %d", listVersion)
	}
	genuine := ed25519.Verify(org, append([]byte(listContext), s.Body...), s.Sig)
	var w wireList
	if err := decode(s.Body, &w); err != nil {
		return bad("%w", err)
	}
	if w.Cluster != ClusterID(org) {
		return List{}, fmt.Errorf("open member list of cluster %q: %w", w.Cluster, ErrForeign)
	}
	if !genuine {
		return bad("the signature is not the organisation's")
	}
	l, err := w.list()
	if err != nil {
		return bad("%w", err)
	}
	return l, nil
}

// list checks the rules of the format.
func (w wireList) list() (List, error) {
	if w.Number == 0 {
		return List{}, errors.New("number 0")
	}
	if len(w.Peers) > maxPeers {
		return List{}, fmt.Errorf("%d peers, at most %d", len(w.Peers), maxPeers)
	}
	l := List{Number: w.Number, ClusterID: w.Cluster}
	for i, wp := range w.Peers {
		if i > 0 && bytes.Compare(w.Peers[i-1].ID, wp.ID) >= 0 {
			return List{}, errors.New("peers are not sorted by id, each once")
		}
		p := Peer{ID: peer.ID(wp.ID), Class: Class(wp.Class), Site: wp.Site}
		if wp.Until != 0 {
			p.Until = time.Unix(wp.Until, 0).UTC()
		}
		var err error
		if p.Bulk, err = unpackAddrs(wp.Bulk); err != nil {
			return List{}, err
		}
		if p.Ledger, err = unpackAddrs(wp.Ledger); err != nil {
			return List{}, err
		}
		if err := p.check(); err != nil {
			return List{}, err
		}
		l.Peers = append(l.Peers, p)
	}
	return l, nil
}

// encode writes core deterministic CBOR (RFC 8949, 4.2.1).
func encode(v any) ([]byte, error) {
	mode, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		return nil, err
	}
	return mode.Marshal(v)
}

// decode reads exactly one CBOR value of a stranger, within bounds.
func decode(data []byte, v any) error {
	mode, err := cbor.DecOptions{
		DupMapKey:        cbor.DupMapKeyEnforcedAPF,
		IndefLength:      cbor.IndefLengthForbidden,
		TagsMd:           cbor.TagsForbidden,
		MaxNestedLevels:  8,
		MaxArrayElements: maxPeers,
		MaxMapPairs:      64,
	}.DecMode()
	if err != nil {
		return err
	}
	return mode.Unmarshal(data, v)
}
