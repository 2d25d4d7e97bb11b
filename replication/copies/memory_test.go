package copies

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"

	"github.com/valise-mail/valise/replication"
)

// memLedger is a ledger in memory that all nodes of a test share.
type memLedger struct {
	mu      sync.Mutex
	data    map[string][]byte
	changed chan struct{}
	refuse  error // of Update
	happens bool  // although it is refused
}

func newMemLedger() *memLedger {
	return &memLedger{data: make(map[string][]byte), changed: make(chan struct{})}
}

type memTx struct{ data map[string][]byte }

func (tx memTx) Get(key []byte) ([]byte, bool) {
	v, ok := tx.data[string(key)]
	return v, ok
}
func (tx memTx) Put(key, value []byte) { tx.data[string(key)] = bytes.Clone(value) }
func (tx memTx) Delete(key []byte)     { delete(tx.data, string(key)) }
func (tx memTx) Scan(from, to []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func([]byte, []byte) bool) {
		for _, k := range slices.Sorted(maps.Keys(tx.data)) {
			if k >= string(from) && (to == nil || k < string(to)) && !yield([]byte(k), tx.data[k]) {
				return
			}
		}
	}
}

func (l *memLedger) View(fn func(tx scanner) error) error {
	l.mu.Lock()
	data := maps.Clone(l.data)
	l.mu.Unlock()
	return fn(memTx{data})
}

func (l *memLedger) Update(ctx context.Context, fn func(tx ledgerTx) error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.refuse != nil && !l.happens {
		return l.refuse
	}
	tx := memTx{maps.Clone(l.data)}
	if err := fn(tx); err != nil {
		return err
	}
	l.data = tx.data
	close(l.changed)
	l.changed = make(chan struct{})
	return l.refuse
}

func (l *memLedger) Watch(ctx context.Context, prefix []byte) iter.Seq2[replication.Change, error] {
	return func(yield func(replication.Change, error) bool) {
		for {
			l.mu.Lock()
			changed := l.changed
			l.mu.Unlock()
			if !yield(replication.Change{Kind: replication.Synced}, nil) {
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
				yield(replication.Change{}, ctx.Err())
				return
			}
		}
	}
}

func (l *memLedger) setRefuse(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refuse = err
}

// memDisk is a store in memory, with faults.
type memDisk struct {
	mu     sync.Mutex
	id     [16]byte
	kept   map[cid.Cid]blocks.Block
	cached map[cid.Cid]blocks.Block
	room   int                      // bytes of kept blocks it takes; negative is no limit
	badFor map[cid.Cid]bool         // Block gives other bytes
	synced int                      // commits
	epoch  uint32                   // of collection
	noted  map[cid.Cid]uint32       // the epoch in which a kept block was added or met last
	fresh  map[cid.Cid]blocks.Block // added to kept batches and not committed
	open   map[*memBatch]uint32     // kept batches under way, and the epoch in which each began
	reads  atomic.Int64

	syncErr  error         // of Commit
	cacheErr error         // of Add to a cached batch
	hang     chan struct{} // Commit waits for it to close
	onAdd    func(b blocks.Block)
}

var errNoRoom = errors.New("disk is full")

func newMemDisk() *memDisk {
	d := &memDisk{fresh: make(map[cid.Cid]blocks.Block), open: make(map[*memBatch]uint32), noted: make(map[cid.Cid]uint32), kept: make(map[cid.Cid]blocks.Block), cached: make(map[cid.Cid]blocks.Block), badFor: make(map[cid.Cid]bool), room: -1}
	_, _ = rand.Read(d.id[:])
	return d
}

func (d *memDisk) set(fn func(d *memDisk)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	fn(d)
}

func (d *memDisk) ID() [16]byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.id
}

func (d *memDisk) Has(c cid.Cid) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, ok := d.kept[c]
	return ok
}

