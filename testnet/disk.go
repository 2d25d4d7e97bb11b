package testnet

import (
	"io"
	"os"
	"strings"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// A Fate is what becomes of one operation on a disk. The zero Fate: it happens, and succeeds.
type Fate struct {
	Err     error // returned instead of success
	Happens bool  // with Err: it happens all the same
	Lost    bool  // other bytes are read than were written; success is claimed

	Hold sync.Locker // held while it happens, if not nil
}

// A Step is asked before each operation that changes a disk (create, write, sync, rename, remove, link,
// mkdir) and before each read of a block pack. It may block: then so does the operation.
type Step func(op, path string) Fate

// Trouble sets what happens on house i's disk from now on, across restarts; nil ends it. The house must
// have a disk in memory. It may be called at any time.
func (v *Village) Trouble(i int, step Step) { v.Houses[i].trouble.set(step) }

// trouble is a house's present Step. It outlives the disks that ask it.
type trouble struct {
	mu   sync.RWMutex // guards the field below
	step Step
}

func (t *trouble) set(step Step) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.step = step
}

func (t *trouble) fate(op, path string) Fate {
	t.mu.RLock()
	step := t.step
	t.mu.RUnlock()
	if step == nil {
		return Fate{}
	}
	return step(op, path)
}

// do does an operation, or not.
func (t *trouble) do(op, path string, act func() error) error {
	f := t.fate(op, path)
	if f.Hold != nil {
		f.Hold.Lock()
		defer f.Hold.Unlock()
	}
	if f.Err == nil {
		return act()
	}
	if f.Happens {
		if err := act(); err != nil {
			return err
		}
	}
	return f.Err
}

// A troubledFS is a file system on which trouble happens.
type troubledFS struct {
	vfs.FS
	t *trouble
}

func (fs *troubledFS) Unwrap() vfs.FS { return fs.FS }

func (fs *troubledFS) file(f vfs.File, name string, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return &troubledFile{File: f, t: fs.t, name: name}, nil
}

// opened does an operation that yields a file; a file that was made all the same is closed.
func (fs *troubledFS) opened(op, name string, open func() (vfs.File, error)) (f vfs.File, err error) {
	err = fs.t.do(op, name, func() (err error) { f, err = open(); return err })
	if err != nil && f != nil {
		f.Close()
	}
	return fs.file(f, name, err)
}

func (fs *troubledFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return fs.opened("create", name, func() (vfs.File, error) { return fs.FS.Create(name, c) })
}

func (fs *troubledFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	return fs.opened("create", name, func() (vfs.File, error) { return fs.FS.OpenReadWrite(name, c, opts...) })
}

func (fs *troubledFS) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return fs.opened("create", to, func() (vfs.File, error) { return fs.FS.ReuseForWrite(from, to, c) })
}

func (fs *troubledFS) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	f, err := fs.FS.Open(name, opts...)
	return fs.file(f, name, err)
}

func (fs *troubledFS) OpenDir(name string) (vfs.File, error) {
	f, err := fs.FS.OpenDir(name)
	return fs.file(f, name+"/", err)
}

func (fs *troubledFS) Link(from, to string) error {
	return fs.t.do("link", to, func() error { return fs.FS.Link(from, to) })
}

func (fs *troubledFS) Rename(from, to string) error {
	return fs.t.do("rename", to, func() error { return fs.FS.Rename(from, to) })
}

func (fs *troubledFS) Remove(name string) error {
	return fs.t.do("remove", name, func() error { return fs.FS.Remove(name) })
}

func (fs *troubledFS) RemoveAll(name string) error {
	return fs.t.do("remove", name, func() error { return fs.FS.RemoveAll(name) })
}

func (fs *troubledFS) MkdirAll(name string, perm os.FileMode) error {
	return fs.t.do("mkdir", name, func() error { return fs.FS.MkdirAll(name, perm) })
}

func (fs *troubledFS) Lock(name string) (io.Closer, error) { return fs.FS.Lock(name) }

type troubledFile struct {
	vfs.File
	t    *trouble
	name string
}

func (f *troubledFile) Write(p []byte) (n int, err error) {
	err = f.t.do("write", f.name, func() (err error) { n, err = f.File.Write(p); return err })
	return n, err
}

func (f *troubledFile) WriteAt(p []byte, off int64) (n int, err error) {
	err = f.t.do("write", f.name, func() (err error) { n, err = f.File.WriteAt(p, off); return err })
	return n, err
}

func (f *troubledFile) Sync() error     { return f.t.do("sync", f.name, f.File.Sync) }
func (f *troubledFile) SyncData() error { return f.t.do("sync", f.name, f.File.SyncData) }

func (f *troubledFile) SyncTo(length int64) (full bool, err error) {
	err = f.t.do("sync", f.name, func() (err error) { full, err = f.File.SyncTo(length); return err })
	return full, err
}

func (f *troubledFile) ReadAt(p []byte, off int64) (int, error) {
	if !isPack(f.name) {
		return f.File.ReadAt(p, off)
	}
	switch fate := f.t.fate("read", f.name); {
	case fate.Err != nil:
		return 0, fate.Err
	case fate.Lost:
		for i := range p {
			p[i] = byte(i)
		}
		return len(p), nil
	}
	return f.File.ReadAt(p, off)
}

func isPack(name string) bool { return strings.HasSuffix(name, ".car") }
