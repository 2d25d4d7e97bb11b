package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/pelletier/go-toml/v2"
)

// ConfigName is the name of the config file inside a node's folder.
const ConfigName = "valise.toml"

// A Config is everything one node is told: what stands in DIR/valise.toml, and
// the seams that only programs set.
type Config struct {
	// Dir is the node's folder. It comes from the command line, not from the file.
	Dir string `toml:"-"`

	Organisation string   `toml:"organisation" comment:"The organisation's name, usually its domain. Shown to recipients."`
	Site         string   `toml:"site" comment:"The place this node stands at: the unit that may fail as a whole."`
	Name         string   `toml:"name,omitempty" comment:"What this node is called in \"valise status\". Default: the site."`
	Language     string   `toml:"language" comment:"Language of what Valise writes into messages: en or zh-CN. Pages follow the reader's browser."`
	Advertise    []string `toml:"advertise" comment:"Host names or addresses, without ports, at which the other nodes reach this one. Empty: the listen addresses."`

	Listen Listen       `toml:"listen" comment:"Where this node listens. Off loopback, SMTP and the web faces need a certificate."`
	Public Public       `toml:"public" comment:"The two public names. Links carry them; a request for any other host is refused."`
	TLS    TLS          `toml:"tls"`
	Mail   Mail         `toml:"mail"`
	Copies CopiesConfig `toml:"copies"`
	Store  StoreConfig  `toml:"store"`
	Ledger LedgerConfig `toml:"ledger"`
	Backup BackupConfig `toml:"backup"`

	// Passphrase is asked for what opens the node's key where that is sealed; nil: there is nobody to ask.
	Passphrase func(ctx context.Context) (string, error) `toml:"-"`
	// NewPassphrase seals the key that Init and Join make; empty: it lies in the folder as it is.
	NewPassphrase string `toml:"-"`

	Seams  Seams        `toml:"-"`
	Logger *slog.Logger `toml:"-"`
}

// Listen holds host:port pairs. An empty one switches that face off, except
// for Libp2p and Ledger, which every node needs.
type Listen struct {
	SMTP    string `toml:"smtp" comment:"Mail programs send here."`
	Files   string `toml:"files" comment:"Recipients fetch here."`
	App     string `toml:"app" comment:"Log-in, drive, API."`
	Metrics string `toml:"metrics" comment:"/metrics, /healthz, /readyz; read-only."`
	Libp2p  string `toml:"libp2p" comment:"Blocks, between nodes."`
	Ledger  string `toml:"ledger" comment:"The ledger, between nodes; a port of its own so that bulk transfers cannot starve it."`
}

// Public names the two public origins. They are fixed at init and the same on every node, but on loopback, where ports tell nodes apart.
type Public struct {
	Files          string   `toml:"files" comment:"Origin of links, such as https://files.example.org. Empty: http:// and the address of listen.files."`
	App            string   `toml:"app" comment:"Origin of log-in and drive. Empty: http:// and the address of listen.app."`
	TrustedProxies []string `toml:"trusted-proxies" comment:"Networks whose X-Forwarded-For counts."`
}

// TLS is the certificate for SMTP and the web faces.
type TLS struct {
	Cert       string `toml:"cert" comment:"PEM files; relative to the node's folder."`
	Key        string `toml:"key"`
	SelfSigned bool   `toml:"self-signed" comment:"true: make one at start. For trials; mail programs and browsers will warn."`
}

// Mail is policy for the submission port.
type Mail struct {
	Hostname   string `toml:"hostname" comment:"Our name in EHLO and Received. Empty: the organisation."`
	Threshold  Size   `toml:"threshold" comment:"An attachment above this is taken out, alone or together with its siblings."`
	MaxMessage Size   `toml:"max-message" comment:"Offered as SIZE. The next hop never sees this size."`
	SpoolDir   string `toml:"spool-dir" comment:"For messages in flight; a relative name starts at the node's folder. Empty: the system's temporary folder."`
}

// CopiesConfig says how many nodes hold each file.
type CopiesConfig struct {
	Wanted int `toml:"wanted" comment:"Nodes that hold each file, at two sites as far as the cluster has them."`
	Ack    int `toml:"ack" comment:"Copies on disk before a message or upload is acknowledged; 1 in a one-node cluster."`

	Patience Duration `toml:"patience" comment:"How long a node may stay away before its copies are made anew on others. The leader's setting counts."`
}

// StoreConfig is about this node's disk.
type StoreConfig struct {
	Reserve Size `toml:"reserve" comment:"Free space that blocks may not use: it belongs to the ledger."`
	Cache   Size `toml:"cache" comment:"Memory for the databases' shared block cache."`

	CacheSize    Size     `toml:"cache-size" comment:"Disk space for blocks of other nodes that passed through this one."`
	CollectEvery Duration `toml:"collect-every" comment:"How often blocks that nothing refers to are freed. While a deletion waits it is done more often."`
	ScrubEvery   Duration `toml:"scrub-every" comment:"Pause between two readings of all blocks, to find and mend what a disk has lost. 0s: never."`
	ScrubRate    Size     `toml:"scrub-rate" comment:"How much of the disk a scrub reads in a second, at most."`
}

