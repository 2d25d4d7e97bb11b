package store

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/cockroachdb/pebble/v2"
	"github.com/ipfs/go-cid"
)

const (
	// maxCut is the most that is ever overwritten at the end of a pack. A crash leaves maxUnsynced
	// and a block at most; more than that is damage, which is left for people to look at.
	maxCut = maxUnsynced + 2*MaxBlock
	// recoverStep is how many recovered blocks are indexed at a time.
	recoverStep = 4096
)

// recoverKind brings the index up to the ends of a kind's packs and picks the one to go on with.
func (s *Store) recoverKind(ctx context.Context, k Kind) error {
	dir := s.fs.PathJoin(s.dir, packDir(k))
	names, err := s.fs.List(dir)
	if err != nil {
		return err
	}
	slices.Sort(names)
	known, err := s.index.lastPack(k)
	if err != nil {
		return err
	}
	s.nextPack = max(s.nextPack, known+1) // a number is used once, though its pack is gone
	var last *pack
	for _, name := range names {
		id, ok := packID(name)
		if !ok {
			continue
		}
		if err := context.Cause(ctx); err != nil {
			return err
		}
		s.nextPack = max(s.nextPack, id+1)
		r := recovery{store: s, kind: k, id: id, path: s.fs.PathJoin(dir, name)}
		end, usable, err := r.run()
		if err != nil {
			return fmt.Errorf("pack %s: %w", name, err)
		}
		if usable && end < s.packSize {
			last = &pack{kind: k, id: id, written: end, durable: end}
		}
	}
	if last == nil {
		return nil
	}
	p, err := openPack(s.fs, s.fs.PathJoin(dir, packName(last.id)), k, last.id)
	if err != nil {
		return err
	}
	p.written, p.durable = last.written, last.durable
	s.active[k] = p
	return nil
}

// recovery looks at one pack.
type recovery struct {
	store *Store
	kind  Kind
	id    uint64
	path  string
	pack  *pack
	size  int64 // of the file
}

// run returns where the pack's blocks end and whether more may be appended.
func (r *recovery) run() (end int64, usable bool, err error) {
	s := r.store
	info, err := s.fs.Stat(r.path)
	if err != nil {
		return 0, false, err
	}
	r.size = info.Size()
	record, known, err := s.index.pack(r.kind, r.id)
	switch {
	case err != nil:
		return 0, false, err
	case known && record.flags&retired != 0 && record.indexed == 0: // failed before anything in it was durable
		return 0, false, errors.Join(s.fs.Remove(r.path), s.syncDir(s.fs.PathDir(r.path)))
	case known && record.flags&retired != 0:
		return record.indexed, false, nil
	case known && record.indexed == r.size:
		return record.indexed, true, nil
	case known && record.indexed > r.size:
		s.log.Error("pack is shorter than it was; its blocks must be fetched again", "pack", packName(r.id), "size", r.size, "indexed", record.indexed)
		return record.indexed, false, r.index(nil, record.indexed, retired)
	}
	if r.pack, err = openPack(s.fs, r.path, r.kind, r.id); err != nil {
		return 0, false, err
	}
	defer r.pack.close()
	if !known {
		head := packHeader(r.kind)
		found := make([]byte, len(head))
		if n, err := r.pack.sync.ReadAt(found, 0); n < len(head) || string(found) != string(head) {
			return 0, false, r.setAside(err)
		}
		record.indexed = int64(len(head))
	}
	return r.tail(record.indexed)
}

// setAside renames a file that never became a pack, so that it is not looked at again.
func (r *recovery) setAside(err error) error {
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	s := r.store
	s.log.Warn("file without a pack's header is set aside", "pack", packName(r.id), "size", r.size)
	if err := s.fs.Rename(r.path, r.path+".bad"); err != nil {
		return err
	}
	return s.syncDir(s.fs.PathDir(r.path))
}

// tail verifies the blocks after what is indexed, indexes those that are whole and cuts off the
// rest, which was never acknowledged. What is kept is written anew before it is synced: after
// a sync that failed, bytes may read back that the disk does not have.
func (r *recovery) tail(from int64) (end int64, usable bool, err error) {
	var found []written
	end = from
	for {
		w, next, ok, err := r.section(end)
		if err != nil {
			return 0, false, err
		}
		if ok {
			if w != (written{}) {
				found = append(found, w)
			}
			end = next
		}
		if !ok || len(found) == recoverStep {
			kept, cut := end-from, max(0, r.size-end)
			if end, usable, err = r.settle(found, end, !ok); err != nil || !ok || !usable {
				r.store.log.Info("recovered end of pack", "pack", packName(r.id), "kept", kept, "cut", cut, "usable", usable)
				return end, usable, err
			}
			found = found[:0]
		}
	}
}

