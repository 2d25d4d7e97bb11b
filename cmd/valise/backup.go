package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/valise-mail/valise/node"
	"github.com/valise-mail/valise/node/api"
)

// backupOptions are the flags of the commands in this file.
type backupOptions struct {
	keep, from, keys, passphrase, revocations, file string
	lost, damaged, all                              bool
}

var backupCommand = command{
	name: "backup", args: "BACKUPDIR", short: "write the cluster's present state to a folder",
	long: `
Writes the cluster's present state to a folder of this machine: one view of the
ledger, and every block that it refers to, fetched from other nodes where this
one has none. Run again into the same folder it writes only what is new, and
drops what is no longer referred to when the new state is durable. Cut short at
any moment, the folder has the state before or the new one, whole.

The folder has CAR files, which any CAR tool reads, and one ledger file. All of
it is encrypted, and NO KEY THAT OPENS IT IS IN IT: without the file that
"valise backup keys" writes, a backup opens nothing and restores nothing.`,
	flags: func(c *call) {
		dirFlag(c)
		c.flags.StringVar(&c.opt.backup.keep, "keep", "", "how long this backup is kept, such as 90d: receipts of deletions name it")
		c.flags.BoolVar(&c.opt.json, "json", false, "print JSON")
	},
	run: func(ctx context.Context, c *call) error {
		if c.flags.NArg() != 1 {
			return misused("backup", "one folder is needed")
		}
		dir, err := filepath.Abs(c.flags.Arg(0))
		if err != nil {
			return err
		}
		keep, err := parseKeep(c.opt.backup.keep)
		if err != nil {
			return misused("backup", "%v", err)
		}
		show := c.progress(0)
		a, err := c.client().Backup(ctx, api.BackupRequest{Dir: dir, Keep: keep}, show.backup)
		show.end()
		if err != nil {
			return err
		}
		if c.opt.json {
			return c.printJSON(a)
		}
		fmt.Fprintf(c.stdout, "Folder:   %s\n", a.Folder)
		fmt.Fprintf(c.stdout, "Backup:   state %d, of %s\n", a.State, a.At.Local().Format("2006-01-02 15:04:05 MST"))
		fmt.Fprintf(c.stdout, "Holds:    %s in %s (%s); the ledger with %s\n", plural(a.Contents, "content"), plural(a.Blocks, "block"), human(a.Bytes), plural(a.Entries, "entry", "entries"))
		fmt.Fprintf(c.stdout, "Written:  %s (%s); dropped %s\n", plural(a.New, "new block"), human(a.NewBytes), human(a.Dropped))
		if a.Until != nil {
			fmt.Fprintf(c.stdout, "Keep:     until %s; then delete the folder\n", a.Until.Local().Format("2006-01-02"))
		}
		fmt.Fprintf(c.stdout, "Only the file of \"valise backup keys\" opens it.\n")
		return nil
	},
}

// parseKeep reads a time to keep: days, weeks or years, or as other durations.
func parseKeep(text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	const day = 24 * time.Hour
	for unit, d := range map[string]time.Duration{"d": day, "w": 7 * day, "y": 365 * day} {
		if number, ok := strings.CutSuffix(text, unit); ok {
			if n, err := strconv.Atoi(number); err == nil && n > 0 && n <= 36500 {
				return time.Duration(n) * d, nil
			}
		}
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("--keep %q: write it like 90d, 12w or 1y", text)
	}
	return d, nil
}

var backupKeysCommand = command{
	name: "backup keys", args: "FILE", short: "write the organisation's secrets to a file, sealed with a passphrase",
	long: `
Writes the organisation's secrets to a file, sealed with a passphrase: what opens
the backups, and what signs the links. KEEP IT WHERE NO BACKUP LIES. Without it
no backup can be restored; with it, its passphrase and a backup, everything can
be read. Write it again after a change of keys; a restore says if it is too old.
"age --decrypt FILE" opens it, too.

The passphrase is read twice from the terminal, or from --passphrase FILE.`,
	flags: func(c *call) {
		dirFlag(c)
		passphraseFlag(c)
	},
	run: func(ctx context.Context, c *call) error {
		if c.flags.NArg() != 1 {
			return misused("backup keys", "one file is needed")
		}
		passphrase, err := c.keysPassphrase(ctx)
		if err != nil {
			return err
		}
		a, err := c.client().BackupKeys(ctx)
		if err != nil {
			return err
		}
		sealed, err := node.SealKeys(a.Keys, passphrase, 0)
		if err != nil {
			return err
		}
		if err := writeWhole(c.flags.Arg(0), func(w io.Writer) error { _, err := w.Write(sealed); return err }); err != nil {
			return err
		}
		fmt.Fprintf(c.stdout, "The secrets of %s are in %s, sealed. Keep it apart from every backup, and the passphrase apart from it.\n", a.Organisation, c.flags.Arg(0))
		return nil
	},
}