// LedgerConfig is about this node's copy of the ledger.
type LedgerConfig struct {
	MaxStaleness Duration `toml:"max-staleness" comment:"Refuse links when this node's copy is older. 0s: serve, and say the age."`
}

// BackupConfig is about what a restore needs beside a backup.
type BackupConfig struct {
	Journal string `toml:"journal" comment:"File to which this node appends what is revoked and deleted; a relative name starts at the node's folder. Ship it to where no backup lies: a restore needs it to know which links stay closed. Empty: none is written."`
}

// Seams are where tests and the model village reach in. The zero value is the real world.
type Seams struct {
	FS     vfs.FS
	Dial   func(ctx context.Context, network, addr string) (net.Conn, error)
	Listen func(network, addr string) (net.Listener, error)
	Free   func() (int64, error)
	Clock  func() time.Time
	// Reach says whether a peer may be talked to: a cut cable when it says no.
	Reach func(peer.ID) bool
	// Fast shortens the timers of elections and promotions, for villages.
	Fast bool
}

// DefaultConfig returns what a node uses where its file says nothing.
// base moves all ports: SMTP at base, then files, app, metrics, libp2p,
// ledger; 0 means the usual ones.
func DefaultConfig(base int) Config {
	ports := [6]int{2525, 8080, 8081, 9091, 4101, 4102}
	if base > 0 {
		for i := range ports {
			ports[i] = base + i
		}
	}
	at := func(i int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(ports[i])) }
	return Config{
		Language:  "en",
		Advertise: []string{},
		Listen:    Listen{SMTP: at(0), Files: at(1), App: at(2), Metrics: at(3), Libp2p: at(4), Ledger: at(5)},
		Public:    Public{TrustedProxies: []string{}},
		Mail:      Mail{Threshold: 256 << 10, MaxMessage: 2 << 30},
		Copies:    CopiesConfig{Wanted: 3, Ack: 2, Patience: Duration(10 * time.Minute)},
		Store: StoreConfig{
			Reserve: 1 << 30, Cache: 32 << 20, CacheSize: 4 << 30, CollectEvery: Duration(time.Hour), ScrubEvery: Duration(7 * 24 * time.Hour), ScrubRate: 16 << 20,
		},
	}
}

// LoadConfig reads the file named name strictly: an unknown key is an error
// that names it. The node's folder is the one the file lies in.
func LoadConfig(name string) (Config, error) {
	data, err := readFile(vfs.Default, name)
	if err != nil {
		if errors.Is(err, errNotExist) {
			return Config{}, hint(fmt.Errorf("read config %s: %w", name, err), `"valise init" or "valise join" makes a node's folder with its config`)
		}
		return Config{}, fmt.Errorf("read config %s: %w", name, err)
	}
	c, err := ParseConfig(data)
	if err != nil {
		return Config{}, fmt.Errorf("config %s: %w", name, err)
	}
	c.Dir = filepath.Dir(name)
	return c, nil
}

// ParseConfig reads TOML over the defaults and validates the result.
func ParseConfig(data []byte) (Config, error) {
	c := DefaultConfig(0)
	d := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		if strict, ok := errors.AsType[*toml.StrictMissingError](err); ok && len(strict.Errors) > 0 {
			first := strict.Errors[0]
			line, _ := first.Position()
			return Config{}, hint(fmt.Errorf("line %d: unknown key %q", line, strings.Join(first.Key(), ".")),
				`"valise config example" prints every key with its meaning`)
		}
		if bad, ok := errors.AsType[*toml.DecodeError](err); ok {
			line, col := bad.Position()
			return Config{}, hint(fmt.Errorf("line %d, column %d: %w", line, col, err), `"valise config example" prints a file that works`)
		}
		return Config{}, err
	}
	return c, c.Validate()
}

// WriteTOML writes c as a commented config file.
func (c Config) WriteTOML(w io.Writer) error {
	return toml.NewEncoder(w).Encode(c)
}

