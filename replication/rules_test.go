package replication

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

var errStop = errors.New("stop")

// inBetween returns a function to be called inside an Update's fn: at its first call
// it makes other commit, so that the first attempt meets a rival.
func inBetween(v *village, other func()) func() {
	var once sync.Once
	return func() { once.Do(other) }
}

func TestL1_Conflicts(t *testing.T) {
	t.Parallel()
	v := newVillage(t, nil, "berlin", "paris", "rome")
	put := func(i int, key string) func() { return func() { v.put(i, key, "rival") } }
	del := func(key string) func() {
		return func() {
			v.ok(v.members[1].db.Update(v.ctx(), func(tx *Tx) error { tx.Delete([]byte(key)); return nil }))
		}
	}
	scanAll := func(tx *Tx, prefix string, stopAfter int) {
		n := 0
		for range tx.Scan([]byte(prefix), PrefixEnd([]byte(prefix))) {
			if n++; n == stopAfter {
				break
			}
		}
	}
	for name, c := range map[string]struct {
		keys  []string // there before
		read  func(tx *Tx, p string)
		rival func(p string) func()
		runs  int
	}{
		"key read was changed":            {[]string{"a"}, func(tx *Tx, p string) { tx.Get([]byte(p + "a")) }, func(p string) func() { return put(1, p+"a") }, 2},
		"absent key appeared":             {nil, func(tx *Tx, p string) { tx.Get([]byte(p + "a")) }, func(p string) func() { return put(2, p+"a") }, 2},
		"key read was deleted":            {[]string{"a"}, func(tx *Tx, p string) { tx.Get([]byte(p + "a")) }, func(p string) func() { return del(p + "a") }, 2},
		"change index was read":           {[]string{"a"}, func(tx *Tx, p string) { tx.ChangeIndex([]byte(p + "a")) }, func(p string) func() { return put(1, p+"a") }, 2},
		"other key was changed":           {[]string{"a"}, func(tx *Tx, p string) { tx.Get([]byte(p + "a")) }, func(p string) func() { return put(1, p+"b") }, 1},
		"phantom in a range":              {[]string{"a", "c"}, func(tx *Tx, p string) { scanAll(tx, p, 0) }, func(p string) func() { return put(1, p+"b") }, 2},
		"phantom in an empty range":       {nil, func(tx *Tx, p string) { scanAll(tx, p, 0) }, func(p string) func() { return put(1, p+"b") }, 2},
		"change in a range":               {[]string{"a", "c"}, func(tx *Tx, p string) { scanAll(tx, p, 0) }, func(p string) func() { return put(1, p+"c") }, 2},
		"deletion in a range":             {[]string{"a", "c"}, func(tx *Tx, p string) { scanAll(tx, p, 0) }, func(p string) func() { return del(p + "a") }, 2},
		"phantom beyond what was scanned": {[]string{"a", "c"}, func(tx *Tx, p string) { scanAll(tx, p, 1) }, func(p string) func() { return put(1, p+"b") }, 1},
		"change of the last scanned":      {[]string{"a", "c"}, func(tx *Tx, p string) { scanAll(tx, p, 1) }, func(p string) func() { return put(1, p+"a") }, 2},
		"nothing was read":                {[]string{"a"}, func(*Tx, string) {}, func(p string) func() { return put(1, p+"a") }, 1},
		"swap: one goes, one comes": {[]string{"a", "c"}, func(tx *Tx, p string) { scanAll(tx, p, 0) }, func(p string) func() {
			return func() {
				v.ok(v.members[2].db.Update(v.ctx(), func(tx *Tx) error {
					tx.Delete([]byte(p + "a"))
					tx.Put([]byte(p+"b"), nil)
					return nil
				}))
			}
		}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			p := name + "/"
			for _, key := range c.keys {
				v.put(0, p+key, "before")
			}
			rival, runs := inBetween(v, c.rival(p)), 0
			v.ok(v.members[0].db.Update(v.ctx(), func(tx *Tx) error {
				runs++
				c.read(tx, p)
				rival()
				tx.Put([]byte("done/"+p), nil)
				return nil
			}))
			if runs != c.runs {
				t.Errorf("fn ran %d times, want %d", runs, c.runs)
			}
		})
	}
}