func passphraseFlag(c *call) {
	c.flags.StringVar(&c.opt.backup.passphrase, "passphrase", "", "file with the passphrase of the keys (default: the terminal, or standard input)")
}

const minPassphrase = 12

// keysPassphrase reads what the organisation's secrets are to be sealed with.
func (c *call) keysPassphrase(ctx context.Context) (text string, err error) {
	if name := c.opt.backup.passphrase; name != "" {
		text, err = passphraseIn(name)
	} else {
		text, err = c.twice(ctx, "the organisation's keys")
	}
	if err != nil {
		return "", fmt.Errorf("read passphrase: %w", err)
	}
	if len(text) < minPassphrase {
		return "", &node.HintError{Err: fmt.Errorf("the passphrase has %s", plural(len(text), "byte")), Hint: fmt.Sprintf("use at least %d, such as five words drawn by dice: it is all that protects the file", minPassphrase)}
	}
	return text, nil
}

// writeWhole makes a file that is there whole, or not at all.
func writeWhole(name string, write func(io.Writer) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(name), filepath.Base(name)+".*.new")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	err = write(f)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return os.Rename(f.Name(), name)
}

var backupVerifyCommand = command{
	name: "backup verify", args: "BACKUPDIR", short: "read all of a backup, and name what is damaged",
	long: `
Reads every byte of a backup and holds it against its checksums. What is damaged
is named with its file, offset and block. No node and no key is needed. A damaged
.car file may be deleted: the next backup into that folder writes its blocks anew.`,
	run: func(ctx context.Context, c *call) error {
		if c.flags.NArg() != 1 {
			return misused("backup verify", "one folder is needed")
		}
		h, n, damaged, err := node.VerifyBackup(ctx, vfs.Default, c.flags.Arg(0))
		if err != nil {
			return err
		}
		if len(damaged) > 0 {
			return &node.HintError{Err: errors.Join(damaged...), Hint: `delete the .car files named and run "valise backup" again; or, to restore all the same, "valise restore --damaged"`}
		}
		fmt.Fprintf(c.stdout, "Whole: state %d of %s, %s, read with %s.\n", h.State, h.Organisation, h.At.Local().Format("2006-01-02 15:04:05 MST"), plural(n, "block"))
		return nil
	},
}

var backupListCommand = command{
	name: "backup list", short: "list the backups that the cluster knows of",
	long: `
Lists the folders that backups were written to, by their random ids, and until
when they are to be kept. Receipts of deletions name those that may hold the file.`,
	flags: func(c *call) {
		dirFlag(c)
		c.flags.BoolVar(&c.opt.json, "json", false, "print JSON")
	},
	run: func(ctx context.Context, c *call) error {
		a, err := c.client().Backups(ctx)
		if err != nil {
			return err
		}
		if c.opt.json {
			return c.printJSON(a)
		}
		t := tabwriter.NewWriter(c.stdout, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "FOLDER\tSTATE\tOF\tBY\tKEEP UNTIL")
		for _, b := range a.Backups {
			until := "-"
			if b.Until != nil {
				until = b.Until.Local().Format("2006-01-02")
			}
			fmt.Fprintf(t, "%s\t%d\t%s\t%s\t%s\n", b.Backup, b.State, b.At.Local().Format("2006-01-02 15:04:05 MST"), b.Node, until)
		}
		return t.Flush()
	},
}

var backupGoneCommand = command{
	name: "backup gone", args: "ID", short: "say that a backup's folder was deleted",
	long: `
Tells the cluster that a backup's folder, and every copy of it, was deleted:
receipts no longer name it. "valise backup list" shows the ids.`,
	flags: dirFlag,
	run: func(ctx context.Context, c *call) error {
		if c.flags.NArg() != 1 {
			return misused("backup gone", "the id of one backup's folder is needed")
		}
		if err := c.client().BackupGone(ctx, api.BackupGoneRequest{Backup: c.flags.Arg(0)}); err != nil {
			return err
		}
		fmt.Fprintln(c.stdout, "Receipts no longer name it.")
		return nil
	},
}

