package backup

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"os"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
)

// A Source is the cluster that is backed up.
type Source interface {
	// State reads one consistent state: it calls begin once, and then entry and root for all there are.
	State(ctx context.Context, w StateSink) error
	// Blocks yields blocks under a root in the order asked for, each verified, or an error when they
	// cannot be had in reasonable time.
	Blocks(ctx context.Context, root cid.Cid, want []cid.Cid) iter.Seq2[blocks.Block, error]
	// Links names a block's children; none for leaves.
	Links(b blocks.Block) ([]cid.Cid, error)
	// Refers says whether the cluster still refers to a root now.
	Refers(ctx context.Context, root cid.Cid) (bool, error)
	// Noted is told of a state before it is durable, and again, with done, when no other is left in the folder.
	Noted(ctx context.Context, h Header, done bool) error
}

// A StateSink takes what a state has. Its methods keep nothing of what they are given.
type StateSink interface {
	// Begin is given the header, but for what the folder knows, and the secret that seals the ledger.
	Begin(h Header, secret []byte) error
	Entry(key, value []byte) error
	Root(root cid.Cid) error
}

// A Config says where a backup goes.
type Config struct {
	FS  vfs.FS
	Dir string // the backup's folder; made where it is not there

	ScratchFS vfs.FS
	Scratch   string // a folder for an index; made anew, and removed at the end

	Cluster  string // a folder with another cluster's backup is refused
	CARSize  int64  // a new CAR file is begun at this size; 0: 256 MiB
	Progress func(Progress)
}

// Progress tells how far a backup is. It counts from the beginning of the present state.
type Progress struct {
	Contents, Of int   // roots done, and all
	Blocks       int   // written in this run
	Bytes        int64 // of them
}

// A Summary says what a backup did.
type Summary struct {
	Header   Header
	Entries  int // of the ledger
	Contents int // roots
	Blocks   int // that the state refers to
	Bytes    int64
	New      int // blocks written
	NewBytes int64
	Dropped  int64 // bytes of files removed
	Views    int   // states begun: more than one where something was deleted meanwhile
}

// maxViews bounds how often a state is begun anew because what it refers to is no more.
const maxViews = 20

var errGone = errors.New("it was deleted meanwhile")

