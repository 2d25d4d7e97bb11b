package replication

import (
	"bytes"
	"context"
	"iter"
	"slices"
	"sync"
)

// ChangeKind says what a Change is.
type ChangeKind uint8

// The kinds of Change.
const (
	Put    ChangeKind = iota + 1 // Key has Value
	Delete                       // Key is gone, or was gone already
	Synced                       // all changes up to Index have been yielded
	Reset                        // forget everything; the state follows anew
)

// A Change is one event of a Watch. Key and Value belong to the receiver.
type Change struct {
	Kind  ChangeKind
	Key   []byte
	Value []byte
	Index uint64 // of the entry that made it; for Synced, see there
}

const (
	maxPending = 4096 // changed keys a watcher may be behind; more is a Reset
	chunkKeys  = 256  // keys read per snapshot, so that a slow receiver holds none
)

// A watcher collects which keys changed; their values are read when they are
// yielded. That coalesces, and bounds what a slow receiver costs.
type watcher struct {
	prefix []byte
	wake   chan struct{} // buffered

	mu      sync.Mutex
	pending map[string]uint64 // key -> index of its last change
	order   []string          // keys of pending, first change first
	reset   bool
}

// watchers tells watchers of changes. One that is not concerned costs a comparison.
type watchers struct {
	mu  sync.RWMutex
	all [257][]*watcher // by the prefix's first byte; 256: the empty prefix
}

func (ws *watchers) slot(prefix []byte) *[]*watcher {
	if len(prefix) == 0 {
		return &ws.all[256]
	}
	return &ws.all[prefix[0]]
}

func (ws *watchers) add(w *watcher) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	slot := ws.slot(w.prefix)
	*slot = append(*slot, w)
}

func (ws *watchers) remove(w *watcher) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	slot := ws.slot(w.prefix)
	*slot = slices.DeleteFunc(*slot, func(o *watcher) bool { return o == w })
}

// changed tells the concerned watchers; the changes are visible.
func (ws *watchers) changed(changes []changedKey) {
	ws.mu.RLock()
	defer ws.mu.RUnlock()
	for i := range changes {
		c := &changes[i]
		if len(c.key) > 0 {
			for _, w := range ws.all[c.key[0]] {
				if bytes.HasPrefix(c.key, w.prefix) {
					w.note(c)
				}
			}
		}
		for _, w := range ws.all[256] {
			w.note(c)
		}
	}
}

// resetAll makes every watcher start over.
func (ws *watchers) resetAll() {
	ws.mu.RLock()
	defer ws.mu.RUnlock()
	for i := range ws.all {
		for _, w := range ws.all[i] {
			w.mu.Lock()
			w.startOver()
			w.mu.Unlock()
		}
	}
}

func (w *watcher) note(c *changedKey) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.reset {
		return
	}
	if _, again := w.pending[string(c.key)]; !again {
		if len(w.pending) >= maxPending {
			w.startOver()
			return
		}
		w.order = append(w.order, string(c.key))
	}
	w.pending[string(c.key)] = c.index
	w.signal()
}

// startOver forgets what is pending; with mu held.
func (w *watcher) startOver() {
	w.reset = true
	w.pending, w.order = make(map[string]uint64), nil
	w.signal()
}

func (w *watcher) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// take returns the next changed keys with their indexes, or that all starts over.
func (w *watcher) take() (keys []string, indexes []uint64, reset bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.reset {
		w.reset = false
		return nil, nil, true
	}
	n := min(len(w.order), chunkKeys)
	keys = slices.Clone(w.order[:n])
	if w.order = w.order[n:]; len(w.order) == 0 {
		w.order = nil
	}
	for _, key := range keys {
		indexes = append(indexes, w.pending[key])
		delete(w.pending, key)
	}
	return keys, indexes, false
}

