package backup

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/fxamacker/cbor/v2"
	"github.com/google/go-cmp/cmp"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	car "github.com/ipld/go-car/v2"
	"github.com/multiformats/go-multihash"
)

const dir = "/backups/one"

var noon = time.Date(2026, 11, 2, 12, 0, 0, 0, time.UTC)

// A cluster is a Source that is a map. A manifest is a block of the dag-cbor codec whose bytes are its links.
type cluster struct {
	entries map[string]string
	blocks  map[cid.Cid][]byte
	roots   map[cid.Cid]bool
	asked   int
	failAt  int // fails after so many blocks; 0: never
	noted   []string
	// before is called before a block is handed out, if not nil.
	before func(c cid.Cid)
}

func newCluster() *cluster {
	return &cluster{entries: map[string]string{}, blocks: map[cid.Cid][]byte{}, roots: map[cid.Cid]bool{}}
}

func named(codec uint64, data []byte) cid.Cid {
	sum, err := multihash.Sum(data, multihash.SHA2_256, -1)
	if err != nil {
		panic(err)
	}
	return cid.NewCidV1(codec, sum)
}

// store adds content of n chunks, each of a size, that begin with a word.
func (c *cluster) store(word string, n, size int) cid.Cid {
	var links []byte
	for i := range n {
		data := bytes.Repeat(fmt.Appendf(nil, "%s %d ", word, i), size)[:size]
		leaf := named(cid.Raw, data)
		c.blocks[leaf] = data
		links = append(links, leaf.Bytes()...)
	}
	root := named(cid.DagCBOR, links)
	c.blocks[root], c.roots[root] = links, true
	c.entries["r"+word] = root.String()
	return root
}

// forget takes content away, with blocks that nothing else has.
func (c *cluster) forget(word string, root cid.Cid) {
	delete(c.entries, "r"+word)
	delete(c.roots, root)
	used := map[cid.Cid]bool{}
	for r := range c.roots {
		used[r] = true
		links, _ := c.Links(must(blocks.NewBlockWithCid(c.blocks[r], r)))
		for _, l := range links {
			used[l] = true
		}
	}
	maps.DeleteFunc(c.blocks, func(k cid.Cid, _ []byte) bool { return !used[k] })
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

var testKeys = Keys{Organisation: "example.org", Cluster: "cluster", Secrets: []Secret{{"content", 1, bytes.Repeat([]byte{7}, 32)}}}

func (c *cluster) State(_ context.Context, w StateSink) error {
	h := Header{Organisation: "example.org", Cluster: "cluster", At: noon, Index: 7, Node: "berlin-1", KeyEpoch: 1, Secrets: testKeys.Checks()}
	if err := w.Begin(h, testKeys.Secrets[0].Value); err != nil {
		return err
	}
	for _, k := range slices.Sorted(maps.Keys(c.entries)) {
		if err := w.Entry([]byte(k), []byte(c.entries[k])); err != nil {
			return err
		}
	}
	for r := range c.roots {
		if err := w.Root(r); err != nil {
			return err
		}
	}
	return nil
}

func (c *cluster) Blocks(_ context.Context, _ cid.Cid, want []cid.Cid) iter.Seq2[blocks.Block, error] {
	return func(yield func(blocks.Block, error) bool) {
		for _, id := range want {
			if c.before != nil {
				c.before(id)
			}
			data, ok := c.blocks[id]
			if !ok || c.failAt > 0 && c.asked == c.failAt {
				yield(nil, fmt.Errorf("block %s: no holder", id))
				return
			}
			c.asked++
			if !yield(must(blocks.NewBlockWithCid(data, id)), nil) {
				return
			}
		}
	}
}

func (c *cluster) Links(b blocks.Block) (links []cid.Cid, err error) {
	for data := b.RawData(); len(data) > 0; {
		n, id, err := cid.CidFromBytes(data)
		if err != nil {
			return nil, err
		}
		links, data = append(links, id), data[n:]
	}
	return links, nil
}

func (c *cluster) Refers(_ context.Context, root cid.Cid) (bool, error) { return c.roots[root], nil }

func (c *cluster) Noted(_ context.Context, h Header, done bool) error {
	c.noted = append(c.noted, fmt.Sprintf("%d %v", h.State, done))
	return nil
}

func write(ctx context.Context, fs vfs.FS, c *cluster) (Summary, error) {
	return Write(ctx, Config{FS: fs, Dir: dir, ScratchFS: vfs.NewMem(), Scratch: "/scratch", Cluster: "cluster", CARSize: 20_000}, c)
}

// check opens the backup and compares everything in it with a cluster.
func check(fs vfs.FS, want *cluster) error {
	b, err := Open(fs, dir)
	if err != nil {
		return err
	}
	entries, found := map[string]string{}, map[cid.Cid][]byte{}
	if err := b.Ledger(testKeys, func(k, v []byte) error { entries[string(k)] = string(v); return nil }); err != nil {
		return err
	}
	err = b.Blocks(context.Background(), func(b blocks.Block) error { found[b.Cid()] = b.RawData(); return nil }, func(err error) error { return err })
	if err != nil {
		return err
	}
	if diff := cmp.Diff(want.entries, entries); diff != "" {
		return errors.New("ledger: " + diff)
	}
	if !maps.EqualFunc(want.blocks, found, bytes.Equal) {
		return fmt.Errorf("%d blocks, want %d", len(found), len(want.blocks))
	}
	return nil
}

func copyOf(c *cluster) *cluster {
	return &cluster{entries: maps.Clone(c.entries), blocks: maps.Clone(c.blocks), roots: maps.Clone(c.roots)}
}

func TestIncremental(t *testing.T) {
	t.Parallel()
	fs, c := vfs.NewMem(), newCluster()
	first := c.store("first", 10, 5_000)
	c.store("second", 3, 4_000)
	one, err := write(t.Context(), fs, c)
	if err != nil {
		t.Fatal(err)
	}
	if one.New != 15 || one.Blocks != 15 || one.Contents != 2 || one.NewBytes != one.Bytes {
		t.Errorf("first run: %+v", one)
	}
	c.store("third", 2, 3_000)
	c.asked = 0
	two, err := write(t.Context(), fs, c)
	if err != nil {
		t.Fatal(err)
	}
	if two.New != 3 || two.Blocks != 18 || c.asked != 3 || two.Header.State != 2 || two.Header.Folder != one.Header.Folder {
		t.Errorf("second run: %+v, %d blocks asked for", two, c.asked)
	}
	if err := check(fs, c); err != nil {
		t.Error(err)
	}
	c.forget("first", first)
	three, err := write(t.Context(), fs, c)
	if err != nil {
		t.Fatal(err)
	}
	if three.New != 0 || three.Blocks != 7 || three.Dropped < 40_000 {
		t.Errorf("after a deletion: %+v", three)
	}
	if err := check(fs, c); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]string{"1 false", "1 true", "2 false", "2 true", "3 false", "3 true"}, c.noted); diff != "" {
		t.Error(diff)
	}
}

