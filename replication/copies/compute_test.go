package copies

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/libp2p/go-libp2p/core/peer"
)

func testNode(i int, site string, weight int64) Node {
	n := Node{ID: peer.ID(fmt.Sprintf("node-%02d", i)), Site: site, Weight: weight}
	n.Store[0], n.Store[1] = 1, byte(i)
	return n
}

func testNodes(sites ...string) []Node {
	var out []Node
	for i, s := range sites {
		out = append(out, testNode(i, s, 100))
	}
	return out
}

func wantedSeats(row []Seat) []Seat {
	return slices.DeleteFunc(slices.Clone(row), func(s Seat) bool { return !s.wanted() })
}

// checkTable checks what must hold of every table: distinct nodes in the right number, two sites
// where there are two, so that any site may go, and everybody's share within one step.
func checkTable(t *testing.T, table Table, nodes []Node, wanted int) {
	t.Helper()
	site := make(map[peer.ID]string)
	sites := make(map[string]bool)
	holding := 0
	for _, n := range nodes {
		site[n.ID] = n.Site
		if n.Weight >= 0 {
			holding++
			sites[n.Site] = true
		}
	}
	for r, row := range table.Rows {
		in := make(map[string]bool)
		seen := make(map[peer.ID]bool)
		for _, s := range wantedSeats(row) {
			at, ok := site[s.Node]
			if !ok || seen[s.Node] {
				t.Fatalf("row %d: %v twice or no node", r, s)
			}
			in[at], seen[s.Node] = true, true
		}
		if len(seen) != min(wanted, holding) {
			t.Fatalf("row %d: %d nodes, want %d of %d", r, len(seen), wanted, holding)
		}
		if len(in) < min(2, wanted, len(sites)) {
			t.Fatalf("row %d at %d sites of %d", r, len(in), len(sites))
		}
	}
	p := newPlan(&table, nodes, wanted)
	for _, m := range p.members {
		if distance(m.off()) > p.step+1e-6 {
			t.Errorf("%s has %d rows, should have %.1f: off by more than %.1f", m.id, m.load, m.target, p.step)
		}
	}
}

func sameTable(a, b Table) bool {
	return a.Epochs == b.Epochs && slices.EqualFunc(a.Rows[:], b.Rows[:], slices.Equal[[]Seat])
}

// moved counts seats of new that their node did not have.
func moved(old, new Table) (n int) {
	for r := range new.Rows {
		for _, s := range wantedSeats(new.Rows[r]) {
			if was, ok := seatOf(old.Rows[r], s.Node); !ok || !was.wanted() {
				n++
			}
		}
	}
	return n
}

func TestP1_FirstTable(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		nodes  []Node
		wanted int
	}{
		"one node":                        {testNodes("a"), 3},
		"two nodes, one site":             {testNodes("a", "a"), 3},
		"two of three at two sites":       {testNodes("a", "a", "b"), 2},
		"three of three at two sites":     {testNodes("a", "a", "b"), 3},
		"three of five at two sites":      {testNodes("a", "a", "a", "a", "b"), 3},
		"three of six at three sites":     {testNodes("a", "a", "b", "b", "c", "c"), 3},
		"one of four":                     {testNodes("a", "a", "b", "b"), 1},
		"weights":                         {[]Node{testNode(0, "a", 400), testNode(1, "a", 100), testNode(2, "b", 200), testNode(3, "b", 10)}, 2},
		"a node without weight":           {[]Node{testNode(0, "a", 400), testNode(1, "a", 0), testNode(2, "b", 200)}, 2},
		"a node that wants no copies":     {[]Node{testNode(0, "a", 1), testNode(1, "b", -1), testNode(2, "c", 1)}, 3},
		"more than half of it one site":   {testNodes("a", "a", "a", "a", "a", "a", "b", "c"), 2},
		"twenty nodes":                    {testNodes(slices.Repeat([]string{"a", "b", "c", "d", "e"}, 4)...), 3},
		"a small site and a large weight": {[]Node{testNode(0, "a", 1000), testNode(1, "b", 10), testNode(2, "b", 10), testNode(3, "b", 10)}, 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := Compute(Table{}, c.nodes, c.wanted)
			checkTable(t, got, c.nodes, c.wanted)
			for r, row := range got.Rows {
				for _, s := range row {
					if s.State != Held {
						t.Fatalf("row %d: %v; nothing can be missing in the first table", r, s)
					}
				}
			}
			if got.Epoch() != 1 {
				t.Errorf("epoch %d, want 1", got.Epoch())
			}
			again := Compute(got, c.nodes, c.wanted)
			if !sameTable(got, again) {
				t.Error("computed again it differs")
			}
			shuffled := slices.Clone(c.nodes)
			slices.Reverse(shuffled)
			if !sameTable(got, Compute(Table{}, shuffled, c.wanted)) {
				t.Error("the nodes' order matters")
			}
		})
	}
}