// Write makes the folder hold one whole, newest state of the source, and nothing else. What the folder has
// of it already is not written again. Cut short at any moment, the folder has the state it had before, or
// the new one, whole.
func Write(ctx context.Context, c Config, src Source) (s Summary, err error) {
	if c.CARSize <= 0 {
		c.CARSize = 256 << 20
	}
	if c.Progress == nil {
		c.Progress = func(Progress) {}
	}
	if err := makeDirs(c.FS, c.Dir); err != nil {
		return s, err
	}
	lock, err := c.FS.Lock(c.FS.PathJoin(c.Dir, "lock"))
	if err != nil {
		return s, fmt.Errorf("lock %s: is another backup writing to it? %w", c.Dir, err)
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	err = guarded(c.ScratchFS, c.Scratch, func(i *index) error {
		w := &writer{c: c, src: src, index: i, cars: cars{fs: c.FS, dir: c.Dir}}
		defer w.close()
		if err := w.open(); err != nil {
			return err
		}
		err := w.run(ctx)
		s = w.sum
		return err
	})
	return s, err
}

// makeDirs makes the folders, durably with all above them that were not there.
func makeDirs(fs vfs.FS, dir string) error {
	path := fs.PathJoin(dir, blocksDir)
	var parents []string // whose entries are new
	for d := path; ; {
		if _, err := fs.Stat(d); err == nil {
			break
		}
		up := fs.PathDir(d)
		parents = append(parents, up)
		if up == d {
			break
		}
		d = up
	}
	if err := fs.MkdirAll(path, 0o700); err != nil {
		return fmt.Errorf("make %s: %w", path, err)
	}
	for _, d := range parents {
		if err := syncDir(fs, d); err != nil {
			return fmt.Errorf("sync %s: %w", d, err)
		}
	}
	return nil
}

// A writer is one run.
type writer struct {
	c     Config
	src   Source
	index *index
	cars  cars
	sum   Summary

	last    Header // zero State: none
	nextCAR uint64
	sizes   map[uint64]int64 // of the CAR files that may be used
	live    map[uint64]int64 // bytes of them that this state refers to
	gen     uint32
	car     *carWriter // nil between two
	made    bool       // a CAR file was made: its folder is not synced

	state *stateWriter
	seal  *sealer
	roots int
}

func (w *writer) close() {
	w.cars.close()
	if w.car != nil {
		w.car.f.Close()
	}
	if w.state != nil {
		w.state.close()
	}
}

// open learns what the folder has: the newest state with its blocks, and whole CAR files that a run cut
// short left behind.
func (w *writer) open() error {
	fs, dir := w.c.FS, w.c.Dir
	w.sizes = make(map[uint64]int64)
	var err error
	if w.last, _, err = newest(fs, dir); err != nil && !errors.Is(err, ErrNone) {
		return err
	}
	if err == nil && w.last.Cluster != w.c.Cluster {
		return fmt.Errorf("%s is of %s, cluster %s: %w", dir, w.last.Organisation, w.last.Cluster, ErrForeign)
	}
	if w.last.Folder == "" {
		w.last.Folder = randomID()
	}
	if err := removeUnfinished(fs, dir); err != nil {
		return err
	}
	numbers, err := list(fs, fs.PathJoin(dir, blocksDir), carNumber)
	if err != nil {
		return err
	}
	if w.last.State > 0 {
		if err := w.loadState(); err != nil {
			return err
		}
	}
	for _, n := range numbers {
		w.nextCAR = max(w.nextCAR, n+1)
		if _, ok := w.sizes[n]; !ok {
			if err := w.adopt(n); err != nil {
				return err
			}
		}
	}
	return nil
}

// loadState takes the blocks of the newest state over. Those of a file that is not as it was are written anew.
func (w *writer) loadState() error {
	usable := false
	return visit(w.c.FS, w.c.Dir, w.last.State, visitor{
		car: func(number uint64, size int64) error {
			info, err := w.c.FS.Stat(w.c.FS.PathJoin(w.c.Dir, blocksDir, carName(number)))
			if usable = err == nil && info.Size() == size; usable {
				w.sizes[number] = size
			} else if err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
			return nil
		},
		block: func(p place, c cid.Cid) error {
			if !usable {
				return nil
			}
			return w.index.putBlock(c, 0, p)
		},
	})
}

// adopt takes over the blocks of a CAR file that no state refers to, if it is whole. They are read and
// synced before anything counts on them.
func (w *writer) adopt(number uint64) error {
	f, err := w.c.FS.Open(w.c.FS.PathJoin(w.c.Dir, blocksDir, carName(number)))
	if err != nil {
		return err
	}
	defer f.Close()
	_, whole, err := scanCAR(f, func(cid.Cid, int64, int) error { return nil })
	if err != nil || !whole {
		return err // it goes at the end
	}
	if err := f.Sync(); err != nil {
		return err
	}
	again, err := w.c.FS.Open(w.c.FS.PathJoin(w.c.Dir, blocksDir, carName(number)))
	if err != nil {
		return err
	}
	defer again.Close()
	size, _, err := scanCAR(again, func(c cid.Cid, offset int64, length int) error {
		if _, _, ok, err := w.index.block(c); ok || err != nil {
			return err
		}
		return w.index.putBlock(c, 0, place{number, offset, length})
	})
	w.sizes[number] = size
	w.made = true
	return err
}

func randomID() string {
	var b [16]byte
	rand.Read(b[:])
	return strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(b[:]))
}

