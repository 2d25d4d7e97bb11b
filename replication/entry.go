package replication

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// A log entry is: version byte, then groups. A group is what one node proposes at
// once; a proposal is one attempt of one Update. DESIGN.md has the layout.
const (
	entryVersion = 1

	// maxProposal bounds one Update's encoding (L8).
	maxProposal = 1 << 20
	// typicalEntry is where collecting proposals into one entry stops (L8).
	typicalEntry = 64 << 10
	// maxEntry bounds what is decoded: a full proposal, a started group, headers.
	maxEntry = maxProposal + typicalEntry + 4096
)

type op byte

// Operations of a write set.
const (
	opPut       op = 1
	opDelete    op = 2
	opAdd       op = 3
	opAddWithin op = 4 // from formatBounded on
)

type write struct {
	op        op
	key       []byte
	value     []byte // opPut
	delta     int64  // opAdd, opAddWithin
	low, high int64  // opAddWithin: bounds of the sum, both included
}

// allows says whether a counter stays within the bounds. It does not wrap around.
func (w *write) allows(base int64) bool {
	sum := base + w.delta
	return (sum > base) == (w.delta > 0) && sum >= w.low && sum <= w.high
}

type readKey struct {
	key   []byte
	index uint64 // change index seen; 0: absent
}

type readRange struct {
	from, to []byte // to nil: no upper end
	count    uint64 // keys seen
	highest  uint64 // highest change index seen
}

// A proposal is one attempt: what was read, what is to be written.
type proposal struct {
	seq    uint64
	keys   []readKey
	ranges []readRange
	writes []write
}

// A group is the proposals one node sends at once. All its sequence numbers below
// released are settled: their outcomes may be forgotten and they are never applied.
type group struct {
	node        string // peer id, raw
	incarnation uint64 // which Open of that node
	released    uint64
	proposals   []proposal
}

var errMalformed = errors.New("malformed ledger entry")

func appendBytes(b, s []byte) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// encodeProposal is done once per attempt; resending sends the same bytes.
func encodeProposal(p *proposal) []byte {
	size := 16
	for i := range p.keys {
		size += len(p.keys[i].key) + 12
	}
	for i := range p.ranges {
		size += len(p.ranges[i].from) + len(p.ranges[i].to) + 24
	}
	for i := range p.writes {
		size += len(p.writes[i].key) + len(p.writes[i].value) + 40
	}
	b := binary.AppendUvarint(make([]byte, 0, size), p.seq)
	b = binary.AppendUvarint(b, uint64(len(p.keys)))
	for _, r := range p.keys {
		b = binary.AppendUvarint(appendBytes(b, r.key), r.index)
	}
	b = binary.AppendUvarint(b, uint64(len(p.ranges)))
	for _, r := range p.ranges {
		b = appendBytes(b, r.from)
		if r.to == nil {
			b = append(b, 0)
		} else {
			b = appendBytes(append(b, 1), r.to)
		}
		b = binary.AppendUvarint(binary.AppendUvarint(b, r.count), r.highest)
	}
	b = binary.AppendUvarint(b, uint64(len(p.writes)))
	for _, w := range p.writes {
		b = appendBytes(append(b, byte(w.op)), w.key)
		switch w.op {
		case opPut:
			b = appendBytes(b, w.value)
		case opAdd:
			b = binary.AppendVarint(b, w.delta)
		case opAddWithin:
			b = binary.AppendVarint(binary.AppendVarint(binary.AppendVarint(b, w.delta), w.low), w.high)
		}
	}
	return b
}

// appendGroup appends a group made of encoded proposals.
func appendGroup(b []byte, node string, incarnation, released uint64, proposals [][]byte) []byte {
	b = appendBytes(b, []byte(node))
	b = binary.AppendUvarint(b, incarnation)
	b = binary.AppendUvarint(b, released)
	b = binary.AppendUvarint(b, uint64(len(proposals)))
	for _, p := range proposals {
		b = append(b, p...)
	}
	return b
}

