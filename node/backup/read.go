package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
)

// A Backup is the newest whole state of a folder.
type Backup struct {
	Header Header
	fs     vfs.FS
	dir    string
	raw    []byte
}

// Open finds the newest state of a folder and reads its ledger file once: it is what was written. ErrNone
// where there is none. Nothing is left open.
func Open(fs vfs.FS, dir string) (*Backup, error) {
	h, raw, err := newest(fs, dir)
	if err != nil {
		return nil, err
	}
	return &Backup{Header: h, fs: fs, dir: dir, raw: raw}, nil
}

// Check says whether the secrets are those that the organisation had, all of them.
func (b *Backup) Check(k Keys) error {
	if k.Cluster != b.Header.Cluster {
		return fmt.Errorf("they are of cluster %s, the backup is of %s: %w", k.Cluster, b.Header.Cluster, ErrKeys)
	}
	have := k.Checks()
	for _, want := range b.Header.Secrets {
		i := slices.IndexFunc(have, func(c SecretCheck) bool { return c.Kind == want.Kind && c.Epoch == want.Epoch })
		if i < 0 {
			return fmt.Errorf("the %s key %d is not among them: they were written before it was made: %w", want.Kind, want.Epoch, ErrKeys)
		}
		if !bytes.Equal(have[i].Check, want.Check) {
			return fmt.Errorf("their %s key %d is another one: %w", want.Kind, want.Epoch, ErrKeys)
		}
	}
	return nil
}

// Ledger calls fn for each entry of the ledger, ascending. Key and value are fn's for the call.
func (b *Backup) Ledger(k Keys, fn func(key, value []byte) error) error {
	secret, ok := k.secret("content", b.Header.KeyEpoch)
	if !ok {
		return fmt.Errorf("content key %d: %w", b.Header.KeyEpoch, ErrKeys)
	}
	o := &opener{aead: ledgerAEAD(secret, b.Header.Salt, b.raw), each: fn}
	return visit(b.fs, b.dir, b.Header.State, visitor{ledger: o.piece})
}

// Blocks calls fn for each block of the state, and bad for each that is not what it was: it names the
// file, the offset and the block, and goes on if bad returns nil.
func (b *Backup) Blocks(ctx context.Context, fn func(blocks.Block) error, bad func(error) error) error {
	files := cars{fs: b.fs, dir: b.dir}
	defer files.close()
	return visit(b.fs, b.dir, b.Header.State, visitor{block: func(p place, c cid.Cid) error {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		f, err := files.file(p.car)
		if err == nil {
			var blk blocks.Block
			if blk, err = readBlock(f, p, c); err == nil {
				return fn(blk)
			}
		}
		if !errors.Is(err, ErrDamaged) {
			return err
		}
		return bad(err)
	}})
}

// A View reads single entries and blocks of a backup.
type View struct {
	b     *Backup
	index *index

	mu    sync.Mutex // guards the field below
	files cars
}

// View calls fn with what reads single entries and blocks. It needs a scratch folder, made anew and
// removed at the end.
func (b *Backup) View(k Keys, scratchFS vfs.FS, scratch string, fn func(*View) error) error {
	return guarded(scratchFS, scratch, func(i *index) error {
		v := &View{b: b, index: i, files: cars{fs: b.fs, dir: b.dir}}
		defer v.files.close()
		if err := b.Ledger(k, func(key, value []byte) error { return i.put(append([]byte{'k'}, key...), value) }); err != nil {
			return err
		}
		err := visit(b.fs, b.dir, b.Header.State, visitor{block: func(p place, c cid.Cid) error { return i.putBlock(c, 0, p) }})
		if err != nil {
			return err
		}
		return fn(v)
	})
}

// Get returns the value of a ledger key. An index that cannot be read has nothing.
func (v *View) Get(key []byte) ([]byte, bool) {
	value, ok, err := v.index.get(append([]byte{'k'}, key...))
	return value, ok && err == nil
}

// Scan yields the ledger's entries from a key to another, ascending.
func (v *View) Scan(from, to []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func([]byte, []byte) bool) {
		end := []byte{'k' + 1}
		if to != nil {
			end = append([]byte{'k'}, to...)
		}
		stop := errors.New("enough")
		_ = v.index.each(append([]byte{'k'}, from...), end, func(key, value []byte) error {
			if !yield(key[1:], value) {
				return stop
			}
			return nil
		})
	}
}

// Blocks yields blocks in the order asked for.
func (v *View) Blocks(_ context.Context, want []cid.Cid) iter.Seq2[blocks.Block, error] {
	return func(yield func(blocks.Block, error) bool) {
		for _, c := range want {
			b, err := v.block(c)
			if !yield(b, err) || err != nil {
				return
			}
		}
	}
}

func (v *View) block(c cid.Cid) (blocks.Block, error) {
	_, p, ok, err := v.index.block(c)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, fmt.Errorf("block %s is not in the backup: %w", c, ErrDamaged)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	f, err := v.files.file(p.car)
	if err != nil {
		return nil, err
	}
	return readBlock(f, p, c)
}
