package replication

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

// Protocols on the lane.
const (
	protoRaft   = "raft/1"
	protoLedger = "ledger/1"
)

// streamLayer carries raft's connections over the lane's streams. A peer id's text
// is both server id and address.
type streamLayer struct {
	self    peer.ID
	lane    Lane
	allowed func(peer.ID) bool
	greeter *greeter
	failed  func(id string) // told whom this node could not dial

	ctx      context.Context // ends when it is killed
	end      context.CancelFunc
	accepted chan net.Conn
	closed   chan struct{}

	mu    sync.Mutex
	conns map[*streamConn]struct{} // nil once killed
	live  sync.WaitGroup           // accepted connections raft has not closed
}

var _ raft.StreamLayer = (*streamLayer)(nil)

func newStreamLayer(self peer.ID, lane Lane, allowed func(peer.ID) bool, g *greeter) *streamLayer {
	l := &streamLayer{
		self: self, lane: lane, allowed: allowed, greeter: g,
		accepted: make(chan net.Conn), closed: make(chan struct{}),
		conns: make(map[*streamConn]struct{}),
	}
	l.ctx, l.end = context.WithCancel(context.Background())
	return l
}

// serve feeds one incoming stream to raft. raft itself asks nobody who they are.
func (l *streamLayer) serve(s network.Stream) {
	if !l.allowed(s.Conn().RemotePeer()) {
		l.greeter.dismissed(l.ctx, s)
		s.Reset()
		return
	}
	if l.greeter.accepted(l.ctx, s) != nil {
		s.Reset()
		return
	}
	c := l.track(s, true)
	if c == nil {
		return
	}
	select {
	case l.accepted <- c:
	case <-l.closed:
		c.Close()
	}
}

// track wraps a stream; nil, and a reset stream, once the layer is killed.
func (l *streamLayer) track(s network.Stream, incoming bool) *streamConn {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conns == nil {
		s.Reset()
		return nil
	}
	c := &streamConn{Stream: s, layer: l, incoming: incoming}
	if incoming {
		l.live.Add(1)
	}
	l.conns[c] = struct{}{}
	return c
}

// Accept implements net.Listener.
func (l *streamLayer) Accept() (net.Conn, error) {
	select {
	case c := <-l.accepted:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Dial implements raft.StreamLayer.
func (l *streamLayer) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	id, err := peer.Decode(string(address))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(l.ctx, timeout)
	defer cancel()
	s, err := l.lane.Dial(direct(ctx), id, protoRaft)
	if err != nil {
		l.failed(string(address))
		return nil, err
	}
	if err := l.greeter.dialled(ctx, s); err != nil {
		l.failed(string(address))
		s.Reset()
		return nil, err
	}
	c := l.track(s, false)
	if c == nil {
		return nil, net.ErrClosed
	}
	return c, nil
}

// direct asks libp2p for a dial without its back-off, which after a cut cable would
// keep a healed site apart for minutes. raft and our callers pace themselves.
func direct(ctx context.Context) context.Context {
	return network.WithForceDirectDial(ctx, "ledger")
}

// Addr implements net.Listener: what raft takes for its own address.
func (l *streamLayer) Addr() net.Addr { return peerAddr(l.self) }

// Close implements net.Listener.
func (l *streamLayer) Close() error {
	l.kill()
	return nil
}

// kill cuts every connection and refuses new ones: a node that cannot write must
// not go on beating as if it could.
func (l *streamLayer) kill() {
	l.mu.Lock()
	conns := l.conns
	l.conns = nil
	l.mu.Unlock()
	if conns == nil {
		return
	}
	close(l.closed)
	l.end()
	for c := range conns {
		c.Reset()
	}
}

// wait returns when raft has let go of every incoming connection.
func (l *streamLayer) wait() { l.live.Wait() }

// A streamConn is a stream as a net.Conn.
type streamConn struct {
	network.Stream
	layer    *streamLayer
	incoming bool
	once     sync.Once
}

// Close resets: a half-closed raft connection is of no use to either side.
func (c *streamConn) Close() error {
	c.once.Do(func() {
		c.Reset()
		c.layer.mu.Lock()
		delete(c.layer.conns, c)
		c.layer.mu.Unlock()
		if c.incoming {
			c.layer.live.Done()
		}
	})
	return nil
}

func (c *streamConn) LocalAddr() net.Addr  { return peerAddr(c.Conn().LocalPeer()) }
func (c *streamConn) RemoteAddr() net.Addr { return peerAddr(c.Conn().RemotePeer()) }

type peerAddr peer.ID

func (peerAddr) Network() string  { return "libp2p" }
func (a peerAddr) String() string { return peer.ID(a).String() }

// transport is raft's network transport, listening in: an answer to AppendEntries
// from a synced log says how far that log is durable (L3), that its node is alive,
// and that this leader was not replaced when it asked (L4).
type transport struct {
	*raft.NetworkTransport
	heard *contacts
}

var (
	_ raft.Transport   = (*transport)(nil)
	_ raft.WithPreVote = (*transport)(nil)
	_ raft.WithClose   = (*transport)(nil)
)

// AppendEntries implements raft.Transport.
func (t *transport) AppendEntries(id raft.ServerID, target raft.ServerAddress, req *raft.AppendEntriesRequest,
	resp *raft.AppendEntriesResponse) error {
	sent := time.Now()
	err := t.NetworkTransport.AppendEntries(id, target, req, resp)
	if err == nil {
		t.heard.appended(string(id), sent, req, resp)
	}
	return err
}

// InstallSnapshot implements raft.Transport: an installed snapshot is durable.
func (t *transport) InstallSnapshot(id raft.ServerID, target raft.ServerAddress, req *raft.InstallSnapshotRequest,
	resp *raft.InstallSnapshotResponse, data io.Reader) error {
	sent := time.Now()
	err := t.NetworkTransport.InstallSnapshot(id, target, req, resp, data)
	if err == nil && resp.Success && resp.Term <= req.Term {
		t.heard.note(string(id), req.Term, sent, req.LastLogIndex)
	}
	return err
}

// AppendEntriesPipeline implements raft.Transport.
func (t *transport) AppendEntriesPipeline(id raft.ServerID, target raft.ServerAddress) (raft.AppendPipeline, error) {
	inner, err := t.NetworkTransport.AppendEntriesPipeline(id, target)
	if err != nil {
		return nil, err
	}
	p := &pipeline{AppendPipeline: inner, id: string(id), heard: t.heard,
		out: make(chan raft.AppendFuture), stop: make(chan struct{})}
	p.done.Go(p.listen)
	return p, nil
}

type pipeline struct {
	raft.AppendPipeline
	id    string
	heard *contacts
	out   chan raft.AppendFuture
	stop  chan struct{}
	once  sync.Once
	done  sync.WaitGroup
}

func (p *pipeline) listen() {
	for {
		select {
		case f := <-p.AppendPipeline.Consumer():
			if f.Error() == nil {
				p.heard.appended(p.id, f.Start(), f.Request(), f.Response())
			}
			select {
			case p.out <- f:
			case <-p.stop:
				return
			}
		case <-p.stop:
			return
		}
	}
}

func (p *pipeline) Consumer() <-chan raft.AppendFuture { return p.out }

func (p *pipeline) Close() error {
	err := p.AppendPipeline.Close()
	p.once.Do(func() { close(p.stop) })
	p.done.Wait()
	return err
}

var errNotLeading = errors.New("not the ledger's leader")
