package replication

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"github.com/libp2p/go-libp2p/core/peer"
)

// A reader gets read indexes from the leader, wherever it is. Calls that come while
// one is on its way share the next: the one on its way began too early for them.
type reader struct {
	ask  func(ctx context.Context, lazy bool) (uint64, error)
	runs sync.WaitGroup

	mu   sync.Mutex
	next *round // not started; nil if nobody waits
	busy bool   // a round is on its way
}

// A round is one read index for all that joined before it started.
type round struct {
	done  chan struct{}
	index uint64
	err   error
}

// index returns a read index asked for after the call began.
func (r *reader) index(ctx context.Context, timeout time.Duration) (uint64, error) {
	r.mu.Lock()
	if r.next == nil {
		r.next = &round{done: make(chan struct{})}
	}
	mine := r.next
	lead := !r.busy
	if lead {
		r.busy, r.next = true, nil
	}
	r.mu.Unlock()
	if lead {
		r.run(mine, timeout)
	}
	select {
	case <-mine.done:
		return mine.index, mine.err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// run asks in its own goroutine, then for those who came meanwhile. It ends by
// itself within the time-out, whoever is still interested.
func (r *reader) run(first *round, timeout time.Duration) {
	r.runs.Go(func() {
		for next := first; next != nil; {
			ctx, cancel := context.WithTimeout(context.Background(), timeout)
			next.index, next.err = r.ask(ctx, false)
			cancel()
			close(next.done)
			r.mu.Lock()
			next, r.next = r.next, nil
			r.busy = next != nil
			r.mu.Unlock()
		}
	})
}

// askLeader gets one read index from whoever leads, retrying until ctx ends.
func (db *DB) askLeader(ctx context.Context, lazy bool) (uint64, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(db.ctx, cancel)()
	for {
		index, err := db.askLeaderOnce(ctx, lazy)
		if err == nil {
			return index, nil
		}
		pause(ctx, retryAfter)
		if ctx.Err() != nil {
			if db.ctx.Err() != nil {
				return 0, ErrClosed
			}
			return 0, fmt.Errorf("read index: %w", ErrNoQuorum)
		}
	}
}

func (db *DB) askLeaderOnce(ctx context.Context, lazy bool) (uint64, error) {
	id, err := db.leaderID()
	if err != nil {
		return 0, err
	}
	if id == db.c.ID {
		return db.leader.readIndex(ctx, lazy)
	}
	how := askNow
	if lazy {
		how = askLazy
	}
	status, index, err := db.caller.ask(ctx, id, sealFrame(append(frame(askReadIndex, 1), how)), nil)
	if err != nil {
		db.caller.dropIdle(id)
		return 0, err
	}
	if status != statusOK {
		return 0, errNotLeading
	}
	return index, nil
}

// ledBy is a leader as raft writes it and as a peer id.
type ledBy struct {
	text raft.ServerID
	id   peer.ID
}

func (db *DB) leaderID() (peer.ID, error) {
	_, text := db.raft.LeaderWithID()
	if text == "" {
		return "", errNotLeading
	}
	if l := db.led.Load(); l != nil && l.text == text {
		return l.id, nil
	}
	id, err := peer.Decode(string(text))
	if err == nil {
		db.led.Store(&ledBy{text, id})
	}
	return id, err
}

// ReadIndex returns nil once everything committed anywhere before the call is
// visible here. Without a leader it returns ErrNoQuorum after Config.WriteTimeout.
func (db *DB) ReadIndex(ctx context.Context) error {
	if err := db.begin(); err != nil {
		return err
	}
	defer db.ops.Done()
	return db.readIndex(ctx)
}

func (db *DB) readIndex(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, db.c.WriteTimeout)
	defer cancel()
	asked := time.Now()
	index, err := db.reads.index(ctx, db.c.WriteTimeout)
	if err == nil {
		err = db.applied.wait(ctx, index)
	}
	switch {
	case err == nil:
		db.confirm(asked)
		return nil
	case db.ctx.Err() != nil:
		return ErrClosed
	case ctx.Err() != nil:
		return fmt.Errorf("read index: %w: %w", ErrNoQuorum, ctx.Err())
	}
	return err
}

// confirm notes that this copy showed all that was committed at a time.
func (db *DB) confirm(asked time.Time) {
	db.ageMu.Lock()
	defer db.ageMu.Unlock()
	if !db.isConfirmed || asked.After(db.confirmed) {
		db.confirmed, db.isConfirmed = asked, true
	}
}

// keepAge confirms this copy again and again (L4). It waits for ordinary heartbeats:
// an idle cluster pays one small question per node and interval.
func (db *DB) keepAge(ctx context.Context) {
	for ctx.Err() == nil {
		asked := time.Now()
		round, cancel := context.WithTimeout(ctx, db.c.WriteTimeout)
		index, err := db.askLeader(round, true)
		if err == nil {
			err = db.applied.wait(round, index)
		}
		cancel()
		if err == nil {
			db.confirm(asked)
		}
		pause(ctx, db.c.AgeEvery)
	}
}

// An indexWait lets goroutines wait until an index is applied.
type indexWait struct {
	mu    sync.Mutex
	index uint64
	waits map[chan struct{}]uint64
}

func (w *indexWait) reached(index uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.index = max(w.index, index)
	for c, want := range w.waits {
		if want <= w.index {
			close(c)
			delete(w.waits, c)
		}
	}
}

func (w *indexWait) wait(ctx context.Context, index uint64) error {
	w.mu.Lock()
	if w.index >= index {
		w.mu.Unlock()
		return nil
	}
	c := make(chan struct{})
	if w.waits == nil {
		w.waits = make(map[chan struct{}]uint64)
	}
	w.waits[c] = index
	w.mu.Unlock()
	select {
	case <-c:
		return nil
	case <-ctx.Done():
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.waits, c)
		return ctx.Err()
	}
}