func (w *writer) run(ctx context.Context) error {
	for w.sum.Views < maxViews {
		w.sum.Views++
		if err := w.readState(ctx); err != nil {
			return fmt.Errorf("read the ledger: %w", err)
		}
		err := w.copyBlocks(ctx)
		if errors.Is(err, errGone) { // a newer state does not refer to it
			if err := w.finishCAR(); err != nil { // what was written can be read there
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		return w.commit(ctx)
	}
	return fmt.Errorf("files were deleted all the time; %d states were begun: %w", w.sum.Views, errGone)
}

// readState begins the ledger file with the source's present state.
func (w *writer) readState(ctx context.Context) error {
	if w.state != nil {
		w.state.close()
	}
	w.gen++
	w.seal = nil
	w.live, w.roots = make(map[uint64]int64), 0
	w.sum.Entries, w.sum.Contents, w.sum.Blocks, w.sum.Bytes = 0, 0, 0, 0
	if err := w.index.clear('r'); err != nil {
		return err
	}
	var err error
	if w.state, err = createState(w.c.FS, w.newName()); err != nil {
		return err
	}
	if err := w.src.State(ctx, sink{w}); err != nil {
		return err
	}
	if w.seal == nil {
		return errors.New("the source began no state")
	}
	return w.seal.end()
}

func (w *writer) newName() string {
	return w.c.FS.PathJoin(w.c.Dir, stateName(w.last.State+1)+".new")
}

type sink struct{ w *writer }

var _ StateSink = sink{}

func (s sink) Begin(h Header, secret []byte) error {
	w := s.w
	h.Folder, h.State = w.last.Folder, w.last.State+1
	h.Salt = make([]byte, saltSize)
	rand.Read(h.Salt)
	raw, err := json.Marshal(h)
	if err != nil {
		return err
	}
	w.sum.Header = h
	w.seal = &sealer{aead: ledgerAEAD(secret, h.Salt, raw), emit: func(p []byte) error { return w.state.record(recLedger, p) }}
	return w.state.record(recHeader, raw)
}

func (s sink) Entry(key, value []byte) error {
	s.w.sum.Entries++
	return s.w.seal.entry(key, value)
}

func (s sink) Root(root cid.Cid) error {
	s.w.roots++
	return s.w.index.put(append([]byte{'r'}, root.Bytes()...), nil)
}

// commit makes the state whole and durable, and then drops what it does not refer to. Its order is the
// argument: blocks, their folder, the ledger file, its name; only then the old state, then its blocks.
func (w *writer) commit(ctx context.Context) error {
	if err := w.repack(); err != nil {
		return err
	}
	if err := w.finishCAR(); err != nil {
		return err
	}
	fs := w.c.FS
	if w.made {
		if err := syncDir(fs, fs.PathJoin(w.c.Dir, blocksDir)); err != nil {
			return err
		}
	}
	if err := w.writePlaces(); err != nil {
		return err
	}
	if err := w.state.finish(); err != nil {
		return fmt.Errorf("write the ledger file: %w", err)
	}
	w.state = nil
	h := w.sum.Header
	if err := w.src.Noted(ctx, h, false); err != nil {
		return err
	}
	if err := errors.Join(context.Cause(ctx), w.index.dead.err()); err != nil { // nobody waits for it any more
		return err
	}
	if err := fs.Rename(w.newName(), fs.PathJoin(w.c.Dir, stateName(h.State))); err != nil {
		return err
	}
	if err := syncDir(fs, w.c.Dir); err != nil {
		return err
	}
	keep := make(map[uint64]int64)
	for n := range w.live {
		keep[n] = w.sizes[n]
	}
	w.cars.close()
	var err error
	if w.sum.Dropped, err = removeOther(fs, w.c.Dir, h.State, keep); err != nil {
		return fmt.Errorf("drop what is no longer referred to: %w", err)
	}
	return w.src.Noted(ctx, h, true)
}

// writePlaces writes where the state's blocks lie, file by file.
func (w *writer) writePlaces() error {
	err := w.index.each([]byte{'b'}, []byte{'b' + 1}, func(key, value []byte) error {
		gen, p := blockValue(value)
		if gen != w.gen {
			return nil
		}
		return w.index.putPlace(p, key[1:])
	})
	if err != nil {
		return err
	}
	car, any := uint64(0), false
	return w.index.places(func(p place, id []byte) error {
		if !any || p.car != car {
			car, any = p.car, true
			if err := w.state.record(recCAR, carBody(car, w.sizes[car])); err != nil {
				return err
			}
		}
		return w.state.record(recBlock, blockBody(p, id))
	})
}
