package copies

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

// serving makes a stream handler of fn: counted, bounded per peer, ended by Close. A stream too many is
// refused in the words of its protocol, so that nobody takes a busy node for a dead one.
func (c *Copies) serving(in, out int, fn func(ctx context.Context, from peer.ID, w *wire), refuse func(*wire, status) error) func(network.Stream) {
	return func(s network.Stream) {
		from := s.Conn().RemotePeer()
		done, err := c.enter(from)
		if errors.Is(err, errBusy) && refuse(newWire(s, c.cfg.timing.dial, wordBuffer, wordBuffer), status{code: codeBusy, store: c.cfg.Disk.ID()}) == nil {
			_ = s.Close()
			return
		}
		if err != nil {
			_ = s.Reset()
			return
		}
		defer done()
		ctx, cancel := context.WithCancel(c.life)
		defer cancel()
		stop := context.AfterFunc(ctx, func() { _ = s.Reset() })
		fn(ctx, from, newWire(s, c.cfg.timing.progress, in, out))
		if stop() {
			_ = s.Close()
		}
	}
}

var errBusy = errors.New("too many streams")

// enter counts a stream in, if it may come.
func (c *Copies) enter(from peer.ID) (done func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		return nil, ErrClosed
	case c.open[from] >= maxStreams:
		return nil, errBusy
	}
	c.open[from]++
	c.wg.Add(1)
	return func() {
		c.mu.Lock()
		if c.open[from]--; c.open[from] == 0 {
			delete(c.open, from)
		}
		c.mu.Unlock()
		c.wg.Done()
	}, nil
}

// refuseFetch answers a want list with no block.
func refuseFetch(w *wire, s status) error {
	if _, err := readWants(w.r); err != nil {
		return err
	}
	_, _ = w.w.WriteString(carHeader)
	_ = w.w.WriteByte(0)
	return writeStatus(w.w, s)
}

// refusePush says that this node is not ready.
func refusePush(w *wire, s status) error {
	if _, err := w.r.ReadByte(); err != nil {
		return err
	}
	return writeStatus(w.w, s)
}

// serveFetch answers a want list with a CAR stream: the blocks in the order asked, up to the first
// that is not here, then a status.
func (c *Copies) serveFetch(ctx context.Context, from peer.ID, w *wire) {
	want, err := readWants(w.r)
	if err != nil {
		c.log.DebugContext(ctx, "request for blocks is malformed", "peer", from, "error", err)
		_ = w.s.Reset()
		return
	}
	_, _ = w.w.WriteString(carHeader)
	if err := w.w.Flush(); err != nil { // at once: it shows that this node lives
		_ = w.s.Reset()
		return
	}
	end, err := c.sendBlocks(ctx, from, w, want)
	if err == nil {
		_ = w.w.WriteByte(0)
		err = writeStatus(w.w, end)
	}
	if err != nil {
		c.log.DebugContext(ctx, "sending blocks ended", "peer", from, "error", err)
		_ = w.s.Reset()
	}
}

// sendBlocks reads ahead from the disk while the wire takes what was read.
func (c *Copies) sendBlocks(ctx context.Context, to peer.ID, w *wire, want []cid.Cid) (status, error) {
	ctx, cancel := context.WithCancel(ctx)
	share := c.budget.open(to)
	defer share.end()
	ahead := make(chan blocks.Block, 2)
	end := status{store: c.cfg.Disk.ID()} // the reader's until ahead is closed
	var reader sync.WaitGroup
	reader.Go(func() {
		defer close(ahead)
		for _, id := range want {
			if share.take(ctx, maxBlock) != nil {
				return
			}
			b, err := c.cfg.Disk.Block(ctx, id)
			if err != nil {
				end.code = codeNotFound
				if c.cfg.Disk.Has(id) && ctx.Err() == nil {
					end.code = codeFailed
					c.log.ErrorContext(ctx, "a block kept here cannot be read", "cid", id, "error", err)
				}
				return
			}
			share.give(maxBlock - len(b.RawData()))
			select {
			case ahead <- b:
			case <-ctx.Done():
				return
			}
		}
	})
	defer reader.Wait()
	defer cancel()
	for b := range ahead {
		if err := writeSection(w.w, b); err != nil {
			return status{}, err
		}
		share.give(len(b.RawData()))
	}
	return end, ctx.Err()
}

// servePush takes an upload's blocks in, and acknowledges once they are durable.
func (c *Copies) servePush(ctx context.Context, from peer.ID, w *wire) {
	c.pushes.Add(1)
	defer c.pushes.Add(-1)
	end := status{store: c.cfg.Disk.ID()}
	epoch, err := c.epochHere()
	if err != nil {
		c.log.ErrorContext(ctx, "refused pushed blocks", "peer", from, "error", err)
		_ = w.s.Reset()
		return
	}
	root, err := c.takePush(ctx, from, w, end)
	switch statusErr, refused := errors.AsType[*statusError](err); {
	case err == nil:
		c.hold(root, epoch)
	case refused:
		end.code, end.reason = statusErr.code, statusErr.reason
		c.log.ErrorContext(ctx, "refused pushed blocks", "peer", from, "error", err)
	case c.cfg.NoSpace(err):
		end.code = codeNoSpace
		c.log.WarnContext(ctx, "no space for pushed blocks", "peer", from, "error", err)
	case ctx.Err() == nil && errors.Is(err, errDisk):
		end.code = codeFailed
		c.log.ErrorContext(ctx, "pushed blocks could not be kept", "peer", from, "error", err)
	default: // the sender is gone, or changed its mind
		c.log.DebugContext(ctx, "push ended early", "peer", from, "error", err)
		_ = w.s.Reset()
		return
	}
	if err := writeStatus(w.w, end); err != nil {
		_ = w.s.Reset()
	}
}

