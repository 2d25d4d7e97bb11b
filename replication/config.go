package replication

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

// A Lane carries the ledger's streams. The peers it lets in are members; the
// ledger itself further drops those that are no servers of it. *dht.Port is one.
type Lane interface {
	// Handle serves the protocol called name with fn, once per incoming stream.
	Handle(name string, fn func(network.Stream))
	// Dial opens a stream of that protocol to a peer.
	Dial(ctx context.Context, id peer.ID, name string) (network.Stream, error)
}

// Config says where a ledger lives and how it reaches the others.
type Config struct {
	Dir    string        // folder of the ledger alone; created by Create
	FS     vfs.FS        // file system of Dir; nil is the operating system's
	Cache  *pebble.Cache // shared block cache; nil is a small one of its own
	ID     peer.ID       // this node; raft's server id and address
	Site   string        // this node's failure domain
	Lane   Lane          // streams to the other nodes
	Logger *slog.Logger  // nil discards

	PromoteAfter time.Duration // how long a non-voter must keep up before it votes; 10 s
	ReplaceAfter time.Duration // how long a voter may be silent before another votes instead; 1 min
	WriteTimeout time.Duration // how long a write or read index waits for a leader; 6 s
	Heartbeat    time.Duration // raft's heartbeat and election time-outs; 1 s
	AgeEvery     time.Duration // how often the age of this copy is confirmed; 250 ms
	SiteLive     time.Duration // a site is live that long after its last answer; 3 s

	SnapshotEvery    uint64        // entries between two snapshots; 8,192
	SnapshotInterval time.Duration // how often raft looks whether one is due; 2 min
	TrailingLogs     uint64        // entries kept behind a snapshot for slow followers; 10,240

	maxFormat uint64 // highest format read; tests make older programs with it
}

// Validate names the first field without which nothing works.
func (c Config) Validate() error {
	switch {
	case c.Dir == "":
		return errors.New("replication: Config.Dir is empty; set it to the ledger's folder")
	case c.ID == "":
		return errors.New("replication: Config.ID is empty; set it to this node's peer id")
	case c.Lane == nil:
		return errors.New("replication: Config.Lane is nil; set it to the ledger's lane of the road")
	case c.WriteTimeout < 0, c.Heartbeat < 0, c.PromoteAfter < 0, c.ReplaceAfter < 0, c.AgeEvery < 0, c.SiteLive < 0:
		return fmt.Errorf("replication: a negative time in the Config; zero means the default")
	}
	return nil
}

func (c Config) withDefaults() Config {
	if c.FS == nil {
		c.FS = vfs.Default
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	setDefault(&c.PromoteAfter, 10*time.Second)
	setDefault(&c.ReplaceAfter, time.Minute)
	setDefault(&c.WriteTimeout, 6*time.Second)
	setDefault(&c.Heartbeat, time.Second)
	setDefault(&c.AgeEvery, 250*time.Millisecond)
	setDefault(&c.SiteLive, 3*time.Second)
	setDefault(&c.SnapshotEvery, 8192)
	setDefault(&c.SnapshotInterval, 2*time.Minute)
	setDefault(&c.TrailingLogs, 10240)
	setDefault(&c.maxFormat, formatNow)
	return c
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
