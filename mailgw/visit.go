package mailgw

import (
	"crypto/tls"
	"net"
	"time"
)

// visit runs a client's dialogues: one, or two with STARTTLS between them. To go-smtp they are two connections, so that
// nothing said before TLS is known after it (RFC 3207, 4.2), and what was sent behind the STARTTLS line is thrown away.
func (h *hall) visit(conn net.Conn) {
	defer conn.Close()
	g := h.g
	by := time.Now().Add(g.c.Timeouts.Stranger)
	if t, ok := conn.(*tls.Conn); ok {
		h.dialogue(conn, t, by, false)
		return
	}
	if !h.dialogue(conn, nil, by, false) {
		return
	}
	conn.SetDeadline(by)
	if _, err := conn.Write([]byte("220 2.0.0 ready to start TLS\r\n")); err != nil {
		return
	}
	t := tls.Server(conn, g.c.TLS)
	defer t.Close() // says that nothing was cut off
	h.dialogue(conn, t, by, true)
}

// dialogue runs go-smtp on conn, or on t if that is not nil, and reports whether the client wants to go on with TLS.
func (h *hall) dialogue(conn net.Conn, t *tls.Conn, by time.Time, greeted bool) (startTLS bool) {
	over, to := conn, h.toPlain
	if t != nil {
		over, to = t, h.toTLS
	}
	w := newWire(over, t != nil, t == nil && h.g.c.TLS != nil, &h.g.c)
	w.by, w.mute = by, greeted
	h.enter(w, conn)
	defer h.leave(w, conn)
	if t != nil {
		conn.SetDeadline(by)
		if err := t.HandshakeContext(h.ctx); err != nil {
			h.g.log.DebugContext(h.ctx, "TLS with a mail client", "remote", conn.RemoteAddr().String(), "err", err)
			return false
		}
		conn.SetDeadline(time.Time{})
	}
	select {
	case to.c <- w:
		<-w.ended
	case <-h.ctx.Done():
	}
	return w.startTLS
}
