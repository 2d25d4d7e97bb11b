package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/term"

	"github.com/valise-mail/valise/node"
)

// credentialName is what a systemd unit calls the passphrase in LoadCredential or LoadCredentialEncrypted.
const credentialName = "valise-node-key-passphrase"

const maxPassphraseFile = 64 << 10

func passphraseFlags(c *call) {
	c.flags.BoolVar(&c.opt.sealKey, "key-passphrase", false, "seal the node's key: a passphrase is asked for, here and at each start")
	c.flags.StringVar(&c.opt.passphraseFile, "key-passphrase-file", "", "read that passphrase from this file")
}

// existingPassphrase is asked for what opens a key that is sealed.
func (c *call) existingPassphrase(ctx context.Context) (string, error) {
	if text, ok, err := c.filedPassphrase(); ok || err != nil {
		return text, err
	}
	return c.readSecret(ctx, "", "Passphrase of the node's key: ")
}

// newPassphrase reads what init and join seal the key with, or "".
func (c *call) newPassphrase(ctx context.Context, cmd string) (string, error) {
	if !c.opt.sealKey && c.opt.passphraseFile == "" {
		return "", nil
	}
	text, ok, err := c.filedPassphrase()
	if err == nil && !ok {
		text, err = c.twice(ctx, "the node's key")
	}
	if err != nil {
		return "", fmt.Errorf("%s: read passphrase: %w", cmd, err)
	}
	return text, node.CheckPassphrase(text)
}

// filedPassphrase reads the passphrase from --key-passphrase-file or from the
// credential that systemd hands to its unit; false where there is neither.
func (c *call) filedPassphrase() (text string, ok bool, err error) {
	name := c.opt.passphraseFile
	if dir := os.Getenv("CREDENTIALS_DIRECTORY"); name == "" && dir != "" {
		name = filepath.Join(dir, credentialName)
		if _, err := os.Stat(name); errors.Is(err, os.ErrNotExist) {
			return "", false, nil
		}
	}
	if name == "" {
		return "", false, nil
	}
	text, err = passphraseIn(name)
	return text, true, err
}

func passphraseIn(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", &node.HintError{Err: err, Hint: "the file holds the passphrase on its one line; only the node's own user should be able to read it"}
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxPassphraseFile))
	return strings.TrimRight(string(data), "\r\n"), err
}

// twice asks for a new passphrase, a second time where somebody types it unseen.
func (c *call) twice(ctx context.Context, what string) (string, error) {
	text, err := c.readSecret(ctx, "", "New passphrase of "+what+": ")
	if err != nil || !c.typed() {
		return text, err
	}
	again, err := c.readSecret(ctx, "", "The same again: ")
	if err == nil && again != text {
		err = &node.HintError{Err: errors.New("the two are not the same"), Hint: "nothing was changed: run the command again"}
	}
	return text, err
}

// typed says whether standard input is a terminal.
func (c *call) typed() bool {
	f, ok := c.stdin.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// lines is standard input read line by line: a ticket, then a passphrase.
func (c *call) lines() *bufio.Reader {
	if c.in == nil {
		c.in = bufio.NewReader(io.LimitReader(c.stdin, 64<<10))
	}
	return c.in
}

// sayHowSealed says what whoever steals the disk gets.
func (c *call) sayHowSealed(cfg node.Config) {
	switch {
	case cfg.NewPassphrase == "":
		fmt.Fprintf(c.stdout, "The node's key lies unsealed in %s: a stolen disk is a stolen node. \"valise node passphrase\" seals it.\n", cfg.Dir)
	case c.opt.passphraseFile != "" && sameDisk(c.opt.passphraseFile, cfg.Dir):
		fmt.Fprintf(c.stdout, "The node's key is sealed, but %s lies on the same disk: a stolen disk is a stolen node all the same.\n", c.opt.passphraseFile)
	default:
		fmt.Fprintf(c.stdout, "The node's key is sealed: each start needs the passphrase, and nobody can use the key without it.\n")
	}
}

// sameDisk says whether two files lie in one file system.
func sameDisk(a, b string) bool {
	var x, y syscall.Stat_t
	return syscall.Stat(a, &x) == nil && syscall.Stat(b, &y) == nil && x.Dev == y.Dev
}

var passphraseCommand = command{
	name: "node passphrase", short: "seal this node's key with a passphrase, change it, or remove it",
	long: `
Seals the key of the node in this folder, or seals it with another passphrase.
The present one, if there is one, is read as "valise serve" reads it: from
--key-passphrase-file, from the systemd credential valise-node-key-passphrase,
or from the terminal or standard input. The new one comes from --new-file or,
after it, from the terminal or standard input. With --remove the key lies
unsealed from then on: a stolen disk is a stolen node then.

The daemon may run meanwhile, and needs no restart. A key that lay unsealed
once may still be found on the disk by who looks for deleted blocks.`,
	flags: func(c *call) {
		dirFlag(c)
		c.flags.StringVar(&c.opt.passphraseFile, "key-passphrase-file", "", "read the present passphrase from this file")
		c.flags.StringVar(&c.opt.newFile, "new-file", "", "read the new passphrase from this file")
		c.flags.BoolVar(&c.opt.remove, "remove", false, "leave the key unsealed")
	},
	run: func(ctx context.Context, c *call) error {
		if c.opt.remove && c.opt.newFile != "" {
			return misused("node passphrase", "--remove and --new-file exclude each other")
		}
		cfg := node.Config{Dir: c.opt.dir}
		sealed, err := node.KeySealed(cfg)
		if err != nil {
			return err
		}
		if !sealed && c.opt.remove {
			return &node.HintError{Err: errors.New("the node's key is not sealed"), Hint: `"valise node passphrase" without --remove seals it`}
		}
		var present string
		if sealed { // asked first, as people expect
			if present, err = c.existingPassphrase(ctx); err != nil {
				return fmt.Errorf("read the present passphrase: %w", err)
			}
		}
		next, err := c.nextPassphrase(ctx)
		if err != nil {
			return err
		}
		cfg.Passphrase = func(context.Context) (string, error) { return present, nil }
		if err := node.ChangePassphrase(ctx, cfg, next); err != nil {
			return err
		}
		cfg.NewPassphrase, c.opt.passphraseFile = next, c.opt.newFile
		c.sayHowSealed(cfg)
		return nil
	},
}

func (c *call) nextPassphrase(ctx context.Context) (text string, err error) {
	switch {
	case c.opt.remove:
		return "", nil
	case c.opt.newFile != "":
		text, err = passphraseIn(c.opt.newFile)
	default:
		text, err = c.twice(ctx, "the node's key")
	}
	if err != nil {
		return "", fmt.Errorf("read the new passphrase: %w", err)
	}
	return text, node.CheckPassphrase(text)
}