// A file that is deleted while the run is under way: the state is begun anew, and is whole.
func TestDeletedMeanwhile(t *testing.T) {
	t.Parallel()
	fs, c := vfs.NewMem(), newCluster()
	for i := range 8 {
		c.store(fmt.Sprint("kept ", i), 4, 3_000)
	}
	doomed := c.store("doomed", 4, 3_000)
	c.before = func(id cid.Cid) {
		if id.Equals(doomed) {
			c.forget("doomed", doomed)
		}
	}
	s, err := write(t.Context(), fs, c)
	if err != nil {
		t.Fatal(err)
	}
	if s.Views != 2 || s.Contents != 8 || s.New != 40 {
		t.Errorf("got %+v, want two views and no block twice", s)
	}
	if err := check(fs, c); err != nil {
		t.Error(err)
	}
}

// A block that is nowhere fails the run and leaves the state before.
func TestLostBlock(t *testing.T) {
	t.Parallel()
	fs, c := vfs.NewMem(), newCluster()
	c.store("first", 4, 3_000)
	if _, err := write(t.Context(), fs, c); err != nil {
		t.Fatal(err)
	}
	before := copyOf(c)
	lost := c.store("lost", 4, 3_000)
	delete(c.blocks, lost)
	if _, err := write(t.Context(), fs, c); err == nil || !strings.Contains(err.Error(), lost.String()) {
		t.Errorf("got %v, want an error that names %s", err, lost)
	}
	if err := check(fs, before); err != nil {
		t.Error(err)
	}
}

