package replication

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

// older makes a node a program that reads only the first format.
func older(c *Config) { c.maxFormat = formatFirst }

func addWithin(key string, delta, low, high int64) func(*Tx) error {
	return func(tx *Tx) error { tx.AddWithin([]byte(key), delta, low, high); return nil }
}

// Nodes are upgraded one by one. What the old ones cannot read is not proposed while one
// of them is a server; then it is, everywhere, and no node goes back.
func TestL9_RollingUpgrade(t *testing.T) {
	t.Parallel()
	v := newVillage(t, func(_ int, c *Config) { older(c) }, "berlin", "paris", "rome")
	v.put(0, "before", "x")
	restart := func(i int, highest uint64) {
		v.stop(i)
		v.members[i].conf.maxFormat = highest
		v.start(i)
	}
	old := func(what string) {
		t.Helper()
		if i := slices.IndexFunc(v.members, func(m *member) bool { return m.conf.maxFormat == formatNow }); i >= 0 {
			v.lead(i) // it knows of the next format
		}
		db := v.members[v.leader()].db
		v.until("all to have said what they read", func() bool {
			said := 0
			for _, m := range v.members {
				if _, ok := db.greeter.saidBy(m.id().String()); ok {
					said++
				}
			}
			return said == 2
		})
		v.ok(db.raiseFormat())
		for i, m := range v.members {
			v.put(i, what, "x")
			if active := m.db.machine.active().Format; active != formatFirst {
				t.Errorf("%s: node %d has format %d", what, i, active)
			}
			if err := m.db.Update(v.ctx(), addWithin("n", 1, 0, 9)); !errors.Is(err, ErrOldFormat) {
				t.Errorf("%s: node %d: %v", what, i, err)
			}
		}
	}
	old("all are old")
	restart(0, formatNow)
	old("one is new")
	restart(1, formatNow)
	old("one is old")
	restart(0, formatFirst) // nothing is raised yet: going back is possible
	old("one went back")
	restart(0, formatNow)
	restart(2, formatNow)
	for _, m := range v.members {
		v.until("the format to be raised", func() bool { return m.db.machine.active().Format == formatNow })
		v.ok(m.db.Update(v.ctx(), addWithin("n", 1, 0, 9)))
	}
	v.until("the leader's status to say so", func() bool {
		s := v.members[v.leader()].db.Status()
		return s.Format == formatNow && !slices.ContainsFunc(s.Servers, func(s ServerStatus) bool { return s.Format != formatNow })
	})
	// None goes back now.
	v.stop(1)
	v.members[1].conf.maxFormat = formatFirst
	_, err := Open(v.ctx(), v.members[1].conf)
	if e, ok := errors.AsType[*FormatError](err); !ok || e.Active != formatNow || e.Known != formatFirst ||
		!strings.Contains(err.Error(), programOf(formatNow)) || !errors.Is(err, ErrNewerVersion) {
		t.Errorf("downgrade: got %v", err)
	}
	v.members[1].conf.maxFormat = formatNow
	v.start(1)
	v.put(1, "after", "x")
	if got, _ := get(v.members[1].db, "n"); got != string(counterBytes(3)) {
		t.Errorf("n is %x", got)
	}
}

// A new node with an old program says what it lacks, stops, and is not counted.
func TestL9_OldProgramCannotJoin(t *testing.T) {
	t.Parallel()
	v := newVillage(t, nil, "berlin")
	db := v.members[0].db
	n := v.join("paris", false, older)
	m := v.members[n]
	select {
	case err := <-m.db.Fatal():
		if _, ok := errors.AsType[*FormatError](err); !ok {
			t.Errorf("got %v", err)
		}
	case <-time.After(patience):
		t.Fatal("it waits for ever")
	}
	v.until("it to be a server, and no more", func() bool { return len(db.Status().Servers) == 2 })
	for _, s := range db.Status().Servers {
		if s.ID == m.id() && (s.Voter || s.Live) {
			t.Errorf("counted: %+v", s)
		}
	}
	v.put(0, "goes on", "x")
	v.stop(n)
	m.conf.maxFormat = formatNow
	v.start(n)
	v.until("it to vote with a newer program", func() bool { return v.count(db.Status(), true) == 2 })
}

func TestL8_AddWithin(t *testing.T) {
	t.Parallel()
	v := newVillage(t, nil, "berlin")
	db := v.members[0].db
	v.put(0, "text", "text")
	const most = 1<<63 - 1
	for i, c := range []struct {
		fn   func(*Tx) error
		err  error
		want int64
	}{
		{addWithin("n", 5, 0, 9), nil, 5},
		{addWithin("n", 5, 0, 9), ErrBound, 5},
		{addWithin("n", -6, 0, 9), ErrBound, 5},
		{addWithin("n", 4, 0, 9), nil, 9},
		{addWithin("n", -9, 0, 9), nil, 0},
		{addWithin("n", most, 0, most), nil, most},
		{addWithin("n", 1, -most-1, most), ErrBound, most}, // it does not wrap around
		{func(tx *Tx) error { tx.Put([]byte("n"), counterBytes(3)); return nil }, nil, 3},
		{func(tx *Tx) error { tx.Add([]byte("n"), 5); return addWithin("n", 2, 0, 9)(tx) }, ErrBound, 3},
		{func(tx *Tx) error { addWithin("n", 20, 0, 9)(tx); tx.Add([]byte("n"), -16); return nil }, nil, 7},
		{func(tx *Tx) error { addWithin("n", 1, 0, 9)(tx); return addWithin("n", 1, 0, 8)(tx) }, ErrBound, 7},
		{func(tx *Tx) error { tx.Delete([]byte("n")); return addWithin("n", 2, 0, 9)(tx) }, nil, 2},
		{func(tx *Tx) error { tx.Put([]byte("n"), counterBytes(8)); return addWithin("n", 2, 0, 9)(tx) }, ErrBound, 2},
		{func(tx *Tx) error { tx.Put([]byte("n"), counterBytes(6)); return addWithin("n", 2, 0, 9)(tx) }, nil, 8},
		{func(tx *Tx) error { tx.Put([]byte("n"), []byte("x")); return addWithin("n", 2, 0, 9)(tx) }, ErrNotCounter, 8},
		{addWithin("text", 1, 0, 9), ErrNotCounter, 8},
		{addWithin("w/once", 1, 0, 9), nil, 8},
		{addWithin("w/once", 1, 0, 9), ErrWriteOnce, 8},
	} {
		err := db.Update(t.Context(), c.fn)
		if !errors.Is(err, c.err) || c.err == nil && err != nil {
			t.Errorf("step %d: got %v, want %v", i, err, c.err)
		}
		if got, _ := get(db, "n"); got != string(counterBytes(c.want)) {
			t.Errorf("step %d: n is %x, want %d", i, got, c.want)
		}
	}
	if n := db.reruns.Load(); n > 0 {
		t.Errorf("%d conflicts", n)
	}
}
