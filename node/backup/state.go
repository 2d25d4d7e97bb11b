// Package backup keeps states of a cluster in a folder: one ledger file for each state, and the blocks
// that it refers to in CAR files. It knows neither the ledger nor the store; it is given what they have.
package backup

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

var (
	// ErrNone says that a folder holds no whole state.
	ErrNone = errors.New("no backup")
	// ErrDamaged says that what lies in the folder is not what was written.
	ErrDamaged = errors.New("the backup is damaged")
	// ErrNewer says that a file was written by a newer valise.
	ErrNewer = errors.New("written by a newer valise")
	// ErrForeign says that a folder holds the backup of another cluster.
	ErrForeign = errors.New("the folder holds the backup of another cluster")
	// ErrKeys says that the organisation's secrets at hand do not open the state.
	ErrKeys = errors.New("these keys do not open the backup")
)

// The ledger file of a state: the magic, a version, records, nothing behind. Integers are unsigned varints.
//
//	record = type (1 byte) · length · body
//	h  header, JSON; the first
//	k  a piece of the ledger, sealed; in order
//	c  a CAR file: number · size in bytes
//	b  a block in the CAR before: offset of its bytes · their length · CID; by offset
//	e  SHA-256 of everything before; the last
const (
	stateMagic   = "valise-backup\n"
	stateVersion = 1

	recHeader = 'h'
	recLedger = 'k'
	recCAR    = 'c'
	recBlock  = 'b'
	recEnd    = 'e'

	maxRecord = 1 << 20
)

// A Header says what a state is. It is in the clear, and holds nothing that opens anything.
type Header struct {
	Folder       string        `json:"folder"` // random, the same for all states of a folder
	State        uint64        `json:"state"`  // counts the states of a folder, from 1
	Organisation string        `json:"organisation"`
	Cluster      string        `json:"cluster"`
	OrgKey       []byte        `json:"organisation_key"` // public
	PublicFiles  string        `json:"public_files,omitempty"`
	PublicApp    string        `json:"public_app,omitempty"`
	At           time.Time     `json:"at"`    // when the ledger was read
	Index        uint64        `json:"index"` // of the last entry that the ledger had then
	Until        time.Time     `json:"keep_until,omitzero"`
	Node         string        `json:"node"`    // that wrote it
	Program      string        `json:"program"` // its version
	Salt         []byte        `json:"salt"`
	KeyEpoch     uint32        `json:"key_epoch"` // of the content key that the ledger is sealed under
	Secrets      []SecretCheck `json:"secrets"`   // which the organisation had: all are needed
}

// A SecretCheck tells whether a secret is the one meant, without telling it.
type SecretCheck struct {
	Kind  string `json:"kind"`
	Epoch uint32 `json:"epoch"`
	Check []byte `json:"check"`
}

func stateName(n uint64) string { return fmt.Sprintf("state-%016x.ledger", n) }

// stateNumber reads a state's number from its file name.
func stateNumber(name string) (uint64, bool) {
	stem, ok := strings.CutSuffix(strings.TrimPrefix(name, "state-"), ".ledger")
	if !ok || len(stem) != 16 {
		return 0, false
	}
	n, err := strconv.ParseUint(stem, 16, 64)
	return n, err == nil && stateName(n) == name
}

// A stateWriter writes one ledger file. Its first error sticks.
type stateWriter struct {
	f   vfs.File
	w   *bufio.Writer
	sum hash.Hash
	err error
}

func createState(fs vfs.FS, path string) (*stateWriter, error) {
	f, err := fs.Create(path, diskWrites)
	if err != nil {
		return nil, err
	}
	s := &stateWriter{f: f, w: bufio.NewWriterSize(f, 256<<10), sum: sha256.New()}
	s.write([]byte(stateMagic))
	s.write([]byte{stateVersion})
	return s, nil
}

func (s *stateWriter) write(data []byte) {
	if s.err == nil {
		s.sum.Write(data)
		_, s.err = s.w.Write(data)
	}
}

func (s *stateWriter) record(kind byte, body []byte) error {
	s.write(binary.AppendUvarint([]byte{kind}, uint64(len(body))))
	s.write(body)
	return s.err
}

