package node

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/valise-mail/valise/authz"
	"github.com/valise-mail/valise/dht"
	"github.com/valise-mail/valise/replication"
)

// The node's own records in the ledger, under first byte 'n':
//
//	n o                       organisation: what every node must agree on
//	n m <peer id>             member
//	n t <peer id>             ticket, by the peer id its seed gives
//	n v                       bumped by every change of members or tickets; its
//	                          change index numbers the signed list
//	n k <kind> 0 <epoch> <peer id>  a secret, wrapped to one node
//	n e                       which epoch of each kind of secret is in force
//	n u <sending id>          a sending that was taken back before it came to be
var (
	keyOrg     = []byte("no")
	keyVersion = []byte("nv")
	memberKeys = []byte("nm")
	ticketKeys = []byte("nt")
	secretKeys = []byte("nk")
	keyEpochs  = []byte("ne")
	undoneKeys = []byte("nu")
)

// orgRecord is what all nodes share of the configuration.
type orgRecord struct {
	Name        string    `cbor:"1,keyasint"`
	PublicFiles string    `cbor:"2,keyasint,omitempty"`
	PublicApp   string    `cbor:"3,keyasint,omitempty"`
	Created     time.Time `cbor:"4,keyasint"`
	replication.Unknown
}

// memberRecord is one node of the cluster.
type memberRecord struct {
	Name    string    `cbor:"1,keyasint"`
	Site    string    `cbor:"2,keyasint"`
	Class   uint8     `cbor:"3,keyasint"`
	Bulk    [][]byte  `cbor:"4,keyasint"`           // multiaddrs
	Ledger  [][]byte  `cbor:"5,keyasint"`           // multiaddrs
	SealKey []byte    `cbor:"6,keyasint"`           // HPKE public key, X25519
	Store   []byte    `cbor:"7,keyasint,omitempty"` // random id of its block store; empty until it has served once
	Weight  int64     `cbor:"8,keyasint,omitempty"` // bytes its disk may hold; 0: the same as others
	Joined  time.Time `cbor:"9,keyasint"`
	Files   string    `cbor:"10,keyasint,omitempty"` // address of its files face, for status
	Program string    `cbor:"11,keyasint,omitempty"` // version of the program, for rolling upgrades
	Drained bool      `cbor:"12,keyasint,omitempty"` // it is to hold no copies, no vote, no leadership
	// Removal is set while the node is being removed: it is no server of the ledger any more, and its record
	// goes once raft has let it go.
	Removal *removalRecord `cbor:"13,keyasint,omitempty"`
	Sealed  bool           `cbor:"14,keyasint,omitempty"` // its key lies on its disk under a passphrase
	replication.Unknown
}

// removalRecord says how a node is being removed.
type removalRecord struct {
	Asked time.Time `cbor:"1,keyasint"`
	Force bool      `cbor:"2,keyasint,omitempty"` // contents that only it holds are given up
	replication.Unknown
}

// ticketRecord admits a ticket's peer id. It stays until its end, so that a
// joiner whose answer was lost may ask again; JoinedAs then says for whom.
type ticketRecord struct {
	Site     string    `cbor:"1,keyasint"`
	Created  time.Time `cbor:"2,keyasint"`
	Expires  time.Time `cbor:"3,keyasint"`
	JoinedAs []byte    `cbor:"4,keyasint,omitempty"`
	By       []byte    `cbor:"5,keyasint,omitempty"` // peer id of the node that made it
	Replaces []byte    `cbor:"6,keyasint,omitempty"` // peer id of the member that goes when the new one comes
	replication.Unknown
}

// undoneRecord keeps a sending from coming to be.
type undoneRecord struct {
	At time.Time `cbor:"1,keyasint"`
	replication.Unknown
}

// wrappedRecord is one secret, sealed to one node.
type wrappedRecord struct {
	Sealed  []byte    `cbor:"1,keyasint"`
	Created time.Time `cbor:"2,keyasint"`
	replication.Unknown
}

// full says whether the node has the ledger and the organisation's secrets.
func (m *memberRecord) full() bool { return dht.Class(m.Class) == dht.Member }

func memberKey(id peer.ID) []byte { return append(slices.Clone(memberKeys), id...) }
func ticketKey(id peer.ID) []byte { return append(slices.Clone(ticketKeys), id...) }

func secretKey(kind string, epoch uint32, id peer.ID) []byte {
	k := append(slices.Clone(secretKeys), kind...)
	k = append(k, 0)
	k = binary.BigEndian.AppendUint32(k, epoch)
	return append(k, id...)
}

func undoneKey(id authz.SendingID) []byte { return append(slices.Clone(undoneKeys), id...) }

