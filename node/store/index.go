package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/multiformats/go-multihash"
)

// The index is a Pebble database of its own. Its keys:
//
//	"b" kind multihash   where a block lies: flags (1 byte), pack (8), offset of its bytes (8), length (4),
//	                     epoch in which it was added last (4; version 1 had none, which reads as 0)
//	"e"                  the present epoch (4)
//	"s"                  the digest at which a scrub goes on
//	"p" kind pack (8)    a pack: flags (1), the offset up to which its blocks are indexed (8)
//	"v"                  the format version (1)
//
// Numbers are big-endian, kind is 'k' or 'c'. Flags this version does not know are kept as they are.
const indexVersion = 2

const (
	// condemned is set on a block by the collector before it goes; a condemned block is never a hit
	// and never counted by Has (T5, T6).
	condemned = 1 << 0
	// retired is set on a pack that is never appended to again.
	retired = 1 << 0
)

func (k Kind) letter() byte {
	if k == Cached {
		return 'c'
	}
	return 'k'
}

// place is where a block lies.
type place struct {
	flags  byte
	pack   uint64
	offset int64 // of the block's bytes, after length and CID
	length int
	epoch  uint32 // in which it was added last (T6)
}

// packRecord is what the index knows of a pack.
type packRecord struct {
	flags   byte
	indexed int64 // blocks before this offset are durable and in the index
}

type index struct {
	db *pebble.DB
	// dead is closed when Pebble can write no more; a goroutine that was inside a write then is
	// parked for good.
	dead   chan struct{}
	reason error // set before dead is closed
}

const (
	// indexEvery is how many bytes of blocks the index on disk may be behind the packs: what a start
	// after a power cut reads again because of it.
	indexEvery = 16 << 20
	// indexWithin is how long it may be behind. It also bounds how long an index that can no longer
	// be written goes unnoticed while nobody adds anything.
	indexWithin = time.Second
)

func openIndex(fs vfs.FS, dir string, cache *pebble.Cache, log *slog.Logger, fatal chan<- error) (*index, error) {
	if cache == nil {
		cache = pebble.NewCache(8 << 20)
		defer cache.Unref()
	}
	x := &index{dead: make(chan struct{})}
	o := &pebble.Options{
		FS:                 fs,
		Cache:              cache,
		FormatMajorVersion: pebble.FormatNewest,
		MemTableSize:       4 << 20,
		MaxOpenFiles:       256,
		Logger:             &indexLogger{log: log, index: x, fatal: fatal},
	}
	for i := range o.Levels {
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
	// Opening writes too, and may park in Fatalf.
	opened := make(chan error, 1)
	go func() {
		db, err := pebble.Open(dir, o)
		x.db = db
		opened <- err
	}()
	select {
	case err := <-opened:
		if err != nil {
			return nil, fmt.Errorf("open block index %s: %w", dir, err)
		}
	case <-x.dead:
		return nil, fmt.Errorf("open block index %s: %w", dir, x.reason)
	}
	if err := x.checkVersion(); err != nil {
		return nil, errors.Join(fmt.Errorf("block index %s: %w", dir, err), x.db.Close())
	}
	return x, nil
}

func (x *index) checkVersion() error {
	v, ok, err := x.get([]byte("v"))
	switch {
	case err != nil:
		return err
	case !ok || len(v) == 1 && v[0] == 1: // version 1 is read as it is, and written as version 2
		return x.writeAlive(true, func(b *pebble.Batch) error { return b.Set([]byte("v"), []byte{indexVersion}, nil) })
	case len(v) != 1 || v[0] != indexVersion:
		return fmt.Errorf("format %x is not %d, the one this program knows", v, indexVersion)
	}
	return nil
}

// epoch reads the present epoch; 0 where none was set.
func (x *index) epoch() (uint32, error) {
	v, ok, err := x.get([]byte("e"))
	if err != nil || !ok {
		return 0, err
	}
	if len(v) != 4 {
		return 0, fmt.Errorf("read block index: epoch of %d bytes", len(v))
	}
	return binary.BigEndian.Uint32(v), nil
}

// close closes the database, or leaves it as it is when it is dead.
func (x *index) close() error {
	select {
	case <-x.dead:
		return nil
	default:
		return x.db.Close()
	}
}

func (x *index) get(key []byte) ([]byte, bool, error) {
	v, closer, err := x.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("read block index: %w", err)
	}
	v = append([]byte(nil), v...)
	return v, true, closer.Close()
}

func blockKey(k Kind, d digest) []byte {
	key := make([]byte, 0, 4+len(d))
	key = append(key, 'b', k.letter(), multihash.SHA2_256, byte(len(d)))
	return append(key, d[:]...)
}

func packKey(k Kind, id uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{'p', k.letter()}, id)
}

// find looks a block up.
func (x *index) find(k Kind, d digest) (place, bool, error) {
	v, ok, err := x.get(blockKey(k, d))
	if err != nil || !ok {
		return place{}, false, err
	}
	p, err := decodePlace(v)
	return p, err == nil, err
}

func decodePlace(v []byte) (place, error) {
	if len(v) != 21 && len(v) != 25 {
		return place{}, fmt.Errorf("read block index: place of %d bytes", len(v))
	}
	p := place{
		flags:  v[0],
		pack:   binary.BigEndian.Uint64(v[1:]),
		offset: int64(binary.BigEndian.Uint64(v[9:])),
		length: int(binary.BigEndian.Uint32(v[17:])),
	}
	if len(v) == 25 {
		p.epoch = binary.BigEndian.Uint32(v[21:])
	}
	return p, nil
}

