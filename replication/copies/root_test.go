package copies

import (
	"encoding/hex"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/valise-mail/valise/replication"
)

var update = flag.Bool("update", false, "write golden files")

// golden compares bytes with a file of hexadecimal lines.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	var text strings.Builder
	for line := range slices.Chunk(got, 32) {
		text.WriteString(hex.EncodeToString(line) + "\n")
	}
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(text.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), text.String()); diff != "" {
		t.Errorf("%s: the format changed: %s", name, diff)
	}
}

func testRoot(n byte) cid.Cid { return blockOf([]byte{n}, cid.DagCBOR).Cid() }

func nodeCopy(n Node) Copy { return Copy{n.ID, n.Store} }

// rowOf puts one row into a transaction as the table's row 5.
func rowOf(t *testing.T, tx ReadWriter, seats ...Seat) {
	t.Helper()
	var table Table
	table.Epochs[0] = 1
	table.Rows[5] = seats
	tx.Put(tableKey(0), table.group(0).encode())
}

func TestP2_Record(t *testing.T) {
	t.Parallel()
	nodes := testNodes("a", "b", "c", "d")
	a, b, c, d := nodeCopy(nodes[0]), nodeCopy(nodes[1]), nodeCopy(nodes[2]), nodeCopy(nodes[3])
	wiped := b
	wiped.Store[5] = 9
	for name, tc := range map[string]struct {
		row     []Seat
		acks    []Copy
		missing []peer.ID
		told    []peer.ID // who gets it on the list of what to fetch
		extra   []Copy
		holders []peer.ID
	}{
		"all acknowledged":       {[]Seat{{a, Held}, {b, Held}}, []Copy{a, b}, nil, nil, nil, []peer.ID{a.Node, b.Node}},
		"one did not":            {[]Seat{{a, Held}, {b, Held}, {c, Held}}, []Copy{c, a}, []peer.ID{b.Node}, []peer.ID{b.Node}, nil, []peer.ID{a.Node, c.Node}},
		"incoming acknowledged":  {[]Seat{{a, Held}, {b, Incoming}}, []Copy{a, b}, nil, nil, []Copy{b}, []peer.ID{a.Node, b.Node}},
		"incoming did not":       {[]Seat{{a, Held}, {b, Incoming}}, []Copy{a}, []peer.ID{b.Node}, []peer.ID{b.Node}, nil, []peer.ID{a.Node}},
		"leaving did not":        {[]Seat{{a, Held}, {b, Leaving}, {c, Incoming}}, []Copy{a, c}, []peer.ID{b.Node}, []peer.ID{b.Node}, []Copy{c}, []peer.ID{a.Node, c.Node}},
		"leaving acknowledged":   {[]Seat{{a, Held}, {b, Leaving}, {c, Incoming}}, []Copy{a, b}, []peer.ID{c.Node}, []peer.ID{c.Node}, []Copy{b}, []peer.ID{a.Node, b.Node}},
		"outside the row":        {[]Seat{{a, Held}, {b, Held}}, []Copy{a, d}, []peer.ID{b.Node}, []peer.ID{b.Node}, []Copy{d}, []peer.ID{a.Node, d.Node}},
		"wiped since the table":  {[]Seat{{a, Held}, {wiped, Held}}, []Copy{a, b}, []peer.ID{b.Node}, []peer.ID{b.Node}, []Copy{b}, []peer.ID{a.Node, b.Node}},
		"wiped after its answer": {[]Seat{{a, Held}, {b, Held}}, []Copy{a, wiped}, []peer.ID{b.Node}, []peer.ID{b.Node}, []Copy{wiped}, []peer.ID{a.Node}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &Copies{cfg: Config{Nodes: func() []Node { return nodes }}}
			tx := memTx{make(map[string][]byte)}
			rowOf(t, tx, tc.row...)
			placed := Placed{Root: testRoot(1), Partition: 5, Copies: tc.acks}
			if err := s.Record(tx, placed); err != nil {
				t.Fatal(err)
			}
			rec, err := getRecord(tx, placed.Root)
			if err != nil {
				t.Fatal(err)
			}
			var missing, told []peer.ID
			for _, n := range nodes {
				if rec.misses(n.ID) {
					missing = append(missing, n.ID)
				}
				if _, ok := tx.Get(missingKey(n.ID, placed.Root)); ok {
					told = append(told, n.ID)
				}
			}
			got := []any{missing, told, rec.extra(), len(rec.Missing)}
			want := []any{tc.missing, tc.told, tc.extra, len(tc.missing)}
			if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
				t.Error(diff)
			}
			holders, err := s.Holders(tx, placed.Root)
			slices.Sort(holders)
			if diff := cmp.Diff(tc.holders, holders); diff != "" || err != nil {
				t.Error(diff, err)
			}
			if _, ok := tx.Get(partitionKey(5, placed.Root)); !ok {
				t.Error("the partition does not list it")
			}
		})
	}
}

