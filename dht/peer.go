package dht

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
)

// Class says what a peer is to this cluster. A peer has exactly one class; a
// handler states a set of them, joined with |.
type Class uint8

// The classes. A list may carry others, of a newer version: the gate admits
// nobody under a class it does not know.
const (
	// Member is a full node: ledger, routing, bytes.
	Member Class = 1 << iota
	// BlocksOnly is a node that keeps encrypted blocks and sees nothing else.
	BlocksOnly
	// Federated is a node of another organisation.
	Federated
	// TicketHolder dials under a Ticket's key: it may join, once, and nothing else.
	TicketHolder

	known = Member | BlocksOnly | Federated | TicketHolder
)

var classNames = []struct {
	class Class
	name  string
}{{Member, "member"}, {BlocksOnly, "blocks-only"}, {Federated, "federated"}, {TicketHolder, "ticket"}, {^known, "unknown"}}

// String names the classes of the set, for logs.
func (c Class) String() string {
	var names []string
	for _, n := range classNames {
		if c&n.class != 0 {
			names = append(names, n.name)
		}
	}
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, "|")
}

// single says whether exactly one bit is set.
func (c Class) single() bool { return c != 0 && c&(c-1) == 0 }

// A Peer is one line of the member list.
type Peer struct {
	ID    peer.ID // of an Ed25519 key
	Class Class   // exactly one
	Site  string  // the place it stands at: a label of at most 128 bytes, may be empty
	// Bulk and Ledger are what others dial, per host, at most 16 each, in no
	// order: TCP is tried before QUIC. A TicketHolder has none.
	Bulk, Ledger []multiaddr.Multiaddr
	// Until is when the gate stops admitting the peer, to the second; zero
	// means never. Every TicketHolder has one.
	Until time.Time
}

// Bounds of one line of the list, for what strangers may have written.
const (
	maxSite  = 128
	maxAddrs = 16
	maxAddr  = 256
)

// check says what breaks the rules of the format.
func (p Peer) check() error {
	if err := checkID(p.ID); err != nil {
		return err
	}
	if !p.Class.single() {
		return fmt.Errorf("peer %s: class %v is not exactly one class", p.ID, p.Class)
	}
	if err := checkSite(p.Site); err != nil {
		return fmt.Errorf("peer %s: %w", p.ID, err)
	}
	if p.Class == TicketHolder && p.Until.IsZero() {
		return fmt.Errorf("peer %s: a ticket must have an end", p.ID)
	}
	if !p.Until.IsZero() && p.Until.Unix() <= 0 {
		return fmt.Errorf("peer %s: end %v is out of range", p.ID, p.Until)
	}
	for _, addrs := range [][]multiaddr.Multiaddr{p.Bulk, p.Ledger} {
		if err := checkAddrs(addrs); err != nil {
			return fmt.Errorf("peer %s: %w", p.ID, err)
		}
	}
	return nil
}

// checkID admits the ids of Ed25519 keys only, which contain their key.
func checkID(id peer.ID) error {
	key, err := id.ExtractPublicKey()
	if err != nil {
		return fmt.Errorf("peer id: %w", err)
	}
	if key.Type() != crypto.Ed25519 {
		return fmt.Errorf("peer id %s: not of an Ed25519 key", id)
	}
	if again, err := peer.IDFromPublicKey(key); err != nil || again != id {
		return fmt.Errorf("peer id %s: not in its shortest form", id)
	}
	return nil
}

func checkSite(site string) error {
	if len(site) > maxSite || !utf8.ValidString(site) {
		return fmt.Errorf("site is not a label of at most %d bytes", maxSite)
	}
	return nil
}

func checkAddrs(addrs []multiaddr.Multiaddr) error {
	if len(addrs) > maxAddrs {
		return fmt.Errorf("%d addresses, at most %d", len(addrs), maxAddrs)
	}
	for _, a := range addrs {
		if len(a) == 0 || len(a.Bytes()) > maxAddr {
			return errors.New("an address is empty or too long")
		}
	}
	return nil
}

func packAddrs(addrs []multiaddr.Multiaddr) [][]byte {
	var out [][]byte
	for _, a := range addrs {
		out = append(out, a.Bytes())
	}
	return out
}

func unpackAddrs(raw [][]byte) ([]multiaddr.Multiaddr, error) {
	if len(raw) > maxAddrs {
		return nil, fmt.Errorf("%d addresses, at most %d", len(raw), maxAddrs)
	}
	var out []multiaddr.Multiaddr
	for _, b := range raw {
		if len(b) > maxAddr {
			return nil, errors.New("an address is too long")
		}
		a, err := multiaddr.NewMultiaddrBytes(b)
		if err != nil {
			return nil, fmt.Errorf("address: %w", err)
		}
		out = append(out, a)
	}
	return out, nil
}
