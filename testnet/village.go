// Package testnet is the model village: many nodes in one process over real
// loopback libp2p, with faults and a verifier. It is also what the
// demonstration runs.
package testnet

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"runtime/pprof"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/valise-mail/valise/node"
	"github.com/valise-mail/valise/node/api"
)

// A Config says what village to build.
type Config struct {
	// Sites has one entry a node: where it stands. Node i is called SITE-i, counted from 1.
	Sites []string
	// Dir holds real folders, one a node. Empty: every node has a crashable file
	// system in memory, which forgets unsynced writes at a Kill.
	Dir string
	// Plain makes every node listen at 127.0.0.1, for people to read. Otherwise each has a loopback
	// address of its own, so that its ports are still free when it restarts.
	Plain bool
	// Wires puts a wire before each house, which Line makes slow or silent.
	Wires bool
	// Adjust changes a node's config before it is founded, if not nil.
	Adjust func(i int, c *node.Config)
	// Found makes the folder of the first node; nil is node.Init.
	Found func(ctx context.Context, c node.Config) error
	// Logger receives what the nodes log; nil discards it.
	Logger *slog.Logger
}

// A Village is a running cluster with a mail catcher beside it. Its methods
// are called from one goroutine, unless they say otherwise.
type Village struct {
	Houses []*House
	Mail   *Catcher
	cfg    Config
	label  string

	mu   sync.Mutex // guards the fields below
	cut  map[[2]peer.ID]bool
	acks []Acknowledged

	lives   int
	excused []string // lives that a failing disk ended
}

// buildTimeout bounds the building of a village, on a loaded machine.
const buildTimeout = 2 * time.Minute

// A House is one node of the village, running or not.
type House struct {
	Name string
	cfg  node.Config
	disk *vfs.MemFS // nil on a real disk
	wire *wire      // nil without Wires
	node *node.Node // nil while stopped; written under mu

	trouble trouble
	full    atomic.Bool  // its disk has no room, the node is told
	skew    atomic.Int64 // nanoseconds its clock is ahead
	asking  sync.WaitGroup

	mu    sync.Mutex      // guards the fields below
	line  context.Context // operators hold on to it; nil while the node is stopped
	hang  context.CancelFunc
	life  string  // label of what the running node has started
	peer  peer.ID // known from its first start on
	alone bool    // cut off from everybody, clients included: it is being killed
	conns map[net.Conn]struct{}
}

// Open builds the village and waits until every node has its place: all
// members, reachable, with the ledger applied. If it returns an error, nothing
// is left running.
func Open(ctx context.Context, c Config) (*Village, error) {
	var id [6]byte
	rand.Read(id[:])
	v := &Village{cfg: c, label: hex.EncodeToString(id[:]), cut: map[[2]peer.ID]bool{}}
	var err error
	v.labelled(func() { err = v.build(ctx) })
	if err != nil {
		return nil, errors.Join(err, v.Close())
	}
	return v, nil
}

// labelled runs fn so that every goroutine started below carries this village's label.
func (v *Village) labelled(fn func()) {
	pprof.Do(context.Background(), pprof.Labels("village", v.label), func(context.Context) { fn() })
}

// living is labelled for what one run of one node starts. The caller carries the village's label afterwards.
func (v *Village) living(life string, fn func()) {
	ctx := pprof.WithLabels(context.Background(), pprof.Labels("village", v.label))
	pprof.Do(ctx, pprof.Labels("life", life), func(context.Context) { fn() })
}

// life names one run of one node.
func (v *Village) life() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.lives++
	return fmt.Sprint(v.lives)
}