func TestP1_FirstTableIsEven(t *testing.T) {
	t.Parallel()
	table := Compute(Table{}, testNodes("a", "a", "b", "b", "c"), 3)
	load := make(map[peer.ID]int)
	for _, row := range table.Rows {
		for _, s := range row {
			load[s.Node]++
		}
	}
	for id, n := range load {
		if want := Partitions * 3 / 5; n < want-2 || n > want+2 {
			t.Errorf("%s has %d rows, want %d", id, n, want)
		}
	}
}

func TestP1_NobodyLeft(t *testing.T) {
	t.Parallel()
	table := Compute(Table{}, testNodes("a"), 3)
	if got := Compute(table, nil, 3); !sameTable(got, table) {
		t.Error("without nodes the table changed")
	}
	if got := Compute(Table{}, nil, 3); got.Epoch() != 0 {
		t.Error("a table of nobody")
	}
}

// A join takes rows from others for the newcomer and moves nothing else.
func TestP1_JoinMovesOnlyToTheNewcomer(t *testing.T) {
	t.Parallel()
	before := testNodes("a", "b", "a", "b")
	old := Compute(Table{}, before, 3)
	nodes := append(slices.Clone(before), testNode(4, "a", 100))
	got := Compute(old, nodes, 3)
	checkTable(t, got, nodes, 3)
	for r := range got.Rows {
		for _, s := range got.Rows[r] {
			was, ok := seatOf(old.Rows[r], s.Node)
			switch {
			case s.Node == nodes[4].ID && s.State != Incoming:
				t.Fatalf("row %d: the newcomer is %v", r, s.State)
			case s.Node != nodes[4].ID && !ok:
				t.Fatalf("row %d: %s came in although it did not join", r, s.Node)
			case s.Node != nodes[4].ID && s.State == Incoming && was.State == Held:
				t.Fatalf("row %d: %s has to fetch again", r, s.Node)
			}
		}
		// Whoever gave a seat up stays until the newcomer has its blocks.
		for _, s := range old.Rows[r] {
			if _, ok := seatOf(got.Rows[r], s.Node); !ok {
				t.Fatalf("row %d: %s went before its successor came", r, s.Node)
			}
		}
	}
	p := newPlan(&got, nodes, 3)
	if n := moved(old, got); float64(n) > p.members[4].target {
		t.Errorf("%d seats moved, the newcomer's share is %.0f", n, p.members[4].target)
	}
}

// A leave fills the seats of who left and moves nothing else, as far as the others stay within a step.
func TestP1_LeaveMovesOnlyWhatItMust(t *testing.T) {
	t.Parallel()
	before := testNodes("a", "b", "a", "b", "a", "b")
	old := Compute(Table{}, before, 3)
	lost := 0
	for _, row := range old.Rows {
		if _, ok := seatOf(row, before[5].ID); ok {
			lost++
		}
	}
	got := Compute(old, before[:5], 3)
	checkTable(t, got, before[:5], 3)
	if n := moved(old, got); n != lost {
		t.Errorf("%d seats moved, %d were lost", n, lost)
	}
}

