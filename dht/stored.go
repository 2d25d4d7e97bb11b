package dht

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// The stored list: the signed bytes, as they were published.
const (
	listFile  = "members.list"
	diskClass = vfs.DiskWriteCategory("dht")
)

// readList returns the stored bytes, or nil when there are none.
func readList(fs vfs.FS, dir string) ([]byte, error) {
	f, err := fs.Open(fs.PathJoin(dir, listFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the stored member list: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxList+1))
	if err != nil {
		return nil, fmt.Errorf("read the stored member list: %w", err)
	}
	return data, nil
}

// writeList replaces the stored list: after a crash at any moment either the
// old one or the new one is there, whole; on return it is the new one.
func writeList(fs vfs.FS, dir string, signed []byte) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("store the member list: %w", err)
		}
	}()
	path := fs.PathJoin(dir, listFile)
	f, err := fs.Create(path+".new", diskClass)
	if err != nil {
		return err
	}
	_, err = f.Write(bytes.Clone(signed)) // a vfs may scribble over what it was given
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := fs.Rename(path+".new", path); err != nil {
		return err
	}
	return syncDir(fs, dir)
}

func syncDir(fs vfs.FS, dir string) error {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// makeDir makes dir durably, with the folders above it.
func makeDir(fs vfs.FS, dir string) error {
	if _, err := fs.Stat(dir); err == nil {
		return nil
	}
	above := fs.PathDir(dir)
	if above != dir {
		if err := makeDir(fs, above); err != nil {
			return err
		}
	}
	if err := fs.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return syncDir(fs, above)
}