// A run that fails at any of its steps on disk, and then a power cut: what is there is the state before
// or the new one, whole, and the next run goes on.
func TestCutShortAnywhere(t *testing.T) {
	t.Parallel()
	old := newCluster()
	gone := old.store("gone", 8, 5_000)
	old.store("stays", 5, 5_000)
	base := vfs.NewCrashableMem()
	if _, err := write(t.Context(), base, old); err != nil {
		t.Fatal(err)
	}
	now := copyOf(old)
	now.forget("gone", gone)
	now.store("new", 80, 5_000)
	cuts := 0
	for step := 0; ; step++ {
		power := vfs.CrashCloneCfg{}
		if step%2 == 1 { // what was not synced is there in parts
			power = vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: rand.New(rand.NewPCG(1, uint64(step)))}
		}
		disk := base.CrashClone(vfs.CrashCloneCfg{})
		var image *vfs.MemFS
		n := 0
		fs := errorfs.Wrap(disk, errorfs.InjectorFunc(func(op errorfs.Op) error {
			if op.Kind.ReadOrWrite() != errorfs.OpIsWrite || image != nil {
				if image != nil && op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
					return errors.New("the machine is off")
				}
				return nil
			}
			if n++; n > step {
				image = disk.CrashClone(power)
				return errors.New("power cut")
			}
			return nil
		}))
		run := copyOf(now)
		_, err := write(t.Context(), fs, run)
		if image == nil {
			if err != nil {
				t.Fatal(err)
			}
			break
		}
		cuts++
		if errOld, errNow := check(image, old), check(image, now); errOld != nil && errNow != nil {
			t.Fatalf("cut at step %d: neither the old state: %v; nor the new: %v", step, errOld, errNow)
		}
		if check(image, now) == nil && !slices.Contains(run.noted, "2 false") {
			t.Fatalf("cut at step %d: the new state is there, and nobody was told", step)
		}
		if check(image, old) == nil && slices.Contains(run.noted, "2 true") {
			t.Fatalf("cut at step %d: the old state is there, and somebody was told that it is gone", step)
		}
		if _, err := write(t.Context(), image, copyOf(now)); err != nil {
			t.Fatalf("cut at step %d, the next run: %v", step, err)
		}
		if err := check(image, now); err != nil {
			t.Fatalf("cut at step %d, after the next run: %v", step, err)
		}
	}
	if cuts < 60 {
		t.Errorf("%d steps were cut", cuts)
	}
	t.Logf("%d steps were cut", cuts)
}

// A run that fails late: the next one takes over what it had finished.
func TestGoesOnWhereItWas(t *testing.T) {
	t.Parallel()
	fs, c := vfs.NewMem(), newCluster()
	c.store("content", 40, 5_000)
	c.failAt = 35
	if _, err := write(t.Context(), fs, c); err == nil {
		t.Fatal("it did not fail")
	}
	if _, err := Open(fs, dir); !errors.Is(err, ErrNone) {
		t.Errorf("after a first run that failed: got %v, want ErrNone", err)
	}
	c.failAt, c.asked = 0, 0
	s, err := write(t.Context(), fs, c)
	if err != nil {
		t.Fatal(err)
	}
	if s.New > 12 || c.asked > 12 || s.Blocks != 41 {
		t.Errorf("%d blocks written and %d asked for once more, of %d", s.New, c.asked, s.Blocks)
	}
	if err := check(fs, c); err != nil {
		t.Error(err)
	}
}

// A flipped bit anywhere in a backup is found and named.
func TestFlippedBit(t *testing.T) {
	t.Parallel()
	base, c := vfs.NewCrashableMem(), newCluster()
	c.store("content", 6, 3_000)
	for i := range 50 {
		c.entries[fmt.Sprint("key ", i)] = strings.Repeat("value ", i)
	}
	if _, err := write(t.Context(), base, c); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{stateName(1), blocksDir + "/" + carName(0)} {
		size := len(read(t, base, dir+"/"+name))
		for at := 0; at < size; at += max(1, size/97) {
			fs := base.CrashClone(vfs.CrashCloneCfg{})
			data := read(t, fs, dir+"/"+name)
			data[at] ^= 0x10
			f := must(fs.OpenReadWrite(dir+"/"+name, diskWrites))
			if _, err := f.WriteAt(data, 0); err != nil {
				t.Fatal(err)
			}
			f.Close()
			err := check(fs, c)
			if strings.HasSuffix(name, ".ledger") {
				if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNewer) || !strings.Contains(err.Error(), name) {
					t.Errorf("byte %d of %s: got %v, want one that names it", at, name, err)
				}
				continue
			}
			head := err == nil // a section's head: the places are in the ledger file, so the bytes are found all the same
			if !head && (!errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), carName(0))) {
				t.Errorf("byte %d of %s: got %v, want one that names it", at, name, err)
			}
		}
	}
	// What is said to mend it does: the file goes, the next run writes its blocks anew.
	if err := base.Remove(dir + "/" + blocksDir + "/" + carName(0)); err != nil {
		t.Fatal(err)
	}
	if err := check(base, c); !errors.Is(err, ErrDamaged) {
		t.Errorf("a missing file: got %v, want ErrDamaged", err)
	}
	if _, err := write(t.Context(), base, c); err != nil {
		t.Fatal(err)
	}
	if err := check(base, c); err != nil {
		t.Error(err)
	}
}