// An entry is a block in the index.
type entry struct {
	digest
	place
}

// page reads up to n entries of a kind from a digest on, and says where the next page begins; done
// after the last.
func (x *index) page(k Kind, from digest, n int) (entries []entry, next digest, done bool, err error) {
	prefix := blockKey(k, digest{})[:4]
	it, err := x.db.NewIter(&pebble.IterOptions{LowerBound: blockKey(k, from), UpperBound: prefixEnd(prefix)})
	if err != nil {
		return nil, from, false, fmt.Errorf("read block index: %w", err)
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	for it.First(); it.Valid(); it.Next() {
		d, ok := bytes.CutPrefix(it.Key(), prefix)
		if !ok || len(d) != len(digest{}) {
			return nil, from, false, fmt.Errorf("read block index: key of %d bytes", len(it.Key()))
		}
		if len(entries) == n {
			return entries, digest(d), false, nil
		}
		p, err := decodePlace(it.Value())
		if err != nil {
			return nil, from, false, err
		}
		entries = append(entries, entry{digest(d), p})
	}
	return entries, from, true, it.Error()
}

// prefixEnd is the first key after all that begin with prefix, whose last byte is not 0xff.
func prefixEnd(prefix []byte) []byte {
	end := bytes.Clone(prefix)
	end[len(end)-1]++
	return end
}

func (x *index) pack(k Kind, id uint64) (packRecord, bool, error) {
	v, ok, err := x.get(packKey(k, id))
	if err != nil || !ok {
		return packRecord{}, false, err
	}
	if len(v) != 9 {
		return packRecord{}, false, fmt.Errorf("read block index: pack record of %d bytes", len(v))
	}
	return packRecord{flags: v[0], indexed: int64(binary.BigEndian.Uint64(v[1:]))}, true, nil
}

// lastPack is the highest number of a pack that the index has a record of; 0 where it has none.
func (x *index) lastPack(k Kind) (id uint64, err error) {
	from := packKey(k, 0)
	it, err := x.db.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: prefixEnd(from[:2])})
	if err != nil {
		return 0, fmt.Errorf("read block index: %w", err)
	}
	if it.Last() && len(it.Key()) == len(from) {
		id = binary.BigEndian.Uint64(it.Key()[2:])
	}
	return id, errors.Join(it.Error(), it.Close())
}

func putPlace(b *pebble.Batch, k Kind, d digest, p place) error {
	v := make([]byte, 0, 25)
	v = append(v, p.flags)
	v = binary.BigEndian.AppendUint64(v, p.pack)
	v = binary.BigEndian.AppendUint64(v, uint64(p.offset))
	v = binary.BigEndian.AppendUint32(v, uint32(p.length))
	v = binary.BigEndian.AppendUint32(v, p.epoch)
	return b.Set(blockKey(k, d), v, nil)
}

func putPack(b *pebble.Batch, k Kind, id uint64, r packRecord) error {
	v := binary.BigEndian.AppendUint64([]byte{r.flags}, uint64(r.indexed))
	return b.Set(packKey(k, id), v, nil)
}

// write applies what fill puts into the batch. When it is synced, so is all that was written before.
// It does not return when Pebble gives up: its caller is parked, and dead is closed.
func (x *index) write(sync bool, fill func(*pebble.Batch) error) error {
	b := x.db.NewBatch()
	defer b.Close()
	if err := fill(b); err != nil {
		return fmt.Errorf("write block index: %w", err)
	}
	if err := b.Commit(&pebble.WriteOptions{Sync: sync}); err != nil {
		return fmt.Errorf("write block index: %w", err)
	}
	return nil
}

// sync makes everything written durable. It does not return when Pebble gives up, as write.
func (x *index) sync() error {
	if err := x.db.LogData(nil, pebble.Sync); err != nil {
		return fmt.Errorf("sync block index: %w", err)
	}
	return nil
}

// indexLogger passes Pebble's log on. Pebble calls Fatalf when a write fails and what is on disk can
// no longer be told; that stops the node, not the process (L11).
type indexLogger struct {
	log   *slog.Logger
	index *index
	fatal chan<- error
	once  sync.Once
}

func (l *indexLogger) Infof(format string, args ...any) {
	l.log.Debug("block index", "message", fmt.Sprintf(format, args...))
}

func (l *indexLogger) Errorf(format string, args ...any) {
	l.log.Warn("block index", "message", fmt.Sprintf(format, args...))
}

func (l *indexLogger) Fatalf(format string, args ...any) {
	l.once.Do(func() {
		err := fmt.Errorf("block index cannot be written: "+format, args...)
		l.log.Error("block index cannot be written; the node must stop", "error", err)
		l.index.reason = err
		l.fatal <- err // has room for one
		close(l.index.dead)
	})
	select {} // Pebble holds locks and expects no return
}

// writeAlive is write for a caller that must go on when Pebble gives up: all but the committer.
func (x *index) writeAlive(sync bool, fill func(*pebble.Batch) error) error {
	done := make(chan error, 1)
	go func() { done <- x.write(sync, fill) }()
	select {
	case err := <-done:
		return err
	case <-x.dead:
		return x.reason
	}
}
