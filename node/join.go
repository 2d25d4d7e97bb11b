package node

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/fxamacker/cbor/v2"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/valise-mail/valise/dht"
	"github.com/valise-mail/valise/replication"
)

const (
	joinProtocol = "join/1"
	joinVersion  = 1
	joinTimeout  = 30 * time.Second
	maxJoinFrame = 1 << 20
	listName     = "joined.list" // the signed list that came with the answer, until the road has a newer one
)

// joinChallenge opens the exchange: the joiner's proof answers this nonce.
type joinChallenge struct {
	Version int    `cbor:"1,keyasint"`
	Nonce   []byte `cbor:"2,keyasint"`
}

// joinRequest presents the joiner's own key. Proof signs everything else.
type joinRequest struct {
	Version int      `cbor:"1,keyasint"`
	Key     []byte   `cbor:"2,keyasint"` // Ed25519 public key
	Name    string   `cbor:"3,keyasint"`
	SealKey []byte   `cbor:"4,keyasint"` // HPKE public key, X25519
	Program string   `cbor:"5,keyasint"`
	Proof   []byte   `cbor:"6,keyasint"`
	Bulk    [][]byte `cbor:"7,keyasint"` // multiaddrs: the leader must reach it before it has a ledger
	Ledger  [][]byte `cbor:"8,keyasint"`
}

// joinAnswer is what the joiner starts from, or why it may not.
type joinAnswer struct {
	Version      int    `cbor:"1,keyasint"`
	Refused      string `cbor:"2,keyasint,omitempty"`
	Hint         string `cbor:"3,keyasint,omitempty"`
	List         []byte `cbor:"4,keyasint,omitempty"` // signed
	Organisation string `cbor:"5,keyasint,omitempty"`
	Site         string `cbor:"6,keyasint,omitempty"`
	PublicFiles  string `cbor:"7,keyasint,omitempty"`
	PublicApp    string `cbor:"8,keyasint,omitempty"`
}

func (r joinRequest) signed(cluster string, ticket peer.ID, nonce []byte) []byte {
	r.Proof = nil
	h := sha256.New()
	for _, part := range [][]byte{[]byte("valise join 1"), []byte(cluster), []byte(ticket), nonce, mustCBOR(r)} {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(part))))
		h.Write(part)
	}
	return h.Sum(nil)
}

// Join makes c.Dir the folder of a new node of the cluster that issued the
// ticket. c says where to listen; organisation, site and public names come
// with the answer. The node's key is saved before the ticket is used, so a
// join that was cut off can be repeated with the same ticket and folder.
func Join(ctx context.Context, c Config, ticket string) (Config, error) {
	t, err := dht.ParseTicket(ticket)
	if err != nil {
		return c, fmt.Errorf("ticket: %w", err) // the road gives the advice
	}
	fs, err := c.freshDir()
	if err != nil {
		return c, err
	}
	id, err := c.loadIdentity(ctx, fs)
	if errors.Is(err, errNotExist) {
		if id, err = newIdentity(); err == nil {
			err = c.saveIdentity(fs, id)
		}
	}
	if err != nil {
		return c, err
	}
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	answer, err := c.askToJoin(ctx, t, id)
	if err != nil {
		return c, err
	}
	if _, err := dht.OpenList(t.OrgKey, answer.List); err != nil {
		return c, fmt.Errorf("member list from %s: %w", t.Inviter, err)
	}
	c.Organisation, c.Site = answer.Organisation, answer.Site
	c.Public.Files, c.Public.App = answer.PublicFiles, answer.PublicApp
	if err := c.Validate(); err != nil {
		return c, err
	}
	return c, c.saveJoined(fs, t, id, answer.List)
}

func (c *Config) saveJoined(fs vfs.FS, t dht.Ticket, id *identity, list []byte) error {
	if err := c.save(fs); err != nil {
		return err
	}
	if err := writeFile(fs, fs.PathJoin(c.Dir, listName), list); err != nil {
		return err
	}
	lc := replication.Config{Dir: fs.PathJoin(c.Dir, ledgerDir), FS: fs, ID: id.id, Site: c.Site, Lane: nowhere{}, Logger: c.log()}
	if err := replication.Create(lc, false); err != nil {
		return err
	}
	return clusterFile{Version: 1, Cluster: t.ClusterID, Organisation: c.Organisation, OrgKey: t.OrgKey, Node: id.id.String()}.save(fs, c.Dir)
}