func TestP2_FirstRecordCounts(t *testing.T) {
	t.Parallel()
	nodes := testNodes("a", "b")
	a, b := nodeCopy(nodes[0]), nodeCopy(nodes[1])
	s := &Copies{cfg: Config{Nodes: func() []Node { return nodes }}}
	tx := memTx{make(map[string][]byte)}
	rowOf(t, tx, Seat{a, Held}, Seat{b, Held})
	first := Placed{Root: testRoot(1), Partition: 5, Copies: []Copy{a, b}}
	if err := s.Record(tx, first); err != nil {
		t.Fatal(err)
	}
	before := len(tx.data)
	again := Placed{Root: testRoot(1), Partition: 6, Copies: []Copy{a}}
	if err := s.Record(tx, again); err != nil {
		t.Fatal(err)
	}
	rec, err := getRecord(tx, first.Root)
	if err != nil || rec.Partition != 5 || len(rec.Missing) != 0 || len(tx.data) != before {
		t.Errorf("got %+v, %v, %d keys of %d", rec, err, len(tx.data), before)
	}
}

func TestP2_RecordRefusesNothing(t *testing.T) {
	t.Parallel()
	s := &Copies{cfg: Config{Nodes: func() []Node { return nil }}}
	tx := memTx{make(map[string][]byte)}
	rowOf(t, tx, Seat{nodeCopy(testNode(0, "a", 1)), Held})
	for _, p := range []Placed{
		{},
		{Root: testRoot(1), Partition: 5},
		{Root: testRoot(1), Partition: Partitions, Copies: []Copy{{}}},
	} {
		if err := s.Record(tx, p); err == nil {
			t.Errorf("recorded %+v", p)
		}
	}
	if _, err := s.Holders(tx, testRoot(1)); !errors.Is(err, ErrNotRecorded) {
		t.Errorf("got %v", err)
	}
}

func TestL9_RootRecordFormat(t *testing.T) {
	t.Parallel()
	rec := &rootRecord{Partition: 4095}
	rec.miss("node-one")
	rec.miss("node-one")
	rec.addExtra(Copy{"node-two", [16]byte{1, 2, 3}})
	tx := memTx{make(map[string][]byte)}
	if err := putRecord(tx, testRoot(1), rec); err != nil {
		t.Fatal(err)
	}
	data, _ := tx.Get(rootKey(testRoot(1)))
	golden(t, "root.v1", data)
	if got, err := getRecord(tx, testRoot(1)); err != nil || !cmp.Equal(got, rec, cmpopts.IgnoreFields(rootRecord{}, "Unknown")) {
		t.Errorf("got %+v, %v", got, err)
	}
	// A field of a later version survives a change by this one.
	later, err := replication.Marshal(struct {
		Partition uint16   `cbor:"1,keyasint"`
		Missing   [][]byte `cbor:"2,keyasint"`
		New       string   `cbor:"9,keyasint"`
	}{7, [][]byte{[]byte("me")}, "later"})
	if err != nil {
		t.Fatal(err)
	}
	tx.Put(rootKey(testRoot(1)), later)
	if err := found(tx, "me", testRoot(1)); err != nil {
		t.Fatal(err)
	}
	data, _ = tx.Get(rootKey(testRoot(1)))
	var got struct {
		Missing [][]byte `cbor:"2,keyasint"`
		New     string   `cbor:"9,keyasint"`
	}
	if err := replication.Unmarshal(data, &got); err != nil || got.New != "later" || len(got.Missing) != 0 {
		t.Errorf("got %+v, %v", got, err)
	}
	tx.Put(rootKey(testRoot(1)), []byte{0xa1, 0x00, 0x01}) // must-understand version 1
	if _, err := getRecord(tx, testRoot(1)); !errors.Is(err, replication.ErrNewerVersion) {
		t.Errorf("got %v", err)
	}
}

