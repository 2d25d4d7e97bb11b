package node

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// What stands behind the seams where nothing was put in.

func (c *Config) fs() vfs.FS {
	if c.Seams.FS != nil {
		return c.Seams.FS
	}
	return vfs.Default
}

func (c *Config) log() *slog.Logger {
	if c.Logger != nil {
		return c.Logger
	}
	return slog.New(slog.DiscardHandler)
}

func (c *Config) clock() func() time.Time {
	if c.Seams.Clock != nil {
		return c.Seams.Clock
	}
	return time.Now
}

// now is the time for records: whole seconds, UTC.
func (c *Config) now() time.Time { return c.clock()().UTC().Truncate(time.Second) }

func (c *Config) listen(network, addr string) (net.Listener, error) {
	if c.Seams.Listen != nil {
		return c.Seams.Listen(network, addr)
	}
	return net.Listen(network, addr)
}

func (c *Config) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if c.Seams.Dial != nil {
		return c.Seams.Dial(ctx, network, addr)
	}
	d := net.Dialer{Timeout: 30 * time.Second}
	return d.DialContext(ctx, network, addr)
}

func (c *Config) free() (int64, error) {
	if c.Seams.Free != nil {
		return c.Seams.Free()
	}
	u, err := c.fs().GetDiskUsage(c.Dir)
	if err != nil {
		return 0, fmt.Errorf("free space of %s: %w", c.Dir, err)
	}
	return int64(u.AvailBytes), nil
}

func (c *Config) name() string {
	if c.Name != "" {
		return c.Name
	}
	return c.Site
}

// listenMultiaddr turns host:port into the form libp2p listens on.
func listenMultiaddr(addr string) (multiaddr.Multiaddr, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	if host == "" {
		host = "0.0.0.0"
	}
	if host == "localhost" {
		host = "127.0.0.1"
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return nil, fmt.Errorf("listen address %s: %w", addr, err)
	}
	proto := "ip4"
	if ip.Is6() {
		proto = "ip6"
	}
	return multiaddr.NewMultiaddr("/" + proto + "/" + ip.String() + "/tcp/" + port)
}

// planned returns what other nodes should dial once this node runs: they must
// know it before it has a ledger to say so in.
func (c *Config) planned() (bulk, ledger [][]byte, err error) {
	for _, lane := range []struct {
		addr string
		out  *[][]byte
	}{{c.Listen.Libp2p, &bulk}, {c.Listen.Ledger, &ledger}} {
		a, err := listenMultiaddr(lane.addr)
		if err != nil {
			return nil, nil, err
		}
		if len(c.Advertise) == 0 && manet.IsIPUnspecified(a) {
			return nil, nil, hint(fmt.Errorf("listen address %s says nothing about how others reach this node", lane.addr),
				`name its host or address: --advertise node1.example.org, or advertise = ["node1.example.org"] in the config`)
		}
		if *lane.out, err = c.advertised([]multiaddr.Multiaddr{a}); err != nil {
			return nil, nil, err
		}
	}
	return bulk, ledger, checkAddrs(bulk, ledger)
}

// advertised returns what other nodes should dial, given the addresses a lane
// is bound to: every name of c.Advertise with the bound port, or the bound
// addresses themselves.
func (c *Config) advertised(bound []multiaddr.Multiaddr) ([][]byte, error) {
	var out [][]byte
	if len(c.Advertise) == 0 {
		for _, a := range bound {
			out = append(out, a.Bytes())
		}
		return out, nil
	}
	for _, host := range c.Advertise {
		for _, port := range boundPorts(bound) {
			a, err := hostMultiaddr(host, port)
			if err != nil {
				return nil, hint(fmt.Errorf("advertise %q: %w", host, err), `use host names or addresses without a port, such as "node1.example.org"`)
			}
			out = append(out, a.Bytes())
		}
	}
	return out, nil
}

// onLoopback says whether addresses are all of this machine alone.
func onLoopback(raw [][]byte) bool {
	addrs, err := multiaddrs(raw)
	return err == nil && allLoopback(addrs)
}

func allLoopback(addrs []multiaddr.Multiaddr) bool {
	for _, a := range addrs {
		if !manet.IsIPLoopback(a) {
			return false
		}
	}
	return true
}

func boundPorts(bound []multiaddr.Multiaddr) []int {
	var ports []int
	for _, a := range bound {
		if p, err := a.ValueForProtocol(multiaddr.P_TCP); err == nil {
			if n, err := strconv.Atoi(p); err == nil && (len(ports) == 0 || ports[len(ports)-1] != n) {
				ports = append(ports, n)
			}
		}
	}
	return ports
}

func hostMultiaddr(host string, port int) (multiaddr.Multiaddr, error) {
	proto := "dns"
	if ip, err := netip.ParseAddr(host); err == nil {
		proto = "ip4"
		if ip.Is6() {
			proto = "ip6"
		}
	}
	return multiaddr.NewMultiaddr("/" + proto + "/" + host + "/tcp/" + strconv.Itoa(port))
}