var restoreCommand = command{
	name: "restore", short: "found a new cluster of one node from a backup",
	long: `
Makes a folder for the first node of a new cluster with everything that a backup
has: accounts, mailboxes, files, versions and grants. The organisation's keys are
the same, so links already sent work again. Other nodes join as usual. Tickets,
and whatever browsers carry, are void. NODES OF THE CLUSTER THAT WAS MUST NOT BE
STARTED AGAIN: their ledger is another one.

A backup does not know what was revoked and deleted after it. The journal that
"valise revocations" or the config's [backup] journal wrote does: with
--revocations FILE it is replayed, and deleted files stay deleted. If there is
none, --revocations-lost confirms it. With neither, every link answers that the
organisation is restoring, until "valise links open".

If it is cut short, run it again.`,
	flags: func(c *call) {
		dirFlag(c)
		fromFlags(c)
		c.flags.StringVar(&c.opt.org, "org", "", "the organisation's name, as it was")
		c.flags.StringVar(&c.opt.site, "site", "", "the place this node stands at, such as berlin")
		placeFlags(c)
		c.flags.StringVar(&c.opt.publicFiles, "public-files", "", "origin of links (default: as it was)")
		c.flags.StringVar(&c.opt.publicApp, "public-app", "", "origin of log-in and drive (default: as it was)")
		revocationFlags(c)
		c.flags.BoolVar(&c.opt.backup.damaged, "damaged", false, "leave out what is damaged in the backup; those files cannot be read")
	},
	run: func(ctx context.Context, c *call) error {
		o := c.opt.backup
		if c.opt.org == "" || c.opt.site == "" || o.from == "" || o.keys == "" {
			return misused("restore", "--org, --site, --from and --keys are needed")
		}
		if o.lost && o.revocations != "" {
			return misused("restore", "the journal is either there or lost")
		}
		if err := c.checkPlace("restore"); err != nil {
			return err
		}
		r := node.RestoreOptions{From: o.from, Lost: o.lost, Damaged: o.damaged}
		if o.revocations != "" {
			f, err := os.Open(o.revocations)
			if err != nil {
				return err
			}
			defer f.Close()
			r.Journal = f
		}
		var err error
		if r.Keys, err = c.unsealedKeys(ctx); err != nil {
			return err
		}
		cfg := c.baseConfig()
		cfg.Organisation, cfg.Site = c.opt.org, c.opt.site
		cfg.Public.Files, cfg.Public.App = c.opt.publicFiles, c.opt.publicApp
		show := c.progress(0)
		r.Progress = show.backup
		out, err := node.Restore(ctx, cfg, r)
		show.end()
		if err != nil {
			return err
		}
		c.printRestored(cfg, out)
		return nil
	},
}

func (c *call) printRestored(cfg node.Config, r node.Restored) {
	fmt.Fprintf(c.stdout, "Restored %s as of %s, with one node, %s, at site %s.\n", cfg.Organisation, r.At.Local().Format("2006-01-02 15:04:05 MST"), nodeName(cfg), cfg.Site)
	fmt.Fprintf(c.stdout, "It has %s in %s (%s).\n", plural(r.Contents, "content"), plural(r.Blocks, "block"), human(r.Bytes))
	for _, bad := range r.Damaged {
		fmt.Fprintf(c.stdout, "Damaged and left out: %v\n", bad)
	}
	if r.Lacking > 0 {
		fmt.Fprintf(c.stdout, "%s cannot be read for want of blocks.\n", plural(r.Lacking, "content"))
	}
	switch {
	case r.Closed:
		fmt.Fprintf(c.stdout, "Every link is closed until \"valise links open\" is told what was revoked since.\n")
	case c.opt.backup.lost:
		fmt.Fprintf(c.stdout, "Links are open. Those revoked after the backup are open again, and files deleted after it are back.\n")
	default:
		c.printReplayed(r.Replayed)
	}
	fmt.Fprintf(c.stdout, "Nodes of the cluster that was must not be started again.\n\nStart it:  valise serve --dir %s\n", cfg.Dir)
}

func (c *call) printReplayed(r api.Replayed) {
	fmt.Fprintf(c.stdout, "Links are open. Replayed: %s revoked again, %s deleted again", plural(r.Revoked, "link"), plural(r.Deleted, "file"))
	if !r.Until.IsZero() {
		fmt.Fprintf(c.stdout, "; the journal's last word is of %s", r.Until.Local().Format("2006-01-02 15:04:05 MST"))
	}
	fmt.Fprintln(c.stdout, ".")
}

func fromFlags(c *call) {
	c.flags.StringVar(&c.opt.backup.from, "from", "", "the backup's folder")
	c.flags.StringVar(&c.opt.backup.keys, "keys", "", "the file that \"valise backup keys\" wrote")
	passphraseFlag(c)
}

func revocationFlags(c *call) {
	c.flags.StringVar(&c.opt.backup.revocations, "revocations", "", "the journal of what was revoked and deleted since the backup")
	c.flags.BoolVar(&c.opt.backup.lost, "revocations-lost", false, "there is no journal: open again what was revoked since, I know that")
}

func (c *call) unsealedKeys(ctx context.Context) ([]byte, error) {
	sealed, err := os.ReadFile(c.opt.backup.keys)
	if err != nil {
		return nil, err
	}
	passphrase, err := c.readSecret(ctx, c.opt.backup.passphrase, "Passphrase of the keys: ")
	if err != nil {
		return nil, fmt.Errorf("read passphrase: %w", err)
	}
	return node.UnsealKeys(sealed, passphrase)
}