func (v *Village) build(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, buildTimeout, errors.New("the village did not come together in time"))
	defer cancel()
	if v.Mail, err = NewCatcher(); err != nil {
		return err
	}
	for i, site := range v.cfg.Sites {
		h, err := v.house(i, site)
		if err != nil {
			return err
		}
		v.Houses = append(v.Houses, h)
		if i == 0 {
			found := node.Init
			if v.cfg.Found != nil {
				found = v.cfg.Found
			}
			if err := found(ctx, h.cfg); err != nil {
				return fmt.Errorf("found %s: %w", h.Name, err)
			}
		} else {
			ticket, err := v.Houses[0].node.Admin().Invite(ctx, api.InviteRequest{Site: site})
			if err != nil {
				return fmt.Errorf("invite %s: %w", h.Name, err)
			}
			if h.cfg, err = node.Join(ctx, h.cfg, ticket.Ticket); err != nil {
				return fmt.Errorf("join %s: %w", h.Name, err)
			}
		}
		if err := v.start(ctx, h); err != nil {
			return fmt.Errorf("start %s: %w", h.Name, err)
		}
	}
	return v.Settled(ctx)
}

func (v *Village) house(i int, site string) (*House, error) {
	h := &House{Name: fmt.Sprintf("%s-%d", site, i+1), conns: map[net.Conn]struct{}{}}
	c := node.DefaultConfig(0)
	c.Organisation, c.Site, c.Name = "example.org", site, h.Name
	c.Store.Reserve = 0
	c.Store.Cache = 8 << 20
	ip, err := v.address()
	if err != nil {
		return nil, err
	}
	if err := freeAddrs(ip, &c.Listen.SMTP, &c.Listen.Files, &c.Listen.App, &c.Listen.Metrics, &c.Listen.Libp2p, &c.Listen.Ledger); err != nil {
		return nil, err
	}
	c.Dir = "/" + h.Name
	c.Seams.Fast = true
	if v.cfg.Dir != "" {
		c.Dir = filepath.Join(v.cfg.Dir, h.Name)
	} else {
		h.disk = vfs.NewCrashableMem()
		c.Seams.FS = &troubledFS{FS: h.disk, t: &h.trouble}
		c.Seams.Free = h.free
	}
	c.Seams.Clock = func() time.Time { return time.Now().Add(time.Duration(h.skew.Load())) }
	if v.cfg.Wires {
		if err := v.lay(h, &c); err != nil {
			return nil, err
		}
	}
	if v.cfg.Logger != nil {
		c.Logger = v.cfg.Logger
	}
	c.Seams.Reach = func(p peer.ID) bool { return v.reach(h, p) }
	c.Seams.Listen = h.listen
	if v.cfg.Adjust != nil {
		v.cfg.Adjust(i, &c)
	}
	h.cfg = c
	return h, nil
}

// free is what a disk in memory says about its room.
func (h *House) free() (int64, error) {
	if h.full.Load() {
		return 0, nil
	}
	return 1 << 40, nil
}

// lay puts a wire before a house: what other nodes are told to dial.
func (v *Village) lay(h *House, c *node.Config) (err error) {
	for range 10 { // an address on which the house's port numbers are free
		var ip string
		if ip, err = v.address(); err != nil {
			return err
		}
		if h.wire, err = newWire(ip, c.Listen.Libp2p, c.Listen.Ledger); err == nil {
			c.Advertise = []string{ip}
			return nil
		}
	}
	return fmt.Errorf("lay a wire to %s: %w", h.Name, err)
}

// address is where a house listens. Connections going out take their ports at
// 127.0.0.1, so a port of another loopback address stays free while its node is
// away. Where the system has only the one, that has to do.
func (v *Village) address() (string, error) {
	const usual = "127.0.0.1"
	if v.cfg.Plain {
		return usual, nil
	}
	var b [3]byte
	rand.Read(b[:])
	own := fmt.Sprintf("127.%d.%d.%d", 64+b[0]%128, b[1], 1+b[2]%250)
	l, err := net.Listen("tcp", net.JoinHostPort(own, "0"))
	if err != nil {
		return usual, nil
	}
	return own, l.Close()
}

// freeAddrs finds free ports, each another. They must be known before the node runs, and must be the
// same after a restart.
func freeAddrs(ip string, addrs ...*string) error {
	for _, addr := range addrs {
		l, err := net.Listen("tcp", net.JoinHostPort(ip, "0"))
		if err != nil {
			return err
		}
		defer l.Close() // only when all are found: a port that is given back may be given again
		*addr = l.Addr().String()
	}
	return nil
}

