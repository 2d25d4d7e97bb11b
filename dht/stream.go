package dht

import (
	"context"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
)

// Deadline puts a bound on everything done on s from now on: it fails at the
// earlier of ctx's deadline and now+d, and s is reset when ctx ends. A libp2p
// stream without one waits for ever. Stop takes both bounds back; it must be
// called, and is best deferred.
func Deadline(ctx context.Context, s network.Stream, d time.Duration) (stop func()) {
	at := time.Now().Add(d)
	if t, ok := ctx.Deadline(); ok && t.Before(at) {
		at = t
	}
	s.SetDeadline(at)
	off := context.AfterFunc(ctx, func() { s.Reset() })
	return func() {
		if off() {
			s.SetDeadline(time.Time{})
		}
	}
}

// Idle returns s so that each Read and each Write fails when it alone takes
// longer than d, however long the whole transfer is. Do not set deadlines on
// the result.
func Idle(s network.Stream, d time.Duration) network.Stream { return idle{s, d} }

type idle struct {
	network.Stream
	d time.Duration
}

func (i idle) Read(p []byte) (int, error) {
	if err := i.SetReadDeadline(time.Now().Add(i.d)); err != nil {
		return 0, err
	}
	return i.Stream.Read(p)
}

func (i idle) Write(p []byte) (int, error) {
	if err := i.SetWriteDeadline(time.Now().Add(i.d)); err != nil {
		return 0, err
	}
	return i.Stream.Write(p)
}