var revocationsCommand = command{
	name: "revocations", args: "FILE", short: "write the journal of what was revoked and deleted",
	long: `
Writes the journal of all links that were revoked and all files that were deleted
for good, with times. A restore needs it, and no backup has what came after it:
write it often, and keep it elsewhere. [backup] journal in the config names a
file to which a node appends by itself, a moment after each revocation.`,
	flags: dirFlag,
	run: func(ctx context.Context, c *call) error {
		if c.flags.NArg() != 1 {
			return misused("revocations", "one file is needed")
		}
		return writeWhole(c.flags.Arg(0), func(w io.Writer) error { return c.client().Revocations(ctx, w) })
	},
}

var linksOpenCommand = command{
	name: "links open", short: "end a restore: open the links, once it is known which were revoked",
	long: `
Opens the links of a cluster that was restored without its journal of
revocations. With --revocations FILE, what the journal names is revoked and
deleted first; --revocations-lost confirms that there is none.`,
	flags: func(c *call) {
		dirFlag(c)
		revocationFlags(c)
	},
	run: func(ctx context.Context, c *call) error {
		o := c.opt.backup
		if o.lost == (o.revocations != "") {
			return misused("links open", "either --revocations FILE or --revocations-lost is needed")
		}
		r := api.OpenRequest{Lost: o.lost}
		if o.revocations != "" {
			var err error
			if r.Journal, err = os.ReadFile(o.revocations); err != nil {
				return err
			}
			if len(r.Journal) == 0 {
				return fmt.Errorf("%s is empty", o.revocations)
			}
		}
		a, err := c.client().OpenLinks(ctx, r)
		if err != nil {
			return err
		}
		c.printReplayed(a)
		return nil
	},
}

var restoreFileCommand = command{
	name: "restore-file", short: "bring files of one account back from a backup",
	long: `
Brings one file of an account, or all of them, back from a backup into the
running cluster, each in the newest version that the backup has. Nothing is
overwritten: with --file, a file that is still there gets a new version; with
--all, a file that has changed since comes back as another file beside it, with
the time of the backup in its name. What was deleted for good stays deleted. No
links are made.`,
	flags: func(c *call) {
		dirFlag(c)
		fromFlags(c)
		c.flags.StringVar(&c.opt.account, "account", "", "one of the account's addresses, or its id")
		c.flags.StringVar(&c.opt.backup.file, "file", "", "id of the file, as it was in the backup")
		c.flags.BoolVar(&c.opt.backup.all, "all", false, "all files of the account")
		c.flags.BoolVar(&c.opt.json, "json", false, "print JSON")
	},
	run: func(ctx context.Context, c *call) error {
		o := c.opt.backup
		if o.from == "" || o.keys == "" || c.opt.account == "" || o.all == (o.file != "") {
			return misused("restore-file", "--from, --keys, --account and either --file or --all are needed")
		}
		dir, err := filepath.Abs(o.from)
		if err != nil {
			return err
		}
		keys, err := c.unsealedKeys(ctx)
		if err != nil {
			return err
		}
		show := c.progress(0)
		a, err := c.client().RestoreFile(ctx, api.RestoreFileRequest{Dir: dir, Keys: keys, Account: c.opt.account, File: o.file, All: o.all}, show.backup)
		show.end()
		if err != nil {
			return err
		}
		if c.opt.json {
			return c.printJSON(a)
		}
		for _, f := range a.Files {
			switch f.Did {
			case "new":
				fmt.Fprintf(c.stdout, "new file     %s  %s\n", f.Into, f.Name)
			case "version":
				fmt.Fprintf(c.stdout, "version %-4d %s  %s\n", f.Version, f.Into, f.Name)
			case "same":
				fmt.Fprintf(c.stdout, "is there     %s  %s\n", f.Into, f.Name)
			default:
				fmt.Fprintf(c.stdout, "stays deleted %s  %s\n", f.File, f.Name)
			}
		}
		fmt.Fprintf(c.stdout, "From the backup of %s.\n", a.At.Local().Format("2006-01-02 15:04:05 MST"))
		return nil
	},
}

// backup shows how far a backup or a restore is.
func (p *progress) backup(b api.BackupProgress) {
	if p.w == nil || time.Since(p.last) < 200*time.Millisecond {
		return
	}
	p.last = time.Now()
	if b.Of > 0 {
		fmt.Fprintf(p.w, "\r%d of %s, %s written ", b.Contents, plural(b.Of, "content"), human(b.Bytes))
		return
	}
	fmt.Fprintf(p.w, "\r%s, %s ", plural(b.Blocks, "block"), human(b.Bytes))
}
