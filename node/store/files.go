package store

import (
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// maxOpenPacks bounds the packs held open for reading: a large store has thousands.
const maxOpenPacks = 128

// openPacks keeps packs open for reading.
type openPacks struct {
	fs  vfs.FS
	dir string

	mu    sync.Mutex // guards the fields below and those of packFile
	files map[packKeyed]*packFile
	clock uint64
}

type packKeyed struct {
	kind Kind
	id   uint64
}

type packFile struct {
	vfs.File
	users int
	used  uint64 // the clock when it was last asked for
	gone  bool   // closed by whoever gives it back last
}

func newOpenPacks(fs vfs.FS, dir string) *openPacks {
	return &openPacks{fs: fs, dir: dir, files: make(map[packKeyed]*packFile)}
}

// acquire returns a pack's file, to be given back with release.
func (o *openPacks) acquire(k Kind, id uint64) (*packFile, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.clock++
	key := packKeyed{k, id}
	f, ok := o.files[key]
	if !ok {
		file, err := o.fs.Open(o.fs.PathJoin(o.dir, packDir(k), packName(id)))
		if err != nil {
			return nil, err
		}
		if len(o.files) >= maxOpenPacks {
			o.evict()
		}
		f = &packFile{File: file}
		o.files[key] = f
	}
	f.users++
	f.used = o.clock
	return f, nil
}

func (o *openPacks) release(f *packFile) {
	o.mu.Lock()
	defer o.mu.Unlock()
	f.users--
	if f.gone && f.users == 0 {
		f.Close()
	}
}

// drop forgets a pack that is to be deleted; who reads it now may finish.
func (o *openPacks) drop(k Kind, id uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	key := packKeyed{k, id}
	f, ok := o.files[key]
	if !ok {
		return
	}
	delete(o.files, key)
	if f.users == 0 {
		f.Close()
	} else {
		f.gone = true
	}
}

// evict closes the file nobody reads that was asked for longest ago; where all are in use, one more
// than the limit is open. mu is held.
func (o *openPacks) evict() {
	var oldest packKeyed
	var found *packFile
	for key, f := range o.files {
		if f.users == 0 && (found == nil || f.used < found.used) {
			oldest, found = key, f
		}
	}
	if found != nil {
		delete(o.files, oldest)
		found.Close()
	}
}

func (o *openPacks) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for key, f := range o.files {
		f.Close()
		delete(o.files, key)
	}
}