func TestP1_SmallChangesOfWeightMoveNothing(t *testing.T) {
	t.Parallel()
	nodes := testNodes("a", "b", "c", "a")
	old := Compute(Table{}, nodes, 2)
	for i := range nodes {
		nodes[i].Weight = 100 - int64(i)*8 // 76 of 100 is still in the upper quarter
	}
	if n := moved(old, Compute(old, nodes, 2)); n != 0 {
		t.Errorf("%d seats moved", n)
	}
}

func TestP1_OneNodeThenTwo(t *testing.T) {
	t.Parallel()
	nodes := testNodes("a", "b")
	one := Compute(Table{}, nodes[:1], 3)
	two := Compute(one, nodes, 3)
	checkTable(t, two, nodes, 3)
	for r, row := range two.Rows {
		want := []Seat{
			{Copy: Copy{nodes[0].ID, nodes[0].Store}},
			{Copy: Copy{nodes[1].ID, nodes[1].Store}, State: Incoming},
		}
		if diff := cmp.Diff(want, row); diff != "" {
			t.Fatalf("row %d: %s", r, diff)
		}
	}
	if two.Epoch() != 2 {
		t.Errorf("epoch %d", two.Epoch())
	}
}

func TestP2_WipedNodeIsIncoming(t *testing.T) {
	t.Parallel()
	nodes := testNodes("a", "b", "a")
	old := Compute(Table{}, nodes, 2)
	nodes[1].Store[15] = 9
	got := Compute(old, nodes, 2)
	if moved(old, got) != 0 {
		t.Error("rows moved")
	}
	for r, row := range got.Rows {
		if s, ok := seatOf(row, nodes[1].ID); ok && (s.State != Incoming || s.Store != nodes[1].Store) {
			t.Fatalf("row %d: %v", r, s)
		}
	}
	// A store that is not known for the moment says nothing.
	nodes[2].Store = [16]byte{}
	if again := Compute(got, nodes, 2); !sameTable(again, got) {
		t.Error("an unknown store changed the table")
	}
}

// settledTable is what becomes of a table when all have come and all Leaving seats have ended.
func settledTable(table Table) Table {
	for r, row := range table.Rows {
		row = wantedSeats(row)
		for i := range row {
			row[i].State = Held
		}
		table.Rows[r] = row
	}
	return table
}

// Leaving seats stay until they are ended, and then the table is as it should be.
func TestP1_LeavingStays(t *testing.T) {
	t.Parallel()
	nodes := testNodes("a", "b", "a", "b")
	old := Compute(Table{}, nodes[:3], 2)
	table := Compute(old, nodes, 2)
	leaving := countState(&table, Leaving)
	if leaving == 0 {
		t.Fatal("nobody is leaving")
	}
	for r := range table.Rows {
		table.Rows[r] = settled(table.Rows[r], nodes[3].ID)
	}
	got := Compute(table, nodes, 2)
	if !sameTable(got, table) || countState(&got, Leaving) != leaving {
		t.Error("they went although nobody said so")
	}
	got = settledTable(got)
	if again := Compute(got, nodes, 2); !sameTable(again, got) {
		t.Error("not stable without them")
	}
	checkTable(t, got, nodes, 2)
}

