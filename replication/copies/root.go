package copies

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/valise-mail/valise/replication"
)

// Placed says where an upload's blocks are durable. Record writes it into the ledger.
type Placed struct {
	Root      cid.Cid
	Partition uint16
	Copies    []Copy // who acknowledged, this node included where it keeps the blocks

	need   int                // copies that must count when it is recorded
	sites  map[peer.ID]string // of nodes
	epochs map[peer.ID]uint32 // of nodes, read before they were sent a block (T6)
}

// A rootRecord is what the ledger says of one root (P2). Its holders are the row's nodes that are
// Held or Leaving, less Missing, plus Extra.
type rootRecord struct {
	replication.Unknown
	Version   uint64   `cbor:"0,keyasint,omitempty"`
	Partition uint16   `cbor:"1,keyasint,omitempty"`
	Missing   [][]byte `cbor:"2,keyasint,omitempty"` // peer ids
	Extra     [][]byte `cbor:"3,keyasint,omitempty"` // 16 bytes store id, then the peer id
}

func (r *rootRecord) misses(id peer.ID) bool {
	return slices.ContainsFunc(r.Missing, func(b []byte) bool { return string(b) == string(id) })
}

func (r *rootRecord) missing() (out []peer.ID) {
	for _, b := range r.Missing {
		out = append(out, peer.ID(b))
	}
	return out
}

func (r *rootRecord) miss(id peer.ID) {
	if !r.misses(id) {
		r.Missing = append(r.Missing, []byte(id))
	}
}

// found ends the missing of a node; false if it was not.
func (r *rootRecord) found(id peer.ID) bool {
	n := len(r.Missing)
	r.Missing = slices.DeleteFunc(r.Missing, func(b []byte) bool { return string(b) == string(id) })
	return len(r.Missing) < n
}

func (r *rootRecord) addExtra(c Copy) {
	r.Extra = append(r.Extra, append(c.Store[:], c.Node...))
}

func (r *rootRecord) extra() (out []Copy) {
	for _, b := range r.Extra {
		if len(b) > 16 {
			out = append(out, Copy{Node: peer.ID(b[16:]), Store: [16]byte(b)})
		}
	}
	return out
}

func (r *rootRecord) dropExtra(id peer.ID) bool {
	n := len(r.Extra)
	r.Extra = slices.DeleteFunc(r.Extra, func(b []byte) bool { return len(b) > 16 && string(b[16:]) == string(id) })
	return len(r.Extra) < n
}

func getRecord(tx Reader, root cid.Cid) (*rootRecord, error) {
	data, ok := tx.Get(rootKey(root))
	if !ok {
		return nil, ErrNotRecorded
	}
	return decodeRecord(root, data)
}

func decodeRecord(root cid.Cid, data []byte) (*rootRecord, error) {
	var r rootRecord
	if err := replication.Unmarshal(data, &r); err != nil {
		return nil, fmt.Errorf("record of %s: %w", root, err)
	}
	if r.Partition >= Partitions {
		return nil, fmt.Errorf("record of %s: partition %d", root, r.Partition)
	}
	return &r, nil
}

func putRecord(tx ReadWriter, root cid.Cid, r *rootRecord) error {
	data, err := replication.Marshal(r)
	if err != nil {
		return fmt.Errorf("record of %s: %w", root, err)
	}
	tx.Put(rootKey(root), data)
	return nil
}

// Record writes the root's record, inside the transaction that creates what refers to the root: its
// holders are those that acknowledged and no others (P2). If the root is recorded already, that
// record counts and nothing is written; the upload's blocks are garbage where they are not the same.
// A copy whose node has begun two epochs of collection since the upload began does not count; ErrLapsed
// where too few are left (T6).
// It does nothing but read and write tx, so that it may run again.
func (c *Copies) Record(tx ReadWriter, p Placed) error {
	if !p.Root.Defined() || p.Partition >= Partitions || len(p.Copies) == 0 {
		return errors.New("record copies: nothing was placed")
	}
	if _, ok := tx.Get(rootKey(p.Root)); ok {
		return nil
	}
	copies, err := lasting(tx, p)
	if err != nil {
		return fmt.Errorf("record copies of %s: %w", p.Root, err)
	}
	row, _, err := c.tables.row(tx, p.Partition)
	if err != nil {
		return err
	}
	rec := &rootRecord{Partition: p.Partition}
	for _, seat := range row {
		if slices.Contains(copies, seat.Copy) {
			continue
		}
		rec.miss(seat.Node)
		tx.Put(missingKey(seat.Node, p.Root), present) // who is Leaving may get its seat back
	}
	// A leaving seat may end at any moment: its copy counts as extra, which ends by Release alone.
	for _, copy := range copies {
		if seat, ok := seatOf(row, copy.Node); !ok || seat.State != Held || seat.Copy != copy {
			rec.addExtra(copy)
			tx.Put(extraKey(copy.Node, p.Root), present)
		}
	}
	tx.Put(partitionKey(p.Partition, p.Root), present)
	return putRecord(tx, p.Root, rec)
}

