package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/valise-mail/valise/node/api"
)

func (c *call) client() *api.Client { return api.Dial(c.opt.dir) }

func (c *call) printJSON(v any) error {
	e := json.NewEncoder(c.stdout)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

var inviteCommand = command{
	name: "cluster invite", short: "print a ticket with which one new node may join",
	long: `
Prints a ticket for one new node at the site named. It is a secret: whoever has
it may join, once, within an hour. Give it to "valise join" in a file or on
standard input. With --replace NODE, a node that is gone for good leaves the
cluster in the moment the new one joins; where that one alone held something,
--force gives it up.`,
	flags: func(c *call) {
		dirFlag(c)
		c.flags.StringVar(&c.opt.site, "site", "", "the place the new node will stand at (default with --replace: the old one's)")
		c.flags.StringVar(&c.opt.replaces, "replace", "", "name or id of a node that is gone for good")
		c.flags.BoolVar(&c.opt.force, "force", false, "replace it though it alone holds something")
	},
	run: func(ctx context.Context, c *call) error {
		if c.opt.site == "" && c.opt.replaces == "" {
			return misused("cluster invite", "--site is needed")
		}
		a, err := c.client().Invite(ctx, api.InviteRequest{Site: c.opt.site, Replace: c.opt.replaces, Force: c.opt.force})
		if err != nil {
			return err
		}
		fmt.Fprintln(c.stdout, a.Ticket)
		fmt.Fprintf(c.stderr, "One node may join with it until %s. Keep it secret.\n", a.Expires.Local().Format("2006-01-02 15:04 MST"))
		if a.Replaces != nil {
			fmt.Fprintf(c.stderr, "When it does, %s leaves the cluster in the same moment.\n", a.Replaces.Name)
			printPlan(c.stderr, *a.Replaces)
			printPasswords(c.stderr, *a.Replaces)
		}
		return nil
	},
}

var cancelCommand = command{
	name: "cluster cancel", short: "end a ticket before it is used",
	long: `
Ends a ticket that nobody has used yet. It is read from --ticket FILE or from
standard input.`,
	flags: func(c *call) {
		dirFlag(c)
		c.flags.StringVar(&c.opt.ticket, "ticket", "", "file with the ticket (default: standard input)")
	},
	run: func(ctx context.Context, c *call) error {
		ticket, err := c.readSecret(ctx, c.opt.ticket, "Ticket: ")
		if err != nil {
			return fmt.Errorf("read ticket: %w", err)
		}
		if err := c.client().CancelTicket(ctx, api.CancelRequest{Ticket: ticket}); err != nil {
			return err
		}
		fmt.Fprintln(c.stdout, "Nobody can join with it any more.")
		return nil
	},
}

var accountPasswordCommand = command{
	name: "account password", args: "ADDRESS", short: "give an account one more app password",
	long: `
Prints one more app password for an account's mail program. It is shown this
once and cannot be read back. The others go on working.`,
	flags: func(c *call) {
		dirFlag(c)
		c.flags.StringVar(&c.opt.name, "name", "", "which program or device it is for")
		c.flags.BoolVar(&c.opt.json, "json", false, "print JSON")
	},
	run: func(ctx context.Context, c *call) error {
		if c.flags.NArg() != 1 {
			return misused("account password", "one address is needed")
		}
		a, err := c.client().AddPassword(ctx, api.PasswordRequest{Account: c.flags.Arg(0), Label: c.opt.name})
		if err != nil {
			return err
		}
		if c.opt.json {
			return c.printJSON(a)
		}
		fmt.Fprintf(c.stdout, "User name:     %s\nApp password:  %s\n", a.Address, a.AppPassword)
		return nil
	},
}

var accountAddCommand = command{
	name: "account add", args: "ADDRESS", short: "add an account and print its app password, once",
	long: `
Adds an account with its first mail address, and prints an app password for its
mail program. It is shown this once and cannot be read back.`,
	flags: func(c *call) {
		dirFlag(c)
		c.flags.StringVar(&c.opt.name, "name", "", "the person's or service's name")
		c.flags.BoolVar(&c.opt.json, "json", false, "print JSON")
	},
	run: func(ctx context.Context, c *call) error {
		if c.flags.NArg() != 1 {
			return misused("account add", "one address is needed")
		}
		a, err := c.client().AddAccount(ctx, api.AccountRequest{Address: c.flags.Arg(0), Name: c.opt.name})
		if err != nil {
			return err
		}
		if c.opt.json {
			return c.printJSON(a)
		}
		fmt.Fprintf(c.stdout, "Account:       %s\nUser name:     %s\nApp password:  %s\n\n", a.Account, a.Address, a.AppPassword)
		fmt.Fprintf(c.stdout, "The password is not shown again. Before mail can go out, say where this mailbox submits:\n  valise mailbox add --dir %s --next-hop smtp.example.org:587 --user %s %s\n", c.opt.dir, a.Address, a.Address)
		return nil
	},
}

var mailboxAddCommand = command{
	name: "mailbox add", args: "ADDRESS", short: "say where a mailbox's mail is submitted",
	long: `
Adds a mailbox to an account, or sets the way to its own server anew. The
password for that server is read from the terminal or from standard input, and
kept sealed in the ledger.`,
	flags: func(c *call) {
		dirFlag(c)
		c.flags.StringVar(&c.opt.account, "account", "", "one of the account's addresses, or its id (default: the address itself)")
		c.flags.StringVar(&c.opt.nextHop, "next-hop", "", "host:port of the mailbox's own submission server")
		c.flags.StringVar(&c.opt.tls, "tls", "starttls", "starttls, implicit, or none (a server on this machine)")
		c.flags.StringVar(&c.opt.user, "user", "", "user name for that server; without it, no password is asked")
	},
	run: func(ctx context.Context, c *call) error {
		if c.flags.NArg() != 1 || c.opt.nextHop == "" {
			return misused("mailbox add", "one address and --next-hop are needed")
		}
		r := api.MailboxRequest{Account: c.opt.account, Address: c.flags.Arg(0), NextHop: c.opt.nextHop, TLS: c.opt.tls, User: c.opt.user}
		if r.Account == "" {
			r.Account = r.Address
		}
		if r.User != "" {
			var err error
			if r.Password, err = c.readSecret(ctx, "", fmt.Sprintf("Password of %s at %s: ", r.User, r.NextHop)); err != nil {
				return fmt.Errorf("read password: %w", err)
			}
		}
		if err := c.client().AddMailbox(ctx, r); err != nil {
			return err
		}
		fmt.Fprintf(c.stdout, "Mail from %s is submitted to %s.\n", r.Address, r.NextHop)
		return nil
	},
}

var putCommand = command{
	name: "put", args: "PATH", short: "store a file and print its id and link",
	long: `
Stores a file for an account and prints its id and a link. With --replace it
becomes the newest version of a file that is there, named by its id or by a
link to it: links already sent give the new version, and "as sent" still gives
the old one. "valise files" lists ids.`,
	flags: func(c *call) {
		dirFlag(c)
		c.flags.StringVar(&c.opt.account, "account", "", "one of the account's addresses, or its id")
		c.flags.StringVar(&c.opt.replace, "replace", "", "id of the file that gets a new version, or a link to it")
		c.flags.StringVar(&c.opt.name, "name", "", "what the file is called (default: the path's last element)")
		c.flags.BoolVar(&c.opt.json, "json", false, "print JSON")
	},
	run: func(ctx context.Context, c *call) error {
		if c.flags.NArg() != 1 || c.opt.account == "" {
			return misused("put", "one path and --account are needed")
		}
		f, err := os.Open(c.flags.Arg(0))
		if err != nil {
			return err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return err
		}
		if info.IsDir() {
			return fmt.Errorf("%s is a folder", f.Name())
		}
		name := c.opt.name
		if name == "" {
			name = filepath.Base(f.Name())
		}
		p := c.progress(info.Size())
		a, err := c.client().Put(ctx, api.PutRequest{Account: c.opt.account, Name: name, Replace: c.opt.replace}, io.TeeReader(f, p), info.Size())
		p.end()
		if err != nil {
			return err
		}
		if c.opt.json {
			return c.printJSON(a)
		}
		fmt.Fprintf(c.stdout, "File:     %s\nVersion:  %d\nCID:      %s\n", a.File, a.Version, a.CID)
		if a.Link != "" {
			fmt.Fprintf(c.stdout, "Link:     %s\n", a.Link)
		}
		return nil
	},
}

var filesCommand = command{
	name: "files", short: "list an account's files with their ids",
	long: "Lists the files in an account's attachments container: id, newest version, when it changed, name.",
	flags: func(c *call) {
		dirFlag(c)
		c.flags.StringVar(&c.opt.account, "account", "", "one of the account's addresses, or its id")
		c.flags.BoolVar(&c.opt.json, "json", false, "print JSON")
	},
	run: func(ctx context.Context, c *call) error {
		if c.opt.account == "" {
			return misused("files", "--account is needed")
		}
		files, err := c.client().Files(ctx, api.FilesRequest{Account: c.opt.account})
		if err != nil {
			return err
		}
		if c.opt.json {
			return c.printJSON(files)
		}
		t := tabwriter.NewWriter(c.stdout, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "FILE\tVERSION\tCHANGED\tNAME")
		for _, f := range files.Files {
			fmt.Fprintf(t, "%s\t%d\t%s\t%s\n", f.File, f.Version, f.Changed.Local().Format(time.DateTime), f.Name)
		}
		return t.Flush()
	},
}

var revokeCommand = command{
	name: "revoke", args: "LINK", short: "end a link",
	long: `
Ends the grant behind a link: every link of that message stops working on every
node. The files stay.`,
	flags: dirFlag,
	run: func(ctx context.Context, c *call) error {
		if c.flags.NArg() != 1 {
			return misused("revoke", "one link is needed")
		}
		a, err := c.client().Revoke(ctx, api.RevokeRequest{Link: c.flags.Arg(0)})
		if err != nil {
			return err
		}
		fmt.Fprintf(c.stdout, "Revoked: %s\n", strings.Join(a.Files, ", "))
		return nil
	},
}

var statusCommand = command{
	name: "status", short: "show members, leader, copies and the age of this node's ledger",
	long: "Shows the cluster as the node in this folder sees it.",
	flags: func(c *call) {
		dirFlag(c)
		c.flags.BoolVar(&c.opt.json, "json", false, "print JSON")
	},
	run: func(ctx context.Context, c *call) error {
		s, err := c.client().Status(ctx)
		if err != nil {
			return err
		}
		if c.opt.json {
			return c.printJSON(s)
		}
		return printStatus(c.stdout, s)
	},
}

func printStatus(w io.Writer, s api.Status) error {
	leader := "no leader"
	if s.Ledger.Leader != "" {
		leader = "leader " + s.Ledger.Leader
	}
	fmt.Fprintf(w, "%s, node %s at site %s, up %s\n", s.Organisation, s.Name, s.Site, time.Since(s.Started).Round(time.Second))
	fmt.Fprintf(w, "Ledger:  %s, %s, entry %d, %s\n", leader, plural(s.Ledger.Voters, "voter"), s.Ledger.Applied, age(s.Ledger.Age))
	fmt.Fprintf(w, "Copies:  %d wanted, %d before an answer; %s stored, %s\n", s.Copies.Wanted, s.Copies.Ack, plural(s.Copies.Files, "content"), missing(s.Copies.Missing))
	fmt.Fprintf(w, "Disk:    %s free, %s of it in reserve", human(s.Store.Free), human(s.Store.Reserve))
	if at := s.Store.Collected; at != nil {
		fmt.Fprintf(w, "; garbage last collected %s, %s given back", at.Local().Format("15:04:05"), human(s.Store.Freed))
	}
	fmt.Fprint(w, "\n\n")
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NODE\tSITE\tLEDGER\tREACHED\tCOPIES\tKEY\tPROGRAM\tFILES")
	for _, m := range s.Members {
		role := m.Role
		if m.Leader {
			role = "leader"
		}
		reached := "yes"
		switch {
		case m.Self:
			reached = "this node"
		case !m.Connected:
			reached = "NO"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", m.Name, m.Site, role, reached, stateOf(m), keyOf(m), m.Program, m.Files)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, warn := range s.Warnings {
		fmt.Fprintf(w, "\nNote: %s\n", warn)
	}
	return nil
}

func age(seconds float64) string {
	if seconds < 0 {
		return "this copy was not confirmed since the start"
	}
	return fmt.Sprintf("this copy is %.1f s old", seconds)
}

func missing(n int) string {
	if n == 0 {
		return "all copies made"
	}
	return plural(n, "copy", "copies") + " still to be made"
}

func plural(n int, words ...string) string {
	switch {
	case n == 1:
		return "1 " + words[0]
	case len(words) > 1:
		return fmt.Sprintf("%d %s", n, words[1])
	}
	return fmt.Sprintf("%d %ss", n, words[0])
}

func human(n int64) string {
	f, units := float64(n), []string{"B", "KiB", "MiB", "GiB", "TiB"}
	i := 0
	for ; f >= 1024 && i < len(units)-1; i++ {
		f /= 1024
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", f, units[i])
}

// progress shows how far an upload is, where somebody watches.
type progress struct {
	w     io.Writer
	total int64
	done  int64
	last  time.Time
}

func (c *call) progress(total int64) *progress {
	p := &progress{total: total}
	if f, ok := c.stderr.(*os.File); ok {
		if info, err := f.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
			p.w = f
		}
	}
	return p
}

func (p *progress) Write(b []byte) (int, error) {
	p.done += int64(len(b))
	if p.w != nil && time.Since(p.last) > 200*time.Millisecond {
		p.last = time.Now()
		fmt.Fprintf(p.w, "\r%s of %s ", human(p.done), human(p.total))
	}
	return len(b), nil
}

func (p *progress) end() {
	if p.w != nil {
		fmt.Fprintf(p.w, "\r\x1b[K")
	}
}
