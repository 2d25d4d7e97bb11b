package copies

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	mh "github.com/multiformats/go-multihash"
)

const (
	maxCID     = 64      // bytes of a CID on the wire
	maxBlock   = 2 << 20 // bytes of a block on the wire
	maxSection = maxCID + maxBlock
)

// carHeader is that of every CARv1 stream here: version 1, one root, the identity CID of nothing.
// The roots are not known when the stream begins; where one matters it is named at the end.
const carHeader = "\x19\xa2eroots\x81\xd8*E\x00\x01U\x00\x00gversion\x01"

var (
	errSection = errors.New("malformed CAR section")
	errHash    = errors.New("block does not agree with its CID")
	// errEnd is the empty section that ends a CAR stream here, as it pads files elsewhere.
	errEnd = errors.New("end of blocks")
)

// writeSection appends a block to a CAR stream.
func writeSection(w *bufio.Writer, b blocks.Block) error {
	id, data := b.Cid().Bytes(), b.RawData()
	if len(id) > maxCID || len(data) > maxBlock {
		return fmt.Errorf("block %s of %d bytes is too large", b.Cid(), len(data))
	}
	var length [binary.MaxVarintLen64]byte
	n := binary.PutUvarint(length[:], uint64(len(id)+len(data)))
	_, _ = w.Write(length[:n]) // its error sticks
	_, _ = w.Write(id)
	_, err := w.Write(data)
	return err
}

// readSection reads one section, errEnd at the end, and does not verify it. Its memory is bounded
// by maxSection; reserve is asked before it is taken.
func readSection(r *bufio.Reader, reserve func(n int) error) (cid.Cid, []byte, error) {
	n, err := readLength(r, maxSection)
	if err != nil {
		return cid.Undef, nil, err
	}
	if n == 0 {
		return cid.Undef, nil, errEnd
	}
	if err := reserve(n); err != nil {
		return cid.Undef, nil, err
	}
	buf := make([]byte, n)
	if _, err := io.ReadFull(r, buf); err != nil {
		return cid.Undef, nil, noEOF(err)
	}
	idLen, id, err := cid.CidFromBytes(buf)
	if err != nil || idLen > maxCID || len(buf)-idLen > maxBlock {
		return cid.Undef, nil, errSection
	}
	return id, buf[idLen:], nil
}

func unreserved(int) error { return nil }

// verify makes a block of bytes that a peer sent, if they are those the CID names (T7).
func verify(c cid.Cid, data []byte) (blocks.Block, error) {
	if !knownCID(c) {
		return nil, fmt.Errorf("%s is no SHA-256 CID: %w", c, errHash)
	}
	sum := sha256.Sum256(data)
	if string(c.Hash()[2:]) != string(sum[:]) {
		return nil, fmt.Errorf("%s: %w", c, errHash)
	}
	return blocks.NewBlockWithCid(data, c)
}

// knownCID says whether c is of the one kind that is moved: version 1 with a whole SHA-256.
func knownCID(c cid.Cid) bool {
	if !c.Defined() || c.Version() != 1 {
		return false
	}
	h := c.Hash()
	return len(h) == 2+sha256.Size && h[0] == mh.SHA2_256 && h[1] == sha256.Size
}

// readLength reads a uvarint up to limit. io.EOF is an end where one may be.
func readLength(r *bufio.Reader, limit uint64) (int, error) {
	v, err := binary.ReadUvarint(r)
	if err != nil {
		return 0, err
	}
	if v > min(limit, math.MaxInt32) {
		return 0, fmt.Errorf("length %d over the limit of %d: %w", v, limit, errSection)
	}
	return int(v), nil
}

// readCID reads a length and a CID.
func readCID(r *bufio.Reader) (cid.Cid, error) {
	n, err := readLength(r, maxCID)
	if err != nil {
		return cid.Undef, noEOF(err)
	}
	buf := make([]byte, n)
	if _, err := io.ReadFull(r, buf); err != nil {
		return cid.Undef, noEOF(err)
	}
	c, err := cid.Cast(buf)
	if err != nil || !knownCID(c) {
		return cid.Undef, errSection
	}
	return c, nil
}

func writeCID(w *bufio.Writer, c cid.Cid) error {
	_ = w.WriteByte(byte(len(c.Bytes()))) // at most maxCID: a uvarint of one byte
	_, err := w.Write(c.Bytes())
	return err
}

func readHeader(r *bufio.Reader) error {
	var got [len(carHeader)]byte
	if _, err := io.ReadFull(r, got[:]); err != nil {
		return noEOF(err)
	}
	if string(got[:]) != carHeader {
		return fmt.Errorf("not the header of our CAR streams: %w", errSection)
	}
	return nil
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
