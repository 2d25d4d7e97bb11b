package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
)

// A pack is a CARv1 file (T4): a header, then sections of length, CID and bytes. CAR wants a root in
// its header; ours is an identity CID that says what the file is.
type pack struct {
	kind Kind
	id   uint64

	// Owned by whoever appends, under Store.appending of this kind. Writes and syncs go through
	// handles of their own, since a vfs.File takes only one of them at a time.
	w      vfs.File
	pushed int64    // the end of what the disk was asked to begin writing
	sync   vfs.File // owned by the committer once the pack was published; nil when closed, under Store.mu

	// Guarded by Store.mu.
	written   int64     // the end of the last whole section
	durable   int64     // everything before is synced and indexed
	unindexed []written // blocks between the two that no commit round has taken yet
	fresh     bool      // its directory entry is not synced yet
	dirty     bool      // listed in Store.dirty
	over      bool      // nothing more is appended
	err       error     // why its last writes failed, after which it is over
}

// written is a block in a pack but not in the index.
type written struct {
	digest digest
	place  place
}

// weight is what the block counts for in Store.unsynced.
func (w written) weight() int64 { return int64(w.place.length) + 64 }

const packDomain = "valise pack 1 "

func packDir(k Kind) string {
	if k == Cached {
		return "cache"
	}
	return "packs"
}

func packName(id uint64) string { return fmt.Sprintf("%016x.car", id) }

// packID reads a pack's number from its file name.
func packID(name string) (uint64, bool) {
	stem, ok := strings.CutSuffix(name, ".car")
	if !ok || len(stem) != 16 {
		return 0, false
	}
	id, err := strconv.ParseUint(stem, 16, 64)
	return id, err == nil && packName(id) == name
}

// packHeader is the CARv1 header of every pack of a kind: the length, then the DAG-CBOR map
// {"roots": [identity CID], "version": 1}.
func packHeader(k Kind) []byte {
	name := packDomain + "kept"
	if k == Cached {
		name = packDomain + "cached"
	}
	root := append([]byte{1, cid.Raw, multihash.IDENTITY, byte(len(name))}, name...)
	head := []byte{0xa2, 0x65, 'r', 'o', 'o', 't', 's', 0x81, 0xd8, linkTag, 0x58, byte(len(root) + 1), 0}
	head = append(head, root...)
	head = append(head, 0x67, 'v', 'e', 'r', 's', 'i', 'o', 'n', 1)
	return append([]byte{byte(len(head))}, head...)
}

// sectionHead returns what stands before a block's bytes in a pack.
func sectionHead(c cid.Cid, length int) []byte {
	raw := c.Bytes()
	head := binary.AppendUvarint(make([]byte, 0, binary.MaxVarintLen32+len(raw)), uint64(len(raw)+length))
	return append(head, raw...)
}

// cidLength is the length of every CID in a pack: version, codec, hash, hash length, digest.
const cidLength = 4 + len(digest{})

// append writes one section at the end of the pack, without syncing. It returns where the block's
// bytes lie and the offset after them.
func (p *pack) append(c cid.Cid, data []byte, at int64) (offset, end int64, err error) {
	head := sectionHead(c, len(data))
	if _, err := p.w.WriteAt(head, at); err != nil {
		return 0, 0, err
	}
	offset = at + int64(len(head))
	if _, err := p.w.WriteAt(data, offset); err != nil {
		return 0, 0, err
	}
	end = offset + int64(len(data))
	if end-p.pushed >= pushEvery {
		// The disk begins while more comes in, so that the sync at the end finds little left to do. An
		// error here is met again by that sync, which goes through a handle with its own memory of errors.
		_, _ = p.w.SyncTo(end)
		p.pushed = end
	}
	return offset, end, nil
}

// pushEvery is how many bytes may wait in the page cache before the disk is asked to write them.
const pushEvery = 8 << 20

// createPack creates the file of a new pack and writes its header. Nothing is synced yet.
func createPack(fs vfs.FS, dir string, k Kind, id uint64) (*pack, error) {
	path := fs.PathJoin(dir, packDir(k), packName(id))
	p, err := openPack(fs, path, k, id)
	if err != nil {
		return nil, err
	}
	p.fresh = true
	head := packHeader(k)
	if _, err := p.w.WriteAt(head, 0); err != nil {
		p.close()
		return nil, errors.Join(err, fs.Remove(path))
	}
	p.written = int64(len(head))
	return p, nil
}

// openPack opens a pack for appending, creating the file where there is none.
func openPack(fs vfs.FS, path string, k Kind, id uint64) (*pack, error) {
	w, err := fs.OpenReadWrite(path, diskWrites)
	if err != nil {
		return nil, err
	}
	s, err := fs.Open(path)
	if err != nil {
		w.Close()
		return nil, err
	}
	return &pack{kind: k, id: id, w: w, sync: s}, nil
}

func (p *pack) closeSync() {
	if p.sync != nil {
		p.sync.Close()
		p.sync = nil
	}
}

func (p *pack) close() {
	p.w.Close()
	p.closeSync()
}

// diskWrites labels the packs' writes in the statistics of a vfs.FS.
const diskWrites = vfs.DiskWriteCategory("blocks")