// Rows of a node that is away go to others while it is Leaving; it takes them again when it comes back
// before that has ended, and what was settled meanwhile comes to it as to a newcomer.
func TestP3_Away(t *testing.T) {
	t.Parallel()
	nodes := testNodes("a", "b", "a", "b", "a")
	old := Compute(Table{}, nodes, 3)
	away := slices.Clone(nodes)
	away[1].Away = true
	gone := Compute(old, away, 3)
	for r, row := range gone.Rows {
		was, had := seatOf(old.Rows[r], nodes[1].ID)
		if seat, ok := seatOf(row, nodes[1].ID); ok != had || had && (seat.State != Leaving || was.State != Held) {
			t.Fatalf("row %d: %v after %v", r, row, old.Rows[r])
		}
		if len(wantedSeats(row)) != 3 {
			t.Fatalf("row %d: %v", r, row)
		}
	}
	if again := Compute(gone, away, 3); !sameTable(again, gone) {
		t.Error("not stable while it is away")
	}
	t.Run("back before", func(t *testing.T) {
		t.Parallel()
		got := Compute(gone, nodes, 3)
		if n := countState(&got, Incoming); n != 0 {
			t.Errorf("%d seats have to be filled although nobody lost anything", n)
		}
		if n := moved(old, got); n != 0 {
			t.Errorf("%d seats moved", n)
		}
		checkTable(t, got, nodes, 3)
		if again := Compute(got, nodes, 3); !sameTable(again, got) {
			t.Error("not stable")
		}
	})
	t.Run("back in between", func(t *testing.T) {
		t.Parallel()
		half, kept := gone, 0
		for r, row := range gone.Rows {
			if r%2 == 0 {
				row = wantedSeats(row)
				for i := range row {
					row[i].State = Held
				}
				half.Rows[r] = row
			} else if _, ok := seatOf(row, nodes[1].ID); ok {
				kept++
			}
		}
		got := Compute(half, nodes, 3)
		back := 0
		for r, row := range got.Rows {
			seat, ok := seatOf(row, nodes[1].ID)
			if ok && seat.State == Held {
				back++
			}
			if _, had := seatOf(half.Rows[r], nodes[1].ID); ok && had && seat.State == Incoming {
				t.Fatalf("row %d: it has to fetch what it has", r)
			}
		}
		if back != kept {
			t.Errorf("%d seats of %d given back", back, kept)
		}
		checkTable(t, got, nodes, 3)
	})
	t.Run("back after", func(t *testing.T) {
		t.Parallel()
		after := settledTable(gone)
		got := Compute(after, nodes, 3)
		checkTable(t, got, nodes, 3)
		for r, row := range got.Rows {
			for _, s := range row {
				if s.State == Incoming && s.Node != nodes[1].ID {
					t.Fatalf("row %d: %v", r, row)
				}
			}
		}
	})
}

// Where nobody can take its place a node that is away keeps its seat: it is worth nothing to give it up.
func TestP3_AwayWithoutSuccessor(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		sites  []string
		away   []int
		wanted int
	}{
		"one of three":                   {[]string{"a", "b", "b"}, []int{1}, 3},
		"two of three":                   {[]string{"a", "b", "b"}, []int{1, 2}, 3},
		"one of two":                     {[]string{"a", "b"}, []int{1}, 3},
		"all":                            {[]string{"a", "b"}, []int{0, 1}, 2},
		"a site of two, one seat can go": {[]string{"a", "a", "b", "b"}, []int{2, 3}, 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			nodes := testNodes(c.sites...)
			old := Compute(Table{}, nodes, c.wanted)
			away := slices.Clone(nodes)
			for _, i := range c.away {
				away[i].Away = true
			}
			got := Compute(old, away, c.wanted)
			for r, row := range got.Rows {
				if len(wantedSeats(row)) != min(c.wanted, len(nodes)) {
					t.Fatalf("row %d: %v", r, row)
				}
			}
			if len(nodes) <= c.wanted && !sameTable(got, old) {
				t.Error("the table changed")
			}
			if again := Compute(got, away, c.wanted); !sameTable(again, got) {
				t.Error("not stable")
			}
			back := Compute(got, nodes, c.wanted)
			checkTable(t, back, nodes, c.wanted)
		})
	}
}

