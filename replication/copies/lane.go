package copies

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	blocks "github.com/ipfs/go-block-format"
	"github.com/libp2p/go-libp2p/core/peer"
)

// A lane streams one upload's blocks to one peer. When that peer fails and too few copies can be had
// without it, the lane begins again with another: from the tape where nothing was sent, else from what is
// durable (late.go).
type lane struct {
	u     *Upload
	node  Node           // owned by run
	late  bool           // it does not read the tape; owned by run
	ahead []blocks.Block // what was fetched for a late lane; owned by run
}

// run ends with exactly one call of u.settle.
func (l *lane) run() { l.runTo([]Node{l.node}) }

// runTo is run with the first of several nodes that answers.
func (l *lane) runTo(candidates []Node) {
	defer l.u.tape.leave(l)
	var errs []error
	for {
		conn, err := l.connect(candidates)
		if err != nil {
			l.u.settle(l, Copy{}, errors.Join(append(errs, err)...))
			return
		}
		store, err := l.stream(conn)
		if err == nil {
			l.u.settle(l, Copy{Node: l.node.ID, Store: store}, nil)
			return
		}
		if _, said := errors.AsType[*statusError](err); !said && l.u.ctx.Err() == nil {
			l.u.c.ranks.failed(l.node.ID)
		}
		err = fmt.Errorf("copy to %s: %w", l.node.ID, err)
		errs = append(errs, err)
		if candidates = l.replace(err); len(candidates) == 0 {
			l.u.settle(l, Copy{}, errors.Join(errs...))
			return
		}
	}
}

// connect opens the stream to one of the candidates, or to one that can stand in for them.
func (l *lane) connect(candidates []Node) (*pushStream, error) {
	var errs []error
	for len(candidates) > 0 {
		conn, node, err := l.u.c.race(l.u.ctx, candidates)
		if err == nil {
			l.node = node
			l.u.use(l, node, candidates)
			return conn, nil
		}
		errs = append(errs, err)
		if l.u.ctx.Err() != nil {
			break
		}
		candidates = l.u.standIns(l)
	}
	return nil, errors.Join(errs...)
}

// stream sends the tape and waits until it is durable there.
func (l *lane) stream(p *pushStream) (store [16]byte, err error) {
	defer func() { p.end(err) }()
	answer := make(chan answered, 1)
	var named atomic.Bool // the root
	var reader sync.WaitGroup
	defer reader.Wait()
	ctx, cancel := context.WithCancelCause(l.u.ctx)
	defer cancel(nil)
	// The peer may refuse in the middle: its word ends the writing, and the waiting for more, too.
	reader.Go(func() {
		s, err := p.answer()
		if err == nil && !named.Load() {
			err = fmt.Errorf("acknowledged before it was told the root: %w", errSection)
		}
		answer <- answered{s, err}
		if err != nil {
			_ = p.w.s.Reset()
			cancel(err)
		}
	})
	if err := l.send(ctx, p, &named); err != nil {
		_ = p.w.s.Reset()
		if a := <-answer; a.err != nil {
			if _, ok := errors.AsType[*statusError](a.err); ok || errors.Is(a.err, errSection) {
				return store, a.err // what the peer said tells more
			}
		}
		return store, err
	}
	a := <-answer
	return a.store, a.err
}

type answered struct {
	store [16]byte
	err   error
}

func (l *lane) send(ctx context.Context, p *pushStream, named *atomic.Bool) error {
	u := l.u
	if _, err := p.w.w.WriteString(carHeader); err != nil {
		return err
	}
	for at := 0; ; at++ {
		b, err := l.next(ctx, at, p.w.w.Flush)
		if err != nil {
			return err
		}
		if b == nil {
			break
		}
		if err := u.c.slots.acquire(ctx, l.node.ID, forUpload); err != nil {
			return err
		}
		err = writeSection(p.w.w, b)
		u.c.slots.release(l.node.ID)
		if err != nil {
			return err
		}
	}
	named.Store(true)
	_ = p.w.w.WriteByte(0) // its error sticks
	if err := writeCID(p.w.w, u.root()); err != nil {
		return err
	}
	if err := p.w.w.Flush(); err != nil {
		return err
	}
	return p.w.s.CloseWrite()
}

// A pushStream is open to a peer that is ready for blocks.
type pushStream struct {
	w    *wire
	c    *Copies
	stop func() bool // of the context's watch
	free func()      // of the context, if it is this stream's own
}

// openPush opens a stream and waits for the peer's readiness, all within timing.dial.
func (c *Copies) openPush(ctx context.Context, id peer.ID) (*pushStream, error) {
	begun := time.Now()
	w, stop, err := c.dial(ctx, id, pushProtocol, wordBuffer, blockBuffer)
	if err == nil {
		p := &pushStream{w: w, c: c, stop: stop, free: func() {}}
		_ = w.w.WriteByte(wireVersion)
		if err = w.w.Flush(); err == nil {
			w.within(max(c.cfg.timing.dial-time.Since(begun), c.cfg.timing.dial/4))
			var s status
			if s, err = readStatus(w.r); err == nil {
				err = s.err()
			}
		}
		if err == nil {
			c.ranks.answered(id)
			return p, nil
		}
		p.end(err)
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if _, refused := errors.AsType[*statusError](err); !refused {
		c.ranks.failed(id)
	}
	return nil, fmt.Errorf("reach %s: %w", id, err)
}

// answer waits for the peer's last word. Until then the peer says every beat that it is at work.
func (p *pushStream) answer() ([16]byte, error) {
	for {
		p.w.within(p.c.cfg.timing.progress)
		s, err := readStatus(p.w.r)
		if err != nil {
			return s.store, err
		}
		if s.code != codeWorking {
			return s.store, s.err()
		}
	}
}

func (p *pushStream) end(err error) {
	p.stop()
	p.free()
	if err != nil {
		_ = p.w.s.Reset()
		return
	}
	_ = p.w.s.Close()
}

// race opens a stream to the first of the nodes that answers.
func (c *Copies) race(ctx context.Context, nodes []Node) (*pushStream, Node, error) {
	if len(nodes) == 1 {
		conn, err := c.openPush(ctx, nodes[0].ID)
		return conn, nodes[0], err
	}
	type result struct {
		conn *pushStream
		node int
		err  error
	}
	results := make(chan result)
	cancels := make([]context.CancelFunc, len(nodes))
	for i, n := range nodes {
		var one context.Context
		one, cancels[i] = context.WithCancel(ctx)
		go func() {
			conn, err := c.openPush(one, n.ID)
			results <- result{conn, i, err}
		}()
	}
	var won *result
	var errs []error
	for range nodes {
		switch r := <-results; {
		case r.err != nil:
			cancels[r.node]()
			errs = append(errs, r.err)
		case won != nil:
			cancels[r.node]()
			r.conn.end(context.Canceled)
		default:
			won = &r
			r.conn.free = cancels[r.node]
			for i, cancel := range cancels {
				if i != r.node {
					cancel()
				}
			}
		}
	}
	if won == nil {
		return nil, Node{}, errors.Join(errs...)
	}
	return won.conn, nodes[won.node], nil
}