// put stores a record. Encoding our own types cannot fail but by a broken invariant.
func put(tx *replication.Tx, key []byte, record any) {
	data, err := replication.Marshal(record)
	if err != nil {
		panic(fmt.Sprintf("node: encode %T: %v", record, err))
	}
	tx.Put(key, data)
}

// get loads a record; ok is false where there is none.
func get(tx *replication.Tx, key []byte, record any) (ok bool, err error) {
	data, ok := tx.Get(key)
	if !ok {
		return false, nil
	}
	if err := replication.Unmarshal(data, record); err != nil {
		return false, fmt.Errorf("record %q: %w", key, err)
	}
	return true, nil
}

// freshWait is how long somebody waits for news that another node may have.
const freshWait = 2 * time.Second

// viewFresh is View for what was perhaps just made at another node: where this copy has no such thing,
// it is asked again once it has heard of everything committed so far, if that can be had in time.
func (n *Node) viewFresh(ctx context.Context, missing error, fn func(tx *replication.Tx) error) error {
	err := n.ledger.View(fn)
	if !errors.Is(err, missing) {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, freshWait)
	defer cancel()
	if n.ledger.ReadIndex(wait) != nil {
		return err
	}
	return n.ledger.View(fn)
}

// bumpMembers marks that members or tickets changed.
func bumpMembers(tx *replication.Tx) { tx.Put(keyVersion, []byte{1}) }

// A member is a memberRecord under its peer id.
type member struct {
	ID peer.ID
	memberRecord
}

func members(tx *replication.Tx) ([]member, error) {
	var all []member
	for k, v := range tx.Scan(memberKeys, replication.PrefixEnd(memberKeys)) {
		m := member{ID: peer.ID(k[len(memberKeys):])}
		if err := replication.Unmarshal(v, &m.memberRecord); err != nil {
			return nil, fmt.Errorf("member %s: %w", m.ID, err)
		}
		all = append(all, m)
	}
	return all, nil
}

// peerList builds the list that the gate works by. Every full node that has
// applied the same ledger index builds and signs the same bytes.
func peerList(tx *replication.Tx, cluster string) (dht.List, error) {
	l := dht.List{Number: tx.ChangeIndex(keyVersion), ClusterID: cluster}
	all, err := members(tx)
	if err != nil {
		return dht.List{}, err
	}
	known := map[peer.ID]bool{}
	for _, m := range all {
		p := dht.Peer{ID: m.ID, Class: dht.Class(m.Class), Site: m.Site}
		if p.Bulk, err = multiaddrs(m.Bulk); err != nil {
			return dht.List{}, fmt.Errorf("member %s: %w", m.ID, err)
		}
		if p.Ledger, err = multiaddrs(m.Ledger); err != nil {
			return dht.List{}, fmt.Errorf("member %s: %w", m.ID, err)
		}
		known[m.ID] = true
		l.Peers = append(l.Peers, p)
	}
	for k, v := range tx.Scan(ticketKeys, replication.PrefixEnd(ticketKeys)) {
		var t ticketRecord
		if err := replication.Unmarshal(v, &t); err != nil {
			return dht.List{}, fmt.Errorf("ticket: %w", err)
		}
		id := peer.ID(k[len(ticketKeys):])
		if known[id] || len(l.Peers) == maxPeers {
			continue
		}
		l.Peers = append(l.Peers, dht.Peer{ID: id, Class: dht.TicketHolder, Site: t.Site, Until: t.Expires})
	}
	return l, nil
}

// What the list's format allows. Records are checked before they are written:
// a list that cannot be signed would stop every node.
const (
	maxPeers  = 4096
	maxSite   = 64
	maxName   = 100
	maxAddrs  = 16
	maxAddr   = 256
	oldTicket = 24 * time.Hour // how long a ticket's record outlives its end
)

// checkAddrs says whether addresses may stand in a member's record.
func checkAddrs(lanes ...[][]byte) error {
	for _, addrs := range lanes {
		if len(addrs) > maxAddrs {
			return hint(fmt.Errorf("%d addresses, %d are allowed", len(addrs), maxAddrs), "name the ones other nodes should use: advertise in the config")
		}
		for _, a := range addrs {
			if len(a) > maxAddr {
				return fmt.Errorf("an address of %d bytes, %d are allowed", len(a), maxAddr)
			}
		}
		if _, err := multiaddrs(addrs); err != nil {
			return err
		}
	}
	return nil
}

func multiaddrs(raw [][]byte) ([]multiaddr.Multiaddr, error) {
	var all []multiaddr.Multiaddr
	for _, b := range raw {
		a, err := multiaddr.NewMultiaddrBytes(b)
		if err != nil {
			return nil, err
		}
		all = append(all, a)
	}
	return all, nil
}
