// Package copies keeps every file's blocks on enough nodes: it says which nodes must hold what,
// streams new blocks there, fetches what is missing, and reads blocks from whoever has them.
package copies

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/valise-mail/valise/replication"
)

var (
	// ErrNotDurable says that too few nodes have the blocks on disk. Nothing was recorded; trying
	// again is safe.
	ErrNotDurable = errors.New("too few durable copies")
	// ErrNoSpace says that the same is so because nodes have no room. Trying again is safe, and of
	// use once there is room.
	ErrNoSpace = errors.New("no space for copies")
	// ErrNotFound says that none of the nodes asked gave the block. Trying again is safe.
	ErrNotFound = errors.New("no copy found")
	// ErrNotRecorded says that the ledger has no record of a root.
	ErrNotRecorded = errors.New("root is not recorded")
	// ErrWanted says that this node must not give up its copy of a root.
	ErrWanted = errors.New("copy is wanted here")
	// ErrClosed says that the Copies was closed.
	ErrClosed = errors.New("copies closed")
)

// A Batch makes blocks durable together. Its methods are called by one goroutine at a time.
type Batch interface {
	// Add takes a block whose bytes agree with its CID. It may keep the block.
	Add(ctx context.Context, b blocks.Block) error
	// Touch notes a block that is here, or was added, with the present epoch of collection, as adding it
	// again would; false if it is not here.
	Touch(c cid.Cid) (held bool, err error)
	// Commit returns nil once everything added is durable.
	Commit(ctx context.Context) error
	// Abort ends the batch; after Commit it does nothing.
	Abort()
}

// A Disk is this node's store of blocks. Its methods may be called concurrently.
type Disk interface {
	// ID is random and born with the store: a wiped node has another.
	ID() [16]byte
	// Has says whether the block is kept here; cached blocks do not count.
	Has(c cid.Cid) bool
	// Block reads a block, kept or cached, and verifies it.
	Block(ctx context.Context, c cid.Cid) (blocks.Block, error)
}

// A Lane carries the blocks' streams between members. *dht.Port is one.
type Lane interface {
	// Handle serves the protocol called name with fn, once per incoming stream.
	Handle(name string, fn func(network.Stream))
	// Dial opens a stream of that protocol to a peer.
	Dial(ctx context.Context, id peer.ID, name string) (network.Stream, error)
}

// A Node is a member that can hold copies.
type Node struct {
	ID    peer.ID
	Site  string   // failure domain
	Store [16]byte // id of its present store; zero while unknown: it holds nothing then
	// Weight is its share of the copies in relation to the others', in any unit (bytes of disk).
	// Zero is as much as the largest; a negative weight holds no copies, and gives up those it has.
	Weight int64
	// Away is set by the leader, for Compute: the node was not heard of for Config.Patience.
	Away bool
}

// A Reader reads the ledger inside a transaction. *replication.Tx is one.
type Reader interface {
	Get(key []byte) (value []byte, ok bool)
}

// A ReadWriter writes, too.
type ReadWriter interface {
	Reader
	Put(key, value []byte)
	Delete(key []byte)
}

// A Config says what a Copies works with. Ledger, Lane, Self, Disk, NewBatch, Links and Nodes are
// required.
type Config struct {
	Ledger   *replication.DB
	Lane     Lane                                  // bulk streams between members
	Self     peer.ID                               // this node
	Disk     Disk                                  // this node's blocks
	NewBatch func(cache bool) Batch                // kept blocks, or cached ones
	Links    func(blocks.Block) ([]cid.Cid, error) // a block's children; none for leaves
	Nodes    func() []Node                         // all members now, this node included

	// Wanted is how many copies of everything there should be (P3). It is asked again and again, and may
	// rise and fall. nil or 0: 3.
	Wanted func() int
	Ack    int // copies that must be durable before Commit returns; 2, never more than Wanted (P3)

	// Away says for how long this node has not heard of another; nil: never for long. A node that is
	// away longer than Patience (10 minutes where it is 0) has its rows given to others by the leader (P3).
	Away     func(id peer.ID) time.Duration
	Patience time.Duration

	// Leading says whether this node leads the ledger and therefore keeps the table. nil: it never
	// does.
	Leading func() bool
	// Announce tells the DHT that this node holds a root; nil does nothing. Errors are logged.
	Announce func(ctx context.Context, root cid.Cid) error
	// Find asks the DHT who holds a root when the ledger's answer does not help; nil finds none.
	Find func(ctx context.Context, root cid.Cid) ([]peer.ID, error)
	// NoSpace recognises the disk's error for want of room; nil: errors.Is with ErrNoSpace or ENOSPC.
	NoSpace func(error) bool
	// CacheReads keeps what Blocks fetched from others in a cache batch of this node.
	CacheReads bool
	Logger     *slog.Logger // nil discards

	timing timing // zero fields are defaults
}

