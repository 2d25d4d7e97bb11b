package replication

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

// Protocol "ledger/1", after the hellos: frames of a four-byte length and a body; questions and
// answers alternate on a stream. A question is its kind and content, an answer a
// status and an index.
const (
	askPropose   byte = 'P' // a group to be proposed; the index it was applied at
	askReadIndex byte = 'R' // a read index; one byte: askNow or askLazy

	askNow  byte = 0 // force a round of heartbeats
	askLazy byte = 1 // the next ordinary heartbeats will do

	statusOK        byte = 0
	statusNotLeader byte = 1 // certainly not proposed
	statusUnknown   byte = 2 // may have been proposed
	statusRefused   byte = 3 // malformed, or of another node

	maxFrame       = maxEntry + 64
	maxAnswer      = 64
	streamIdle     = 2 * time.Minute  // a quiet stream is closed
	answerTime     = 20 * time.Second // longest wait for an answer
	idleStreams    = 8                // kept per peer
	streamsPerPeer = 64               // served per peer at once
)

var (
	errNotSent = errors.New("not sent")
	errFrame   = errors.New("malformed ledger frame")
)

// readFrame reads one frame of at most limit bytes.
func readFrame(r io.Reader, limit int) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n == 0 || n > uint32(limit) {
		return nil, fmt.Errorf("%w: %d bytes", errFrame, n)
	}
	body := make([]byte, 0, min(int(n), 64<<10))
	for len(body) < int(n) { // memory grows with what arrives
		at := len(body)
		body = append(body, make([]byte, min(int(n)-at, 64<<10))...)
		if _, err := io.ReadFull(r, body[at:]); err != nil {
			return nil, err
		}
	}
	return body, nil
}

// frame begins a frame; its length is set by sealFrame.
func frame(kind byte, size int) []byte {
	return append(make([]byte, 4, 5+size), kind)
}

func sealFrame(b []byte) []byte {
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	return b
}

func encodeAnswer(status byte, index uint64) []byte {
	return sealFrame(binary.AppendUvarint(frame(status, 10), index))
}

func decodeAnswer(body []byte) (status byte, index uint64, err error) {
	d := decoder{rest: body}
	status, index = d.byte(), d.uvarint()
	if d.end() != nil || status > statusRefused {
		return 0, 0, errFrame
	}
	return status, index, nil
}

// A caller asks other nodes' ledgers; it keeps idle streams.
type caller struct {
	lane    Lane
	greeter *greeter

	mu   sync.Mutex
	idle map[peer.ID][]network.Stream // nil once closed
}

func newCaller(lane Lane, g *greeter) *caller {
	return &caller{lane: lane, greeter: g, idle: make(map[peer.ID][]network.Stream)}
}

// ask sends a sealed frame and returns the answer. An error that is errNotSent means
// that the other side cannot have seen the whole question. If sending is not nil it
// is called before the first byte leaves, and may forbid it.
func (c *caller) ask(ctx context.Context, id peer.ID, question []byte, sending func() bool) (status byte, index uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	s, err := c.stream(ctx, id)
	if err != nil {
		return 0, 0, fmt.Errorf("%w: %w", errNotSent, err)
	}
	if sending != nil && !sending() {
		c.keep(id, s)
		return 0, 0, errNotSent
	}
	stop := context.AfterFunc(ctx, func() { s.Reset() })
	if n, err := s.Write(question); err != nil {
		stop()
		s.Reset()
		if n < len(question) {
			return 0, 0, fmt.Errorf("%w: %w", errNotSent, err)
		}
		return 0, 0, err
	}
	body, err := readFrame(s, maxAnswer)
	if err == nil {
		status, index, err = decodeAnswer(body)
	}
	if !stop() || err != nil {
		s.Reset()
		return 0, 0, errors.Join(err, ctx.Err())
	}
	c.keep(id, s)
	return status, index, nil
}

func (c *caller) stream(ctx context.Context, id peer.ID) (network.Stream, error) {
	c.mu.Lock()
	if c.idle == nil {
		c.mu.Unlock()
		return nil, ErrClosed
	}
	if free := c.idle[id]; len(free) > 0 {
		s := free[len(free)-1]
		c.idle[id] = free[:len(free)-1]
		c.mu.Unlock()
		return s, nil
	}
	c.mu.Unlock()
	s, err := c.lane.Dial(direct(ctx), id, protoLedger)
	if err != nil {
		return nil, err
	}
	if err := c.greeter.dialled(ctx, s); err != nil {
		s.Reset()
		return nil, err
	}
	return s, nil
}

func (c *caller) keep(id peer.ID, s network.Stream) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.idle == nil || len(c.idle[id]) >= idleStreams {
		s.Reset()
		return
	}
	c.idle[id] = append(c.idle[id], s)
}

// dropIdle closes the idle streams to a peer: one failed, the others are no better.
func (c *caller) dropIdle(id peer.ID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.idle[id] {
		s.Reset()
	}
	delete(c.idle, id)
}

func (c *caller) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, free := range c.idle {
		for _, s := range free {
			s.Reset()
		}
	}
	c.idle = nil
}

// A responder answers other nodes' ledgers.
type responder struct {
	allowed func(peer.ID) bool
	greeter *greeter
	answer  func(ctx context.Context, from peer.ID, question []byte) (status byte, index uint64)

	ctx    context.Context // ends when the ledger closes
	mu     sync.Mutex
	open   map[peer.ID]int // streams being served
	closed bool
	served sync.WaitGroup
}

// serve answers the questions of one stream.
func (r *responder) serve(s network.Stream) {
	from := s.Conn().RemotePeer()
	if !r.allowed(from) || !r.enter(from) {
		s.Reset()
		return
	}
	defer r.leave(from)
	defer s.Reset()
	defer context.AfterFunc(r.ctx, func() { s.Reset() })()
	if r.greeter.accepted(r.ctx, s) != nil {
		return
	}
	for {
		s.SetReadDeadline(time.Now().Add(streamIdle))
		question, err := readFrame(s, maxFrame)
		if err != nil || !r.allowed(from) {
			return
		}
		ctx, cancel := context.WithTimeout(r.ctx, answerTime)
		status, index := r.answer(ctx, from, question)
		cancel()
		s.SetWriteDeadline(time.Now().Add(answerTime))
		if _, err := s.Write(encodeAnswer(status, index)); err != nil {
			return
		}
	}
}

func (r *responder) enter(from peer.ID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || r.open[from] >= streamsPerPeer {
		return false
	}
	r.open[from]++
	r.served.Add(1)
	return true
}

func (r *responder) leave(from peer.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open[from]--
	if r.open[from] == 0 {
		delete(r.open, from)
	}
	r.served.Done()
}

// close refuses new streams and waits for those being served; r.ctx has ended.
func (r *responder) close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.served.Wait()
}