// Validate names the first field that cannot work, with the remedy as a hint.
func (c *Config) Validate() error {
	if c.Organisation == "" {
		return hint(errors.New("organisation is empty"), `set organisation = "example.org"`)
	}
	if err := checkSite(c.Site); err != nil {
		return err
	}
	if len(c.Name) > maxName {
		return hint(fmt.Errorf("name is %d bytes long", len(c.Name)), `use a short word such as "berlin-1"`)
	}
	if !hostname.MatchString(c.mailHostname()) || len(c.mailHostname()) > 253 {
		return hint(fmt.Errorf("%q is no host name for SMTP", c.mailHostname()), `set mail.hostname = "mail.example.org"; it is the organisation's name unless set`)
	}
	if len(c.Advertise) > maxAddrs/2 {
		return hint(fmt.Errorf("advertise has %d names, %d are allowed", len(c.Advertise), maxAddrs/2), "name the ones other nodes should use")
	}
	if c.Language != "en" && c.Language != "zh-CN" {
		return hint(fmt.Errorf("language %q is not known", c.Language), `use "en" or "zh-CN"`)
	}
	for _, l := range c.Listen.all() {
		if l.addr == "" && !l.needed {
			continue
		}
		if err := checkListen(l.addr); err != nil {
			return hint(fmt.Errorf("listen.%s %q: %w", l.key, l.addr, err), `use host:port, such as "127.0.0.1:2525"`)
		}
		if l.tls && !loopback(l.addr) && c.TLS.Cert == "" && !c.TLS.SelfSigned {
			return hint(fmt.Errorf("listen.%s %q is not loopback and there is no certificate", l.key, l.addr),
				"set tls.cert and tls.key, or tls.self-signed = true for a trial")
		}
	}
	if c.Public.Files == "" && c.Listen.Files != "" && !loopback(c.Listen.Files) {
		return hint(fmt.Errorf("listen.files %q is not loopback and public.files is empty", c.Listen.Files), `links need a name that recipients can open: public.files = "https://files.example.org"`)
	}
	if c.Public.App == "" && c.Listen.App != "" && !loopback(c.Listen.App) {
		return hint(fmt.Errorf("listen.app %q is not loopback and public.app is empty", c.Listen.App), `set public.app = "https://app.example.org"`)
	}
	if (c.TLS.Cert == "") != (c.TLS.Key == "") {
		return hint(errors.New("tls.cert and tls.key go together"), "set both or neither")
	}
	for _, u := range []struct{ key, value string }{{"files", c.Public.Files}, {"app", c.Public.App}} {
		if u.value == "" {
			continue
		}
		p, err := url.Parse(u.value)
		if err != nil || p.Host == "" || p.Scheme != "http" && p.Scheme != "https" || strings.Trim(p.Path, "/") != "" || p.RawQuery != "" || p.User != nil {
			return hint(fmt.Errorf("public.%s %q is no origin", u.key, u.value), `use scheme and host only, such as "https://files.example.org"`)
		}
	}
	for _, p := range c.Public.TrustedProxies {
		if _, err := netip.ParsePrefix(p); err != nil {
			return hint(fmt.Errorf("public.trusted-proxies: %w", err), `use networks such as "10.0.0.0/8"`)
		}
	}
	if c.Copies.Wanted < 1 || c.Copies.Ack < 1 || c.Copies.Ack > c.Copies.Wanted {
		return hint(fmt.Errorf("copies.wanted = %d, copies.ack = %d", c.Copies.Wanted, c.Copies.Ack), "1 <= ack <= wanted")
	}
	if c.Copies.Patience < Duration(10*time.Second) && !c.Seams.Fast {
		return hint(fmt.Errorf("copies.patience = %s is too short", c.Copies.Patience), `use at least "10s", better "10m": a restart should move no copies`)
	}
	if c.Store.CollectEvery < Duration(time.Minute) && !c.Seams.Fast {
		return hint(fmt.Errorf("store.collect-every = %s is too often", c.Store.CollectEvery), `use at least "1m": what was uploaded a moment ago must have been recorded by then`)
	}
	if c.Store.ScrubEvery < 0 || c.Store.ScrubRate < 1<<10 || c.Store.CacheSize < 0 {
		return hint(fmt.Errorf("store.scrub-every = %s, scrub-rate = %s, cache-size = %s", c.Store.ScrubEvery, c.Store.ScrubRate, c.Store.CacheSize), `scrub-every = "0s" turns scrubbing off; scrub-rate is at least "1KiB"`)
	}
	if c.Mail.MaxMessage < 1<<20 {
		return hint(fmt.Errorf("mail.max-message = %s is too small", c.Mail.MaxMessage), `use at least "1MiB"`)
	}
	return nil
}

var hostname = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*$`)

// checkSite says whether a word may name a site: it stands in the signed member list.
func checkSite(site string) error {
	if site == "" || len(site) > maxSite || strings.ContainsFunc(site, func(r rune) bool { return r <= ' ' || r == '/' || r == 0x7f }) {
		return hint(fmt.Errorf("site %q is no site name", site), fmt.Sprintf(`use a short word, such as "berlin", of at most %d bytes`, maxSite))
	}
	return nil
}

type listenAddr struct {
	key, addr   string
	needed, tls bool
}

func (l Listen) all() []listenAddr {
	return []listenAddr{
		{"smtp", l.SMTP, false, true}, {"files", l.Files, false, true}, {"app", l.App, false, true},
		{"metrics", l.Metrics, false, false}, {"libp2p", l.Libp2p, true, false}, {"ledger", l.Ledger, true, false},
	}
}

func checkListen(addr string) error {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return err
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		return fmt.Errorf("port %q", port)
	}
	return nil
}

func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}
