package main

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/valise-mail/valise/node/api"
)

var deleteCommand = command{
	name: "delete", args: "FILE|LINK", short: "delete a file for good, with all its versions and links",
	long: `
Deletes a file for good. When the command returns, no link to it works on any
node that is in contact with the majority, and the keys that open its bytes are
gone from the ledger. The bytes follow, when each node next collects garbage (a
few minutes): "valise receipt" shows how far that is.`,
	flags: func(c *call) {
		dirFlag(c)
		c.flags.StringVar(&c.opt.account, "account", "", "one of the account's addresses, or its id")
		c.flags.BoolVar(&c.opt.yes, "yes", false, "it cannot be undone, and I know that")
		c.flags.BoolVar(&c.opt.json, "json", false, "print the receipt so far as JSON")
	},
	run: func(ctx context.Context, c *call) error {
		switch {
		case c.flags.NArg() != 1 || c.opt.account == "":
			return misused("delete", "--account and one file are needed")
		case !c.opt.yes:
			return misused("delete", "a deleted file does not come back: say --yes")
		}
		a, err := c.client().Delete(ctx, api.DeleteRequest{Account: c.opt.account, File: c.flags.Arg(0)})
		if err != nil {
			return err
		}
		return c.printReceipt(a)
	},
}

var receiptCommand = command{
	name: "receipt", args: "FILEID", short: "show what has become of a deleted file",
	long: `
Shows what has become of a file that was deleted for good: since when nobody can
open its bytes, and which nodes have none of them left on their disks. With
--signed it prints the receipt signed with the organisation's key, as a JWS (RFC
7515) that any such tool can verify.`,
	flags: func(c *call) {
		dirFlag(c)
		c.flags.BoolVar(&c.opt.json, "json", false, "print JSON")
		c.flags.BoolVar(&c.opt.signed, "signed", false, "print the signed form alone")
	},
	run: func(ctx context.Context, c *call) error {
		if c.flags.NArg() != 1 {
			return misused("receipt", "the id of one deleted file is needed")
		}
		a, err := c.client().Receipt(ctx, api.ReceiptRequest{File: c.flags.Arg(0)})
		if err != nil {
			return err
		}
		if c.opt.signed {
			_, err := fmt.Fprintln(c.stdout, a.Signed)
			return err
		}
		return c.printReceipt(a)
	},
}

func (c *call) printReceipt(a api.ReceiptAnswer) error {
	if c.opt.json {
		return c.printJSON(a)
	}
	return printReceipt(c.stdout, a.Receipt)
}

func printReceipt(w io.Writer, r api.Receipt) error {
	fmt.Fprintf(w, "Deleted:  %s, %s by %s\nFile:     %s\n", r.Name, r.DeletedAt.Local().Format("2006-01-02 15:04:05 MST"), r.DeletedBy, r.File)
	if r.KeysGone {
		fmt.Fprintf(w, "Keys:     gone, of %s: nobody can open the bytes\n", plural(r.Versions, "version"))
	} else {
		fmt.Fprintf(w, "Keys:     going; %s done so far, %s left\n", plural(r.Versions, "version"), plural(r.Grants, "grant"))
	}
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintf(t, "\nNODE\tSITE\tBYTES\n")
	for _, n := range r.Nodes {
		state := n.State
		switch {
		case n.Dropped != nil:
			state = "gone since " + n.Dropped.Local().Format("2006-01-02 15:04:05 MST")
		case n.State == "waiting":
			state = "encrypted, until its next collections"
		case n.State == "unreachable":
			state = "encrypted, until it is back and collects"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\n", n.Name, n.Site, state)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, b := range r.Backups {
		until := "without an end"
		if b.Until != nil {
			until = "until " + b.Until.Local().Format("2006-01-02")
		}
		fmt.Fprintf(w, "Backup:  of %s by %s, folder %s, state %d: may hold it, %s\n", b.At.Local().Format("2006-01-02 15:04:05 MST"), b.Node, b.Backup, b.State, until)
	}
	return nil
}
