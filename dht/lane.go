package dht

import (
	"context"
	"errors"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
)

// A Lane is one of the two hosts.
type Lane struct{}

// Host is the lane's libp2p host, for libraries that want one. What they
// handle under protocols of their own is served to members only.
func (l *Lane) Host() host.Host { return nil }

// Addrs are the addresses this lane listens on, with their real ports.
func (l *Lane) Addrs() []multiaddr.Multiaddr { return nil }

// Handle serves protocol /valise/<cluster>/<name> to peers of the classes.
func (l *Lane) Handle(name string, classes Class, fn func(network.Stream)) {}

// Dial opens a stream of protocol /valise/<cluster>/<name> to a peer.
func (l *Lane) Dial(ctx context.Context, id peer.ID, name string) (network.Stream, error) {
	return nil, errors.ErrUnsupported
}

// For returns the lane as rooms see it that know no classes.
func (l *Lane) For(classes Class) *Port { return nil }

// A Port is a lane with the classes settled.
type Port struct{}

// Handle is Lane.Handle for the port's classes.
func (p *Port) Handle(name string, fn func(network.Stream)) {}

// Dial is Lane.Dial.
func (p *Port) Dial(ctx context.Context, id peer.ID, name string) (network.Stream, error) {
	return nil, errors.ErrUnsupported
}

// Self is this node's peer id.
func (p *Port) Self() peer.ID { return "" }

// Deadline gives s the earlier of ctx's deadline and now+d, and resets s when ctx
// ends. Stop takes both back.
func Deadline(ctx context.Context, s network.Stream, d time.Duration) (stop func()) {
	return func() {}
}

// Idle returns s with a deadline of d on every single Read and Write.
func Idle(s network.Stream, d time.Duration) network.Stream { return s }
