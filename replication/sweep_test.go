package replication

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"reflect"
	"testing"
)

// fill puts n keys under a prefix, each with a value of that size.
func (v *village) fill(prefix string, n, size int) {
	v.Helper()
	step := min(200, 500_000/size)
	for from := 0; from < n; from += step {
		v.ok(v.members[0].db.Update(v.ctx(), func(tx *Tx) error {
			for i := from; i < min(n, from+step); i++ {
				tx.Put(fmt.Appendf(nil, "%s%05d", prefix, i), bytes.Repeat([]byte("a"), size))
			}
			return nil
		}))
	}
}

// upper makes a value upper case, and counts how often each key was visited.
func upper(tx *Tx, key, value []byte) error {
	tx.Put(key, bytes.ToUpper(value))
	tx.Add(append([]byte("visits/"), key...), 1)
	return nil
}

func (v *village) checkSwept(prefix string, n int) {
	v.Helper()
	all := dump(v.members[0].db)
	for i := range n {
		key := fmt.Sprintf("%s%05d", prefix, i)
		if value := all[key]; len(value) == 0 || bytes.ContainsAny([]byte(value), "a") {
			v.Fatalf("%s was left out", key)
		}
		if visits := all["visits/"+key]; visits != string(counterBytes(1)) {
			v.Fatalf("%s was visited %x times", key, visits)
		}
	}
}

// All keys are visited once, in steps within an Update's bounds, by keys and by bytes.
func TestL8_Sweep(t *testing.T) {
	t.Parallel()
	v := newVillage(t, nil, "berlin")
	db := v.members[0].db
	v.put(0, "p", "before")
	v.put(0, "q", "behind")
	for _, c := range []struct {
		prefix              string
		keys, size, atLeast int
	}{
		{"p/many/", 1700, 3, 4},    // by keys: four steps of 500 at most
		{"p/large/", 60, 20000, 4}, // by bytes: 1.2 MB in all
	} {
		v.fill(c.prefix, c.keys, c.size)
		steps, keys := 0, 0
		before := db.Status().Applied
		for s, err := range db.Sweep(t.Context(), Sweep{Prefix: []byte(c.prefix), Do: upper}) {
			v.ok(err)
			steps, keys = steps+1, keys+s.Keys
			if s.Keys > sweepKeys {
				t.Errorf("a step of %d keys", s.Keys)
			}
		}
		if keys != c.keys || steps < c.atLeast || steps > c.atLeast+2 {
			t.Errorf("%s: %d keys in %d steps", c.prefix, keys, steps)
		}
		if db.Status().Applied < before+uint64(steps) {
			t.Errorf("%s: fewer entries than steps", c.prefix)
		}
		v.checkSwept(c.prefix, c.keys)
	}
	for s, err := range db.Sweep(t.Context(), Sweep{Prefix: []byte("nothing/"), Cursor: []byte("cursor"), Do: upper}) {
		if err != nil || !s.Done || s.Keys > 0 {
			t.Errorf("nothing to do: %+v, %v", s, err)
		}
	}
	if got, _ := get(db, "p"); got != "before" {
		t.Errorf("p is %q", got)
	}
}

// Where Do reads or writes much for each key, steps are made smaller; one that is too
// large all by itself ends the sweep.
func TestL8_SweepOfHeavySteps(t *testing.T) {
	t.Parallel()
	v := newVillage(t, nil, "berlin")
	db := v.members[0].db
	v.fill("p/", 40, 3)
	v.fill("other/", 100, 3)
	visited := 0
	for s, err := range db.Sweep(t.Context(), Sweep{Prefix: []byte("p/"), Do: func(tx *Tx, key, value []byte) error {
		for range tx.Scan([]byte("other/"), PrefixEnd([]byte("other/"))) {
		}
		return upper(tx, key, value)
	}}) {
		v.ok(err)
		visited += s.Keys
	}
	if visited != 40 {
		t.Errorf("visited %d", visited)
	}
	v.checkSwept("p/", 40)
	var last error
	for _, err := range db.Sweep(t.Context(), Sweep{Prefix: []byte("p/"), Do: func(tx *Tx, key, value []byte) error {
		tx.Put([]byte("huge"), make([]byte, maxProposal))
		return nil
	}}) {
		last = err
	}
	if !errors.Is(last, ErrTooLarge) {
		t.Errorf("got %v", last)
	}
}

// A sweep that was broken off goes on where it was: from the Next it last said, or from
// its cursor in the ledger, though the caller knows nothing any more.
func TestL8_SweepGoesOn(t *testing.T) {
	t.Parallel()
	v := newVillage(t, nil, "berlin")
	const n = 1200
	v.fill("p/", n, 3)
	v.fill("c/", n, 3)
	var next []byte
	for s, err := range v.members[0].db.Sweep(t.Context(), Sweep{Prefix: []byte("p/"), Do: upper}) {
		v.ok(err)
		next = s.Next
		break
	}
	for _, err := range v.members[0].db.Sweep(t.Context(), Sweep{Prefix: []byte("p/"), From: next, Do: upper}) {
		v.ok(err)
	}
	v.checkSwept("p/", n)

	c := Sweep{Prefix: []byte("c/"), Cursor: []byte("cursor"), Do: upper}
	ctx, cancel := context.WithCancel(t.Context())
	for _, err := range v.members[0].db.Sweep(ctx, c) {
		v.ok(err)
		break
	}
	cancel()
	v.stop(0)
	v.start(0)
	v.ok(v.members[0].db.ReadIndex(v.ctx()))
	if _, ok := get(v.members[0].db, "cursor"); !ok {
		t.Fatal("no cursor")
	}
	// Two go on in turn: each step is done by one of them.
	a, stopA := iter.Pull2(v.members[0].db.Sweep(t.Context(), c))
	defer stopA()
	b, stopB := iter.Pull2(v.members[0].db.Sweep(t.Context(), c))
	defer stopB()
	for i, want := range []Swept{{Keys: 500}, {Keys: 200, Done: true}, {Done: true}} {
		next := a
		if i == 1 {
			next = b
		}
		got, err, _ := next()
		if got.Next = nil; err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("step %d: got %+v, %v, want %+v", i, got, err, want)
		}
	}
	v.checkSwept("c/", n)
	if _, ok := get(v.members[0].db, "cursor"); ok {
		t.Error("the cursor is still there")
	}
}

// An error of Do ends the sweep, and its step has done nothing.
func TestL8_SweepEnds(t *testing.T) {
	t.Parallel()
	v := newVillage(t, nil, "berlin")
	v.fill("p/", 10, 3)
	var last error
	for _, err := range v.members[0].db.Sweep(t.Context(), Sweep{Prefix: []byte("p/"), Do: func(tx *Tx, key, value []byte) error {
		if string(key) == "p/00005" {
			return errStop
		}
		return upper(tx, key, value)
	}}) {
		last = err
	}
	if !errors.Is(last, errStop) {
		t.Errorf("got %v", last)
	}
	if got, _ := get(v.members[0].db, "p/00001"); got != "aaa" {
		t.Errorf("half a step was applied: %q", got)
	}
}
