package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
)

// copyBlocks brings every block under the state's roots into the folder.
func (w *writer) copyBlocks(ctx context.Context) error {
	return w.index.each([]byte{'r'}, []byte{'r' + 1}, func(key, _ []byte) error {
		root, err := cid.Cast(key[1:])
		if err != nil {
			return err
		}
		if err := w.under(ctx, root, []cid.Cid{root}); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if refers, rerr := w.src.Refers(ctx, root); rerr == nil && !refers {
				return errGone
			}
			return fmt.Errorf("content %s: %w", root, err)
		}
		w.sum.Contents++
		w.c.Progress(Progress{Contents: w.sum.Contents, Of: w.roots, Blocks: w.sum.New, Bytes: w.sum.NewBytes})
		return nil
	})
}

// under brings blocks of a root in, and what is below them.
func (w *writer) under(ctx context.Context, root cid.Cid, want []cid.Cid) error {
	var missing, parents []cid.Cid
	for _, c := range want {
		gen, p, ok, err := w.index.block(c)
		switch {
		case err != nil:
			return err
		case !ok:
			if !slices.Contains(missing, c) { // a file may repeat itself
				missing = append(missing, c)
			}
			continue
		case gen == w.gen:
			continue
		}
		if err := w.count(c, p); err != nil {
			return err
		}
		if c.Type() != cid.Raw {
			parents = append(parents, c)
		}
	}
	for b, err := range w.src.Blocks(ctx, root, missing) {
		if err != nil {
			return err
		}
		if err := w.add(b); err != nil {
			return err
		}
		if err := w.below(ctx, root, b); err != nil {
			return err
		}
	}
	for _, c := range parents {
		b, err := w.parent(ctx, root, c)
		if err != nil {
			return err
		}
		if err := w.below(ctx, root, b); err != nil {
			return err
		}
	}
	return nil
}

func (w *writer) below(ctx context.Context, root cid.Cid, b blocks.Block) error {
	if b.Cid().Type() == cid.Raw {
		return nil
	}
	links, err := w.src.Links(b)
	if err != nil {
		return err
	}
	const window = 64 // what the source is asked for at once
	for len(links) > 0 {
		n := min(window, len(links))
		if err := w.under(ctx, root, links[:n]); err != nil {
			return err
		}
		links = links[n:]
	}
	return nil
}

// parent reads a manifest that the folder has: it is small, and read here rather than fetched.
func (w *writer) parent(ctx context.Context, root, c cid.Cid) (blocks.Block, error) {
	if b, err := w.read(c); err == nil {
		return b, nil
	}
	for b, err := range w.src.Blocks(ctx, root, []cid.Cid{c}) {
		if err != nil {
			return nil, err
		}
		return b, w.add(b) // what the folder has of it is damaged: once more
	}
	return nil, fmt.Errorf("block %s: nothing came", c)
}

// read reads a block that is in a finished file.
func (w *writer) read(c cid.Cid) (blocks.Block, error) {
	_, p, ok, err := w.index.block(c)
	if err != nil || !ok {
		return nil, errors.Join(err, io.ErrUnexpectedEOF)
	}
	if w.car != nil && p.car == w.car.number {
		return nil, io.ErrUnexpectedEOF
	}
	f, err := w.cars.file(p.car)
	if err != nil {
		return nil, err
	}
	return readBlock(f, p, c)
}

// count makes a block that the folder has one of this state's.
func (w *writer) count(c cid.Cid, p place) error {
	w.sum.Blocks++
	w.sum.Bytes += int64(p.length)
	w.live[p.car] += int64(p.length)
	return w.index.putBlock(c, w.gen, p)
}

// add writes a block into the present CAR file and counts it.
func (w *writer) add(b blocks.Block) error {
	if gen, _, ok, err := w.index.block(b.Cid()); err != nil || ok && gen == w.gen {
		if err != nil {
			return err
		}
		w.sum.Blocks-- // counted where it was, and now here
		w.sum.Bytes -= int64(len(b.RawData()))
	}
	p, err := w.append(b)
	if err != nil {
		return err
	}
	w.sum.New++
	w.sum.NewBytes += int64(p.length)
	return w.count(b.Cid(), p)
}

func (w *writer) append(b blocks.Block) (p place, err error) {
	if w.car == nil {
		if w.car, err = createCAR(w.c.FS, w.c.Dir, w.nextCAR); err != nil {
			return p, err
		}
		w.nextCAR++
		w.made = true
	}
	if p, err = w.car.add(b); err != nil {
		return p, fmt.Errorf("write %s: %w", carName(w.car.number), err)
	}
	if w.car.size >= w.c.CARSize {
		err = w.finishCAR()
	}
	return p, err
}

// finishCAR makes the present CAR file durable, so that a run cut short later finds it.
func (w *writer) finishCAR() error {
	if w.car == nil {
		return nil
	}
	car := w.car
	w.car = nil
	w.sizes[car.number] = car.size
	if err := car.finish(); err != nil {
		return fmt.Errorf("write %s: %w", carName(car.number), err)
	}
	return nil
}

// repack writes the blocks of files anew of which less than half is referred to. What cannot be read
// there stays where it is, for Verify to name.
func (w *writer) repack() error {
	old := make(map[uint64]bool)
	for n, size := range w.sizes {
		if live := w.live[n]; live > 0 && live < size/2 {
			old[n] = true
		}
	}
	if len(old) == 0 {
		return nil
	}
	return w.index.each([]byte{'b'}, []byte{'b' + 1}, func(key, value []byte) error {
		gen, p := blockValue(value)
		if gen != w.gen || !old[p.car] {
			return nil
		}
		c, err := cid.Cast(key[1:])
		if err != nil {
			return err
		}
		b, err := w.read(c)
		if errors.Is(err, ErrDamaged) {
			return nil
		}
		if err != nil {
			return err
		}
		moved, err := w.append(b)
		if err != nil {
			return err
		}
		if w.live[p.car] -= int64(p.length); w.live[p.car] == 0 {
			delete(w.live, p.car)
		}
		w.live[moved.car] += int64(moved.length)
		return w.index.putBlock(c, w.gen, moved)
	})
}