func read(t *testing.T, fs vfs.FS, path string) []byte {
	t.Helper()
	f, err := fs.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return must(io.ReadAll(f))
}

// A scratch folder whose disk fails at any of its writes fails the run, or does not matter; it ends in
// any case, and leaves the state before or the new one.
func TestScratchFails(t *testing.T) {
	t.Parallel()
	old := newCluster()
	old.store("stays", 5, 5_000)
	base := vfs.NewCrashableMem()
	if _, err := write(t.Context(), base, old); err != nil {
		t.Fatal(err)
	}
	now := copyOf(old)
	now.store("new", 20, 5_000)
	for step := 0; ; step++ {
		fs := base.CrashClone(vfs.CrashCloneCfg{})
		var n atomic.Int64
		failed := make(chan struct{})
		scratch := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
			if op.Kind.ReadOrWrite() != errorfs.OpIsWrite || n.Add(1) <= int64(step) {
				return nil
			}
			if n.Load() == int64(step)+1 {
				close(failed)
			}
			return errors.New("disk full")
		}))
		_, err := Write(t.Context(), Config{FS: fs, Dir: dir, ScratchFS: scratch, Scratch: "/scratch", Cluster: "cluster", CARSize: 20_000}, copyOf(now))
		select {
		case <-failed:
		default:
			if err != nil || step < 5 {
				t.Errorf("%d steps, then nothing failed: %v", step, err)
			}
			return
		}
		if errOld, errNow := check(fs, old), check(fs, now); errOld != nil && errNow != nil || err == nil && errNow != nil {
			t.Fatalf("step %d: the run said %v; the old state: %v; the new: %v", step, err, errOld, errNow)
		}
	}
}

// Other people's tools read the CAR files.
func TestAnyToolReadsTheCARs(t *testing.T) {
	t.Parallel()
	fs, c := vfs.NewMem(), newCluster()
	c.store("content", 20, 3_000)
	if _, err := write(t.Context(), fs, c); err != nil {
		t.Fatal(err)
	}
	found := map[cid.Cid][]byte{}
	names := must(fs.List(dir + "/" + blocksDir))
	for _, name := range names {
		r, err := car.NewBlockReader(bytes.NewReader(read(t, fs, dir+"/"+blocksDir+"/"+name)))
		if err != nil {
			t.Fatal(err)
		}
		for b, err := r.Next(); err != io.EOF; b, err = r.Next() {
			if err != nil {
				t.Fatal(err)
			}
			found[b.Cid()] = b.RawData()
		}
	}
	if !maps.EqualFunc(c.blocks, found, bytes.Equal) || len(names) < 3 {
		t.Errorf("%d blocks in %d files, want %d", len(found), len(names), len(c.blocks))
	}
}

// Without the right secret the ledger does not open, and every word of a header counts.
func TestSealedLedger(t *testing.T) {
	t.Parallel()
	fs, c := vfs.NewMem(), newCluster()
	c.entries["name"] = strings.Repeat("secret plans ", 20_000)
	if _, err := write(t.Context(), fs, c); err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(read(t, fs, dir+"/"+stateName(1)), []byte("secret plans")) {
		t.Error("the ledger file has the ledger in the clear")
	}
	b := must(Open(fs, dir))
	other := testKeys
	other.Secrets = []Secret{{"content", 1, bytes.Repeat([]byte{8}, 32)}}
	for name, k := range map[string]Keys{"no keys": {Cluster: "cluster"}, "another key": other, "another cluster": {Cluster: "x", Secrets: testKeys.Secrets}} {
		if err := b.Check(k); !errors.Is(err, ErrKeys) {
			t.Errorf("%s: got %v, want ErrKeys", name, err)
		}
		if name == "another cluster" {
			continue
		}
		if err := b.Ledger(k, func(_, _ []byte) error { t.Error("an entry"); return nil }); !errors.Is(err, ErrKeys) {
			t.Errorf("%s: got %v, want ErrKeys", name, err)
		}
	}
	if err := b.Check(testKeys); err != nil {
		t.Error(err)
	}
}

