package replication

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
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

// Concurrent Updates, Updates that only read, and Views after a read index, from all
// nodes, while the leader is cut off, healed, and another killed and restarted: the
// history is linearizable, and what was acknowledged is there on all nodes.
func TestL1_Linearizable(t *testing.T) {
	t.Parallel()
	v := newVillage(t, func(_ int, c *Config) { c.WriteTimeout = 5 * time.Second }, "berlin", "paris", "rome")
	var (
		mu      sync.Mutex
		history []porcupine.Operation
		wg      sync.WaitGroup
		dbs     [3]atomic.Pointer[DB]
		seq     atomic.Int64
	)
	for i, m := range v.members {
		dbs[i].Store(m.db)
	}
	start := time.Now()
	ctx, stop := context.WithCancel(t.Context())
	keys := []string{"x", "y", "z"}
	for client := range 9 {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(uint64(client), 1))
			for ctx.Err() == nil {
				op := porcupine.Operation{ClientId: client, Call: time.Since(start).Nanoseconds()}
				input, output, keep := registerClient(t, dbs[client%3].Load(), keys[random.IntN(len(keys))], random.IntN(3), &seq)
				op.Input, op.Output, op.Return = input, output, time.Since(start).Nanoseconds()
				if output == nil {
					op.Return = time.Hour.Nanoseconds()
				}
				if keep {
					mu.Lock()
					history = append(history, op)
					mu.Unlock()
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
	t.Logf("%d operations", len(history))
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
