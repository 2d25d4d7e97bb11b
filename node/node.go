// Package node is the hall: it opens a node's rooms in order, introduces them
// to each other, mounts the faces, and shuts down in order.
package node

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/multiformats/go-multiaddr"

	"github.com/valise-mail/valise/authz"
	"github.com/valise-mail/valise/dht"
	"github.com/valise-mail/valise/node/store"
	"github.com/valise-mail/valise/replication"
	"github.com/valise-mail/valise/replication/copies"
)

// Version is the program's.
const Version = "0.1.0"

// A Node is one running daemon. Its methods may be called concurrently.
type Node struct {
	cfg     Config
	fs      vfs.FS
	log     *slog.Logger
	id      *identity
	cluster clusterFile
	started time.Time

	cache   *pebble.Cache
	road    *dht.Road
	ledger  *replication.DB
	keys    *keyring
	law     *authz.Keyring // public signing keys
	store   *store.Store
	copies  *copies.Copies
	roster  roster
	skew    skewWatch
	cleaner *cleaner
	alive   alive
	twins   twins
	run     runID

	leaving    atomic.Bool // its own operator asked for its removal
	wrapAtOnce int         // for how many nodes one transaction may wrap new secrets

	faces   faces
	backups sync.Mutex // held while this node writes or reads a backup

	ctx    context.Context // ends when the node does
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup
	closes []closer // in the order opened
	once   sync.Once
}

type closer struct {
	name string
	io.Closer
}

type closeFunc func() error

func (f closeFunc) Close() error { return f() }

// Open starts the node whose folder is c.Dir. If it returns an error, nothing
// is left running. The order is the argument: nothing is served before what it
// stands on is open, and Close goes back the same way.
func Open(ctx context.Context, c Config) (*Node, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	n := &Node{cfg: c, fs: c.fs(), log: c.log(), started: c.clock()(), wrapAtOnce: atOnce}
	rand.Read(n.run[:])
	n.ctx, n.cancel = context.WithCancelCause(context.Background())
	steps := []struct {
		what string
		do   func(context.Context) error
	}{
		{"read the node's identity", n.openIdentity}, // also locks the folder: one daemon at a time
		{"open the road", n.openRoad},                // the gate works by the stored member list
		{"open the ledger", n.openLedger},            // needs the road's ledger lane
		{"open the store", n.openStore},
		{"open the copies", n.openCopies}, // from here on other nodes may send blocks
		{"settle in", n.settle},           // keys and members as this copy of the ledger has them
		{"open the faces", n.openFaces},   // people last: everything behind is there
	}
	for _, s := range steps {
		if err := s.do(ctx); err != nil {
			n.cancel(err)
			n.closeAll()
			return nil, fmt.Errorf("%s: %w", s.what, err)
		}
	}
	n.log.InfoContext(ctx, "node is up", "site", n.site(), "smtp", n.faces.smtp, "files", n.faces.files)
	return n, nil
}

func (n *Node) openIdentity(ctx context.Context) error {
	lock, err := n.fs.Lock(n.fs.PathJoin(n.cfg.Dir, "lock"))
	if err != nil {
		if errors.Is(err, errNotExist) {
			return hint(fmt.Errorf("%s: %w", n.cfg.Dir, err), `this folder holds no node; "valise init" or "valise join" makes one`)
		}
		if errors.Is(err, os.ErrPermission) {
			return hint(fmt.Errorf("lock %s: %w", n.cfg.Dir, err), "the folder and all in it must belong to the user that runs the node")
		}
		return hint(fmt.Errorf("lock %s: %w", n.cfg.Dir, err), "is another valise running on this folder?")
	}
	n.opened("lock", lock)
	if n.id, err = n.cfg.loadIdentity(ctx, n.fs); err != nil {
		return err
	}
	if err := dropUnfinishedKey(n.fs, n.cfg.Dir); err != nil {
		return fmt.Errorf("remove an unfinished node key: %w", err)
	}
	if n.cluster, err = loadCluster(n.fs, n.cfg.Dir, n.id, n.cfg.Organisation); err != nil {
		return err
	}
	n.log = slog.New(namingHandler{n.cfg.log().Handler(), &n.roster}).With("node", n.cfg.name())
	n.keys = newKeyring(n.cluster.Cluster, n.id)
	n.law = authz.NewKeyring()
	n.cache = pebble.NewCache(int64(n.cfg.Store.Cache))
	n.opened("cache", closeFunc(func() error { n.cache.Unref(); return nil }))
	return nil
}

func (n *Node) openRoad(ctx context.Context) error {
	bulk, err := listenMultiaddr(n.cfg.Listen.Libp2p)
	if err != nil {
		return err
	}
	ledger, err := listenMultiaddr(n.cfg.Listen.Ledger)
	if err != nil {
		return err
	}
	n.road, err = dht.Open(ctx, dht.Config{
		Key: n.id.p2p, ClusterID: n.cluster.Cluster, OrgKey: n.cluster.OrgKey, Dir: n.fs.PathJoin(n.cfg.Dir, "road"), FS: n.fs,
		BulkListen: []multiaddr.Multiaddr{bulk}, LedgerListen: []multiaddr.Multiaddr{ledger},
		Reach: n.cfg.Seams.Reach, Clock: n.cfg.clock(), Logger: n.log,
	})
	if err != nil {
		return portHint(err, n.cfg.Listen.Libp2p+" or "+n.cfg.Listen.Ledger)
	}
	n.opened("road", n.road)
	joined, err := readFile(n.fs, n.fs.PathJoin(n.cfg.Dir, listName))
	if err == nil {
		err = n.road.Publish(joined)
	}
	if err != nil && !errors.Is(err, errNotExist) {
		return fmt.Errorf("member list from the join: %w", err)
	}
	n.pullList(ctx, pullTime)
	return nil
}

