package replication

import (
	"context"
	"errors"
	"testing"
)

// What a giving up may say about an attempt, after each end of its trip: "certainly
// not proposed" only where no leader can have seen it.
func TestL2_WhatGivingUpSays(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		trips    []sendResult
		flying   bool // given up during one more trip
		proposed bool
	}{
		"never sent":                      {nil, false, false},
		"no leader":                       {[]sendResult{sendNoLeader}, false, false},
		"on its way":                      {nil, true, true},
		"uncertain":                       {[]sendResult{sendUncertain}, false, true},
		"uncertain, then no leader":       {[]sendResult{sendUncertain, sendNoLeader}, false, true},
		"durable, not applied here yet":   {[]sendResult{sendDurable}, false, true},
		"no leader, then durable":         {[]sendResult{sendNoLeader, sendDurable}, false, true},
		"no leader, then on another trip": {[]sendResult{sendNoLeader}, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newProposer("me", 1)
			a := must(p.submit(&proposal{writes: []write{{op: opAdd, key: []byte("n"), delta: 1}}}))
			take := func() []*attempt {
				batch, _ := p.take()
				if !p.markProposed(batch) {
					t.Fatal("a waiting attempt may not be sent")
				}
				return batch
			}
			for _, result := range c.trips {
				p.sent(take(), result)
			}
			if c.flying {
				take()
			}
			if got := p.giveUp(a); got != c.proposed {
				t.Errorf("proposed %v, want %v", got, c.proposed)
			}
		})
	}
}

// The leader has answered, this copy has not applied the entry yet, and the caller's
// time is up: the change happens, so nobody may be told that it was never proposed.
func TestL2_DurableButNotSeenHere(t *testing.T) {
	t.Parallel()
	db := &DB{c: Config{WriteTimeout: patience}, ctx: t.Context(), proposer: newProposer("me", 1)}
	ctx, cancel := context.WithCancel(t.Context())
	tx := &Tx{update: true}
	tx.Put([]byte("a"), []byte("1"))
	go func() {
		batch, _ := db.proposer.take()
		db.proposer.markProposed(batch)
		db.proposer.sent(batch, sendDurable)
		cancel()
	}()
	if _, err := db.propose(ctx, tx); !errors.Is(err, ErrUnknown) || errors.Is(err, ErrNoQuorum) {
		t.Errorf("got %v", err)
	}
}

// The mark of released ids passes what is settled or given up, and nothing else; what
// was given up before it left does not leave any more.
func TestL2_ReleasedMark(t *testing.T) {
	t.Parallel()
	p := newProposer("me", 1)
	submit := func() *attempt { return must(p.submit(&proposal{writes: []write{{op: opDelete, key: []byte("k")}}})) }
	released := func() uint64 {
		submit()
		batch, data := p.take()
		groups := must(decodeEntry(append(entryHeader(1), data...), formatNow))
		p.markProposed(batch)
		p.sent(batch, sendDurable)
		return groups[0].released
	}
	first, second := submit(), submit()
	batch, _ := p.take()
	if got := released(); got != first.seq {
		t.Errorf("both are under way: %d", got)
	}
	p.settledHere([]settled{{first.seq, outcome{applied, 7}}})
	if got := released(); got != second.seq {
		t.Errorf("the first is settled: %d", got)
	}
	if p.giveUp(second) || p.markProposed(batch) {
		t.Error("given up as never proposed, and sent")
	}
	if got := released(); got != second.seq+1 {
		t.Errorf("the second is given up: %d", got)
	}
}
