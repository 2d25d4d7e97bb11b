package testnet

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// A wire is the line to a house: other nodes dial an address that is the wire's, and it carries their
// connections to the house, late, slowly, or not at all. It works on bytes, below everything of ours.
type wire struct {
	listeners []net.Listener
	wg        sync.WaitGroup
	ctx       context.Context // ends with the wire
	cancel    context.CancelFunc

	mu      sync.Mutex // guards the fields below
	quality Quality
	changed chan struct{} // closed and replaced when quality changes
}

// Quality is what a wire is like. The zero Quality is a good one.
type Quality struct {
	Delay  time.Duration // each way
	Rate   int64         // bytes a second, each way of each connection; 0: any
	Silent bool          // nothing comes through, and nobody is told
}

// newWire carries what arrives at ip, on the ports of the houses' addresses, to those addresses.
func newWire(ip string, addrs ...string) (*wire, error) {
	w := &wire{changed: make(chan struct{})}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	for _, addr := range addrs {
		_, port, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, errors.Join(err, w.Close())
		}
		l, err := net.Listen("tcp", net.JoinHostPort(ip, port))
		if err != nil {
			return nil, errors.Join(err, w.Close())
		}
		w.listeners = append(w.listeners, l)
		w.wg.Go(func() { w.serve(l, addr) })
	}
	return w, nil
}

func (w *wire) Close() error {
	w.cancel()
	for _, l := range w.listeners {
		l.Close()
	}
	w.wg.Wait()
	return nil
}

func (w *wire) set(q Quality) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.quality = q
	close(w.changed)
	w.changed = make(chan struct{})
}

func (w *wire) now() (Quality, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.quality, w.changed
}

func (w *wire) serve(l net.Listener, addr string) {
	for {
		from, err := l.Accept()
		if err != nil {
			return
		}
		w.wg.Go(func() { w.carry(from, addr) })
	}
}

func (w *wire) carry(from net.Conn, addr string) {
	defer from.Close()
	var d net.Dialer
	to, err := d.DialContext(w.ctx, "tcp", addr)
	if err != nil {
		return
	}
	defer to.Close()
	stop := context.AfterFunc(w.ctx, func() { from.Close(); to.Close() })
	defer stop()
	var both sync.WaitGroup
	both.Go(func() { w.pump(to, from) })
	both.Go(func() { w.pump(from, to) })
	both.Wait()
}

type parcel struct {
	data []byte
	at   time.Time
}

// pump carries bytes one way. What is under way is bounded, as in a network.
func (w *wire) pump(to, from net.Conn) {
	line := make(chan parcel, 64)
	gone := make(chan struct{})
	go func() {
		defer close(line)
		for {
			buf := make([]byte, 16<<10)
			n, err := from.Read(buf)
			if n > 0 {
				select {
				case line <- parcel{buf[:n], time.Now()}:
				case <-gone:
					return
				}
			}
			if err != nil {
				return
			}
		}
	}()
	for p := range line {
		if !w.hold(p) {
			break
		}
		if _, err := to.Write(p.data); err != nil {
			break
		}
	}
	close(gone)
	// Either end gone is both gone: none of ours half-closes a connection.
	to.Close()
	from.Close()
	for range line {
	}
}

// hold waits until a parcel may arrive.
func (w *wire) hold(p parcel) bool {
	for {
		q, changed := w.now()
		var arrives <-chan time.Time
		if !q.Silent {
			late := time.Until(p.at.Add(q.Delay))
			if q.Rate > 0 {
				late = max(late, 0) + time.Duration(len(p.data))*time.Second/time.Duration(q.Rate)
			}
			if late <= 0 {
				return true
			}
			arrives = time.After(late)
		}
		select {
		case <-arrives:
			return true
		case <-changed:
		case <-w.ctx.Done():
			return false
		}
	}
}

// Line sets how good the wire to house i is, for every connection that other nodes opened to it. The
// village must have been built with Wires.
func (v *Village) Line(i int, q Quality) { v.Houses[i].wire.set(q) }

var _ io.Closer = (*wire)(nil)
