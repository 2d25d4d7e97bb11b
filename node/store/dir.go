package store

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// A store's folder:
//
//	ID      the store's random name, as text
//	LOCK    held while the store is open
//	index/  where each block lies (Pebble)
//	packs/  kept blocks, one CARv1 file per gigabyte
//	cache/  cached blocks, likewise

// makeDirs creates the folder and those in it, each synced into the one above.
func (s *Store) makeDirs() error {
	var missing []string
	for dir := s.dir; ; dir = s.fs.PathDir(dir) {
		_, err := s.fs.Stat(dir)
		if err == nil || s.fs.PathDir(dir) == dir {
			break
		}
		if !errors.Is(err, os.ErrNotExist) {
			return err
		}
		missing = append(missing, dir)
	}
	slices.Reverse(missing)
	for _, name := range []string{"index", packDir(Kept), packDir(Cached)} {
		missing = append(missing, s.fs.PathJoin(s.dir, name))
	}
	for _, dir := range missing {
		if err := s.fs.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		if err := s.syncDir(s.fs.PathDir(dir)); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) syncDir(dir string) error {
	d, err := s.fs.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

const idDomain = "valise store 1\n"

// loadID reads the store's name, or gives it one where nothing is kept yet.
func (s *Store) loadID() (id [16]byte, err error) {
	path := s.fs.PathJoin(s.dir, "ID")
	f, err := s.fs.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return s.createID(path)
	}
	if err != nil {
		return id, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 256))
	if err != nil {
		return id, fmt.Errorf("read %s: %w", path, err)
	}
	digits, ok := strings.CutPrefix(string(text), idDomain)
	if n, err := hex.Decode(id[:], []byte(strings.TrimSuffix(digits, "\n"))); !ok || err != nil || n != len(id) {
		return id, fmt.Errorf("%s is not the name of a store", path)
	}
	return id, nil
}

// createID writes a new name, whole or not at all.
func (s *Store) createID(path string) (id [16]byte, err error) {
	for _, k := range []Kind{Kept, Cached} {
		names, err := s.fs.List(s.fs.PathJoin(s.dir, packDir(k)))
		if err != nil {
			return id, err
		}
		if len(names) > 0 {
			return id, fmt.Errorf("%s is missing although there are packs; restore it, or start with an empty folder", path)
		}
	}
	rand.Read(id[:])
	f, err := s.fs.Create(path+".new", diskWrites)
	if err != nil {
		return id, err
	}
	_, err = f.Write([]byte(idDomain + hex.EncodeToString(id[:]) + "\n"))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return id, fmt.Errorf("write %s: %w", path, err)
	}
	if err := s.fs.Rename(path+".new", path); err != nil {
		return id, err
	}
	return id, s.syncDir(s.dir)
}