// pullTime bounds the wait for a newer member list at the start: members that
// cannot be reached take 10 s each, sixteen at a time.
const pullTime = 15 * time.Second

// pullList asks the members for a newer list. Without one the node works by
// the stored one, until its ledger brings the next.
func (n *Node) pullList(ctx context.Context, within time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	if err := n.road.Pull(ctx); err != nil {
		n.log.InfoContext(ctx, "no newer member list to be had yet", "err", err, "hint", Hint(err))
	}
}

func (n *Node) openLedger(ctx context.Context) (err error) {
	c := replication.Config{
		Dir: n.fs.PathJoin(n.cfg.Dir, ledgerDir), FS: n.fs, Cache: n.cache, ID: n.id.id, Site: n.site(),
		Lane: n.road.Ledger().For(dht.Member), Logger: n.log,
	}
	if n.cfg.Seams.Fast {
		c.Heartbeat, c.PromoteAfter, c.WriteTimeout = 500*time.Millisecond, 300*time.Millisecond, 15*time.Second
	}
	n.ledger, err = replication.Open(ctx, c)
	if beyond(err) {
		return hint(err, ledgerStopHint(err))
	}
	if errors.Is(err, replication.ErrNoLedger) {
		return hint(err, "the node's key is here but its log is not: identity and log live and die together. Join as a new node with a new folder, and remove this one from the cluster")
	}
	if err != nil {
		return err
	}
	n.opened("ledger", n.ledger)
	n.start("ledger watchdog", func(ctx context.Context) error {
		select {
		case err := <-n.ledger.Fatal():
			return hint(fmt.Errorf("ledger: %w", err), ledgerStopHint(err))
		case <-ctx.Done():
			return nil
		}
	})
	return nil
}

func (n *Node) openStore(ctx context.Context) (err error) {
	if err := n.fs.RemoveAll(n.fs.PathJoin(n.cfg.Dir, scratchDir)); err != nil && !errors.Is(err, errNotExist) {
		return fmt.Errorf("what a backup left when the node was killed: %w", err)
	}
	n.store, err = store.Open(ctx, store.Config{
		Dir: n.fs.PathJoin(n.cfg.Dir, "store"), FS: n.fs, Cache: n.cache, Reserve: int64(n.cfg.Store.Reserve), Free: n.cfg.free, Logger: n.log,
	})
	if err != nil {
		return err
	}
	n.opened("store", n.store)
	n.start("store watchdog", func(ctx context.Context) error {
		select {
		case err := <-n.store.Fatal():
			return hint(fmt.Errorf("block store: %w", err), "the store's index could not be written: look at free space and at the disk's health, then start the node again; nothing acknowledged is lost")
		case <-ctx.Done():
			return nil
		}
	})
	return nil
}

// opened notes what Close has to close.
func (n *Node) opened(name string, c io.Closer) { n.closes = append(n.closes, closer{name, c}) }

// start runs a loop until the node ends. An error from it ends the node.
func (n *Node) start(name string, run func(ctx context.Context) error) {
	n.wg.Go(func() {
		if err := run(n.ctx); err != nil && n.ctx.Err() == nil {
			level := slog.LevelError
			if errors.Is(err, ErrLeft) { // as its operator wanted
				level = slog.LevelInfo
			}
			n.log.Log(n.ctx, level, "node stops", "loop", name, "err", err, "hint", Hint(err))
			n.cancel(err)
		}
	})
}

// Done is closed when the node can no longer go on, or was closed.
func (n *Node) Done() <-chan struct{} { return n.ctx.Done() }

// Err says why the node ended; nil while it runs and after a plain Close.
func (n *Node) Err() error {
	if err := context.Cause(n.ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// Close stops serving, then everything underneath, in reverse order.
func (n *Node) Close() error {
	n.cancel(nil)
	n.closeAll()
	return nil
}

func (n *Node) closeAll() {
	n.once.Do(func() {
		n.closeFaces()
		n.cancel(nil)
		n.wg.Wait()
		for i := len(n.closes) - 1; i >= 0; i-- {
			if err := n.closes[i].Close(); err != nil {
				n.log.Warn("close", "room", n.closes[i].name, "err", err)
			}
		}
	})
}

// Run opens the node and keeps it up until ctx ends or the node cannot go on.
func Run(ctx context.Context, c Config) error {
	n, err := Open(ctx, c)
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
	case <-n.Done():
	}
	err = n.Err()
	return errors.Join(err, n.Close())
}

// portHint adds the usual remedy to a failed listen.
func portHint(err error, addr string) error {
	if errors.Is(err, syscall.EADDRNOTAVAIL) {
		return hint(fmt.Errorf("listen %s: %w", addr, err), `no interface of this machine has that address now: mend the [listen] part of the config, or listen at 0.0.0.0 and name the address in advertise`)
	}
	if _, ok := errors.AsType[*net.OpError](err); ok || errors.Is(err, errAddrInUse) {
		return hint(fmt.Errorf("listen %s: %w", addr, err), `is another program, or another node, on that port? "valise init --listen-base N" or the [listen] part of the config moves them`)
	}
	return err
}