// Validate names the first field without which nothing works.
func (c Config) Validate() error {
	switch {
	case c.Lane == nil:
		return errors.New("copies: Config.Lane is nil; set it to the bulk lane of the road")
	case c.Self == "":
		return errors.New("copies: Config.Self is empty; set it to this node's peer id")
	case c.Disk == nil, c.NewBatch == nil, c.Links == nil:
		return errors.New("copies: Config.Disk, NewBatch or Links is nil; set them from the node's store")
	case c.Nodes == nil:
		return errors.New("copies: Config.Nodes is nil; set it to the list of members")
	case c.Ack < 0, c.Patience < 0:
		return errors.New("copies: Config.Ack or Patience is negative; zero is the default")
	}
	if wanted := c.wanted(); wanted < 0 || c.Ack > wanted {
		return fmt.Errorf("copies: Config.Ack is %d and Wanted says %d; ack at most what is wanted", c.Ack, wanted)
	}
	return nil
}

// wanted is how many copies there should be now.
func (c Config) wanted() int {
	if c.Wanted != nil {
		if n := c.Wanted(); n != 0 {
			return n
		}
	}
	return max(3, c.Ack)
}

// A Copies keeps this node's share of the copies. Its methods may be called concurrently.
type Copies struct {
	cfg    Config
	led    ledger
	log    *slog.Logger
	wake   chan struct{} // holds one: the keeper should look
	told   chan cid.Cid  // roots to announce
	slots  *slots
	budget *budget
	ranks  *ranks
	acked  *acked
	tables tableCache

	life   context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // handlers, uploads' streams and reads' windows

	mu     sync.Mutex
	closed bool
	open   map[peer.ID]int // streams served now

	pushes    atomic.Int32 // pushes received now
	lingering atomic.Int64 // bytes held by uploads that are committed and not at their end
}

// Open registers the protocols and returns. Blocks, Begin and the handlers work at once; Run keeps
// copies complete. Close ends it.
func Open(c Config) (*Copies, error) {
	if c.Ledger == nil {
		return nil, errors.New("copies: Config.Ledger is nil; set it to the ledger")
	}
	return open(c, dbLedger{c.Ledger})
}

func open(c Config, led ledger) (*Copies, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	c = c.withDefaults()
	life, cancel := context.WithCancel(context.Background())
	s := &Copies{
		cfg:    c,
		led:    led,
		log:    c.Logger,
		wake:   make(chan struct{}, 1),
		told:   make(chan cid.Cid, 256),
		slots:  newSlots(bulkStreams),
		budget: newBudget(peerBudget),
		ranks:  newRanks(),
		acked:  newAcked(1024),
		life:   life,
		cancel: cancel,
		open:   make(map[peer.ID]int),
	}
	c.Lane.Handle(fetchProtocol, s.serving(wordBuffer, blockBuffer, s.serveFetch, refuseFetch))
	c.Lane.Handle(pushProtocol, s.serving(blockBuffer, wordBuffer, s.servePush, refusePush))
	return s, nil
}

func (c Config) withDefaults() Config {
	if c.Ack == 0 {
		c.Ack = 2
	}
	if c.Away == nil {
		c.Away = func(peer.ID) time.Duration { return 0 }
	}
	if c.Patience == 0 {
		c.Patience = 10 * time.Minute
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Leading == nil {
		c.Leading = func() bool { return false }
	}
	if c.Announce == nil {
		c.Announce = func(context.Context, cid.Cid) error { return nil }
	}
	if c.Find == nil {
		c.Find = func(context.Context, cid.Cid) ([]peer.ID, error) { return nil, nil }
	}
	if c.NoSpace == nil {
		c.NoSpace = isNoSpace
	}
	c.timing = c.timing.withDefaults()
	return c
}

// A timing holds the durations that tests shorten.
type timing struct {
	dial     time.Duration // until a peer has answered a new stream
	progress time.Duration // a stream ends after that long without a piece
	beat     time.Duration // a peer that syncs says so that often
	idle     time.Duration // a peer waits that long for an upload's next block
	linger   time.Duration // slower peers may finish that long after Commit
	table    time.Duration // how often the leader looks at the members
	retryMin time.Duration // the keeper's first and
	retryMax time.Duration // last pause before it tries a root again
	grace    time.Duration // the keeper leaves a root that long to pushes under way
	extras   time.Duration // how often extra copies are looked over
}

func (t timing) withDefaults() timing {
	for _, f := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&t.dial, 3 * time.Second},
		{&t.progress, 10 * time.Second},
		{&t.beat, 2 * time.Second},
		{&t.idle, 10 * time.Minute},
		{&t.linger, time.Minute},
		{&t.table, time.Second},
		{&t.retryMin, time.Second},
		{&t.retryMax, time.Minute},
		{&t.grace, 5 * time.Second},
		{&t.extras, time.Minute},
	} {
		if *f.field == 0 {
			*f.field = f.value
		}
	}
	return t
}

// Close ends everything under way, uploads and reads included, and returns when it has ended. Run
// ends, too; whoever called it waits for it. The handlers stay registered and refuse.
func (c *Copies) Close() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.cancel()
	c.wg.Wait()
	return nil
}

// start runs fn in a goroutine that Close waits for; false after Close.
func (c *Copies) start(fn func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.wg.Go(fn)
	return true
}
