// Package store keeps encrypted, content-addressed blocks on this node's disk, and turns files
// into blocks and back.
//
// Seal cuts a stream into chunks, encrypts each and names it by the hash of its ciphertext; a Batch
// makes blocks durable in pack files; OpenFile reads the content again, from this store or from
// any other Source. DESIGN.md beside this file has the formats and the order of writes.
package store

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"sync"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/ipfs/go-cid"
)

// Config says where a store lies and what it may use.
type Config struct {
	// Dir is the store's own folder; it is created when absent.
	Dir string
	// FS is the file system of Dir; nil means vfs.Default.
	FS vfs.FS
	// Cache is the block cache shared by all of a node's Pebble databases; nil means an own one of 8 MiB.
	Cache *pebble.Cache
	// Reserve is the free space, in bytes, that new blocks must leave (T8). Zero means none.
	Reserve int64
	// Free tells how many bytes are free on the disk of Dir; nil asks FS, and where FS cannot tell
	// (in memory) there is no reserve.
	Free func() (int64, error)
	// PackSize is the size in bytes at which a pack is full; zero means 1 GiB.
	PackSize int64
	// Logger receives what an operator should know; nil discards it.
	Logger *slog.Logger
}

// Validate names the first field that makes no sense.
func (c *Config) Validate() error {
	switch {
	case c.Dir == "":
		return fmt.Errorf("store: Dir is empty; name the folder that blocks are kept in")
	case c.Reserve < 0:
		return fmt.Errorf("store: Reserve is %d bytes; it must not be negative", c.Reserve)
	case c.PackSize < 0:
		return fmt.Errorf("store: PackSize is %d bytes; it must not be negative", c.PackSize)
	}
	return nil
}

const (
	kinds           = int(Cached) + 1
	defaultPackSize = 1 << 30
	// syncEvery is how many bytes are written before they are synced without anybody waiting, so
	// that a long upload's Commit finds most of the work done.
	syncEvery = 16 << 20
	// maxUnsynced is how many bytes may wait to be synced; writers beyond it wait. It also bounds
	// what a start after a crash has to verify.
	maxUnsynced = 64 << 20
)

// A Store keeps blocks in pack files on one disk. Its methods may be called concurrently.
//
// Where locks are held together the order is life, collecting, appending, placing, mu.
type Store struct {
	fs       vfs.FS
	dir      string
	id       [16]byte
	log      *slog.Logger
	reserve  int64
	free     func() (int64, error)
	packSize int64
	lock     io.Closer
	index    *index
	files    *openPacks
	fatal    chan error

	kick chan struct{} // asks the committer for a round; closed by Close
	done chan struct{} // closed when the committer has ended

	// lag is how many bytes of blocks are durable in packs while the index batches that name them are
	// not synced. Owned by the committer.
	lag int64

	// life is held for reading by every operation and for writing by Close.
	life   sync.RWMutex
	closed bool // guarded by life

	// appending is held, per kind, by the one who writes to a pack; it guards active.
	appending [kinds]sync.Mutex
	active    [kinds]*pack

	// placing is held by whoever changes places in the index: rounds and the collector.
	placing sync.Mutex
	// collecting is held by the one who collects, erases or evicts.
	collecting sync.Mutex

	// mu guards the fields below and what packs say they put under it. It is also the lock under
	// which a collector must condemn: a hit is found and noted under it (T5).
	mu       sync.Mutex
	pending  [kinds]map[digest]*pendingBlock // written, not yet in the index
	dirty    []*pack                         // packs with something for the next round
	unsynced int64
	epoch    uint32            // the present one (T6)
	touched  map[digest]uint64 // kept blocks met again, whose entries need the present epoch; by turn
	turn     uint64            // which round takes what is touched now; from 1
	turned   uint64            // the last turn that is durable
	turnErr  error             // why the last round could not write one
	doomed   map[digest]bool   // about to be condemned: no hits any more
	batches  map[*Batch]uint32 // open ones, with the epoch in which each began
	nextPack uint64
	rounded  chan struct{} // closed and replaced when a commit round has ended
}

// pendingBlock is a block that was written and is not durable yet.
type pendingBlock struct {
	pack  *pack
	place place
	end   int64 // the pack must be durable up to here
}

