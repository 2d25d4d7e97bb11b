package copies

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"syscall"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

// The two protocols (P4); DESIGN.md has their dialogues.
const (
	fetchProtocol = "blocks/1"
	pushProtocol  = "push/1"

	wireVersion = 1
	maxWant     = 64   // CIDs of one request
	maxReason   = 512  // bytes of a status' reason
	maxParents  = 4096 // blocks with links of one push: thousands of leaves each
	maxStreams  = 256  // streams served to one peer at a time, most of them idle

	blockBuffer = 64 << 10  // where blocks pass
	wordBuffer  = 1 << 10   // where only requests and answers do
	pieceSize   = 256 << 10 // a peer must take or give that much within timing.progress
)

// A code says how a stream went.
type code byte

const (
	codeOK       code = 0
	codeNotFound code = 1 // the next block asked for is not here
	codeNoSpace  code = 2
	codeRefused  code = 3 // what was sent breaks the protocol or a hash
	codeBusy     code = 4 // too many streams
	codeFailed   code = 5 // this node's own trouble
	codeWorking  code = 6 // not an end: still syncing
)

// A status is a peer's word on a stream.
type status struct {
	code   code
	store  [16]byte // the peer's store
	reason string
}

// A statusError is a refusal that came over the wire.
type statusError struct{ status }

func (e *statusError) Error() string {
	if e.reason == "" {
		return fmt.Sprintf("peer answers %d", e.code)
	}
	return fmt.Sprintf("peer answers %d: %q", e.code, e.reason)
}

// Is makes the codes that matter to callers their errors.
func (e *statusError) Is(target error) bool {
	return e.code == codeNoSpace && target == ErrNoSpace || e.code == codeNotFound && target == ErrNotFound
}

func (s status) err() error {
	if s.code == codeOK || s.code == codeWorking {
		return nil
	}
	return &statusError{s}
}

// writeStatus writes a status and flushes: code · 16 bytes store · length · reason.
func writeStatus(w *bufio.Writer, s status) error {
	reason := s.reason[:min(len(s.reason), maxReason)]
	_ = w.WriteByte(byte(s.code)) // errors stick until Flush
	_, _ = w.Write(s.store[:])
	_, _ = w.Write([]byte{byte(len(reason) >> 8), byte(len(reason))})
	_, _ = w.WriteString(reason)
	return w.Flush()
}

func readStatus(r *bufio.Reader) (status, error) {
	var fixed [19]byte
	if _, err := io.ReadFull(r, fixed[:]); err != nil {
		return status{}, noEOF(err)
	}
	s := status{code: code(fixed[0]), store: [16]byte(fixed[1:17])}
	n := int(fixed[17])<<8 | int(fixed[18])
	if s.code > codeWorking || n > maxReason {
		return status{}, fmt.Errorf("status %d with %d bytes: %w", s.code, n, errSection)
	}
	reason := make([]byte, n)
	if _, err := io.ReadFull(r, reason); err != nil {
		return status{}, noEOF(err)
	}
	s.reason = string(reason)
	return s, nil
}

// writeWants asks for blocks: version · count · CIDs.
func writeWants(w *bufio.Writer, want []cid.Cid) error {
	_, _ = w.Write([]byte{wireVersion, byte(len(want))})
	for _, c := range want {
		_ = writeCID(w, c)
	}
	return w.Flush()
}

func readWants(r *bufio.Reader) ([]cid.Cid, error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, noEOF(err)
	}
	if head[0] != wireVersion || head[1] == 0 || head[1] > maxWant {
		return nil, fmt.Errorf("request version %d for %d blocks: %w", head[0], head[1], errSection)
	}
	want := make([]cid.Cid, head[1])
	for i := range want {
		c, err := readCID(r)
		if err != nil {
			return nil, err
		}
		want[i] = c
	}
	return want, nil
}

// A wire is a stream that ends when it makes no progress. One goroutine reads and one writes.
type wire struct {
	s network.Stream
	r *bufio.Reader
	w *bufio.Writer

	patience time.Duration // a piece must come within that time; owned by the reading goroutine
	read     time.Time     // when the read deadline was last set; likewise
	came     int           // bytes read since; likewise
	limit    time.Duration // a write of one piece waits that long
	wrote    time.Time     // when the write deadline was last set; owned by the writing goroutine
}

// newWire wraps a stream with buffers of these sizes for what comes in and goes out.
func newWire(s network.Stream, limit time.Duration, in, out int) *wire {
	w := &wire{s: s, patience: limit, limit: limit}
	w.r = bufio.NewReaderSize(readFunc(w.readSome), in)
	w.w = bufio.NewWriterSize(writeFunc(w.writeAll), out)
	return w
}

type readFunc func([]byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }

type writeFunc func([]byte) (int, error)

func (f writeFunc) Write(p []byte) (int, error) { return f(p) }

// within sets how long the next piece may take, or what is asked of the peer if it is shorter. It
// begins with the first byte that has to be waited for. Whoever reads one thing after another says
// it for each.
func (w *wire) within(patience time.Duration) {
	w.patience, w.read, w.came = patience, time.Time{}, 0
}

func (w *wire) readSome(p []byte) (int, error) {
	// A piece earns a new deadline, a byte does not: who sends one now and then makes no progress.
	// Setting a deadline costs more than a read from memory: it is renewed when a tenth is used up.
	if now := time.Now(); w.read.IsZero() || w.came >= pieceSize && now.Sub(w.read) > w.patience/10 {
		if err := w.s.SetReadDeadline(now.Add(w.patience)); err != nil {
			return 0, err
		}
		w.read, w.came = now, 0
	}
	n, err := w.s.Read(p)
	w.came += n
	return n, err
}

func (w *wire) writeAll(p []byte) (n int, err error) {
	for len(p) > 0 && err == nil {
		if now := time.Now(); now.Sub(w.wrote) > w.limit/10 {
			if err := w.s.SetWriteDeadline(now.Add(w.limit)); err != nil {
				return n, err
			}
			w.wrote = now
		}
		var m int
		m, err = w.s.Write(p[:min(len(p), pieceSize)])
		n, p = n+m, p[m:]
	}
	return n, err
}

// dial opens a stream within timing.dial. It resets the stream when ctx ends, until stop is called.
func (c *Copies) dial(ctx context.Context, id peer.ID, name string, in, out int) (w *wire, stop func() bool, err error) {
	dialing, cancel := context.WithTimeout(ctx, c.cfg.timing.dial)
	defer cancel()
	s, err := c.cfg.Lane.Dial(dialing, id, name)
	if err != nil {
		return nil, nil, err
	}
	return newWire(s, c.cfg.timing.progress, in, out), context.AfterFunc(ctx, func() { _ = s.Reset() }), nil
}

func isNoSpace(err error) bool {
	return errors.Is(err, ErrNoSpace) || errors.Is(err, syscall.ENOSPC)
}