func (v *Village) start(ctx context.Context, h *House) error {
	var n *node.Node
	var err error
	life := v.life()
	v.living(life, func() { n, err = node.Open(ctx, h.cfg) })
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.node, h.life = n, life
	h.line, h.hang = context.WithCancel(context.Background())
	if h.peer == "" { // Cut reads it meanwhile
		h.peer = n.ID()
	}
	return nil
}

func (v *Village) reach(h *House, p peer.ID) bool {
	h.mu.Lock()
	alone, self := h.alone, h.peer
	h.mu.Unlock()
	v.mu.Lock()
	defer v.mu.Unlock()
	return !alone && !v.cut[[2]peer.ID{self, p}]
}

// listen is the house's doors: connections it accepted are cut at a Kill.
func (h *House) listen(network, addr string) (net.Listener, error) {
	l, err := net.Listen(network, addr)
	if err != nil {
		return nil, err
	}
	return &door{Listener: l, h: h}, nil
}

type door struct {
	net.Listener
	h *House
}

func (d *door) Accept() (net.Conn, error) {
	c, err := d.Listener.Accept()
	if err != nil {
		return nil, err
	}
	d.h.mu.Lock()
	defer d.h.mu.Unlock()
	if d.h.alone {
		c.Close()
		return c, nil
	}
	d.h.conns[c] = struct{}{}
	return &guest{Conn: c, h: d.h}, nil
}

type guest struct {
	net.Conn
	h *House
}

func (g *guest) Close() error {
	g.h.mu.Lock()
	delete(g.h.conns, g.Conn)
	g.h.mu.Unlock()
	return g.Conn.Close()
}

// SetLinger passes on how the connection ends when it is cut.
func (g *guest) SetLinger(sec int) error {
	if l, ok := g.Conn.(interface{ SetLinger(sec int) error }); ok {
		return l.SetLinger(sec)
	}
	return nil
}

// Running says whether the house's node is up.
func (h *House) Running() bool { return h.node != nil }

// Node is the running node, or nil.
func (h *House) Node() *node.Node { return h.node }

// Config is the node's config.
func (h *House) Config() node.Config { return h.cfg }

// Settled waits until every running node knows every member, has its own copy
// of the ledger confirmed, and all that should vote do.
func (v *Village) Settled(ctx context.Context) error {
	for _, h := range v.Houses {
		if !h.Running() {
			continue
		}
		if err := v.Wait(ctx, h.Name+" to settle", func() (bool, error) {
			s, err := h.node.Admin().Status(ctx)
			if err != nil {
				return false, err
			}
			return v.complete(s), nil
		}); err != nil {
			return err
		}
	}
	return nil
}

func (v *Village) complete(s api.Status) bool {
	if !s.Ledger.Quorum || s.Ledger.Leader == "" || len(s.Members) != len(v.Houses) || s.Ledger.Voters != v.voters() || s.Copies.Nodes != len(v.Houses) {
		return false
	}
	return true
}

// voters is how many houses vote when all are up: 1, 3 or 5, but two of two; five only
// where no site of three would have a majority (replication's L10).
func (v *Village) voters() int {
	sites := make(map[string]int)
	for _, h := range v.Houses {
		sites[h.cfg.Site]++
	}
	spread := 0
	for _, n := range sites {
		spread += min(n, 2)
	}
	switch n := len(v.Houses); {
	case n >= 5 && (len(sites) < 3 || spread >= 5):
		return 5
	case n >= 3:
		return 3
	default:
		return n
	}
}

// Wait polls until done says so, or ctx ends.
func (v *Village) Wait(ctx context.Context, what string, done func() (bool, error)) error {
	for {
		ok, err := done()
		if ok {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, errors.Join(context.Cause(ctx), err))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Close stops every node and the catcher.
func (v *Village) Close() error {
	var errs []error
	for i, h := range v.Houses {
		errs = append(errs, v.Stop(i))
		if h.wire != nil {
			errs = append(errs, h.wire.Close())
		}
	}
	if v.Mail != nil {
		errs = append(errs, v.Mail.Close())
	}
	return errors.Join(errs...)
}

var _ io.Closer = (*Village)(nil)
