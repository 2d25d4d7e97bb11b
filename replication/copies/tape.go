package copies

import (
	"context"
	"slices"
	"sync"

	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
)

// maxNames bounds how many blocks' names one upload keeps, to send them again: some 70 GiB.
const maxNames = 1 << 16

// tapeLimit bounds the blocks one upload holds for its slowest peer, in bytes.
const tapeLimit = 8 << 20

// A tape holds an upload's blocks until every reader has passed them. A block that several peers
// get is held once.
type tape struct {
	mu      sync.Mutex
	changed *sync.Cond
	held    []blocks.Block
	first   int       // number of held[0]
	bytes   int       // in held
	all     []cid.Cid // what was added, up to maxNames
	ended   bool
	readers map[*lane]int // number of the block each needs next
}

func newTape() *tape {
	t := &tape{readers: make(map[*lane]int)}
	t.changed = sync.NewCond(&t.mu)
	return t
}

// join adds a reader, from the first block on. It must come before the first add.
func (t *tape) join(l *lane) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.readers[l] = 0
}

// leave ends a reader: nothing is held for it any more.
func (t *tape) leave(l *lane) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.readers, l)
	t.trim()
}

// rejoin makes a lane a reader again from block at on, unless the tape has that no more.
func (t *tape) rejoin(l *lane, at int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if at < t.first {
		return false
	}
	t.readers[l] = at
	return true
}

// names are those of blocks from number at on, at most n.
func (t *tape) names(at, n int) []cid.Cid {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.all[min(at, len(t.all)):min(at+n, len(t.all))])
}

// add appends a block once there is room for it, or the tape is empty.
func (t *tape) add(ctx context.Context, b blocks.Block) error {
	defer context.AfterFunc(ctx, t.stir)()
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(t.held) > 0 && t.bytes+len(b.RawData()) > tapeLimit {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		t.changed.Wait()
	}
	if len(t.all) == t.first+len(t.held) && len(t.all) < maxNames {
		t.all = append(t.all, b.Cid())
	}
	t.held = append(t.held, b)
	t.bytes += len(b.RawData())
	t.trim()
	return nil
}

// end says that no more will come.
func (t *tape) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended = true
	t.changed.Broadcast()
}

// stir makes all who wait look again.
func (t *tape) stir() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.changed.Broadcast()
}

// next returns block at to a reader, and nil at the end or when ctx is done. It calls idle before
// it waits. What is before it is passed by this call.
func (t *tape) next(ctx context.Context, l *lane, at int, idle func() error) (blocks.Block, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.readers[l] < at {
		t.readers[l] = at
		t.trim()
	}
	if i := t.readers[l] - t.first; i < len(t.held) {
		return t.held[i], nil
	}
	t.mu.Unlock()
	err := idle()
	defer context.AfterFunc(ctx, t.stir)() // an upload that is given up wakes who waits for more of it
	t.mu.Lock()
	if err != nil {
		return nil, err
	}
	for {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if i := t.readers[l] - t.first; i < len(t.held) {
			return t.held[i], nil
		}
		if t.ended {
			return nil, nil
		}
		t.changed.Wait()
	}
}

// trim drops what all readers have passed.
func (t *tape) trim() {
	low := t.first + len(t.held)
	for _, at := range t.readers {
		low = min(low, at)
	}
	for t.first < low {
		t.bytes -= len(t.held[0].RawData())
		t.held[0] = nil
		t.held = t.held[1:]
		t.first++
	}
	t.changed.Broadcast()
}

// size is how many bytes the tape holds.
func (t *tape) size() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.bytes
}
