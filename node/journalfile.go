package node

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
)

// A journalFile is the journal of revocations on this machine's disk. Its methods may be called concurrently.
type journalFile struct {
	mu   sync.Mutex // guards the fields below
	f    *os.File
	has  map[string]bool // what the file says already
	last error
}

func (n *Node) journalPath() string {
	if filepath.IsAbs(n.cfg.Backup.Journal) {
		return n.cfg.Backup.Journal
	}
	return filepath.Join(n.cfg.Dir, n.cfg.Backup.Journal)
}

// openJournal opens the file for appending, or makes it. A last line that was cut short is cut off.
func openJournal(name, cluster string) (*journalFile, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	j := &journalFile{f: f, has: map[string]bool{}}
	if err := j.load(cluster); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", name, err), f.Close())
	}
	return j, nil
}

func (j *journalFile) load(cluster string) error {
	info, err := j.f.Stat()
	if err != nil {
		return err
	}
	var size int64
	if info.Size() > 0 {
		size, err = readJournal(j.f, cluster, func(e journalEntry) error { j.has[e.key()] = true; return nil })
		if err != nil && !(size == 0 && noLine(j.f)) {
			return err
		}
	}
	if err := j.f.Truncate(size); err != nil {
		return err
	}
	if _, err := j.f.Seek(size, io.SeekStart); err != nil {
		return err
	}
	if size > 0 {
		return nil
	}
	if _, err := j.f.Write(journalLine(journalEntry{Version: journalVersion, Cluster: cluster})); err != nil {
		return err
	}
	return errors.Join(j.f.Sync(), syncParent(j.f.Name()))
}

// noLine says whether a file has no whole line: its first was cut short.
func noLine(f *os.File) bool {
	data, err := io.ReadAll(io.NewSectionReader(f, 0, 4096))
	return err == nil && !bytes.Contains(data, []byte("\n"))
}

func syncParent(name string) error {
	d, err := os.Open(filepath.Dir(name))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// append writes what the file does not say yet, durable on return. After an error the file must be opened anew.
func (j *journalFile) append(entries []journalEntry) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.last != nil {
		return j.last
	}
	var text []byte
	for _, e := range entries {
		if !j.has[e.key()] {
			text = append(text, journalLine(e)...)
		}
	}
	if len(text) == 0 {
		return nil
	}
	_, err := j.f.Write(text)
	if err == nil {
		err = j.f.Sync()
	}
	if err != nil {
		j.last = err
		return err
	}
	for _, e := range entries {
		j.has[e.key()] = true
	}
	return nil
}

func (j *journalFile) close() { j.f.Close() }