func (d *memDisk) Block(ctx context.Context, c cid.Cid) (blocks.Block, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	b, ok := d.kept[c]
	if !ok {
		b, ok = d.cached[c]
	}
	if !ok {
		b, ok = d.fresh[c]
	}
	if !ok {
		return nil, errors.New("not on this disk")
	}
	d.reads.Add(1)
	if d.badFor[c] {
		bad := bytes.Clone(b.RawData())
		bad[0] ^= 1
		return blocks.NewBlockWithCid(bad, c)
	}
	return b, nil
}

func (d *memDisk) newBatch(cache bool) Batch {
	b := &memBatch{d: d, cache: cache}
	if !cache {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.open[b] = d.epoch
	}
	return b
}

type memBatch struct {
	d      *memDisk
	cache  bool
	added  []blocks.Block
	epochs []uint32 // of each
	busy   atomic.Bool
}

// alone panics where two goroutines use a batch at a time.
func (b *memBatch) alone() func() {
	if !b.busy.CompareAndSwap(false, true) {
		panic("a batch is used twice at a time")
	}
	return func() { b.busy.Store(false) }
}

func (b *memBatch) Add(ctx context.Context, blk blocks.Block) error {
	defer b.alone()()
	b.d.mu.Lock()
	onAdd := b.d.onAdd
	b.d.mu.Unlock()
	if onAdd != nil {
		onAdd(blk)
	}
	b.d.mu.Lock()
	defer b.d.mu.Unlock()
	if b.cache && b.d.cacheErr != nil {
		return b.d.cacheErr
	}
	if !b.cache && b.d.room >= 0 {
		if b.d.room -= len(blk.RawData()); b.d.room < 0 {
			b.d.room = 0
			return fmt.Errorf("add block: %w", errNoRoom)
		}
	}
	if !b.cache {
		b.d.fresh[blk.Cid()] = blk
	}
	b.added = append(b.added, blk)
	b.epochs = append(b.epochs, b.d.epoch)
	if _, met := b.d.kept[blk.Cid()]; met && !b.cache {
		b.d.noted[blk.Cid()] = b.d.epoch
	}
	return nil
}

func (b *memBatch) Touch(c cid.Cid) (bool, error) {
	defer b.alone()()
	b.d.mu.Lock()
	defer b.d.mu.Unlock()
	_, held := b.d.kept[c]
	if held {
		b.d.noted[c] = b.d.epoch
	}
	for i, blk := range b.added {
		if blk.Cid() == c {
			held, b.epochs[i] = true, b.d.epoch
		}
	}
	return held, nil
}

func (b *memBatch) Commit(ctx context.Context) error {
	defer b.alone()()
	defer b.end()
	b.d.mu.Lock()
	hang := b.d.hang
	b.d.mu.Unlock()
	if hang != nil {
		select {
		case <-hang:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	b.d.mu.Lock()
	defer b.d.mu.Unlock()
	if b.d.syncErr != nil {
		return b.d.syncErr
	}
	to := b.d.kept
	if b.cache {
		to = b.d.cached
	}
	for i, blk := range b.added {
		to[blk.Cid()] = blk
		if !b.cache {
			b.d.noted[blk.Cid()] = max(b.d.noted[blk.Cid()], b.epochs[i])
		}
	}
	b.d.synced++
	return nil
}

func (b *memBatch) Abort() {
	defer b.alone()()
	b.end()
}

func (b *memBatch) end() {
	b.d.mu.Lock()
	defer b.d.mu.Unlock()
	delete(b.d.open, b)
	for _, blk := range b.added {
		delete(b.d.fresh, blk.Cid())
	}
}

func (d *memDisk) Epoch() uint32 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.epoch
}

func (d *memDisk) SetEpoch(epoch uint32) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.epoch = max(d.epoch, epoch)
	return nil
}

// collect frees what was noted before an epoch and is not live.
func (d *memDisk) collect(before uint32, live map[cid.Cid]bool) (freed int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, epoch := range d.open {
		before = min(before, epoch)
	}
	for id := range d.kept {
		if d.noted[id] < before && !live[id] {
			delete(d.kept, id)
			freed++
		}
	}
	return freed
}
