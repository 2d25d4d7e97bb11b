package testnet

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A deed is one thing that somebody does. It is drawn from a seed alone, so that the same seed does the
// same again; what it is done to is the Pick-th of what there is by then.
type deed struct {
	Kind    string
	House   int // through whose door
	Size    int
	Content uint64 // what the bytes are drawn from
	Pick    uint64
	Again   bool // bytes that the same person stored before
}

// deeds yields what one person does, without end.
func deeds(seed, person uint64, houses int) func() deed {
	r := rand.New(rand.NewPCG(seed, 1000+person))
	kinds := weighted(map[string]int{"send": 22, "put": 20, "replace": 14, "fetch": 28, "revoke": 8, "delete": 8})
	return func() deed {
		d := deed{Kind: kinds[r.IntN(len(kinds))], House: r.IntN(houses), Content: r.Uint64(), Pick: r.Uint64(), Again: r.IntN(6) == 0}
		d.Size = 270_000 + r.IntN(500_000)
		if r.IntN(5) == 0 {
			d.Size = 2_000_000 + r.IntN(3_000_000) // several chunks
		}
		return d
	}
}

// A fault comes Gap after the one before it, and goes after it has lasted.
type fault struct {
	Kind   string
	Houses []int
	Gap    time.Duration
	Lasts  time.Duration
	Arg    uint64
}

// faults yields what happens to the houses, without end. Only the house called spoilt ever loses what was
// safely on its disk: that much one copy of two must bear.
func faults(seed uint64, houses int) func() fault {
	r := rand.New(rand.NewPCG(seed, 1))
	spoilt := r.IntN(houses)
	kinds := weighted(map[string]int{
		"kill": 18, "stop": 8, "cut": 14, "slow": 10, "silent": 8, "full": 6, "no space": 5, "failed": 14, "happened": 14, "flip": 10, "wipe": 5, "clock": 6, "no answer": 6,
	})
	return func() fault {
		f := fault{Kind: kinds[r.IntN(len(kinds))], Houses: []int{r.IntN(houses)}, Arg: r.Uint64()}
		f.Gap = time.Duration(150+r.IntN(900)) * time.Millisecond
		f.Lasts = time.Duration(200+r.IntN(2500)) * time.Millisecond
		many := r.IntN(5) == 0
		order := r.Perm(houses)
		switch f.Kind {
		case "flip", "wipe":
			f.Houses = []int{spoilt}
		case "kill", "cut":
			if many {
				f.Houses = slices.Sorted(slices.Values(order[:1+r.IntN(houses)]))
			}
			if f.Kind == "kill" && f.Arg%6 == 0 { // the power fails everywhere
				f.Houses = slices.Sorted(slices.Values(order))
			}
		}
		return f
	}
}

// weighted lists each word as often as it weighs, in an order that is always the same.
func weighted(weights map[string]int) (all []string) {
	for word, n := range weights {
		all = append(all, slices.Repeat([]string{word}, n)...)
	}
	slices.Sort(all)
	return all
}

// bytesOf makes the bytes that belong to a deed.
func bytesOf(content uint64, size int) []byte {
	b := make([]byte, size)
	var s [32]byte
	binary.LittleEndian.PutUint64(s[:], content)
	_, _ = rand.NewChaCha8(s).Read(b)
	return b
}

func TestScheduleIsTheSeeds(t *testing.T) {
	t.Parallel()
	draw := func(seed uint64) (d []deed, f []fault) {
		nextDeed, nextFault := deeds(seed, 2, 3), faults(seed, 3)
		for range 500 {
			d, f = append(d, nextDeed()), append(f, nextFault())
		}
		return d, f
	}
	d1, f1 := draw(7)
	d2, f2 := draw(7)
	if diff := cmp.Diff(d1, d2) + cmp.Diff(f1, f2); diff != "" {
		t.Errorf("the same seed does something else: %s", diff)
	}
	if d3, f3 := draw(8); cmp.Equal(d1, d3) || cmp.Equal(f1, f3) {
		t.Error("another seed does the same")
	}
}
