package copies

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/valise-mail/valise/replication"
)

const (
	// Partitions is the number of rows of the table (P1). Every root belongs to one for good.
	Partitions = 4096

	rowsPerKey = 256
	tableKeys  = Partitions / rowsPerKey

	tableVersion  = 1
	maxTableNodes = 4 * Partitions // a group of rows cannot name more
	maxRowSeats   = 64
)

// A SeatState says what a node has of a row's roots.
type SeatState uint8

const (
	// Held: every root of the row, but for those whose record lists the node as missing.
	Held SeatState = iota
	// Incoming: nothing, but for the roots whose record lists it as extra. It should have them all,
	// receives uploads, and becomes Held by its own doing.
	Incoming
	// Leaving: as Held, but it is to have no more. It goes when all others have everything.
	Leaving
)

// A Copy is a node together with the id its store had: a wiped node is another Copy.
type Copy struct {
	Node  peer.ID
	Store [16]byte
}

// A Seat is a node's place in a row.
type Seat struct {
	Copy
	State SeatState
}

// wanted says whether the seat's node should have the row's roots.
func (s Seat) wanted() bool { return s.State != Leaving }

// A Table says for each partition which nodes hold it (P1). The zero Table is that of a cluster
// that never had one. Its rows are shared between copies of a Table and never changed.
type Table struct {
	// Epochs has the epoch in which the leader last changed a row of each group of 256 rows.
	Epochs [tableKeys]uint64
	// Rows has each partition's seats, sorted by node. A row has at most one seat of a node.
	Rows [Partitions][]Seat
}

// Epoch counts the leader's changes; 0 is the table of a cluster that never had one.
func (t *Table) Epoch() uint64 { return slices.Max(t.Epochs[:]) }

// seatOf finds a node's seat in a row.
func seatOf(row []Seat, id peer.ID) (Seat, bool) {
	for _, s := range row {
		if s.Node == id {
			return s, true
		}
	}
	return Seat{}, false
}

// A group is what one ledger key holds: 256 rows.
type group struct {
	epoch uint64
	rows  [rowsPerKey][]Seat
}

// group cuts the group with number g out of t.
func (t *Table) group(g int) *group {
	out := &group{epoch: t.Epochs[g]}
	copy(out.rows[:], t.Rows[g*rowsPerKey:])
	return out
}

// encode writes a group:
//
//	version (1) · uvarint epoch · uvarint n · n copies · 256 rows
//	copy = uvarint length · peer id · 16 bytes store id; sorted, each once
//	row  = one byte seats · per seat uvarint (index of copy << 2 | state)
func (g *group) encode() []byte {
	var nodes []Copy
	for _, row := range g.rows {
		for _, s := range row {
			nodes = append(nodes, s.Copy)
		}
	}
	slices.SortFunc(nodes, compareCopies)
	nodes = slices.Compact(nodes)

	out := []byte{tableVersion}
	out = binary.AppendUvarint(out, g.epoch)
	out = binary.AppendUvarint(out, uint64(len(nodes)))
	for _, n := range nodes {
		out = binary.AppendUvarint(out, uint64(len(n.Node)))
		out = append(out, n.Node...)
		out = append(out, n.Store[:]...)
	}
	for _, row := range g.rows {
		out = append(out, byte(len(row)))
		for _, s := range row {
			i, _ := slices.BinarySearchFunc(nodes, s.Copy, compareCopies)
			out = binary.AppendUvarint(out, uint64(i)<<2|uint64(s.State))
		}
	}
	return out
}

func compareCopies(a, b Copy) int {
	return cmp.Or(cmp.Compare(a.Node, b.Node), slices.Compare(a.Store[:], b.Store[:]))
}

var errTable = errors.New("malformed table")

// decodeGroup reads what encode wrote and nothing else.
func decodeGroup(data []byte) (*group, error) {
	if len(data) == 0 {
		return nil, errTable
	}
	if data[0] != tableVersion {
		return nil, fmt.Errorf("table version %d: %w", data[0], replication.ErrNewerVersion)
	}
	d := decoder{rest: data[1:]}
	g := &group{epoch: d.uvarint(1<<63 - 1)}
	nodes := make([]Copy, 0, min(len(data)/16, 64))
	for range d.uvarint(maxTableNodes) {
		var c Copy
		c.Node = peer.ID(d.bytes(int(d.uvarint(maxPeerID))))
		copy(c.Store[:], d.bytes(len(c.Store)))
		if d.bad || len(nodes) > 0 && compareCopies(nodes[len(nodes)-1], c) >= 0 {
			return nil, errTable
		}
		nodes = append(nodes, c)
	}
	for i := range g.rows {
		row, ok := d.row(nodes)
		if !ok {
			return nil, errTable
		}
		g.rows[i] = row
	}
	if d.bad || len(d.rest) > 0 {
		return nil, errTable
	}
	return g, nil
}

// row reads one row; its nodes must ascend.
func (d *decoder) row(nodes []Copy) ([]Seat, bool) {
	n := d.bytes(1)
	if d.bad || n[0] > maxRowSeats {
		return nil, false
	}
	var row []Seat
	for range n[0] {
		v := d.uvarint(maxTableNodes<<2 | 3)
		i, state := v>>2, SeatState(v&3)
		if d.bad || i >= uint64(len(nodes)) || state > Leaving {
			return nil, false
		}
		if len(row) > 0 && row[len(row)-1].Node >= nodes[i].Node {
			return nil, false
		}
		row = append(row, Seat{Copy: nodes[i], State: state})
	}
	return row, true
}

// maxPeerID bounds a peer id in bytes: any key type's multihash fits.
const maxPeerID = 128

// A decoder takes bytes off a slice; bad is set when there are too few or they break a limit.
type decoder struct {
	rest []byte
	bad  bool
}

func (d *decoder) uvarint(limit uint64) uint64 {
	v, n := binary.Uvarint(d.rest)
	if d.bad || n <= 0 || v > limit || n > 1 && d.rest[n-1] == 0 {
		d.bad = true
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

func (d *decoder) bytes(n int) []byte {
	if d.bad || n > len(d.rest) {
		d.bad = true
		return nil
	}
	out := d.rest[:n:n]
	d.rest = d.rest[n:]
	return out
}
