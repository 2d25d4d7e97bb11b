package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"

	"github.com/valise-mail/valise/node"
)

var recoverCommand = command{
	name: "cluster recover", short: "go on with this node alone after the majority was lost for good",
	long: `
For a cluster that has lost most of its voters for good: no majority will ever
be in reach again, and nothing can be changed. Stop the node that was up to date
last, run this on its folder, and start it: its copy of the ledger becomes the
cluster's, with one voter. It says how far that copy goes; whatever a majority
had acknowledged after that is gone.

Run it on one node only. Nodes of before that come back are refused and stop;
remove them ("valise cluster remove --force"), delete their folders and join them
anew. As long as a majority can be started again, do that instead.`,
	flags: func(c *call) {
		dirFlag(c)
		c.flags.BoolVar(&c.opt.yes, "yes", false, "the other voters are lost for good, and I know what that means")
	},
	run: func(_ context.Context, c *call) error {
		if !c.opt.yes {
			return misused("cluster recover", "what the others had and this node has not is given up: say --yes")
		}
		cfg, err := node.LoadConfig(filepath.Join(c.opt.dir, node.ConfigName))
		if err != nil {
			return err
		}
		r, err := node.Recover(cfg)
		if err != nil {
			return err
		}
		printRecovered(c.stdout, c.opt.dir, r)
		return nil
	},
}

func printRecovered(w io.Writer, dir string, r node.Recovered) {
	fmt.Fprintf(w, "This node's copy is the ledger now, with one voter (recovery %d of this cluster).\n", r.Number)
	fmt.Fprintf(w, "It goes up to entry %d", r.Last)
	if !r.LastTime.IsZero() {
		fmt.Fprintf(w, ", made %s", r.LastTime.Local().Format("2006-01-02 15:04:05 MST"))
	}
	fmt.Fprintf(w, "; up to %d it was known that a majority had it.\n", r.Applied)
	fmt.Fprintf(w, "Whatever was acknowledged after that, if anything, may be missing: files, links, and revocations too.\n\nBefore, these were its servers; each must join anew:\n")
	for _, s := range r.Servers {
		role := "non-voter"
		if s.Voter {
			role = "voter"
		}
		fmt.Fprintf(w, "  %s  %s\n", s.ID, role)
	}
	fmt.Fprintf(w, "\nStart it:    valise serve --dir %s\nThen, each:  valise cluster remove --dir %s --force NODE\n", dir, dir)
}