// errDisk marks what this node's own disk said.
var errDisk = errors.New("disk")

func refuse(format string, args ...any) error {
	return &statusError{status{code: codeRefused, reason: fmt.Sprintf(format, args...)}}
}

// takePush reads the dialogue up to the root's name and makes its blocks durable.
func (c *Copies) takePush(ctx context.Context, from peer.ID, w *wire, ready status) (cid.Cid, error) {
	if v, err := w.r.ReadByte(); err != nil || v != wireVersion {
		return cid.Undef, fmt.Errorf("push version %d: %w", v, noEOF(err))
	}
	if err := writeStatus(w.w, ready); err != nil {
		return cid.Undef, err
	}
	defer c.beating(w, ready)()
	w.within(c.cfg.timing.idle)
	if err := readHeader(w.r); err != nil {
		return cid.Undef, err
	}
	batch := c.cfg.NewBatch(false)
	defer batch.Abort()
	share := c.budget.open(from)
	defer share.end()
	last, parents, err := c.takeBlocks(ctx, w, share, batch)
	if err != nil {
		return cid.Undef, err
	}
	root, err := readCID(w.r)
	if err != nil {
		return cid.Undef, err
	}
	if root != last {
		return cid.Undef, refuse("root %s is not the last block", root)
	}
	if err := c.whole(ctx, batch, root, parents); err != nil {
		return cid.Undef, err
	}
	if err := batch.Commit(ctx); err != nil {
		return cid.Undef, fmt.Errorf("%w: %w", errDisk, err)
	}
	return root, nil
}

// whole touches all that was pushed, so that the lease of fresh blocks begins when the last has come,
// however long that took (T6). It refuses a push that left out what its blocks link to: this node would
// answer for a copy that it does not have. What was here before may stand in for what was not sent.
func (c *Copies) whole(ctx context.Context, batch Batch, root cid.Cid, parents []cid.Cid) error {
	touch := func(id, under cid.Cid) error {
		switch held, err := batch.Touch(id); {
		case err != nil:
			return fmt.Errorf("%w: touch what was pushed: %w", errDisk, err)
		case !held:
			return refuse("block %s under %s was not sent", id, under)
		}
		return nil
	}
	if err := touch(root, root); err != nil {
		return err
	}
	for _, id := range parents {
		if err := touch(id, root); err != nil {
			return err
		}
		b, err := c.cfg.Disk.Block(ctx, id)
		if err != nil {
			return fmt.Errorf("%w: read what was pushed: %w", errDisk, err)
		}
		links, err := c.cfg.Links(b)
		if err != nil {
			return refuse("links of %s: %v", id, err)
		}
		for _, link := range links {
			if err := touch(link, id); err != nil {
				return err
			}
		}
	}
	return nil
}

// A section is one that was read and is not verified.
type section struct {
	id   cid.Cid
	data []byte
	size int // of the peer's budget
}

// takeBlocks verifies and adds blocks while the next are being read, and returns the last one's CID
// and those of blocks with links. Only whole sections reach the disk.
func (c *Copies) takeBlocks(ctx context.Context, w *wire, share *share, batch Batch) (last cid.Cid, parents []cid.Cid, err error) {
	ctx, cancel := context.WithCancel(ctx)
	read := make(chan section, 2)
	var readErr error // the reader's until read is closed
	whole := false    // read was closed
	var reader sync.WaitGroup
	reader.Go(func() {
		defer close(read)
		readErr = c.readSections(ctx, w, share, read)
	})
	defer func() {
		cancel()
		if !whole {
			_ = w.s.CloseRead() // it may be reading; the status can still be written
		}
		reader.Wait()
	}()
	for s := range read {
		b, err := verify(s.id, s.data)
		if err != nil {
			return cid.Undef, nil, refuse("%v", err)
		}
		links, err := c.cfg.Links(b)
		if err != nil {
			return cid.Undef, nil, refuse("links of %s: %v", s.id, err)
		}
		if len(links) > 0 {
			parents = append(parents, s.id)
		}
		if len(parents) > maxParents {
			return cid.Undef, nil, refuse("more than %d blocks with links", maxParents)
		}
		if err := batch.Add(ctx, b); err != nil {
			return cid.Undef, nil, fmt.Errorf("%w: %w", errDisk, err)
		}
		last = s.id
		share.give(s.size)
	}
	whole = true
	return last, parents, readErr
}

// readSections reads up to the end of blocks. Between blocks it waits for a slow client of the
// sender's; within one, only for progress.
func (c *Copies) readSections(ctx context.Context, w *wire, share *share, out chan<- section) error {
	size := 0
	reserve := func(n int) error {
		size = n
		err := share.take(ctx, n)
		w.within(c.cfg.timing.progress) // this node's own waiting does not count
		return err
	}
	for {
		w.within(c.cfg.timing.idle)
		if _, err := w.r.Peek(1); err != nil {
			return noEOF(err)
		}
		w.within(c.cfg.timing.progress)
		id, data, err := readSection(w.r, reserve)
		if errors.Is(err, errEnd) {
			return nil
		}
		if err != nil {
			return noEOF(err)
		}
		select {
		case out <- section{id, data, size}:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// beating tells the sender every beat that this node is at work, until stop returns.
func (c *Copies) beating(w *wire, beat status) (stop func()) {
	beat.code = codeWorking
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(c.cfg.timing.beat)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				_ = writeStatus(w.w, beat) // if it fails, so will the last word
			}
		}
	})
	return func() {
		close(done)
		wg.Wait()
	}
}

// hold notes that everything under root is durable here, added since this node's epoch was that.
func (c *Copies) hold(root cid.Cid, epoch uint32) {
	c.acked.add(root, epoch)
	c.poke()
	c.tell(root)
}
