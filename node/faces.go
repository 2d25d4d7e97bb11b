package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/valise-mail/valise/node/api"
	"github.com/valise-mail/valise/node/gateway"
)

var errAddrInUse = syscall.EADDRINUSE

// faces are the ways in for people and programs, with the addresses as bound.
type faces struct {
	smtp, files, app, metrics string
	tls                       *tls.Config // nil on loopback without a certificate
	servers                   []*http.Server
	requests                  requests
	endMail                   context.CancelFunc
}

// openFaces binds every address first, so that a port in use is found before
// anybody is served, and then serves.
func (n *Node) openFaces(ctx context.Context) error {
	var err error
	if n.faces.tls, err = n.certificate(); err != nil {
		return err
	}
	l := n.cfg.Listen
	if l.SMTP != "" {
		if err := n.cfg.checkSpool(); err != nil {
			return err
		}
	}
	binds := []struct {
		addr  string
		bound *string
		serve func(net.Listener) error
		tls   bool
		web   bool
	}{
		{l.SMTP, &n.faces.smtp, n.serveMail, false, false}, // STARTTLS and limits are its own affair
		{l.Files, &n.faces.files, n.serveFiles, true, true},
		{l.App, &n.faces.app, n.serveApp, true, true},
		{l.Metrics, &n.faces.metrics, n.serveMetrics, false, true},
	}
	listeners := make([]net.Listener, len(binds))
	closeBound := func() {
		for _, ln := range listeners {
			if ln != nil {
				ln.Close()
			}
		}
	}
	for i, b := range binds {
		if b.addr == "" {
			continue
		}
		ln, err := n.cfg.listen("tcp", b.addr)
		if err != nil {
			closeBound()
			return listenHint(err, b.addr)
		}
		*b.bound = ln.Addr().String()
		if b.web {
			ln = newLimitListener(ln)
		}
		if b.tls && n.faces.tls != nil {
			ln = tls.NewListener(ln, n.faces.tls)
		}
		listeners[i] = ln
	}
	for i, b := range binds {
		if listeners[i] == nil {
			continue
		}
		if err := b.serve(listeners[i]); err != nil {
			n.cancel(err) // what serves already ends with the node, not with an error of its own
			closeBound()
			return err
		}
	}
	return n.serveAdmin()
}

func listenHint(err error, addr string) error {
	if errors.Is(err, syscall.EACCES) {
		return hint(fmt.Errorf("listen %s: %w", addr, err), `ports below 1024 need CAP_NET_BIND_SERVICE; run behind a service manager that grants it, or choose a higher port in [listen]`)
	}
	return portHint(err, addr)
}

func (n *Node) serveFiles(l net.Listener) error {
	var proxies []netip.Prefix
	for _, p := range n.cfg.Public.TrustedProxies {
		prefix, err := netip.ParsePrefix(p)
		if err != nil {
			return err
		}
		proxies = append(proxies, prefix)
	}
	door, err := gateway.New(gateway.Config{
		Library: library{n}, Origin: n.filesOrigin(), Hosts: n.loopbackHosts(n.faces.files), Organisation: n.cfg.Organisation, Language: n.cfg.Language,
		TrustedProxies: proxies, Logger: n.log,
	})
	if err != nil {
		return err
	}
	n.serveHTTP("files", l, door, func(s *http.Server) { s.ConnContext = gateway.ConnContext })
	return nil
}

// loopbackHosts are the further names of a face that only this machine reaches.
func (n *Node) loopbackHosts(addr string) []string {
	if !loopback(addr) {
		return nil
	}
	hosts := []string{addr}
	if _, port, err := net.SplitHostPort(addr); err == nil {
		hosts = append(hosts, net.JoinHostPort("localhost", port))
	}
	return hosts
}

// serveHTTP serves a face until the node closes. Bodies and downloads may take
// long, so only the header has a deadline here.
func (n *Node) serveHTTP(name string, l net.Listener, h http.Handler, adjust ...func(*http.Server)) {
	s := &http.Server{
		Handler: n.faces.requests.counted(h), ReadHeaderTimeout: 15 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(n.log.Handler(), slog.LevelDebug),

		DisableGeneralOptionsHandler: true, // it answers OPTIONS * before anything asks whose host that is (F1)
	}
	for _, fn := range adjust {
		fn(s)
	}
	n.faces.servers = append(n.faces.servers, s)
	n.start(name+" face", func(ctx context.Context) error {
		if err := s.Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("%s face: %w", name, err)
		}
		return nil
	})
}

// serveAdmin opens the operator's socket. A folder that is no real one (a
// village's) has none.
func (n *Node) serveAdmin() error {
	if n.fs != vfs.Default {
		return nil
	}
	l, err := api.Listen(n.cfg.Dir)
	if err != nil {
		return err
	}
	n.serveHTTP("admin", l, api.Handler(n.Admin(), n.explain, n.log))
	return nil
}

// explain puts an error into the operator's words: nodes by name, and what to try next.
func (n *Node) explain(err error) (detail, hint string) {
	return n.roster.named(err.Error()), Hint(err)
}

// closeFaces ends what people hold first: new requests are refused, those
// under way get a moment, then everything is cut. The rooms behind close only
// after the last handler has returned.
func (n *Node) closeFaces() {
	if n.faces.endMail != nil {
		n.faces.endMail()
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	var wg sync.WaitGroup
	for _, s := range n.faces.servers { // side by side: a slow download takes no time from the others
		wg.Go(func() {
			if err := s.Shutdown(ctx); err != nil {
				s.Close()
			}
		})
	}
	wg.Wait()
	if !n.faces.requests.wait(closeTimeout) {
		n.log.Warn("requests are still under way; closing all the same")
	}
}

// requests counts the requests under way: http.Server.Close cuts their
// connections and does not wait for those who serve them.
type requests struct {
	mu     sync.Mutex // guards the fields below
	open   int
	closed bool
	ended  chan struct{} // closed when closed and none is open
}

func (r *requests) counted(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.mu.Lock()
		if r.closed {
			r.mu.Unlock()
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		r.open++
		r.mu.Unlock()
		defer r.leave()
		h.ServeHTTP(w, req)
	})
}

func (r *requests) leave() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.open--; r.closed && r.open == 0 {
		close(r.ended)
	}
}

// wait lets no request in any more and returns true when all under way have
// ended, or false after d.
func (r *requests) wait(d time.Duration) bool {
	r.mu.Lock()
	r.closed, r.ended = true, make(chan struct{})
	if r.open == 0 {
		close(r.ended)
	}
	r.mu.Unlock()
	select {
	case <-r.ended:
		return true
	case <-time.After(d):
		return false
	}
}