// finish writes the end and makes the file durable.
func (s *stateWriter) finish() error {
	s.record(recEnd, s.sum.Sum(nil))
	if s.err == nil {
		s.err = s.w.Flush()
	}
	if s.err == nil {
		s.err = s.f.Sync()
	}
	return errors.Join(s.err, s.close())
}

func (s *stateWriter) close() error {
	if s.f == nil {
		return nil
	}
	err := s.f.Close()
	s.f = nil
	return err
}

// A stateReader reads a ledger file record by record and checks its form and its checksum on the way.
type stateReader struct {
	f    vfs.File
	r    *bufio.Reader
	sum  hash.Hash
	name string
}

func openState(fs vfs.FS, dir, name string) (*stateReader, error) {
	f, err := fs.Open(fs.PathJoin(dir, name))
	if err != nil {
		return nil, err
	}
	s := &stateReader{f: f, r: bufio.NewReaderSize(f, 256<<10), sum: sha256.New(), name: name}
	head := make([]byte, len(stateMagic)+1)
	if err := s.read(head); err != nil || string(head[:len(stateMagic)]) != stateMagic {
		return nil, errors.Join(s.damaged("it is no ledger file"), f.Close())
	}
	if v := head[len(stateMagic)]; v != stateVersion {
		return nil, errors.Join(fmt.Errorf("%s has version %d: %w", name, v, ErrNewer), f.Close())
	}
	return s, nil
}

func (s *stateReader) damaged(why string) error {
	return fmt.Errorf("%s: %s: %w", s.name, why, ErrDamaged)
}

func (s *stateReader) read(data []byte) error {
	if _, err := io.ReadFull(s.r, data); err != nil {
		return err
	}
	s.sum.Write(data)
	return nil
}

// next returns the next record; io.EOF after the end, which was checked then.
func (s *stateReader) next() (kind byte, body []byte, err error) {
	sum := s.sum.Sum(nil)
	var b [1]byte
	if err := s.read(b[:]); err != nil {
		return 0, nil, s.damaged("it ends in the middle")
	}
	n, err := binary.ReadUvarint(byteReader{s})
	if err != nil || n > maxRecord {
		return 0, nil, s.damaged("a record has no length")
	}
	body = make([]byte, n)
	if err := s.read(body); err != nil {
		return 0, nil, s.damaged("it ends in the middle")
	}
	if b[0] != recEnd {
		return b[0], body, nil
	}
	if !bytes.Equal(sum, body) {
		return 0, nil, s.damaged("its checksum is another one")
	}
	if _, err := s.r.ReadByte(); !errors.Is(err, io.EOF) {
		return 0, nil, s.damaged("something follows its end")
	}
	return 0, nil, io.EOF
}

type byteReader struct{ s *stateReader }

func (b byteReader) ReadByte() (byte, error) {
	var one [1]byte
	err := b.s.read(one[:])
	return one[0], err
}

// header reads the first record. The bytes as written bind the sealed ledger to it.
func (s *stateReader) header() (h Header, raw []byte, err error) {
	kind, raw, err := s.next()
	if err != nil {
		return h, nil, err
	}
	if kind != recHeader {
		return h, nil, s.damaged("it has no header")
	}
	if err := json.Unmarshal(raw, &h); err != nil {
		return h, nil, s.damaged("its header is none")
	}
	return h, raw, nil
}

// A place says where a block lies.
type place struct {
	car    uint64
	offset int64
	length int
}

func carBody(number uint64, size int64) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(nil, number), uint64(size))
}

func blockBody(p place, id []byte) []byte {
	b := binary.AppendUvarint(nil, uint64(p.offset))
	return append(binary.AppendUvarint(b, uint64(p.length)), id...)
}

// two reads two varints and returns what follows.
func two(body []byte) (a, b uint64, rest []byte, ok bool) {
	a, n := binary.Uvarint(body)
	if n <= 0 {
		return 0, 0, nil, false
	}
	b, m := binary.Uvarint(body[n:])
	if m <= 0 || a > 1<<62 || b > 1<<62 {
		return 0, 0, nil, false
	}
	return a, b, body[n+m:], true
}

const diskWrites = vfs.DiskWriteCategory("backup")
