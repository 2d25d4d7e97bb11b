package replication

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestOneNode(t *testing.T) {
	t.Parallel()
	v := newVillage(t, nil, "berlin")
	db := v.members[0].db
	v.put(0, "a", "1")
	v.put(0, "b", "2")
	if got, ok := get(db, "a"); !ok || got != "1" {
		t.Fatalf("got %q, %v", got, ok)
	}
	v.ok(db.Update(t.Context(), func(tx *Tx) error {
		tx.Delete([]byte("a"))
		tx.Add([]byte("n"), 7)
		tx.Add([]byte("n"), -2)
		return nil
	}))
	if diff := cmp.Diff(map[string]string{"b": "2", "n": string(counterBytes(5))}, dump(db)); diff != "" {
		t.Error(diff)
	}
	v.stop(0)
	v.start(0)
	if diff := cmp.Diff(map[string]string{"b": "2", "n": string(counterBytes(5))}, dump(v.members[0].db)); diff != "" {
		t.Error(diff)
	}
}

func TestThreeNodes(t *testing.T) {
	t.Parallel()
	v := newVillage(t, nil, "berlin", "paris", "rome")
	for i := range 3 {
		v.put(i, fmt.Sprint("k", i), "x")
	}
	want := map[string]string{"k0": "x", "k1": "x", "k2": "x"}
	for i, m := range v.members {
		v.ok(m.db.ReadIndex(v.ctx()))
		if diff := cmp.Diff(want, dump(m.db)); diff != "" {
			t.Errorf("node %d: %s", i, diff)
		}
	}
}

func TestViewCannotWrite(t *testing.T) {
	t.Parallel()
	v := newVillage(t, nil, "berlin")
	db := v.members[0].db
	for name, write := range map[string]func(tx *Tx){
		"put":    func(tx *Tx) { tx.Put([]byte("a"), nil) },
		"delete": func(tx *Tx) { tx.Delete([]byte("a")) },
		"add":    func(tx *Tx) { tx.Add([]byte("a"), 1) },
	} {
		err := db.View(func(tx *Tx) error { write(tx); return nil })
		if !errors.Is(err, ErrReadOnly) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}