// Watch yields the present state of prefix as Puts, a Synced mark, then changes,
// coalesced per key. After a snapshot install, or when the receiver is more than
// 4,096 changed keys behind, it yields Reset and starts over (L5). A change may be
// yielded twice. Synced.Index is the index up to which every change has been
// yielded. It ends with an error when ctx ends or the ledger closes.
func (db *DB) Watch(ctx context.Context, prefix []byte) iter.Seq2[Change, error] {
	prefix = bytes.Clone(prefix)
	return func(yield func(Change, error) bool) {
		if err := db.begin(); err != nil {
			yield(Change{}, err)
			return
		}
		db.ops.Done() // a receiver may be slow: Close does not wait for it
		w := &watcher{prefix: prefix, wake: make(chan struct{}, 1), pending: make(map[string]uint64)}
		db.watchers.add(w)
		defer db.watchers.remove(w)
		f := &feed{db: db, w: w, ctx: ctx, yield: yield}
		if err := f.run(); err != nil {
			yield(Change{}, err)
		}
	}
}

// A feed is one running Watch.
type feed struct {
	db      *DB
	w       *watcher
	ctx     context.Context // of this one call
	yield   func(Change, error) bool
	stopped bool // nothing more is yielded
	broke   bool // because the receiver broke off
}

// give yields one change; false when the receiver broke off or the time is up.
func (f *feed) give(c Change) bool {
	switch {
	case f.stopped:
	case f.ctx.Err() != nil, f.db.ctx.Err() != nil:
		f.stopped = true
	case !f.yield(c, nil):
		f.stopped, f.broke = true, true
	}
	return !f.stopped
}

// run ends with nil only if the receiver broke off.
func (f *feed) run() error {
	again, err := f.state()
	for err == nil && !f.stopped {
		if again {
			if !f.give(Change{Kind: Reset}) {
				break
			}
			again, err = f.state()
			continue
		}
		keys, indexes, reset := f.w.take()
		switch {
		case reset:
			again = true
		case len(keys) > 0:
			err = f.changes(keys, indexes)
		default:
			select {
			case <-f.w.wake:
			case <-f.ctx.Done():
				return f.ctx.Err()
			case <-f.db.ctx.Done():
				return ErrClosed
			}
		}
	}
	if err == nil && !f.broke {
		if err = f.ctx.Err(); err == nil && f.db.ctx.Err() != nil {
			err = ErrClosed
		}
	}
	return err
}

// state yields everything below the prefix, then Synced. It reads in chunks, each
// from a snapshot of its own; what changes meanwhile is pending. It reports true
// when an installed snapshot came in between.
func (f *feed) state() (again bool, err error) {
	from, to := f.w.prefix, PrefixEnd(f.w.prefix)
	oldest := uint64(0)
	for {
		var chunk []Change
		err := f.db.View(func(tx *Tx) error {
			if oldest == 0 {
				oldest = tx.Index()
			}
			for key, value := range tx.Scan(from, to) {
				chunk = append(chunk, Change{Kind: Put, Key: key, Value: value})
				if len(chunk) == chunkKeys {
					break
				}
			}
			for i := range chunk {
				chunk[i].Index = tx.ChangeIndex(chunk[i].Key)
			}
			return nil
		})
		if err != nil {
			return false, err
		}
		f.w.mu.Lock()
		reset := f.w.reset
		f.w.reset = false
		f.w.mu.Unlock()
		if reset {
			return true, nil
		}
		full := len(chunk) == chunkKeys
		if full {
			from = append(bytes.Clone(chunk[len(chunk)-1].Key), 0)
		}
		for _, c := range chunk {
			if !f.give(c) {
				return false, nil
			}
		}
		if !full {
			f.give(Change{Kind: Synced, Index: oldest})
			return false, nil
		}
	}
}

// changes yields the present values of changed keys.
func (f *feed) changes(keys []string, indexes []uint64) error {
	out := make([]Change, 0, len(keys))
	err := f.db.View(func(tx *Tx) error {
		for i, key := range keys {
			c := Change{Kind: Delete, Key: []byte(key), Index: indexes[i]}
			if index, value, ok := tx.read(c.Key); ok {
				c.Kind, c.Value, c.Index = Put, value, index
			}
			out = append(out, c)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, c := range out {
		if !f.give(c) {
			return nil
		}
	}
	return nil
}
