package replication

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// What clients did to one register: a read, or a compare-and-append. An append that
// may or may not have happened is left open to the end of the history.
type registerInput struct {
	key string
	add string // "": a read
}

var registerModel = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		byKey := make(map[string][]porcupine.Operation)
		for _, op := range history {
			key := op.Input.(registerInput).key
			byKey[key] = append(byKey[key], op)
		}
		var parts [][]porcupine.Operation
		for _, part := range byKey {
			parts = append(parts, part)
		}
		return parts
	},
	Init: func() any { return "" },
	Step: func(state, input, output any) (bool, any) {
		in, was := input.(registerInput), state.(string)
		if in.add == "" {
			return was == output.(string), was
		}
		if output == nil { // unknown: it may have happened on any state, or not at all
			return true, was + in.add
		}
		return was == output.(string), was + in.add
	},
}

// An operation of a history: what was done and seen, and whether it counts. A stale one
// read a copy of that age, as its node said, without asking anybody.
type operation struct {
	in    registerInput
	out   any
	keep  bool
	stale bool
	age   time.Duration
}

// underPartitions runs clients on all nodes while the leader is cut off, healed, and
// another killed and restarted, and checks the history and that all nodes end equal. It
// returns what was done and, apart, what stale reads saw, called that much earlier.
func underPartitions(t *testing.T, v *village, do func(client int, db *DB, random *rand.Rand) operation) (history, stale []porcupine.Operation) {
	var (
		mu  sync.Mutex
		wg  sync.WaitGroup
		dbs [3]atomic.Pointer[DB]
	)
	for i, m := range v.members {
		dbs[i].Store(m.db)
	}
	start := time.Now()
	ctx, stop := context.WithCancel(t.Context())
	for client := range 9 {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(uint64(client), 1))
			for ctx.Err() == nil {
				call := time.Since(start)
				op := do(client, dbs[client%3].Load(), random)
				if !op.keep {
					continue
				}
				done := porcupine.Operation{ClientId: client, Input: op.in, Output: op.out,
					Call: (call - op.age).Nanoseconds(), Return: time.Since(start).Nanoseconds()}
				if op.out == nil {
					done.Return = time.Hour.Nanoseconds()
				}
				mu.Lock()
				if op.stale {
					stale = append(stale, done)
				} else {
					history = append(history, done)
				}
				mu.Unlock()
				if op.stale {
					pause(ctx, 5*time.Millisecond)
				}
			}
		})
	}
	acked := func() int { mu.Lock(); defer mu.Unlock(); return len(history) }
	progress := func() {
		t.Helper()
		from := acked()
		v.until("clients to go on", func() bool { return acked() > from+60 })
	}
	progress()
	l := v.leader()
	v.cutOff(l, true)
	progress()
	v.cutOff(l, false)
	progress()
	l = v.leader()
	v.stop(l) // with attempts in flight
	progress()
	v.start(l)
	dbs[l].Store(v.members[l].db)
	progress()
	stop()
	wg.Wait()
	result := porcupine.CheckOperationsTimeout(registerModel, history, patience)
	if result != porcupine.Ok {
		t.Errorf("%d operations: %s", len(history), result)
	}
	for _, m := range v.members {
		v.ok(m.db.ReadIndex(v.ctx()))
	}
	for i, m := range v.members {
		if got, want := fmt.Sprint(dump(m.db)), fmt.Sprint(dump(v.members[0].db)); got != want {
			t.Errorf("node %d differs: %s, %s", i, got, want)
		}
	}
	t.Logf("%d operations, %d stale reads", len(history), len(stale))
	return history, stale
}

// Concurrent Updates, Updates that only read, and Views after a read index, from all
// nodes: the history is linearizable, and what was acknowledged is there on all nodes.
func TestL1_Linearizable(t *testing.T) {
	t.Parallel()
	v := newVillage(t, func(_ int, c *Config) { c.WriteTimeout = 5 * time.Second }, "berlin", "paris", "rome")
	var seq atomic.Int64
	keys := []string{"x", "y", "z"}
	underPartitions(t, v, func(_ int, db *DB, random *rand.Rand) (op operation) {
		op.in, op.out, op.keep = registerClient(t, db, keys[random.IntN(len(keys))], random.IntN(3), &seq)
		return op
	})
}

// Revoke, then read: a plain View asks nobody, and what it shows may be old, but never
// older than the age its node says, cut off or not: all that was acknowledged that long
// before the call is there (L4, promise 2).
func TestL4_RevokeThenRead(t *testing.T) {
	t.Parallel()
	v := newVillage(t, func(_ int, c *Config) { c.WriteTimeout = 5 * time.Second }, "berlin", "paris", "rome")
	var seq atomic.Int64
	history, stale := underPartitions(t, v, func(client int, db *DB, _ *rand.Rand) (op operation) {
		if client >= 3 {
			op.in, op.out, op.keep = registerClient(t, db, "grant", 2, &seq) // granted, revoked, granted ...
			return op
		}
		s := db.Status()
		value, _ := get(db, "grant")
		return operation{out: value, keep: s.Confirmed, stale: true, age: s.Age}
	})
	if len(stale) < 100 {
		t.Errorf("%d stale reads", len(stale))
	}
	for _, read := range stale {
		seen := make(map[string]bool)
		for _, change := range strings.SplitAfter(read.Output.(string), ";") {
			seen[change] = true
		}
		for _, op := range history {
			add := op.Input.(registerInput).add
			if op.Output != nil && op.Return < read.Call && !seen[add] {
				t.Fatalf("a View at %d, less its age, lacks %q, acknowledged at %d", read.Call, add, op.Return)
			}
			if op.Call > read.Return && seen[add] {
				t.Fatalf("a View that ended at %d shows %q, begun at %d", read.Return, add, op.Call)
			}
		}
	}
}

// registerClient does one operation; keep is false if it certainly did nothing.
func registerClient(t *testing.T, db *DB, key string, kind int, seq *atomic.Int64) (in registerInput, out any, keep bool) {
	in.key = key
	read := func(tx *Tx) string { b, _ := tx.Get([]byte(key)); return string(b) }
	value := ""
	var err error
	switch kind {
	case 0: // read index, then the local copy
		if err = db.ReadIndex(context.Background()); err == nil {
			err = db.View(func(tx *Tx) error { value = read(tx); return nil })
		}
		return in, value, err == nil
	case 1: // an Update that only reads
		err = db.Update(context.Background(), func(tx *Tx) error { value = read(tx); return nil })
		return in, value, err == nil
	}
	in.add = fmt.Sprint(seq.Add(1), ";")
	err = db.Update(context.Background(), func(tx *Tx) error {
		value = read(tx)
		tx.Put([]byte(key), []byte(value+in.add))
		return nil
	})
	switch {
	case err == nil:
		return in, value, true
	case errors.Is(err, ErrUnknown):
		return in, nil, true
	case errors.Is(err, ErrNoQuorum), errors.Is(err, ErrClosed):
		return in, nil, false
	}
	t.Errorf("update: %v", err)
	return in, nil, false
}
