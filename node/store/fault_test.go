package store

import (
	"errors"
	"io"
	"strings"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// A fault says what becomes of one operation on a faultFS.
type fault int

const (
	fine     fault = iota
	failed         // it does not happen, and an error is returned
	happened       // it happens, and an error is returned all the same
)

var errInjected = errors.New("injected fault")

// A faultFS asks hook before every operation that changes the disk.
type faultFS struct {
	vfs.FS
	mu   sync.Mutex
	hook func(op, path string) fault
	err  error // returned instead of errInjected, where set
}

func (f *faultFS) set(hook func(op, path string) fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hook = hook
}

func (f *faultFS) do(op, path string, act func() error) error {
	f.mu.Lock()
	hook, injected := f.hook, f.err
	f.mu.Unlock()
	if injected == nil {
		injected = errInjected
	}
	if hook == nil {
		return act()
	}
	switch hook(op, path) {
	case failed:
		return injected
	case happened:
		if err := act(); err != nil {
			return err
		}
		return injected
	}
	return act()
}

func (f *faultFS) wrap(file vfs.File, path string, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return &faultFile{File: file, fs: f, path: path}, nil
}

func (f *faultFS) Create(name string, c vfs.DiskWriteCategory) (file vfs.File, err error) {
	err = f.do("create", name, func() (err error) { file, err = f.FS.Create(name, c); return err })
	return f.wrap(file, name, err)
}

func (f *faultFS) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	file, err := f.FS.Open(name, opts...)
	return f.wrap(file, name, err)
}

func (f *faultFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (file vfs.File, err error) {
	err = f.do("create", name, func() (err error) { file, err = f.FS.OpenReadWrite(name, c, opts...); return err })
	return f.wrap(file, name, err)
}

func (f *faultFS) OpenDir(name string) (vfs.File, error) {
	file, err := f.FS.OpenDir(name)
	return f.wrap(file, name+"/", err)
}

func (f *faultFS) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (file vfs.File, err error) {
	err = f.do("create", to, func() (err error) { file, err = f.FS.ReuseForWrite(from, to, c); return err })
	return f.wrap(file, to, err)
}

func (f *faultFS) Rename(from, to string) error {
	return f.do("rename", to, func() error { return f.FS.Rename(from, to) })
}

func (f *faultFS) Remove(name string) error {
	return f.do("remove", name, func() error { return f.FS.Remove(name) })
}

func (f *faultFS) Lock(name string) (io.Closer, error) { return f.FS.Lock(name) }

type faultFile struct {
	vfs.File
	fs   *faultFS
	path string
}

func (f *faultFile) Write(p []byte) (n int, err error) {
	err = f.fs.do("write", f.path, func() (err error) { n, err = f.File.Write(p); return err })
	return n, err
}

func (f *faultFile) WriteAt(p []byte, off int64) (n int, err error) {
	err = f.fs.do("write", f.path, func() (err error) { n, err = f.File.WriteAt(p, off); return err })
	return n, err
}

func (f *faultFile) Sync() error     { return f.fs.do("sync", f.path, f.File.Sync) }
func (f *faultFile) SyncData() error { return f.fs.do("sync", f.path, f.File.SyncData) }

func isPack(path string) bool { return strings.HasSuffix(path, ".car") }