// A drain takes every seat, and a policy that rises adds some.
func TestP3_DrainAndMoreCopies(t *testing.T) {
	t.Parallel()
	nodes := testNodes("a", "b", "a", "b")
	old := Compute(Table{}, nodes, 2)
	nodes[0].Weight = -1
	got := Compute(old, nodes, 2)
	for r, row := range got.Rows {
		_, had := seatOf(old.Rows[r], nodes[0].ID)
		if seat, ok := seatOf(row, nodes[0].ID); ok != had || ok && seat.State != Leaving {
			t.Fatalf("row %d: %v", r, row)
		}
	}
	checkTable(t, got, nodes, 2)
	nodes[0].Weight = 100
	more := Compute(old, nodes, 3)
	checkTable(t, more, nodes, 3)
	if n := moved(old, more); n != Partitions {
		t.Errorf("%d seats moved for one more copy of %d rows", n, Partitions)
	}
}

// Random lives of clusters: members come, go, change weight; every table on the way is right.
func TestP1_RandomClusters(t *testing.T) {
	t.Parallel()
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(seed, 1))
			wanted := 1 + rng.IntN(4)
			var table Table
			var nodes []Node
			next := 0
			for step := range 14 {
				switch k := rng.IntN(4); {
				case k < 2 || len(nodes) < 2:
					nodes = append(nodes, testNode(next, string(rune('a'+rng.IntN(4))), int64(1+rng.IntN(100))))
					next++
				case k == 2:
					i := rng.IntN(len(nodes))
					nodes = slices.Delete(slices.Clone(nodes), i, i+1)
				default:
					nodes = slices.Clone(nodes)
					nodes[rng.IntN(len(nodes))].Weight = int64(1 + rng.IntN(100))
				}
				table = Compute(table, nodes, wanted)
				checkTable(t, table, nodes, wanted)
				if t.Failed() {
					t.Fatalf("step %d, wanted %d: %v", step, wanted, nodes)
				}
				if again := Compute(table, nodes, wanted); !sameTable(again, table) {
					t.Fatalf("step %d: not stable", step)
				}
			}
		})
	}
}

// Random absences, drains and policies: no seat that may hold blocks goes while its node is a member,
// rows have as many nodes as can be had, and a table computed twice stays.
func TestP3_RandomAbsences(t *testing.T) {
	t.Parallel()
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(seed, 3))
			var nodes []Node
			for i := range 3 + rng.IntN(4) {
				nodes = append(nodes, testNode(i, string(rune('a'+rng.IntN(3))), 100))
			}
			wanted := 1 + rng.IntN(3)
			table := Compute(Table{}, nodes, wanted)
			for step := range 12 {
				nodes = slices.Clone(nodes)
				n := &nodes[rng.IntN(len(nodes))]
				switch rng.IntN(5) {
				case 0, 1:
					n.Away = !n.Away
				case 2:
					n.Weight = -n.Weight
				case 3:
					wanted = 1 + rng.IntN(3)
				case 4:
					table = settledTable(table)
				}
				next := Compute(table, nodes, wanted)
				present := 0
				for _, n := range nodes {
					if n.Weight >= 0 && !n.Away {
						present++
					}
				}
				for r, row := range next.Rows {
					for _, s := range table.Rows[r] {
						if now, ok := seatOf(row, s.Node); s.State != Incoming && (!ok || now.State == Incoming) {
							t.Fatalf("step %d, row %d: %v of %v is %v", step, r, s, table.Rows[r], row)
						}
					}
					if n := len(wantedSeats(row)); present > 0 && (n < min(wanted, present) || n > wanted) {
						t.Fatalf("step %d, row %d: %d seats, wanted %d, present %d", step, r, n, wanted, present)
					}
				}
				if again := Compute(next, nodes, wanted); !sameTable(again, next) {
					t.Fatalf("step %d: not stable", step)
				}
				table = next
			}
		})
	}
}

func BenchmarkCompute(b *testing.B) {
	nodes := testNodes(slices.Repeat([]string{"a", "b", "c"}, 4)...)
	old := Compute(Table{}, nodes[:11], 3)
	for b.Loop() {
		Compute(old, nodes, 3)
	}
}
