package replication

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/cockroachdb/pebble/v2"
)

// The snapshot stream (L7): magic, version, applied index and term, then every key
// of the state in ascending order, a count and the SHA-256 of all before it.
const (
	streamMagic   = "valise-ledger\n"
	streamVersion = 1
	recordFollows = 1
	streamEnds    = 0
	maxKeyValue   = 2 * maxProposal
	unpackBatch   = 1 << 20
)

var errStream = errors.New("malformed ledger snapshot")

// inStream says which keys travel; what describes this disk stays here.
func inStream(key []byte) bool {
	return len(key) > 1 && key[0] == spaceInternal && (key[1] == 'n' || key[1] == 'o') ||
		bytes.Equal(key, keyFormat) || bytes.Equal(key, keyLineage) || len(key) > 0 && key[0] == spaceUser
}

// writeStream writes the state that r shows to w.
func writeStream(w io.Writer, r pebble.Reader) error {
	index, term, err := readApplied(r)
	if err != nil {
		return err
	}
	sum := sha256.New()
	out := bufio.NewWriterSize(io.MultiWriter(w, sum), 256<<10)
	head := append([]byte(streamMagic), streamVersion)
	head = append(head, encodeApplied(index, term)...)
	if _, err := out.Write(head); err != nil {
		return err
	}
	it, err := r.NewIter(nil)
	if err != nil {
		return fmt.Errorf("read ledger state: %w", err)
	}
	count := uint64(0)
	var scratch []byte
	for ok := it.First(); ok; ok = it.Next() {
		if !inStream(it.Key()) {
			continue
		}
		count++
		value := it.Value()
		scratch = appendBytes(append(scratch[:0], recordFollows), it.Key())
		scratch = binary.AppendUvarint(scratch, uint64(len(value)))
		if _, err := out.Write(scratch); err != nil {
			return errors.Join(err, it.Close())
		}
		if _, err := out.Write(value); err != nil {
			return errors.Join(err, it.Close())
		}
	}
	if err := it.Close(); err != nil {
		return fmt.Errorf("read ledger state: %w", err)
	}
	if _, err := out.Write(binary.BigEndian.AppendUint64([]byte{streamEnds}, count)); err != nil {
		return err
	}
	if err := out.Flush(); err != nil {
		return err
	}
	_, err = w.Write(sum.Sum(nil))
	return err
}

// streamSize is the length of what writeStream writes of the same state.
func streamSize(r pebble.Reader) (int64, error) {
	size := int64(len(streamMagic) + 1 + 16 + 1 + 8 + sha256.Size)
	it, err := r.NewIter(nil)
	if err != nil {
		return 0, fmt.Errorf("read ledger state: %w", err)
	}
	var scratch [binary.MaxVarintLen64]byte
	for ok := it.First(); ok; ok = it.Next() {
		if !inStream(it.Key()) {
			continue
		}
		k, v := len(it.Key()), len(it.Value())
		size += int64(1 + binary.PutUvarint(scratch[:], uint64(k)) + k + binary.PutUvarint(scratch[:], uint64(v)) + v)
	}
	return size, it.Close()
}

// readStream checks a stream and calls put with each record in order; key and value
// are valid during the call. Nothing put may be used unless readStream returns nil.
func readStream(r io.Reader, put func(key, value []byte) error) (index, term uint64, err error) {
	s := &streamReader{sum: sha256.New(), in: bufio.NewReaderSize(r, 256<<10)}
	head := s.take(len(streamMagic) + 1 + 16)
	if s.err == nil && string(head[:len(streamMagic)]) != streamMagic {
		return 0, 0, fmt.Errorf("%w: no ledger snapshot", errStream)
	}
	if s.err == nil && head[len(streamMagic)] != streamVersion {
		return 0, 0, fmt.Errorf("ledger snapshot of version %d: %w", head[len(streamMagic)], ErrNewerVersion)
	}
	if s.err == nil {
		index = binary.BigEndian.Uint64(head[len(streamMagic)+1:])
		term = binary.BigEndian.Uint64(head[len(streamMagic)+9:])
	}
	var last []byte
	count := uint64(0)
	for s.err == nil {
		kind := s.take(1)
		if s.err != nil {
			break
		}
		if kind[0] == streamEnds {
			return index, term, s.finish(count)
		}
		if kind[0] != recordFollows {
			return 0, 0, fmt.Errorf("%w: record kind %d", errStream, kind[0])
		}
		key := s.take(s.length())
		if s.err != nil {
			break
		}
		if !inStream(key) || count > 0 && bytes.Compare(key, last) <= 0 {
			return 0, 0, fmt.Errorf("%w: key out of order or place", errStream)
		}
		last = append(last[:0], key...)
		value := s.take(s.length())
		if s.err != nil {
			break
		}
		count++
		if err := put(last, value); err != nil {
			return 0, 0, err
		}
	}
	return 0, 0, fmt.Errorf("%w: %w", errStream, s.err)
}

// A streamReader reads and hashes; its first error sticks.
type streamReader struct {
	in  *bufio.Reader
	sum hash.Hash
	buf []byte
	err error
}

// take returns the next n bytes, valid until the next take.
func (s *streamReader) take(n int) []byte {
	if s.err != nil {
		return nil
	}
	// Grow with what arrives, not with what is promised.
	s.buf = s.buf[:0]
	for len(s.buf) < n && s.err == nil {
		step := min(n-len(s.buf), 64<<10)
		at := len(s.buf)
		s.buf = append(s.buf, make([]byte, step)...)
		_, s.err = io.ReadFull(s.in, s.buf[at:])
	}
	if s.err != nil {
		return nil
	}
	s.sum.Write(s.buf)
	return s.buf
}

func (s *streamReader) length() int {
	var v uint64
	for shift := 0; ; shift += 7 {
		c := s.take(1)
		if s.err != nil {
			return 0
		}
		v |= uint64(c[0]&0x7f) << shift
		if c[0] < 0x80 {
			break
		}
		if shift > 28 {
			s.err = errStream
			return 0
		}
	}
	if v > maxKeyValue {
		s.err = fmt.Errorf("%w: record of %d bytes", errStream, v)
		return 0
	}
	return int(v)
}

func (s *streamReader) finish(count uint64) error {
	told := s.take(8)
	if s.err == nil && binary.BigEndian.Uint64(told) != count {
		return fmt.Errorf("%w: %d records, %d were sent", errStream, count, binary.BigEndian.Uint64(told))
	}
	want := s.sum.Sum(nil)
	got := s.take(sha256.Size)
	if s.err != nil {
		return fmt.Errorf("%w: %w", errStream, s.err)
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("%w: checksum differs", errStream)
	}
	if _, err := s.in.ReadByte(); err != io.EOF {
		return fmt.Errorf("%w: bytes after the end", errStream)
	}
	return nil
}

// unpackStream fills an empty state database from a stream; it is durable on return.
func unpackStream(r io.Reader, pdb *pebble.DB) (index uint64, err error) {
	b := pdb.NewBatch()
	defer func() { b.Close() }()
	index, term, err := readStream(r, func(key, value []byte) error {
		if err := b.Set(key, value, nil); err != nil || b.Len() < unpackBatch {
			return err
		}
		if err := b.Commit(pebble.NoSync); err != nil {
			return err
		}
		b.Reset()
		return nil
	})
	if err != nil {
		return 0, err
	}
	if err := b.Set(keyApplied, encodeApplied(index, term), nil); err != nil {
		return 0, err
	}
	if err := b.Commit(pebble.NoSync); err != nil {
		return 0, err
	}
	return index, pdb.Flush()
}
