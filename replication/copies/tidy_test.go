package copies

import (
	"cmp"
	"slices"
	"testing"
)

// What a node without a seat was to fetch is not counted for ever; the lists of others stay.
func TestP3_ListsOfNodesWithoutSeatsEnd(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, 3, "a", "b", "b").start()
	leader := cl.peers[0]
	one, two, three := nodeCopy(cl.nodes[0]), nodeCopy(cl.nodes[1]), nodeCopy(cl.nodes[2])
	n := 2*tidyKeys + 10
	for i := range n {
		root := blockOf([]byte{byte(i), byte(i >> 8), 3}, 0x71).Cid()
		leader.record(t, Placed{Root: root, Partition: 5, Copies: []Copy{one}})
	}
	missing := func() (n int) {
		_ = cl.ledger.View(func(tx scanner) error { _, n = Count(tx); return nil })
		return n
	}
	table := *cl.table(t)
	if err := leader.tidy(t.Context(), &table); err != nil || missing() != 2*n {
		t.Fatalf("%d listed of %d with seats: %v", missing(), 2*n, err)
	}
	for r := range table.Rows {
		table.Rows[r] = []Seat{{one, Held}, {two, Held}}
		if r == 4000 {
			table.Rows[r] = append(table.Rows[r], Seat{three, Leaving})
		}
		slices.SortFunc(table.Rows[r], func(a, b Seat) int { return cmp.Compare(a.Node, b.Node) })
	}
	put := func() {
		t.Helper()
		err := cl.ledger.Update(t.Context(), func(tx ledgerTx) error {
			for g := range tableKeys {
				tx.Put(tableKey(g), table.group(g).encode())
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	put()
	older := table
	older.Rows[4000] = table.Rows[0] // what the leader read before the node got a seat
	if err := leader.tidy(t.Context(), &older); err != nil || missing() != 2*n {
		t.Fatalf("%d listed of %d: a node with a seat lost its list: %v", missing(), 2*n, err)
	}
	table = older
	put()
	for i, want := range []int{n + 10 + tidyKeys, n + 10, n, n} {
		if err := leader.tidy(t.Context(), &table); err != nil || missing() != want {
			t.Errorf("step %d: %d listed, want %d: %v", i, missing(), want, err)
		}
	}
}