// Open opens the store in c.Dir, creating it where there is none. What was written but not
// acknowledged before a crash is verified and kept, or cut off; that takes as long as reading 80
// MiB at most, whatever the size of the store. If it returns an error, nothing is left running.
func Open(ctx context.Context, c Config) (*Store, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	s := &Store{
		fs:       c.FS,
		dir:      c.Dir,
		log:      c.Logger,
		reserve:  c.Reserve,
		free:     c.Free,
		packSize: c.PackSize,
		fatal:    make(chan error, 1),
		kick:     make(chan struct{}, 1),
		done:     make(chan struct{}),
		rounded:  make(chan struct{}),
		nextPack: 1,
		turn:     1,
		touched:  make(map[digest]uint64),
		doomed:   make(map[digest]bool),
		batches:  make(map[*Batch]uint32),
	}
	if s.fs == nil {
		s.fs = vfs.Default
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.packSize == 0 {
		s.packSize = defaultPackSize
	}
	if s.free == nil {
		s.free = s.diskFree
	}
	for _, k := range []Kind{Kept, Cached} {
		s.pending[k] = make(map[digest]*pendingBlock)
	}
	if err := s.start(ctx, c.Cache); err != nil {
		s.release()
		return nil, fmt.Errorf("open store %s: %w", c.Dir, err)
	}
	go s.commitLoop()
	return s, nil
}

// start opens everything in order: the folder and its lock before anything is read, the index
// before the packs whose ends it knows.
func (s *Store) start(ctx context.Context, cache *pebble.Cache) (err error) {
	if err := s.makeDirs(); err != nil {
		return err
	}
	if s.lock, err = s.fs.Lock(s.fs.PathJoin(s.dir, "LOCK")); err != nil {
		return fmt.Errorf("%w (%w)", ErrInUse, err)
	}
	if s.id, err = s.loadID(); err != nil {
		return err
	}
	if s.index, err = openIndex(s.fs, s.fs.PathJoin(s.dir, "index"), cache, s.log, s.fatal); err != nil {
		return err
	}
	if s.epoch, err = s.index.epoch(); err != nil {
		return err
	}
	s.files = newOpenPacks(s.fs, s.dir)
	for _, k := range []Kind{Kept, Cached} {
		if err := s.recoverKind(ctx, k); err != nil {
			return fmt.Errorf("recover packs: %w", err)
		}
	}
	return nil
}

// release closes what start opened, in the opposite order.
func (s *Store) release() (err error) {
	for _, p := range s.active {
		if p != nil {
			p.close()
		}
	}
	if s.files != nil {
		s.files.close()
	}
	if s.index != nil {
		err = s.index.close()
	}
	if s.lock != nil {
		s.lock.Close()
	}
	return err
}

// Close ends all writing and closes the store's files. Commits under way finish first; what was
// added to other batches may or may not survive. Files opened from it fail afterwards. After a
// value on Fatal it leaves the index as it is. Closing twice does nothing.
func (s *Store) Close() error {
	s.life.Lock()
	defer s.life.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	close(s.kick)
	select {
	case <-s.done:
	case <-s.index.dead:
		// The committer may be parked for good, or in the middle of a round: its packs are left to it, as the
		// index is, until the process ends.
		s.mu.Lock()
		clear(s.active[:])
		s.mu.Unlock()
	}
	return s.release()
}

// enter begins an operation, which ends with leave; Close waits for it.
func (s *Store) enter() error {
	s.life.RLock()
	if s.closed {
		s.life.RUnlock()
		return ErrClosed
	}
	return nil
}

func (s *Store) leave() { s.life.RUnlock() }

// ID returns the random name the store was given when it was created: a wiped disk has another one.
func (s *Store) ID() [16]byte { return s.id }

// Epoch returns the present epoch: every block that is added, or met again by Add, is noted with it
// before its batch is committed (T6).
func (s *Store) Epoch() uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.epoch
}

// SetEpoch begins an epoch; it is durable on return. One that is not later than the present does
// nothing.
func (s *Store) SetEpoch(epoch uint32) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	if epoch <= s.Epoch() {
		return nil
	}
	err := s.index.writeAlive(true, func(b *pebble.Batch) error {
		return b.Set([]byte("e"), binary.BigEndian.AppendUint32(nil, epoch), nil)
	})
	if err != nil {
		return fmt.Errorf("begin epoch %d: %w", epoch, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.epoch = max(s.epoch, epoch)
	return nil
}

// Fatal yields an error once the index can no longer be written; the node must then stop (L11).
func (s *Store) Fatal() <-chan error { return s.fatal }

// Has tells whether the block is durable here as a kept copy. Cached blocks and blocks that no
// Commit has made durable do not count.
func (s *Store) Has(c cid.Cid) bool {
	d, err := digestOf(c)
	if err != nil || s.enter() != nil {
		return false
	}
	defer s.leave()
	p, ok, err := s.index.find(Kept, d)
	if err != nil {
		s.log.Error("block index cannot be read", "cid", c, "error", err)
	}
	return ok && err == nil && p.flags&condemned == 0
}
