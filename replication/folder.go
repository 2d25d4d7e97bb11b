package replication

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"
	"github.com/libp2p/go-libp2p/core/peer"
)

// Names in Config.Dir.
const (
	nameLog     = "log"
	nameCurrent = "CURRENT" // names the state folder in use; a ledger exists once it does
	statePrefix = "state-"
)

// Memory tables take their room from the block cache: large ones leave it none.
const (
	memTable = 4 << 20
	ownCache = 16 << 20 // where Config.Cache is nil
)

// A folder is the ledger's files.
type folder struct {
	fs    vfs.FS
	dir   string
	cache *pebble.Cache // may be nil
	fatal *fatal

	mu   sync.Mutex
	last int // highest number given to a state
}

func (f *folder) path(name string) string { return f.fs.PathJoin(f.dir, name) }

func (f *folder) options() *pebble.Options {
	o := &pebble.Options{
		FS: f.fs, Cache: f.cache, Logger: pebbleLogger{f.fatal},
		EventListener:               &pebble.EventListener{BackgroundError: f.fatal.background},
		FormatMajorVersion:          pebble.FormatTableFormatV6,
		MemTableSize:                memTable,
		MemTableStopWritesThreshold: 4,
	}
	if f.cache == nil {
		o.CacheSize = ownCache
	}
	return o
}

// openPebble opens a database. Pebble panics where its folder cannot be synced; to us
// that is an error like any other.
func openPebble(dir string, o *pebble.Options) (pdb *pebble.DB, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("open %s: %v", dir, v)
		}
	}()
	return pebble.Open(dir, o)
}

func (f *folder) openLog() (*pebble.DB, error) {
	o := f.options()
	o.ErrorIfNotExists = true
	return openPebble(f.path(nameLog), o)
}

// current returns the state folder in use, "" if there is no ledger.
func (f *folder) current() (string, error) {
	file, err := f.fs.Open(f.path(nameCurrent))
	if err != nil {
		if _, statErr := f.fs.Stat(f.path(nameCurrent)); statErr != nil && errors.Is(statErr, os.ErrNotExist) {
			return "", nil
		}
		return "", fmt.Errorf("read ledger %s: %w", nameCurrent, err)
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, 256))
	if err != nil {
		return "", fmt.Errorf("read ledger %s: %w", nameCurrent, err)
	}
	name := strings.TrimSuffix(string(data), "\n")
	if _, ok := stateNumber(name); !ok {
		return "", fmt.Errorf("ledger %s names %q, not a state folder", nameCurrent, name)
	}
	return name, nil
}

// setCurrent switches atomically and durably.
func (f *folder) setCurrent(name string) error {
	tmp := f.path(nameCurrent + ".tmp")
	file, err := f.fs.Create(tmp, vfs.WriteCategoryUnspecified)
	if err != nil {
		return fmt.Errorf("switch ledger state: %w", err)
	}
	_, err = file.Write([]byte(name + "\n"))
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("switch ledger state: %w", err)
	}
	if err := f.fs.Rename(tmp, f.path(nameCurrent)); err != nil {
		return fmt.Errorf("switch ledger state: %w", err)
	}
	return syncDir(f.fs, f.dir)
}

func syncDir(fs vfs.FS, dir string) error {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return fmt.Errorf("sync folder %s: %w", dir, err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("sync folder %s: %w", dir, err)
	}
	return nil
}

func stateNumber(name string) (int, bool) {
	digits, ok := strings.CutPrefix(name, statePrefix)
	n, err := strconv.Atoi(digits)
	return n, ok && err == nil && n > 0
}

// tidy removes states that CURRENT does not name, and remembers their numbers.
func (f *folder) tidy(current string) error {
	names, err := f.fs.List(f.dir)
	if err != nil {
		return fmt.Errorf("list ledger folder: %w", err)
	}
	for _, name := range names {
		n, ok := stateNumber(name)
		f.last = max(f.last, n)
		if ok && name != current {
			if err := f.fs.RemoveAll(f.path(name)); err != nil {
				return fmt.Errorf("remove old ledger state: %w", err)
			}
		}
	}
	return nil
}

func (f *folder) openState(name string) (*stateDB, error) {
	o := f.options()
	o.ErrorIfNotExists = true
	pdb, err := openPebble(f.path(name), o)
	if err != nil {
		return nil, fmt.Errorf("open ledger state: %w", err)
	}
	return &stateDB{pdb: pdb, name: name}, nil
}

// newState makes an empty state that CURRENT does not name yet.
func (f *folder) newState() (*stateDB, error) {
	f.mu.Lock()
	f.last++
	name := statePrefix + strconv.Itoa(f.last)
	f.mu.Unlock()
	o := f.options()
	o.ErrorIfExists = true
	pdb, err := openPebble(f.path(name), o)
	if err != nil {
		return nil, fmt.Errorf("create ledger state: %w", err)
	}
	if err := syncDir(f.fs, f.dir); err != nil {
		return nil, errors.Join(err, pdb.Close())
	}
	return &stateDB{pdb: pdb, name: name}, nil
}

// discard closes and removes a state that was never current, or no longer is.
func (f *folder) discard(st *stateDB) error {
	return errors.Join(st.pdb.Close(), f.fs.RemoveAll(f.path(st.name)))
}

// create makes the files of a new ledger; CURRENT comes last and makes it one.
func (f *folder) create(self peer.ID, bootstrap bool) (err error) {
	current, err := f.current()
	if err != nil {
		return err
	}
	if current != "" {
		return fmt.Errorf("create ledger in %s: %w", f.dir, ErrExists)
	}
	if err := f.fs.MkdirAll(f.dir, 0o700); err != nil {
		return fmt.Errorf("create ledger: %w", err)
	}
	if err := syncDir(f.fs, f.fs.PathDir(f.dir)); err != nil {
		return err
	}
	pdb, err := openPebble(f.path(nameLog), f.options())
	if err != nil {
		return fmt.Errorf("create ledger log: %w", err)
	}
	log, err := newLogStore(pdb, f.fatal)
	if err == nil && (log.last > 1 || log.opened()) {
		// Not what an interrupted create leaves: somebody's log without its CURRENT. A snapshot may have
		// emptied it.
		err = fmt.Errorf("create ledger in %s: log without %s: %w", f.dir, nameCurrent, ErrExists)
	}
	if err == nil && bootstrap {
		err = bootstrapLog(log, self)
	}
	if err = errors.Join(err, pdb.Close()); err != nil {
		return err
	}
	if err := f.tidy(""); err != nil {
		return err
	}
	st, err := f.newState()
	if err != nil {
		return err
	}
	if err := st.pdb.Close(); err != nil {
		return fmt.Errorf("create ledger state: %w", err)
	}
	return f.setCurrent(st.name)
}

// bootstrapLog writes the configuration of a cluster of one, as raft does.
func bootstrapLog(log *logStore, self peer.ID) error {
	if err := log.SetUint64([]byte("CurrentTerm"), 1); err != nil {
		return err
	}
	return log.StoreLog(&raft.Log{Index: 1, Term: 1, Type: raft.LogConfiguration,
		Data: raft.EncodeConfiguration(onlyVoter(self.String()))})
}

// onlyVoter is the configuration of a cluster of one.
func onlyVoter(id string) raft.Configuration {
	return raft.Configuration{Servers: []raft.Server{{
		Suffrage: raft.Voter, ID: raft.ServerID(id), Address: raft.ServerAddress(id),
	}}}
}