func (c *Config) askToJoin(ctx context.Context, t dht.Ticket, id *identity) (joinAnswer, error) {
	var a joinAnswer
	bulk, ledger, err := c.planned()
	if err != nil {
		return a, err
	}
	if onLoopback(bulk) && !allLoopback(t.Addrs) {
		return a, hint(errors.New("this node would only be reachable on its own machine, and the cluster is elsewhere"),
			"say how the other nodes reach it: --advertise node2.example.org")
	}
	s, host, err := dht.DialTicket(ctx, t)
	if err != nil {
		err = fmt.Errorf("reach the inviting node: %w", err)
		if Hint(err) != "" { // the road knows better what is wrong
			return a, err
		}
		return a, hint(err,
			"the node that printed the ticket must be running and reachable at the address in it (advertise in its config); tickets work once and for one hour")
	}
	defer host.Close()
	defer s.Reset()
	deadline, _ := ctx.Deadline()
	if err := s.SetDeadline(deadline); err != nil {
		return a, err
	}
	var ch joinChallenge
	if err := readFrame(s, &ch); err != nil {
		return a, fmt.Errorf("join: %w", err)
	}
	if ch.Version != joinVersion {
		return a, hint(fmt.Errorf("the inviting node speaks join version %d, this one %d", ch.Version, joinVersion), "use the same version of valise")
	}
	r := joinRequest{
		Version: joinVersion, Key: id.key.Public().(ed25519.PublicKey), Name: c.name(), SealKey: id.seal.PublicKey().Bytes(),
		Program: Version, Bulk: bulk, Ledger: ledger,
	}
	r.Proof = ed25519.Sign(id.key, r.signed(t.ClusterID, t.PeerID(), ch.Nonce))
	if err := writeFrame(s, r); err != nil {
		return a, fmt.Errorf("join: %w", err)
	}
	if err := readFrame(s, &a); err != nil {
		return a, hint(fmt.Errorf("join: no answer: %w", err), "run the same command again: the ticket still works for this folder")
	}
	if a.Refused != "" {
		return a, hint(fmt.Errorf("join refused: %s", a.Refused), a.Hint)
	}
	return a, nil
}

// serveJoin is the inviter's side, on a connection of class ticket.
func (n *Node) serveJoin(s network.Stream) {
	defer s.Close()
	ctx, cancel := context.WithTimeout(n.ctx, joinTimeout)
	defer cancel()
	_ = s.SetDeadline(time.Now().Add(joinTimeout))
	ticket := s.Conn().RemotePeer()
	nonce := make([]byte, 32)
	rand.Read(nonce)
	if err := writeFrame(s, joinChallenge{Version: joinVersion, Nonce: nonce}); err != nil {
		return
	}
	var r joinRequest
	if err := readFrame(s, &r); err != nil {
		n.log.WarnContext(ctx, "join request broke off", "err", err)
		return
	}
	a, err := n.admit(ctx, ticket, nonce, r)
	if err != nil {
		n.log.WarnContext(ctx, "join refused", "ticket", ticket, "err", err)
		a = joinAnswer{Refused: err.Error(), Hint: Hint(err)}
	}
	a.Version = joinVersion
	if err := writeFrame(s, a); err != nil {
		n.log.WarnContext(ctx, "join answer not delivered", "err", err)
	}
}

// admit burns the ticket and admits the joiner's own key in one transaction;
// only after its commit does anything leave. The same key may ask again with
// the same ticket; another key may not.
func (n *Node) admit(ctx context.Context, ticket peer.ID, nonce []byte, r joinRequest) (joinAnswer, error) {
	if r.Version != joinVersion {
		return joinAnswer{}, fmt.Errorf("join version %d is not known here", r.Version)
	}
	if len(r.Key) != ed25519.PublicKeySize || !ed25519.Verify(r.Key, r.signed(n.cluster.Cluster, ticket, nonce), r.Proof) {
		return joinAnswer{}, errors.New("the new node did not prove its key")
	}
	if len(r.Name) > maxName || len(r.Program) > maxName {
		return joinAnswer{}, errors.New("the request is too long")
	}
	if err := checkAddrs(r.Bulk, r.Ledger); err != nil {
		return joinAnswer{}, err
	}
	pub, err := crypto.UnmarshalEd25519PublicKey(r.Key)
	if err != nil {
		return joinAnswer{}, err
	}
	id, err := peer.IDFromPublicKey(pub)
	if err != nil {
		return joinAnswer{}, err
	}
	if id == ticket {
		return joinAnswer{}, errors.New("a ticket's key cannot be a node's key")
	}
	var a joinAnswer
	err = n.underNewestKeys(func() error {
		a, err = n.admitKey(ctx, ticket, id, r)
		return err
	})
	if errors.Is(err, replication.ErrNoQuorum) || errors.Is(err, replication.ErrUnknown) {
		return joinAnswer{}, hint(err, "the cluster cannot decide now: run the same command again when a majority of its nodes is up; the ticket still works for this folder")
	}
	if err != nil {
		return joinAnswer{}, err
	}
	var list dht.List
	if err := n.ledger.View(func(tx *replication.Tx) (err error) {
		list, err = peerList(tx, n.cluster.Cluster)
		return err
	}); err != nil {
		return joinAnswer{}, err
	}
	a.List, err = n.signList(list)
	n.log.InfoContext(ctx, "node admitted", "peer", id, "site", a.Site, "name", r.Name)
	return a, err
}