// section reads the section at an offset, and writes it again. It is not ok when there is no whole,
// genuine one. A filler, see below, has no place.
func (r *recovery) section(at int64) (w written, next int64, ok bool, err error) {
	head := make([]byte, binary.MaxVarintLen32+cidLength)
	n, err := r.pack.sync.ReadAt(head, at)
	if err != nil && !errors.Is(err, io.EOF) {
		return w, 0, false, err
	}
	length, headLength, c := parseSection(head[:n])
	if headLength == 0 {
		return w, 0, false, nil
	}
	buf := getBuffer(length)
	defer putBuffer(buf)
	offset := at + int64(headLength)
	if n, err := r.pack.sync.ReadAt(buf, offset); n < length {
		if err != nil && !errors.Is(err, io.EOF) {
			return w, 0, false, err
		}
		return w, 0, false, nil
	}
	d, err := digestOf(c)
	if err != nil || sha256.Sum256(buf) != d {
		return w, 0, false, nil
	}
	filler := isFiller(buf)
	if _, _, err := r.pack.append(c, buf, at); err != nil {
		return w, 0, false, nil // a full disk: the end is here
	}
	if !filler {
		w = written{digest: d, place: place{pack: r.id, offset: offset, length: length, epoch: r.store.epoch}}
	}
	return w, offset + int64(length), true, nil
}

// parseSection reads a section's length and CID; the length returned is that of the block's bytes.
// headLength is zero when the bytes do not begin a section this store would have written.
func parseSection(head []byte) (length, headLength int, c cid.Cid) {
	total, n := binary.Uvarint(head)
	if n <= 0 || n > 1 && head[n-1] == 0 || total < uint64(cidLength) || total > uint64(cidLength+MaxBlock) || len(head) < n+cidLength {
		return 0, 0, cid.Undef
	}
	c, err := cid.Cast(head[n : n+cidLength])
	if err != nil {
		return 0, 0, cid.Undef
	}
	return int(total) - cidLength, n + cidLength, c
}

// settle cuts the pack off, when this is its last good block, and makes what was found durable and
// findable. It returns the pack's new end. The pack is not usable any more when its disk refuses;
// nothing that is lost then was acknowledged.
func (r *recovery) settle(found []written, end int64, last bool) (next int64, usable bool, err error) {
	var flags byte
	next = end
	if last && r.size > end {
		if next, err = r.cut(end); err != nil {
			r.store.log.Error("end of pack cannot be cut off; the pack is closed", "pack", packName(r.id), "error", err)
			flags, next = retired, end
		}
	}
	if err := errors.Join(r.pack.sync.SyncData(), r.store.syncDir(r.store.fs.PathDir(r.path))); err != nil {
		r.store.log.Error("pack cannot be made durable and is closed", "pack", packName(r.id), "error", err)
		return end, false, nil
	}
	return next, flags == 0, r.index(found, next, flags)
}

func (r *recovery) index(found []written, upto int64, flags byte) error {
	x := r.store.index
	return x.writeAlive(true, func(b *pebble.Batch) error {
		for _, w := range found {
			if _, ok, err := x.find(r.kind, w.digest); ok || err != nil {
				if err != nil {
					return err
				}
				continue
			}
			if err := putPlace(b, r.kind, w.digest, w.place); err != nil {
				return err
			}
		}
		return putPack(b, r.kind, r.id, packRecord{flags: flags, indexed: upto})
	})
}

// cut overwrites everything from end to the end of the file with fillers, blocks of zeros, so that
// the file stays a CAR to its end: files cannot be shortened through a vfs.FS.
func (r *recovery) cut(end int64) (int64, error) {
	if r.size-end > maxCut {
		return 0, fmt.Errorf("%d bytes after offset %d are not blocks", r.size-end, end)
	}
	zeros := getBuffer(fillerMax)
	defer putBuffer(zeros)
	clear(zeros)
	for end < r.size {
		data := zeros[:fillerLength(r.size-end)]
		var err error
		if _, end, err = r.pack.append(nameOf(cid.Raw, data), data, end); err != nil {
			return 0, err
		}
	}
	return end, nil
}

const fillerMax = 1 << 20

// fillerLength is how many zeros make a filler that covers n bytes, or the most of them. It may
// cover some more.
func fillerLength(n int64) int64 {
	for l := max(0, min(n, fillerMax)-int64(cidLength)-binary.MaxVarintLen32); ; l++ {
		if l == fillerMax || int64(len(sectionHead(fillerName, int(l))))+l >= n {
			return l
		}
	}
}

var fillerName = nameOf(cid.Raw, nil)

// isFiller recognises what cut wrote. No block of ours is all zeros.
func isFiller(data []byte) bool {
	for _, b := range data {
		if b != 0 {
			return false
		}
	}
	return true
}
