package copies

import (
	"context"
	"errors"
	"testing"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
)

func TestP4_Slots(t *testing.T) {
	t.Parallel()
	s := newSlots(2)
	ctx := t.Context()
	for range 2 {
		if err := s.acquire(ctx, "p", forKeeper); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.acquire(ctx, "q", forKeeper); err != nil { // another peer's are its own
		t.Fatal(err)
	}
	s.release("q")
	order := make(chan string, 100)
	wait := func(name string, why purpose) {
		before := s.waiters("p")
		go func() {
			if err := s.acquire(ctx, "p", why); err == nil {
				order <- name
			}
		}()
		eventually(t, "it waits", func() bool { return s.waiters("p") == before+1 })
	}
	wait("keeper", forKeeper)
	wait("upload", forUpload)
	wait("reader 1", forReader)
	wait("reader 2", forReader)
	cancelled, cancel := context.WithCancel(ctx)
	gone := make(chan error)
	go func() { gone <- s.acquire(cancelled, "p", forReader) }()
	eventually(t, "it waits", func() bool { return s.waiters("p") == 5 })
	cancel()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	for _, want := range []string{"reader 1", "reader 2", "upload", "keeper"} {
		s.release("p")
		if got := <-order; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	s.release("p")
	s.release("p")
	if len(s.peers) != 0 {
		t.Error("an idle peer is remembered")
	}
}

// Readers cannot starve a keeper.
func TestP4_SlotsAreFair(t *testing.T) {
	t.Parallel()
	q := &slotQueue{busy: 1}
	keeper := &slotWait{arrived: 1}
	q.waiting[forKeeper] = []*slotWait{keeper}
	for i := range uint64(20) {
		q.waiting[forReader] = append(q.waiting[forReader], &slotWait{arrived: 2 + i})
	}
	turns := 0
	for q.next() != keeper {
		if turns++; turns > fairTurn {
			t.Fatal("the keeper starves")
		}
	}
	if turns == 0 {
		t.Error("the keeper went before readers")
	}
}

func (s *slots) waiters(id peer.ID) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if q := s.peers[id]; q != nil {
		for _, w := range q.waiting {
			n += len(w)
		}
	}
	return n
}

func TestTapeIsBounded(t *testing.T) {
	t.Parallel()
	tape, slow, quick := newTape(), &lane{}, &lane{}
	tape.join(slow)
	tape.join(quick)
	b := blockOf(make([]byte, 1<<20), cid.Raw)
	added := make(chan int, 100)
	go func() {
		defer close(added)
		for i := range 20 {
			if err := tape.add(t.Context(), b); err != nil {
				return
			}
			added <- i
		}
	}()
	idle := func() error { return nil }
	read := func(l *lane, n int) {
		for i := range n {
			if _, err := tape.next(t.Context(), l, i, idle); err != nil {
				t.Error(err)
			}
		}
	}
	read(quick, 8) // no more can be there before slow has passed one
	for range tapeLimit >> 20 {
		<-added
	}
	if tape.size() > tapeLimit || len(added) > 0 {
		t.Errorf("%d bytes held", tape.size())
	}
	tape.leave(slow)
	for range added {
		if tape.size() > tapeLimit {
			t.Errorf("%d bytes held", tape.size())
		}
		if n := tape.size(); n == tapeLimit {
			tape.leave(quick)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	full := newTape()
	full.join(slow)
	for range tapeLimit >> 20 {
		_ = full.add(ctx, b)
	}
	failed := make(chan error)
	go func() { failed <- full.add(ctx, b) }()
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// Uploads and reads wait for a slot before they move a byte.
func TestP4_FourBulkStreamsAPeer(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, 2, "a", "b").start()
	near, far := cl.peers[0], cl.peers[1]
	take := func() {
		for range bulkStreams {
			if err := near.slots.acquire(t.Context(), far.id(), forReader); err != nil {
				t.Fatal(err)
			}
		}
	}
	give := func() {
		for range bulkStreams {
			near.slots.release(far.id())
		}
	}
	done := make(chan error, 1)
	f := newFile(2, 1000)
	take()
	go func() { _, err := near.upload(t.Context(), f); done <- err }()
	eventually(t, "the upload waits", func() bool { return near.slots.waiters(far.id()) == 1 })
	if far.disk.Has(f.root) {
		t.Error("moved without a slot")
	}
	give()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	near.record(t, Placed{Root: f.root, Copies: []Copy{{far.id(), far.disk.ID()}}})
	near.disk.set(func(d *memDisk) { clear(d.kept) })
	take()
	go func() { done <- near.read(t.Context(), f) }()
	eventually(t, "the reader waits", func() bool { return near.slots.waiters(far.id()) == 1 })
	give()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if len(near.slots.peers) != 0 {
		t.Error("a slot was not given back")
	}
}