// admitKey is the transaction of a join. With a ticket that replaces a member,
// that one goes in the same: the new node learns the new epochs, too.
func (n *Node) admitKey(ctx context.Context, ticket, id peer.ID, r joinRequest) (a joinAnswer, err error) {
	now := n.cfg.now()
	wrapped, newest, err := n.keys.wrapAll(id, r.SealKey, now)
	if err != nil {
		return joinAnswer{}, err
	}
	next := newRotation(n.cluster.Cluster)
	err = n.ledger.Update(ctx, func(tx *replication.Tx) error {
		site, replaces, err := burnTicket(tx, ticket, id, now)
		if err != nil {
			return err
		}
		for _, kind := range kinds {
			if err := checkEpoch(tx, kind, newest[kind]); err != nil {
				return err
			}
		}
		var org orgRecord
		if _, err := get(tx, keyOrg, &org); err != nil {
			return err
		}
		a = joinAnswer{Organisation: org.Name, Site: site, PublicFiles: org.PublicFiles, PublicApp: org.PublicApp}
		var known memberRecord
		ok, err := get(tx, memberKey(id), &known)
		if err != nil {
			return err
		}
		if ok { // it asks again, perhaps because it listens elsewhere now
			known.Name, known.Bulk, known.Ledger = r.Name, r.Bulk, r.Ledger
			put(tx, memberKey(id), known)
			bumpMembers(tx)
			return nil
		}
		put(tx, memberKey(id), memberRecord{
			Name: r.Name, Site: site, Class: uint8(dht.Member), SealKey: r.SealKey, Joined: now, Program: r.Program,
			Bulk: r.Bulk, Ledger: r.Ledger,
		})
		for key, w := range wrapped {
			put(tx, []byte(key), w)
		}
		bumpMembers(tx)
		if replaces == "" {
			return nil
		}
		return n.replaceMember(tx, next, replaces, now)
	})
	return a, err
}

// replaceMember takes a member out for the one that has just come. Where new
// keys for everybody do not fit in here, whoever leads goes on.
func (n *Node) replaceMember(tx *replication.Tx, next *rotation, id peer.ID, now time.Time) error {
	var old memberRecord
	ok, err := get(tx, memberKey(id), &old)
	if err != nil || !ok {
		return err
	}
	if len(n.roster.all()) <= n.wrapAtOnce {
		return dropMember(tx, next, id, now)
	}
	old.Removal = &removalRecord{Asked: now, Force: true}
	put(tx, memberKey(id), old)
	return nil
}

// burnTicket uses a ticket for the joiner. Whoever joined with it and was
// removed since does not come back by it: the ticket and the member's record
// were written together.
func burnTicket(tx *replication.Tx, ticket, joiner peer.ID, now time.Time) (site string, replaces peer.ID, err error) {
	var t ticketRecord
	ok, err := get(tx, ticketKey(ticket), &t)
	if err != nil {
		return "", "", err
	}
	_, there := tx.Get(memberKey(joiner))
	switch {
	case !ok:
		return "", "", hint(errors.New("the ticket is not known"), `it was cancelled; "valise cluster invite" makes a new one`)
	case t.JoinedAs != nil && (peer.ID(t.JoinedAs) != joiner || !there):
		return "", "", hint(errors.New("the ticket was used already"), `"valise cluster invite" makes a new one`)
	case now.After(t.Expires):
		return "", "", hint(errors.New("the ticket has expired"), `"valise cluster invite" makes a new one`)
	}
	if t.JoinedAs == nil {
		t.JoinedAs = slices.Clone([]byte(joiner))
		put(tx, ticketKey(ticket), t)
		bumpMembers(tx)
	}
	return t.Site, peer.ID(t.Replaces), nil
}

// Frames of the join exchange: 4 bytes of length, then CBOR.
func writeFrame(w io.Writer, v any) error {
	data := mustCBOR(v)
	_, err := w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(data))), data...))
	return err
}

func readFrame(r io.Reader, v any) error {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > maxJoinFrame {
		return fmt.Errorf("frame of %d bytes", n)
	}
	data := make([]byte, n)
	if _, err := io.ReadFull(r, data); err != nil {
		return err
	}
	return cbor.Unmarshal(data, v)
}

func mustCBOR(v any) []byte {
	data, err := cbor.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("node: encode %T: %v", v, err))
	}
	return data
}