// Holders says which members hold a copy of root, as the ledger that tx sees knows it.
// ErrNotRecorded if it knows nothing of the root.
func (c *Copies) Holders(tx Reader, root cid.Cid) ([]peer.ID, error) {
	rec, err := getRecord(tx, root)
	if err != nil {
		return nil, err
	}
	row, _, err := c.tables.row(tx, rec.Partition)
	if err != nil {
		return nil, err
	}
	return holders(rec, row, c.stores()), nil
}

// stores has the members' present stores.
func (c *Copies) stores() map[peer.ID][16]byte {
	out := make(map[peer.ID][16]byte)
	for _, n := range c.cfg.Nodes() {
		out[n.ID] = n.Store
	}
	return out
}

// holders applies P2's rule. A node whose store is another one now holds nothing.
func holders(rec *rootRecord, row []Seat, stores map[peer.ID][16]byte) []peer.ID {
	var out []peer.ID
	add := func(c Copy) {
		if store, ok := stores[c.Node]; ok && store == c.Store && !slices.Contains(out, c.Node) {
			out = append(out, c.Node)
		}
	}
	for _, seat := range row {
		if seat.State != Incoming && !rec.misses(seat.Node) {
			add(seat.Copy)
		}
	}
	for _, copy := range rec.extra() {
		add(copy)
	}
	return out
}

// Release gives up this node's copy of root in the ledger, so that its blocks may be deleted: it
// lists the node as missing and no longer as extra (P2). It fails with ErrWanted while the row has a
// seat for this node, or while a node that has one does not hold the root yet. A root that is not
// recorded needs no leave. Trying again is safe.
func (c *Copies) Release(ctx context.Context, root cid.Cid) error {
	self, stores := c.cfg.Self, c.stores()
	c.acked.remove(root) // before the ledger says so: from here on the keeper looks itself
	err := c.led.Update(ctx, func(tx ledgerTx) error {
		rec, err := getRecord(tx, root)
		if errors.Is(err, ErrNotRecorded) {
			return nil
		}
		if err != nil {
			return err
		}
		row, _, err := c.tables.row(tx, rec.Partition)
		if err != nil {
			return err
		}
		have := holders(rec, row, stores)
		for _, seat := range row {
			if seat.Node == self || seat.wanted() && !slices.Contains(have, seat.Node) {
				return ErrWanted
			}
		}
		rec.miss(self)
		rec.dropExtra(self)
		tx.Delete(extraKey(self, root))
		return putRecord(tx, root, rec)
	})
	c.acked.remove(root) // a push may have come in between
	if err != nil {
		return fmt.Errorf("release %s: %w", root, err)
	}
	return nil
}

// A tableCache saves decoding rows that have not changed.
type tableCache struct {
	mu     sync.Mutex
	groups [tableKeys]struct {
		data []byte
		*group
	}
}

// row reads one row and its group's epoch. Until the leader has written the first table there is
// none: ErrNotDurable.
func (t *tableCache) row(tx Reader, partition uint16) ([]Seat, uint64, error) {
	g, err := t.read(tx, int(partition)/rowsPerKey)
	if err != nil {
		return nil, 0, err
	}
	if g == nil {
		return nil, 0, fmt.Errorf("the ledger has no table of copies yet: %w", ErrNotDurable)
	}
	return g.rows[partition%rowsPerKey], g.epoch, nil
}

// read reads one group, nil where there is none.
func (t *tableCache) read(tx Reader, g int) (*group, error) {
	data, ok := tx.Get(tableKey(g))
	if !ok {
		return nil, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	slot := &t.groups[g]
	if slot.group != nil && bytes.Equal(slot.data, data) {
		return slot.group, nil
	}
	decoded, err := decodeGroup(data)
	if err != nil {
		return nil, fmt.Errorf("table of copies, group %d: %w", g, err)
	}
	slot.data, slot.group = bytes.Clone(data), decoded
	return decoded, nil
}

// table reads all of it.
func (t *tableCache) table(tx Reader) (Table, error) {
	var out Table
	for g := range tableKeys {
		got, err := t.read(tx, g)
		if err != nil {
			return Table{}, err
		}
		if got != nil {
			out.Epochs[g] = got.epoch
			copy(out.Rows[g*rowsPerKey:], got.rows[:])
		}
	}
	return out, nil
}
