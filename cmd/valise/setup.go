package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/valise-mail/valise/node"
)

// options are the flags of all commands; each command registers its own.
type options struct {
	dir, config            string
	org, site, name        string
	listenBase             int
	advertise              string
	publicFiles, publicApp string
	ticket, replaces       string
	verbose, json          bool
	yes, signed            bool
	force, dryRun          bool
	sealKey, remove        bool
	passphraseFile         string
	newFile                string
	account, replace       string
	nextHop, tls, user     string
	demoOnce               bool
	message, keep          string
	backup                 backupOptions
}

func dirFlag(c *call) {
	c.flags.StringVar(&c.opt.dir, "dir", ".", "the node's folder")
}

var initCommand = command{
	name: "init", short: "found a cluster with this node as its first",
	long: `
Makes a folder for the first node of a new cluster: its key, its config
(valise.toml) and a ledger that holds the organisation's secrets, wrapped to
this node. With --key-passphrase the node's own key is sealed, and each start
asks for the passphrase: on the terminal or standard input, or it is read from
--key-passphrase-file or from the systemd credential valise-node-key-passphrase.
Without one, or with the file on the same disk, a stolen disk is a stolen node.`,
	flags: func(c *call) {
		dirFlag(c)
		c.flags.StringVar(&c.opt.org, "org", "", "the organisation's name, such as example.org")
		c.flags.StringVar(&c.opt.site, "site", "", "the place this node stands at, such as berlin")
		placeFlags(c)
		passphraseFlags(c)
		c.flags.StringVar(&c.opt.publicFiles, "public-files", "", "origin of links, such as https://files.example.org")
		c.flags.StringVar(&c.opt.publicApp, "public-app", "", "origin of log-in and drive")
	},
	run: func(ctx context.Context, c *call) error {
		if c.opt.org == "" || c.opt.site == "" {
			return misused("init", "--org and --site are needed")
		}
		if err := c.checkPlace("init"); err != nil {
			return err
		}
		cfg := c.baseConfig()
		cfg.Organisation, cfg.Site = c.opt.org, c.opt.site
		cfg.Public.Files, cfg.Public.App = c.opt.publicFiles, c.opt.publicApp
		var err error
		if cfg.NewPassphrase, err = c.newPassphrase(ctx, "init"); err != nil {
			return err
		}
		if err := node.Init(ctx, cfg); err != nil {
			return err
		}
		fmt.Fprintf(c.stdout, "Founded the cluster of %s with one node, %s, at site %s.\n", cfg.Organisation, nodeName(cfg), cfg.Site)
		fmt.Fprintf(c.stdout, "One node is one voter and one copy of everything, until a second joins.\n")
		if len(cfg.Advertise) > 0 {
			fmt.Fprintf(c.stdout, "Other nodes reach it at %s. Mail programs and browsers still only from this machine:\n[listen], [public] and [tls] in %s change that.\n", c.opt.advertise, filepath.Join(cfg.Dir, node.ConfigName))
		}
		c.sayHowSealed(cfg)
		fmt.Fprintf(c.stdout, "\nStart it:           valise serve --dir %s\nThen, beside it:    valise account add --dir %s user@example.org\n", cfg.Dir, cfg.Dir)
		return nil
	},
}

func placeFlags(c *call) {
	c.flags.StringVar(&c.opt.name, "name", "", "what this node is called (default: its site)")
	c.flags.IntVar(&c.opt.listenBase, "listen-base", 0, "first of six ports: SMTP, files, app, metrics, libp2p, ledger (default: 2525, 8080, 8081, 9091, 4101, 4102)")
	c.flags.StringVar(&c.opt.advertise, "advertise", "", "host names or addresses, comma-separated, at which other nodes reach this one")
}

// checkPlace refuses what placeFlags cannot mean, before anything is done.
func (c *call) checkPlace(cmd string) error {
	if c.opt.listenBase < 0 || c.opt.listenBase > 65530 {
		return misused(cmd, "--listen-base %d: use 1024 to 65530", c.opt.listenBase)
	}
	return nil
}

// baseConfig is the default config with what the flags of init and join say.
func (c *call) baseConfig() node.Config {
	cfg := node.DefaultConfig(c.opt.listenBase)
	cfg.Dir, cfg.Name = c.opt.dir, c.opt.name
	if c.opt.advertise != "" {
		cfg.Advertise = strings.Split(c.opt.advertise, ",")
		for _, addr := range []*string{&cfg.Listen.Libp2p, &cfg.Listen.Ledger} {
			*addr = strings.Replace(*addr, "127.0.0.1", "0.0.0.0", 1)
		}
	}
	cfg.Logger = c.logger(slog.LevelWarn)
	return cfg
}

func nodeName(cfg node.Config) string {
	if cfg.Name != "" {
		return cfg.Name
	}
	return cfg.Site
}

func (c *call) logger(level slog.Level) *slog.Logger {
	if c.opt.verbose {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(c.stderr, &slog.HandlerOptions{Level: level}))
}

