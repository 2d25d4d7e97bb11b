package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// copyBuffer is how much is read and written at once, in bytes. A client must
// take that much in Config.Stall, or it counts as gone.
const copyBuffer = 64 << 10

// A transfer is one file on its way out. It is the ResponseWriter ServeContent
// writes to: it opens the file before the header goes out, keeps the writes
// moving, and ends when the decision would be another one (G5).
type transfer struct {
	http.ResponseWriter
	g    *Gateway
	r    *http.Request
	req  Request
	rc   *http.ResponseController
	body *body

	ctx     context.Context // ends with a cause when the transfer must not go on
	cancel  context.CancelCauseFunc
	watcher sync.WaitGroup

	status  int // as sent; 0 before the header
	sent    int64
	err     error // why what was promised did not go out
	refused bool  // another answer was given; what ServeContent still writes is dropped
	began   time.Time
}

func (g *Gateway) newTransfer(w http.ResponseWriter, r *http.Request, req Request, o *Opened) *transfer {
	t := &transfer{ResponseWriter: w, g: g, r: r, req: req, rc: http.NewResponseController(w), began: time.Now()}
	t.ctx, t.cancel = context.WithCancelCause(r.Context())
	t.body = &body{ctx: t.ctx, open: o.Content, size: o.Size}
	return t
}

// WriteHeader is where ServeContent has decided what goes out.
func (t *transfer) WriteHeader(status int) {
	switch {
	case status == http.StatusRequestedRangeNotSatisfiable:
		t.refuse()
		t.g.refuse(t.ResponseWriter, t.r, wrongRange)
		return
	case status == http.StatusPreconditionFailed:
		t.refuse()
		t.g.refuse(t.ResponseWriter, t.r, changed)
		return
	case status < 300 && t.r.Method != http.MethodHead:
		if err := t.open(); err != nil {
			t.refuse()
			t.Header().Del("Content-Range")
			t.g.fail(t.ResponseWriter, t.r, err)
			return
		}
		t.watcher.Go(t.watch)
	}
	t.status = status
	t.ResponseWriter.WriteHeader(status)
}

// open makes sure that bytes can follow the header. Several ranges are read
// by ServeContent's goroutine, each where it begins; nothing is read ahead of those.
func (t *transfer) open() error {
	if strings.HasPrefix(t.Header().Get("Content-Type"), "multipart/byteranges") {
		return nil
	}
	return t.body.prepare()
}

// refuse takes back what was said of the bytes: another answer follows in their place.
func (t *transfer) refuse() {
	t.refused = true
	for _, k := range []string{"Accept-Ranges", "Content-Disposition", "Content-Length", "ETag", "Last-Modified"} {
		t.Header().Del(k)
	}
}

// Write implements io.Writer.
func (t *transfer) Write(p []byte) (int, error) {
	if t.refused {
		return len(p), nil
	}
	t.g.keepMoving(t.rc)
	// Asked after the deadline was set: watch cancels first, then sets its own.
	if t.ctx.Err() != nil {
		t.err = context.Cause(t.ctx)
		return 0, t.err
	}
	n, err := t.ResponseWriter.Write(p)
	t.sent += int64(n)
	if err != nil {
		t.err = err
		if t.ctx.Err() != nil {
			t.err = context.Cause(t.ctx)
		}
	}
	return n, err
}

// ReadFrom implements io.ReaderFrom: io.Copy asks for it, and so uses our buffers.
func (t *transfer) ReadFrom(src io.Reader) (int64, error) {
	if t.refused {
		return 0, errBodyClosed
	}
	buf := t.g.buffers.Get().(*[]byte)
	defer t.g.buffers.Put(buf)
	var total int64
	for {
		n, err := src.Read(*buf)
		if n > 0 {
			w, err := t.Write((*buf)[:n])
			total += int64(w)
			if err != nil {
				return total, err
			}
		}
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

// watch asks anew, as long as bytes go out, whether they still may.
func (t *transfer) watch() {
	tick := time.NewTicker(t.g.c.Still)
	defer tick.Stop()
	for {
		select {
		case <-t.ctx.Done():
			return
		case <-tick.C:
		}
		err := t.g.c.Library.Still(t.ctx, t.req)
		if t.ctx.Err() != nil {
			return // it ended meanwhile: all was sent, and err may be a consequence
		}
		if err != nil {
			t.cancel(fmt.Errorf("no longer allowed: %w", err))
			t.drop()
			return
		}
	}
}

// drop takes from the client what is still on its way, and wakes a Write that
// waits for it. The usual end would hand over the megabytes the kernel holds. On a connection shared with other answers
// (HTTP/2) only this one's stream is reset.
func (t *transfer) drop() {
	c, ok := t.r.Context().Value(connKey{}).(net.Conn)
	if !ok || t.r.ProtoMajor != 1 {
		_ = t.rc.SetWriteDeadline(time.Unix(1, 0))
		return
	}
	if s, ok := c.(*tls.Conn); ok {
		c = s.NetConn() // without a farewell, for which it would wait
	}
	if l, ok := c.(interface{ SetLinger(sec int) error }); ok {
		_ = l.SetLinger(0)
	}
	_ = c.Close()
}

type connKey struct{}

// ConnContext belongs into the http.Server that serves a Gateway, as its
// ConnContext. Without it a revoked transfer still ends, but a slow client
// gets what lies in the kernel's buffers.
func ConnContext(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// finish logs what went out, and breaks the connection where it was less than
// what was promised, so that the client cannot take it for the whole.
func (t *transfer) finish() {
	if err := t.body.fault(); err != nil && t.err == nil {
		t.err = err
	}
	if t.ctx.Err() != nil && t.err != nil {
		t.err = context.Cause(t.ctx)
	}
	if t.refused || t.status >= 300 || t.r.Method == http.MethodHead {
		return
	}
	t.log()
	if t.err == nil {
		return
	}
	t.close()
	panic(http.ErrAbortHandler) // closes the connection, or resets the stream
}

func (t *transfer) log() {
	level, message := slog.LevelInfo, "download"
	facts := []slog.Attr{
		slog.Int("status", t.status), slog.Any("client", t.g.proxies.client(t.r)),
		slog.Int64("bytes", t.sent), slog.Duration("took", time.Since(t.began)),
	}
	if t.err != nil {
		message = "download broken off"
		facts = append(facts, slog.Any("error", t.err))
	}
	if errors.Is(t.err, ErrUnavailable) {
		level = slog.LevelWarn
	}
	t.g.log.LogAttrs(t.r.Context(), level, message, facts...)
}

// close ends whatever the transfer started. It may be called again.
func (t *transfer) close() {
	t.cancel(context.Canceled)
	t.watcher.Wait()
	if err := t.body.close(); err != nil {
		t.g.log.DebugContext(t.r.Context(), "close file", "error", err)
	}
}