func TestL9_TableFormat(t *testing.T) {
	t.Parallel()
	nodes := testNodes("a", "b", "a")
	table := Compute(Compute(Table{}, nodes[:2], 2), nodes, 2)
	var zero [tableKeys]bool
	for g := range tableKeys {
		data := table.group(g).encode()
		if g == 3 {
			golden(t, "table.v1", data)
		}
		got, err := decodeGroup(data)
		if diff := cmp.Diff(table.group(g), got, cmp.AllowUnexported(group{})); diff != "" || err != nil {
			t.Fatalf("group %d: %v %s", g, err, diff)
		}
		zero[g] = len(data) < 1200
	}
	if slices.Contains(zero[:], false) {
		t.Error("a group takes more than 1,200 bytes")
	}
	data := table.group(0).encode()
	data[0] = 2
	if _, err := decodeGroup(data); !errors.Is(err, replication.ErrNewerVersion) {
		t.Errorf("got %v", err)
	}
	for name, data := range map[string][]byte{"nothing": {}, "half": table.group(0).encode()[:50], "more": append(table.group(0).encode(), 0)} {
		if _, err := decodeGroup(data); !errors.Is(err, errTable) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func FuzzTable(f *testing.F) {
	nodes := testNodes("a", "b", "a")
	table := Compute(Compute(Table{}, nodes[:2], 2), nodes, 2)
	f.Add(table.group(0).encode())
	f.Add((&group{}).encode())
	f.Fuzz(func(t *testing.T, data []byte) {
		g, err := decodeGroup(data)
		if err != nil {
			return
		}
		again, err := decodeGroup(g.encode())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(g, again, cmp.AllowUnexported(group{})); diff != "" {
			t.Fatal(diff)
		}
	})
}

// An upload begun before the leader took a row from a node may end with that node's copy, after the
// successor listed what it has to fetch: when the row is settled the copy still counts.
func TestP2_CopyOfALeavingNodeOutlivesItsSeat(t *testing.T) {
	t.Parallel()
	nodes := testNodes("a", "b", "c")
	a, b, c := nodeCopy(nodes[0]), nodeCopy(nodes[1]), nodeCopy(nodes[2])
	s := &Copies{cfg: Config{Nodes: func() []Node { return nodes }}}
	tx := memTx{make(map[string][]byte)}
	row := []Seat{{a, Held}, {b, Leaving}, {c, Incoming}}
	rowOf(t, tx, row...)
	if err := s.Record(tx, Placed{Root: testRoot(1), Partition: 5, Copies: []Copy{a, b}}); err != nil {
		t.Fatal(err)
	}
	rowOf(t, tx, wantedSeats(settled(row, c.Node))...)
	holders, err := s.Holders(tx, testRoot(1))
	slices.Sort(holders)
	if diff := cmp.Diff([]peer.ID{a.Node, b.Node}, holders); diff != "" || err != nil {
		t.Error(diff, err)
	}
}