// The format of a ledger file never changes: this one was written when it was made.
func TestGoldenState(t *testing.T) {
	t.Parallel()
	path := filepath.Join("testdata", "state-1.hex")
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
			fs := vfs.NewMem()
			if _, err := write(t.Context(), fs, goldenCluster()); err != nil {
				t.Fatal(err)
			}
			text := hex.EncodeToString(read(t, fs, dir+"/"+stateName(1))) + "\n" + hex.EncodeToString(read(t, fs, dir+"/"+blocksDir+"/"+carName(0))) + "\n"
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	stored := must(os.ReadFile(path))
	fs := vfs.NewMem()
	if err := fs.MkdirAll(dir+"/"+blocksDir, 0o700); err != nil {
		t.Fatal(err)
	}
	for i, line := range strings.Fields(string(stored)) {
		name := []string{stateName(1), blocksDir + "/" + carName(0)}[i]
		f := must(fs.Create(dir+"/"+name, diskWrites))
		if _, err := f.Write(must(hex.DecodeString(line))); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	if err := check(fs, goldenCluster()); err != nil {
		t.Error(err)
	}
	// A version that this program does not know is refused as such.
	data := read(t, fs, dir+"/"+stateName(1))
	data[len(stateMagic)]++
	f := must(fs.Create(dir+"/"+stateName(1), diskWrites))
	if _, err := f.Write(data); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if _, err := Open(fs, dir); !errors.Is(err, ErrNewer) {
		t.Errorf("a newer version: got %v, want ErrNewer", err)
	}
}

func goldenCluster() *cluster {
	c := newCluster()
	c.store("golden", 2, 100)
	c.entries["name"] = "报告.pdf"
	return c
}

// Keys files lie where no upgrade comes: the stored one opens for ever, with age alone, too.
func TestGoldenKeys(t *testing.T) {
	t.Parallel()
	path := filepath.Join("testdata", "keys-1.age")
	const passphrase = "correct horse battery staple"
	want := testKeys
	want.Version, want.OrgKey, want.Created = keysVersion, []byte{1, 2, 3}, noon
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) && os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(path, must(Seal(must(want.Encode()), passphrase, 4)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	stored := must(os.ReadFile(path))
	got, err := DecodeKeys(must(Unseal(stored, passphrase)))
	if err != nil {
		t.Fatal(err)
	}
	got.Created = got.Created.UTC()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if _, err := Unseal(stored, "another"); !errors.Is(err, ErrKeys) {
		t.Errorf("another passphrase: got %v, want ErrKeys", err)
	}
	for i := range stored {
		bad := bytes.Clone(stored)
		bad[i] ^= 1
		if data, err := Unseal(bad, passphrase); err == nil && !bytes.Equal(data, must(want.Encode())) {
			t.Errorf("byte %d: it opened as something else", i)
		}
	}
	want.Version = keysVersion + 1
	newer := must(cbor.Marshal(want))
	if _, err := DecodeKeys(newer); !errors.Is(err, ErrNewer) {
		t.Errorf("a newer version: got %v, want ErrNewer", err)
	}
}

// What reads a file that anybody may have written to takes no harm.
func FuzzState(f *testing.F) {
	fs := vfs.NewMem()
	if _, err := write(context.Background(), fs, goldenCluster()); err != nil {
		f.Fatal(err)
	}
	file := must(fs.Open(dir + "/" + stateName(1)))
	f.Add(must(io.ReadAll(file)))
	f.Add([]byte(stateMagic + "\x01"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 40 { // a right checksum, so that what is behind it is reached
			body := data[:len(data)-34]
			sum := sha256.Sum256(body)
			data = append(binary.AppendUvarint(append(bytes.Clone(body), recEnd), 32), sum[:]...)
		}
		fs := vfs.NewMem()
		_ = fs.MkdirAll(dir, 0o700)
		w := must(fs.Create(dir+"/"+stateName(1), diskWrites))
		_, _ = w.Write(data)
		w.Close()
		b, err := Open(fs, dir)
		if err != nil {
			return
		}
		_ = b.Ledger(testKeys, func(_, _ []byte) error { return nil })
		_ = b.Blocks(t.Context(), func(blocks.Block) error { return nil }, func(error) error { return nil })
	})
}