func TestL1_ScanLimit(t *testing.T) {
	t.Parallel()
	v := newVillage(t, nil, "berlin")
	db := v.members[0].db
	v.ok(db.Update(t.Context(), func(tx *Tx) error {
		for i := range maxScanned + 1 {
			tx.Put(fmt.Appendf(nil, "k%05d", i), nil)
		}
		return nil
	}))
	count := func(tx *Tx) (n int) {
		for range tx.Scan(nil, nil) {
			n++
		}
		return n
	}
	err := db.Update(t.Context(), func(tx *Tx) error { count(tx); return nil })
	if !errors.Is(err, ErrTooManyScanned) {
		t.Errorf("Update: got %v", err)
	}
	n := 0
	v.ok(db.View(func(tx *Tx) error { n = count(tx); return nil }))
	if n != maxScanned+1 {
		t.Errorf("View scanned %d", n)
	}
}

func TestL8_Limits(t *testing.T) {
	t.Parallel()
	v := newVillage(t, nil, "berlin", "paris", "rome")
	db := v.members[v.follower()].db
	err := db.Update(t.Context(), func(tx *Tx) error {
		tx.Put([]byte("big"), make([]byte, maxProposal))
		return nil
	})
	if !errors.Is(err, ErrTooLarge) {
		t.Errorf("got %v", err)
	}
	v.ok(db.Update(v.ctx(), func(tx *Tx) error {
		tx.Put([]byte("big"), make([]byte, maxProposal-100))
		return nil
	}))
	if got, _ := get(db, "big"); len(got) != maxProposal-100 {
		t.Errorf("got %d bytes", len(got))
	}
}

