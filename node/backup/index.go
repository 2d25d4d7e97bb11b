package backup

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/ipfs/go-cid"
)

// An index finds blocks, and whatever else there are millions of, in bounded memory: a Pebble in a
// scratch folder, made anew each time and never synced.
//
//	b ‖ CID            generation (4) · car (8) · offset (8) · length (4)
//	p ‖ car ‖ offset   the same blocks by place: length (4) · CID
//	r ‖ CID            a root of the state
//	k ‖ key            an entry of the ledger
type index struct {
	fs   vfs.FS
	dir  string
	db   *pebble.DB
	dead *fatal
}

func openIndex(fs vfs.FS, dir string, dead *fatal) (*index, error) {
	if err := fs.RemoveAll(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	cache := pebble.NewCache(8 << 20)
	defer cache.Unref()
	db, err := pebble.Open(dir, &pebble.Options{FS: neverSynced{fs}, Cache: cache, DisableWAL: true, MemTableSize: 8 << 20, Logger: dead})
	if err != nil {
		return nil, fmt.Errorf("scratch folder %s: %w", dir, err)
	}
	return &index{fs: fs, dir: dir, db: db, dead: dead}, nil
}

// fatal is Pebble's logger. Where Pebble cannot go on it calls Fatalf and counts on the end of the process;
// a scratch folder is not worth that. The goroutine that called is parked, whoever waits for it hears.
type fatal struct {
	once   sync.Once
	down   chan struct{}
	reason string
}

func (f *fatal) Infof(string, ...any)  {}
func (f *fatal) Errorf(string, ...any) {}
func (f *fatal) Fatalf(format string, args ...any) {
	f.once.Do(func() { f.reason = fmt.Sprintf(format, args...); close(f.down) })
	select {}
}

// guarded runs fn with an index, which it closes after it. If the scratch folder fails for good, fn hears
// so at its next use of the index; where it stands in Pebble and does not come back, it is left behind.
func guarded(fs vfs.FS, dir string, fn func(*index) error) error {
	dead, done := &fatal{down: make(chan struct{})}, make(chan error, 1)
	go func() {
		i, err := openIndex(fs, dir, dead)
		if err == nil {
			err = fn(i)
			err = errors.Join(err, i.close())
		}
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-dead.down:
	}
	select {
	case err := <-done:
		return err
	case <-time.After(leaveTime):
		return fmt.Errorf("scratch folder %s: %w", dir, dead.err())
	}
}

// leaveTime is how long what uses a dead index may take to notice.
const leaveTime = 3 * time.Second

func (f *fatal) err() error {
	select {
	case <-f.down:
		return errors.New(f.reason)
	default:
		return nil
	}
}

// close leaves a dead database as it is: it would wait for whoever is parked.
func (i *index) close() error {
	if err := i.dead.err(); err != nil {
		return err
	}
	err := i.db.Close()
	if rerr := i.fs.RemoveAll(i.dir); err == nil && !errors.Is(rerr, os.ErrNotExist) {
		err = rerr
	}
	return err
}

func (i *index) put(key, value []byte) error {
	if err := i.dead.err(); err != nil {
		return err
	}
	return i.db.Set(key, value, pebble.NoSync)
}

func (i *index) get(key []byte) (value []byte, ok bool, err error) {
	if err := i.dead.err(); err != nil {
		return nil, false, err
	}
	v, closer, err := i.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	return bytes.Clone(v), true, closer.Close()
}

func (i *index) clear(prefix byte) error {
	return i.db.DeleteRange([]byte{prefix}, []byte{prefix + 1}, pebble.NoSync)
}

// each yields the entries from a key to an end, until fn returns an error. Key and value are its own.
func (i *index) each(from, to []byte, fn func(key, value []byte) error) (err error) {
	it, err := i.db.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: to})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	for ok := it.First(); ok; ok = it.Next() {
		if err := i.dead.err(); err != nil {
			return err
		}
		if err := fn(bytes.Clone(it.Key()), bytes.Clone(it.Value())); err != nil {
			return err
		}
	}
	return it.Error()
}

func blockKey(c cid.Cid) []byte { return append([]byte{'b'}, c.Bytes()...) }

func (i *index) putBlock(c cid.Cid, gen uint32, p place) error {
	v := binary.BigEndian.AppendUint32(nil, gen)
	v = binary.BigEndian.AppendUint64(v, p.car)
	v = binary.BigEndian.AppendUint64(v, uint64(p.offset))
	return i.put(blockKey(c), binary.BigEndian.AppendUint32(v, uint32(p.length)))
}

func (i *index) block(c cid.Cid) (gen uint32, p place, ok bool, err error) {
	v, ok, err := i.get(blockKey(c))
	if err != nil || !ok {
		return 0, place{}, false, err
	}
	gen, p = blockValue(v)
	return gen, p, true, nil
}

func blockValue(v []byte) (gen uint32, p place) {
	return binary.BigEndian.Uint32(v), place{
		car: binary.BigEndian.Uint64(v[4:]), offset: int64(binary.BigEndian.Uint64(v[12:])), length: int(binary.BigEndian.Uint32(v[20:])),
	}
}

func placeKey(p place) []byte {
	k := binary.BigEndian.AppendUint64([]byte{'p'}, p.car)
	return binary.BigEndian.AppendUint64(k, uint64(p.offset))
}

func (i *index) putPlace(p place, id []byte) error {
	return i.put(placeKey(p), append(binary.BigEndian.AppendUint32(nil, uint32(p.length)), id...))
}

// places yields the blocks that putPlace noted, by file and offset.
func (i *index) places(fn func(p place, id []byte) error) error {
	return i.each([]byte{'p'}, []byte{'p' + 1}, func(key, value []byte) error {
		p := place{car: binary.BigEndian.Uint64(key[1:]), offset: int64(binary.BigEndian.Uint64(key[9:])), length: int(binary.BigEndian.Uint32(value))}
		return fn(p, value[4:])
	})
}

// neverSynced is a file system for what need not survive anything. Pebble panics where its folder cannot be synced.
type neverSynced struct{ vfs.FS }

func (f neverSynced) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return unsynced(f.FS.Create(name, c))
}

func (f neverSynced) OpenReadWrite(name string, c vfs.DiskWriteCategory, o ...vfs.OpenOption) (vfs.File, error) {
	return unsynced(f.FS.OpenReadWrite(name, c, o...))
}

func (f neverSynced) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return unsynced(f.FS.ReuseForWrite(from, to, c))
}

func (f neverSynced) OpenDir(name string) (vfs.File, error) { return unsynced(f.FS.OpenDir(name)) }

type unsyncedFile struct{ vfs.File }

func unsynced(f vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return unsyncedFile{f}, nil
}

func (unsyncedFile) Sync() error                { return nil }
func (unsyncedFile) SyncData() error            { return nil }
func (unsyncedFile) SyncTo(int64) (bool, error) { return false, nil }