// entryHeader begins an entry of n groups; n = 0 is the empty entry of L3.
func entryHeader(n int) []byte {
	return binary.AppendUvarint([]byte{entryVersion}, uint64(n))
}

// decodeEntry decodes an entry of groups, by a program that knows formats up to known.
// The result points into data. An unknown version or operation is ErrNewerVersion: the
// replica must stop, not guess (L9).
func decodeEntry(data []byte, known uint64) ([]group, error) {
	if len(data) == 0 || len(data) > maxEntry {
		return nil, fmt.Errorf("%w: %d bytes", errMalformed, len(data))
	}
	if data[0] != entryVersion {
		return nil, fmt.Errorf("ledger entry of version %d: %w", data[0], ErrNewerVersion)
	}
	d := decoder{rest: data[1:], known: known}
	n := d.count(4)
	groups := make([]group, 0, n)
	for range n {
		groups = append(groups, d.group())
	}
	return groups, d.end()
}

// A decoder reads an entry; its first error sticks and empties it.
type decoder struct {
	rest  []byte
	known uint64 // highest format, where operations are read
	err   error
}

func (d *decoder) fail(err error) {
	if d.err == nil {
		d.err = err
	}
	d.rest = nil
}

func (d *decoder) end() error {
	if d.err == nil && len(d.rest) > 0 {
		d.err = fmt.Errorf("%w: %d bytes too many", errMalformed, len(d.rest))
	}
	return d.err
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 {
		d.fail(errMalformed)
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.rest)
	if n <= 0 {
		d.fail(errMalformed)
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

// count reads how many items follow, each at least size bytes long, so that a few
// bytes cannot ask for much memory.
func (d *decoder) count(size int) int {
	n := d.uvarint()
	if n > uint64(len(d.rest)/size) {
		d.fail(errMalformed)
		return 0
	}
	return int(n)
}

func (d *decoder) byte() byte {
	if len(d.rest) == 0 {
		d.fail(errMalformed)
		return 0
	}
	c := d.rest[0]
	d.rest = d.rest[1:]
	return c
}

func (d *decoder) bytes() []byte {
	n := d.count(1)
	s := d.rest[:n:n]
	d.rest = d.rest[n:]
	return s
}

func (d *decoder) group() group {
	g := group{node: string(d.bytes()), incarnation: d.uvarint(), released: d.uvarint()}
	n := d.count(4)
	g.proposals = make([]proposal, 0, n)
	for range n {
		g.proposals = append(g.proposals, d.proposal())
	}
	return g
}

func (d *decoder) proposal() proposal {
	p := proposal{seq: d.uvarint()}
	if n := d.count(2); n > 0 {
		p.keys = make([]readKey, 0, n)
		for range n {
			p.keys = append(p.keys, readKey{key: d.bytes(), index: d.uvarint()})
		}
	}
	if n := d.count(4); n > 0 {
		p.ranges = make([]readRange, 0, n)
		for range n {
			p.ranges = append(p.ranges, d.readRange())
		}
	}
	if n := d.count(2); n > 0 {
		p.writes = make([]write, 0, n)
		for range n {
			p.writes = append(p.writes, d.write())
		}
	}
	return p
}

func (d *decoder) readRange() readRange {
	r := readRange{from: d.bytes()}
	switch d.byte() {
	case 0:
	case 1:
		r.to = d.bytes()
	default:
		d.fail(errMalformed)
	}
	r.count, r.highest = d.uvarint(), d.uvarint()
	return r
}

func (d *decoder) write() write {
	w := write{op: op(d.byte()), key: d.bytes()}
	switch w.op {
	case opPut:
		w.value = d.bytes()
	case opDelete:
	case opAdd:
		w.delta = d.varint()
	case opAddWithin:
		w.delta, w.low, w.high = d.varint(), d.varint(), d.varint()
		if d.known < formatBounded {
			d.fail(fmt.Errorf("ledger operation %d: %w", w.op, ErrNewerVersion))
		}
	default:
		if d.err == nil {
			d.fail(fmt.Errorf("ledger operation %d: %w", w.op, ErrNewerVersion))
		}
	}
	return w
}