var joinCommand = command{
	name: "join", short: "make this a new node of an existing cluster",
	long: `
Makes a folder for a new node with a ticket that "valise cluster invite"
printed on a node of the cluster. The ticket is a secret and is read from
--ticket FILE or from standard input, never from the command line. If the
answer is lost on the way, run the same command again. --key-passphrase seals
the node's key as it does for "valise init"; where both are read from standard
input, the ticket is the first line.`,
	flags: func(c *call) {
		dirFlag(c)
		c.flags.StringVar(&c.opt.ticket, "ticket", "", "file with the ticket (default: standard input)")
		placeFlags(c)
		passphraseFlags(c)
	},
	run: func(ctx context.Context, c *call) error {
		if err := c.checkPlace("join"); err != nil {
			return err
		}
		ticket, err := c.readSecret(ctx, c.opt.ticket, "Ticket: ")
		if err != nil {
			return fmt.Errorf("read ticket: %w", err)
		}
		cfg := c.baseConfig()
		cfg.Passphrase = c.existingPassphrase // of a join that is repeated
		if cfg.NewPassphrase, err = c.newPassphrase(ctx, "join"); err != nil {
			return err
		}
		if cfg, err = node.Join(ctx, cfg, ticket); err != nil {
			return err
		}
		fmt.Fprintf(c.stdout, "Joined the cluster of %s as %s, at site %s.\n", cfg.Organisation, nodeName(cfg), cfg.Site)
		c.sayHowSealed(cfg)
		fmt.Fprintf(c.stdout, "\nStart it:  valise serve --dir %s\n", cfg.Dir)
		return nil
	},
}

// readSecret reads one line from a file, from the terminal without echo, or
// from standard input. Ctrl-C at the prompt ends it.
func (c *call) readSecret(ctx context.Context, file, prompt string) (string, error) {
	if file != "" && file != "-" {
		data, err := os.ReadFile(file)
		return strings.TrimSpace(string(data)), err
	}
	if f, ok := c.stdin.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return c.prompt(ctx, f, prompt)
	}
	line, err := c.lines().ReadString('\n')
	if errors.Is(err, io.EOF) && line != "" {
		err = nil
	}
	if errors.Is(err, io.EOF) {
		err = &node.HintError{Err: errors.New("standard input is empty"), Hint: "give it in a file with a redirection, or run the command on a terminal"}
	}
	return strings.TrimRight(line, "\r\n"), err
}

func (c *call) prompt(ctx context.Context, f *os.File, prompt string) (string, error) {
	fd := int(f.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return "", err
	}
	type answer struct {
		data []byte
		err  error
	}
	fmt.Fprint(c.stderr, prompt)
	defer fmt.Fprintln(c.stderr)
	read := make(chan answer, 1)
	go func() { // a read of the terminal cannot be called off; the process is about to end then
		data, err := term.ReadPassword(fd)
		read <- answer{data, err}
	}()
	select {
	case a := <-read:
		return strings.TrimSpace(string(a.data)), a.err
	case <-ctx.Done():
		return "", errors.Join(ctx.Err(), term.Restore(fd, before))
	}
}

var serveCommand = command{
	name: "serve", short: "run the node whose folder this is",
	long: `
Runs a node until it is told to stop (Ctrl-C or SIGTERM). Everything it needs
stands in the folder's valise.toml; "valise config example" explains each key.
kill -9 at any moment is safe: what was acknowledged is there after a restart.
Where the node's key is sealed, the passphrase is read from
--key-passphrase-file, from the systemd credential valise-node-key-passphrase
(LoadCredentialEncrypted in the unit), or from the terminal or standard input.`,
	flags: func(c *call) {
		dirFlag(c)
		c.flags.StringVar(&c.opt.config, "config", "", "config file (default: DIR/valise.toml); its folder is the node's")
		c.flags.StringVar(&c.opt.passphraseFile, "key-passphrase-file", "", "read the passphrase of the node's key from this file")
		c.flags.BoolVar(&c.opt.verbose, "v", false, "log the minute's details, too")
	},
	run: func(ctx context.Context, c *call) error {
		name := c.opt.config
		if name == "" {
			name = filepath.Join(c.opt.dir, node.ConfigName)
		}
		cfg, err := node.LoadConfig(name)
		if err != nil {
			return err
		}
		cfg.Logger, cfg.Passphrase = c.logger(slog.LevelInfo), c.existingPassphrase
		n, err := node.Open(ctx, cfg)
		if err != nil {
			return err
		}
		c.announce(ctx, n)
		select {
		case <-ctx.Done():
			fmt.Fprintln(c.stdout, "Stopping.")
		case <-n.Done():
		}
		if errors.Is(n.Err(), node.ErrLeft) {
			fmt.Fprintln(c.stdout, "This node has left the cluster. Its folder may be deleted.")
			return n.Close()
		}
		return errors.Join(n.Err(), n.Close())
	},
}

// announce says where the node can be used, in words. It gives an election a moment first.
func (c *call) announce(ctx context.Context, n *node.Node) {
	wait, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	s, err := n.Admin().Status(ctx)
	for err == nil && !s.Ledger.Quorum && wait.Err() == nil {
		select {
		case <-wait.Done():
		case <-n.Done():
			return
		case <-time.After(50 * time.Millisecond):
		}
		s, err = n.Admin().Status(ctx)
	}
	if err != nil {
		fmt.Fprintf(c.stderr, "valise: %v\n", err)
		return
	}
	fmt.Fprintf(c.stdout, "Node %s of %s is up at site %s.\n", s.Name, s.Organisation, s.Site)
	fmt.Fprintf(c.stdout, "  mail programs send to  %s (a mailbox's address and its app password)\n", s.Faces.SMTP)
	fmt.Fprintf(c.stdout, "  recipients fetch from  %s\n", s.Faces.Files)
	for _, w := range s.Warnings {
		fmt.Fprintf(c.stdout, "  note: %s\n", w)
	}
}

var configExampleCommand = command{
	name: "config example", short: "print a config file with every key explained",
	long: "Prints a config file that works, with every key and its meaning.",
	run: func(_ context.Context, c *call) error {
		cfg := node.DefaultConfig(0)
		cfg.Organisation, cfg.Site, cfg.Name = "example.org", "berlin", "berlin-1"
		var buf bytes.Buffer
		if err := cfg.WriteTOML(&buf); err != nil {
			return err
		}
		_, err := c.stdout.Write(buf.Bytes())
		return err
	},
}
