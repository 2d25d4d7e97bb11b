package mailgw

import (
	"bytes"
	"errors"
	"io"
	"strconv"
	"strings"
)

// Errors that a body returns apart from those of the connection.
var (
	// errTooLarge says that the message is larger than Config.MaxMessageBytes.
	errTooLarge = errors.New("message too large")
	// errAborted says that the client gave up between two chunks. It gets no answer for the message.
	errAborted = errors.New("client gave the message up")
)

// A body reads the octets of one message: DATA without its dots, or the chunks of BDAT. Only a message that came to its
// end in the way the protocol says ends with io.EOF; a connection that ends earlier is io.ErrUnexpectedEOF.
type body struct {
	w    *wire
	left int64 // octets until it is too large
	bol  bool  // DATA: the next octet follows CRLF or is the first
	cr   bool  // DATA: the last octet was CR
	err  error // what it ended with
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	if b.err != nil || len(p) == 0 {
		return 0, b.err
	}
	n, err := b.read(p)
	if b.left -= int64(n); b.left < 0 {
		n, err = 0, errTooLarge
	}
	b.err = err
	return n, err
}

func (b *body) read(p []byte) (int, error) {
	if b.w.chunked {
		return b.readChunk(p)
	}
	return b.readData(p)
}

// readData reads DATA. The message ends with CRLF, dot, CRLF, and a dot after CRLF is taken away (RFC 5321, 4.5.2),
// exactly there: a line that ends with a bare LF or CR is not a line, whatever surrounds it.
func (b *body) readData(p []byte) (int, error) {
	w := b.w
	if w.lo == w.hi {
		if err := w.fill(false); err != nil {
			return 0, err
		}
	}
	if b.bol {
		end, err := b.dot()
		if err != nil {
			return 0, err
		}
		if end {
			return 0, io.EOF
		}
		if w.lo == w.hi {
			return 0, nil // the dot was all there was
		}
	}
	view := w.buf[w.lo:w.hi]
	switch i := dotLine(view); {
	case b.cr && view[0] == '\n':
		view = view[:1]
	case i >= 0:
		view = view[:i+2]
	}
	n := copy(p, view)
	w.lo += n
	view = view[:n]
	b.bol = bytes.HasSuffix(view, []byte("\r\n")) || b.cr && view[0] == '\n' && n == 1
	b.cr = view[n-1] == '\r'
	return n, nil
}

// dotLine returns where CRLF and a dot stand in p, or -1. It looks for dots, as base64 has none.
func dotLine(p []byte) int {
	for i := 0; ; i++ {
		n := bytes.IndexByte(p[i:], '.')
		if n < 0 {
			return -1
		}
		if i += n; i >= 2 && p[i-1] == '\n' && p[i-2] == '\r' {
			return i - 2
		}
	}
}

// dot looks at the start of a line and takes a dot away. It reports whether the line was the last.
func (b *body) dot() (end bool, err error) {
	w := b.w
	const mark = ".\r\n"
	for n := 1; ; n++ {
		for w.hi-w.lo < n {
			if err := w.fill(false); err != nil {
				return false, err
			}
		}
		if w.buf[w.lo+n-1] != mark[n-1] {
			if n > 1 {
				w.lo++
			}
			b.bol = false
			return false, nil
		}
		if n == len(mark) {
			w.lo += n
			return true, nil
		}
	}
}

// readChunk reads BDAT (RFC 3030).
func (b *body) readChunk(p []byte) (int, error) {
	w := b.w
	for w.chunk == 0 {
		if w.last {
			return 0, io.EOF
		}
		if err := b.nextChunk(); err != nil {
			return 0, err
		}
	}
	if w.chunk > b.left {
		return 0, errTooLarge
	}
	p = p[:min(int64(len(p)), w.chunk)]
	var n int
	var err error
	if w.lo < w.hi {
		n = copy(p, w.buf[w.lo:w.hi])
		w.lo += n
	} else {
		n, err = w.receive(p, false)
	}
	w.chunk -= int64(n)
	return n, err
}

// nextChunk answers for a chunk and waits for the next. Anything that ends the transaction is left for go-smtp.
func (b *body) nextChunk() error {
	w := b.w
	if err := w.reply("250 2.0.0 chunk received\r\n"); err != nil {
		return err
	}
	for range 100 {
		line, err := w.command(false)
		if err != nil {
			return err
		}
		verb, arg, _ := strings.Cut(line, " ")
		switch strings.ToUpper(verb) {
		case "BDAT":
			size, last, ok := parseChunk(arg)
			if !ok {
				err = w.reply("501 5.5.4 want BDAT, a size and perhaps LAST\r\n")
				break
			}
			w.chunk, w.last = size, last
			return nil
		case "RSET", "QUIT", "EHLO", "HELO", "STARTTLS":
			w.pushed, w.mute = line, true
			return errAborted
		case "NOOP":
			err = w.reply("250 2.0.0 OK\r\n")
		default:
			err = w.reply("503 5.5.1 a message is being transferred: BDAT or RSET\r\n")
		}
		if err != nil {
			return err
		}
	}
	w.hangUp = true
	return errors.New("too many commands between chunks")
}

// discard reads to the end of the message, or of the chunk when go-smtp is to answer for it.
func (b *body) discard() error {
	w := b.w
	if w.chunked {
		return w.skipChunk()
	}
	if b.err == errTooLarge {
		b.err = nil
	}
	b.left = w.maxMessage // as much again, for clients that do not look at SIZE
	scratch := make([]byte, 8<<10)
	for b.err == nil {
		b.Read(scratch)
	}
	if b.err == io.EOF {
		return nil
	}
	w.hangUp = true
	return b.err
}

// parseChunk reads the arguments of BDAT.
func parseChunk(arg string) (size int64, last, ok bool) {
	f := strings.Fields(arg)
	if len(f) == 2 && strings.EqualFold(f[1], "LAST") {
		last, f = true, f[:1]
	}
	if len(f) != 1 || f[0][0] == '+' {
		return 0, false, false
	}
	size, err := strconv.ParseInt(f[0], 10, 63)
	return size, last, err == nil && size >= 0
}
