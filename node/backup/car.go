package backup

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
)

const (
	blocksDir = "blocks"
	maxBlock  = 4 << 20
)

func carName(n uint64) string { return fmt.Sprintf("%016x.car", n) }

func carNumber(name string) (uint64, bool) {
	stem, ok := strings.CutSuffix(name, ".car")
	if !ok || len(stem) != 16 {
		return 0, false
	}
	n, err := strconv.ParseUint(stem, 16, 64)
	return n, err == nil && carName(n) == name
}

// carHeader is the CARv1 header of every file: {"roots": [identity CID], "version": 1}. CAR wants a
// root; ours says what the file is.
func carHeader() []byte {
	const name = "valise backup 1"
	root := append([]byte{1, cid.Raw, multihash.IDENTITY, byte(len(name))}, name...)
	head := []byte{0xa2, 0x65, 'r', 'o', 'o', 't', 's', 0x81, 0xd8, 42, 0x58, byte(len(root) + 1), 0}
	head = append(head, root...)
	head = append(head, 0x67, 'v', 'e', 'r', 's', 'i', 'o', 'n', 1)
	return append([]byte{byte(len(head))}, head...)
}

// A carWriter appends blocks to a new CAR file.
type carWriter struct {
	number uint64
	f      vfs.File
	w      *bufio.Writer
	size   int64
}

func createCAR(fs vfs.FS, dir string, number uint64) (*carWriter, error) {
	f, err := fs.Create(fs.PathJoin(dir, blocksDir, carName(number)), diskWrites)
	if err != nil {
		return nil, err
	}
	c := &carWriter{number: number, f: f, w: bufio.NewWriterSize(f, 1<<20)}
	head := carHeader()
	c.size = int64(len(head))
	if _, err := c.w.Write(head); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return c, nil
}

func (c *carWriter) add(b blocks.Block) (place, error) {
	id, data := b.Cid().Bytes(), b.RawData()
	head := append(binary.AppendUvarint(nil, uint64(len(id)+len(data))), id...)
	if _, err := c.w.Write(head); err != nil {
		return place{}, err
	}
	if _, err := c.w.Write(data); err != nil {
		return place{}, err
	}
	p := place{car: c.number, offset: c.size + int64(len(head)), length: len(data)}
	c.size = p.offset + int64(len(data))
	return p, nil
}

// finish makes the file durable; its folder is synced by the caller.
func (c *carWriter) finish() error {
	err := c.w.Flush()
	if err == nil {
		err = c.f.Sync()
	}
	return errors.Join(err, c.f.Close())
}

// scanCAR reads a file from its beginning and yields the blocks that are what their names say. It says
// whether it was whole to its end, and its size as far as it was.
func scanCAR(r io.Reader, each func(c cid.Cid, offset int64, length int) error) (size int64, whole bool, err error) {
	br := bufio.NewReaderSize(r, 1<<20)
	want := carHeader()
	head := make([]byte, len(want))
	if _, err := io.ReadFull(br, head); err != nil || string(head) != string(want) {
		return 0, false, nil
	}
	size = int64(len(head))
	for {
		n, width, err := readUvarint(br)
		if errors.Is(err, io.EOF) && width == 0 {
			return size, true, nil
		}
		if err != nil || n > maxBlock {
			return size, false, nil
		}
		section := make([]byte, n)
		if _, err := io.ReadFull(br, section); err != nil {
			return size, false, nil
		}
		m, c, err := cid.CidFromBytes(section)
		if err != nil || verify(c, section[m:]) != nil {
			return size, false, nil
		}
		offset := size + int64(width+m)
		if err := each(c, offset, len(section)-m); err != nil {
			return size, false, err
		}
		size += int64(width) + int64(n)
	}
}

func readUvarint(r io.ByteReader) (n uint64, width int, err error) {
	for shift := 0; shift < 63; shift += 7 {
		b, err := r.ReadByte()
		if err != nil {
			if errors.Is(err, io.EOF) && width > 0 {
				err = io.ErrUnexpectedEOF
			}
			return 0, width, err
		}
		width++
		n |= uint64(b&0x7f) << shift
		if b < 0x80 {
			return n, width, nil
		}
	}
	return 0, width, errors.New("a length of more than nine bytes")
}

func verify(c cid.Cid, data []byte) error {
	sum, err := c.Prefix().Sum(data)
	if err != nil {
		return err
	}
	if !sum.Equals(c) {
		return errors.New("the bytes are not the block's")
	}
	return nil
}

// readBlock reads and verifies one block of an open CAR file.
func readBlock(f io.ReaderAt, p place, c cid.Cid) (blocks.Block, error) {
	data := make([]byte, p.length)
	if _, err := f.ReadAt(data, p.offset); err != nil && !(errors.Is(err, io.EOF)) {
		return nil, fmt.Errorf("%s, offset %d, block %s: %w: %w", carName(p.car), p.offset, c, err, ErrDamaged)
	}
	if err := verify(c, data); err != nil {
		return nil, fmt.Errorf("%s, offset %d, block %s: %w: %w", carName(p.car), p.offset, c, err, ErrDamaged)
	}
	return blocks.NewBlockWithCid(data, c)
}