func TestL8_WriteOnce(t *testing.T) {
	t.Parallel()
	v := newVillage(t, nil, "berlin")
	db := v.members[0].db
	v.put(0, "w/head", "1")
	for name, write := range map[string]func(tx *Tx){
		"put":    func(tx *Tx) { tx.Put([]byte("w/head"), []byte("2")) },
		"delete": func(tx *Tx) { tx.Delete([]byte("w/head")) },
		"add":    func(tx *Tx) { tx.Add([]byte("w/head"), 1) },
	} {
		err := db.Update(t.Context(), func(tx *Tx) error {
			tx.Put([]byte("beside"), nil)
			write(tx)
			return nil
		})
		if !errors.Is(err, ErrWriteOnce) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if got, _ := get(db, "w/head"); got != "1" {
		t.Errorf("got %q", got)
	}
	if _, ok := get(db, "beside"); ok {
		t.Error("half of a refused Update was applied")
	}
}

func TestL8_AddFromAllNodes(t *testing.T) {
	t.Parallel()
	v := newVillage(t, nil, "berlin", "paris", "rome")
	const each = 40
	var wg sync.WaitGroup
	for _, m := range v.members {
		for range 4 {
			wg.Go(func() {
				for range each {
					if err := m.db.Update(v.ctx(), func(tx *Tx) error { tx.Add([]byte("n"), 1); return nil }); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	wg.Wait()
	for i, m := range v.members {
		v.ok(m.db.ReadIndex(v.ctx()))
		got, _ := get(m.db, "n")
		if n := int64(binary.BigEndian.Uint64([]byte(got))); n != 3*4*each {
			t.Errorf("node %d: %d, want %d", i, n, 3*4*each)
		}
		if reruns := m.db.reruns.Load(); reruns > 0 {
			t.Errorf("node %d: %d conflicts, Add must have none", i, reruns)
		}
	}
	err := v.members[0].db.Update(v.ctx(), func(tx *Tx) error { tx.Put([]byte("s"), []byte("text")); return nil })
	v.ok(err)
	if err := v.members[0].db.Update(v.ctx(), func(tx *Tx) error { tx.Add([]byte("s"), 1); return nil }); !errors.Is(err, ErrNotCounter) {
		t.Errorf("got %v", err)
	}
}

// The same id proposed twice, as a resend after a lost answer does, applies once.
func TestL2_SameIDAppliesOnce(t *testing.T) {
	t.Parallel()
	v := newVillage(t, nil, "berlin")
	db := v.members[0].db
	p := &proposal{seq: 1, writes: []write{{op: opAdd, key: []byte("n"), delta: 1}}}
	propose := func(incarnation, released uint64, p *proposal) {
		t.Helper()
		g := appendGroup(nil, "another node", incarnation, released, [][]byte{encodeProposal(p)})
		if _, result := db.leader.propose(v.ctx(), g); result != sendDurable {
			t.Fatal(result)
		}
	}
	value := func() int64 {
		got, _ := get(db, "n")
		return int64(binary.BigEndian.Uint64([]byte(got)))
	}
	for i, c := range []struct {
		incarnation, released, seq uint64
		want                       int64
	}{
		{5, 1, 1, 1},
		{5, 1, 1, 1}, // again
		{5, 1, 2, 2},
		{5, 1, 1, 2}, // late
		{5, 3, 3, 3}, // releases 1 and 2
		{5, 3, 1, 3}, // released: never applied
		{5, 1, 2, 3}, // an old group: its mark does not go back
		{4, 1, 9, 3}, // earlier incarnation
		{6, 1, 1, 4}, // next incarnation begins anew
		{5, 3, 9, 4}, // and ends the one before
	} {
		p.seq = c.seq
		propose(c.incarnation, c.released, p)
		if got := value(); got != c.want {
			t.Errorf("step %d: %d, want %d", i, got, c.want)
		}
		if i == 4 { // what is remembered survives a restart
			v.stop(0)
			v.start(0)
			db = v.members[0].db
			v.leader()
		}
	}
	if n := len(db.machine.nodes["another node"].outcomes); n != 1 {
		t.Errorf("%d outcomes are kept, want 1", n)
	}
}

// An answer that is lost on its way makes the node send the same id again; the
// change happens once.
func TestL2_LostAnswer(t *testing.T) {
	t.Parallel()
	v := newVillage(t, nil, "berlin", "paris", "rome")
	i := v.follower()
	m := v.members[i]
	lead := v.members[v.leader()]
	// The leader handles the first three questions and drops their answers.
	var mu sync.Mutex
	lost := 0
	leads := lead.db // also for a stream that comes while it closes
	answer := leads.responder.answer
	lead.lane.Handle(protoLedger, func(s network.Stream) {
		r := &responder{allowed: leads.isServer, greeter: leads.greeter, ctx: leads.ctx, open: make(map[peer.ID]int)}
		r.answer = func(ctx context.Context, from peer.ID, q []byte) (byte, uint64) {
			status, index := answer(ctx, from, q)
			mu.Lock()
			defer mu.Unlock()
			if q[0] == askPropose && lost < 3 {
				lost++
				s.Reset()
			}
			return status, index
		}
		r.serve(s)
	})
	m.db.caller.dropIdle(lead.id())
	for range 5 {
		v.ok(m.db.Update(v.ctx(), func(tx *Tx) error { tx.Add([]byte("n"), 1); return nil }))
	}
	if got, _ := get(m.db, "n"); int64(binary.BigEndian.Uint64([]byte(got))) != 5 {
		t.Errorf("got %x, want 5", got)
	}
	if lost != 3 {
		t.Errorf("%d answers were lost, the test wants 3", lost)
	}
}

func TestL2_NoQuorumOrUnknown(t *testing.T) {
	t.Parallel()
	v := newVillage(t, func(_ int, c *Config) { c.WriteTimeout = 4 * time.Second }, "berlin", "paris", "rome")
	v.put(0, "a", "1")
	update := func(i int) error {
		return v.members[i].db.Update(v.ctx(), func(tx *Tx) error { tx.Put([]byte("b"), []byte("2")); return nil })
	}
	// A follower that reaches nobody has certainly not proposed.
	f := v.follower()
	v.ok(v.members[f].db.ReadIndex(v.ctx()))
	v.cutOff(f, true)
	start := time.Now()
	if err := update(f); !errors.Is(err, ErrNoQuorum) || errors.Is(err, ErrUnknown) {
		t.Errorf("follower: got %v", err)
	}
	if d := time.Since(start); d > patience/2 {
		t.Errorf("that took %s", d)
	}
	if _, ok := get(v.members[f].db, "a"); !ok {
		t.Error("reads do not go on")
	}
	if err := v.members[f].db.ReadIndex(v.ctx()); !errors.Is(err, ErrNoQuorum) {
		t.Errorf("read index: got %v", err)
	}
	err := v.members[f].db.Update(v.ctx(), func(tx *Tx) error { tx.Get([]byte("a")); return errStop })
	if !errors.Is(err, ErrNoQuorum) || errors.Is(err, errStop) {
		t.Errorf("fn's error on an unconfirmed copy: got %v", err)
	}
	v.cutOff(f, false)
	v.ok(v.members[f].db.ReadIndex(v.ctx()))
	if _, ok := get(v.members[f].db, "b"); ok {
		t.Error("what was certainly not proposed happened")
	}
	// A leader that is cut off has it in its log: nobody knows.
	l := v.leader()
	v.cutOff(l, true)
	if err := update(l); !errors.Is(err, ErrUnknown) {
		t.Errorf("leader: got %v", err)
	}
	v.cutOff(l, false)
	v.ok(v.members[l].db.ReadIndex(v.ctx()))
	// Given up and released, it never happens later than the next Update.
	v.put(l, "c", "3")
	_, before := get(v.members[l].db, "b")
	v.put(l, "d", "4")
	if _, after := get(v.members[l].db, "b"); after != before {
		t.Error("an attempt that was given up happened later")
	}
}

func TestL3_ErrorsOfFnAreConfirmed(t *testing.T) {
	t.Parallel()
	v := newVillage(t, nil, "berlin", "paris", "rome")
	v.put(0, "a", "old")
	db := v.members[v.follower()].db
	v.ok(db.ReadIndex(v.ctx()))
	rival := inBetween(v, func() { v.put(v.leader(), "a", "new") })
	var seen []string
	err := db.Update(v.ctx(), func(tx *Tx) error {
		value, _ := tx.Get([]byte("a"))
		seen = append(seen, string(value))
		rival()
		return fmt.Errorf("saw %s: %w", value, errStop)
	})
	if !errors.Is(err, errStop) || !strings.Contains(err.Error(), "new") || len(seen) != 2 {
		t.Errorf("got %v after seeing %q", err, seen)
	}
	// The same without an error and without a write.
	rival = inBetween(v, func() { v.put(v.leader(), "a", "newer") })
	last := ""
	v.ok(db.Update(v.ctx(), func(tx *Tx) error {
		value, _ := tx.Get([]byte("a"))
		last = string(value)
		rival()
		return nil
	}))
	if last != "newer" {
		t.Errorf("Update without a write ended on %q", last)
	}
}

// An acknowledged Update is in the logs of two sites, though a majority is at one.
func TestL3_TwoSites(t *testing.T) {
	t.Parallel()
	v := newVillage(t, nil, "berlin", "berlin", "paris")
	v.until("the leader is in berlin", func() bool {
		if l := v.leader(); l == 2 {
			v.members[l].db.TransferLeadership(v.ctx())
			return false
		}
		return true
	})
	l := v.leader()
	for i := range 20 {
		v.put(i%2, fmt.Sprint("k", i), "x")
		// What paris has on disk must hold every acknowledged entry.
		last, _ := v.members[2].db.log.LastIndex()
		if at := v.members[i%2].db.machine.nodes; at == nil {
			t.Fatal("no outcomes")
		}
		var index uint64
		v.members[i%2].db.View(func(tx *Tx) error { index = tx.ChangeIndex(fmt.Append(nil, "k", i)); return nil })
		if index == 0 || last < index {
			t.Fatalf("acknowledged entry %d, paris has %d", index, last)
		}
	}
	// Paris away: after it counts as dead, berlin goes on alone.
	v.cutOff(2, true)
	v.put(l, "alone", "x")
}
