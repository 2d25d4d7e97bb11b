package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/valise-mail/valise/node"
	"github.com/valise-mail/valise/node/api"
)

var removeCommand = command{
	name: "cluster remove", args: "NODE", short: "take a node out of the cluster",
	long: `
Removes a member, named by its name or id, for good. It says first what that
means. The ledger lets go of the node, new epochs of the organisation's keys
begin, which it does not learn, and the others close their doors to it; if it
runs, it is told and stops. Links already sent go on working. Its key never
comes back: the machine may join again with a new ticket and a new folder.

A node that alone holds something is refused: "valise node drain" has its
copies made elsewhere first. --force removes a dead one all the same, and gives
up what only it held. Nothing is removed where the voters that stay would be no
majority.

What the node knew of other servers, it still knows: the passwords of the
mailboxes listed should be changed there, and set with "valise mailbox add".`,
	flags: func(c *call) {
		dirFlag(c)
		c.flags.BoolVar(&c.opt.force, "force", false, "remove a dead node, and give up what only it holds")
		c.flags.BoolVar(&c.opt.dryRun, "dry-run", false, "only say what it would do")
		c.flags.BoolVar(&c.opt.json, "json", false, "print JSON")
	},
	run: func(ctx context.Context, c *call) error {
		if c.flags.NArg() != 1 {
			return misused("cluster remove", "one node is needed, by name or id")
		}
		r := api.RemoveRequest{Node: c.flags.Arg(0), Force: c.opt.force, Plan: true}
		plan, err := c.client().Remove(ctx, r)
		if err != nil {
			return err
		}
		if !c.opt.json {
			printPlan(c.stdout, plan)
		}
		if plan.Refused != "" {
			return &node.HintError{Err: errors.New(plan.Refused), Hint: plan.Hint}
		}
		if !c.opt.dryRun {
			r.Plan = false
			if plan, err = c.client().Remove(ctx, r); err != nil {
				return err
			}
		}
		if c.opt.json {
			return c.printJSON(plan)
		}
		if plan.Done {
			fmt.Fprintf(c.stdout, "\n%s is no member any more. New keys are in force; links already sent go on working.\n", plan.Name)
			printPasswords(c.stdout, plan)
		}
		return nil
	},
}

// printPlan says in words what a removal means.
func printPlan(w io.Writer, r api.Removal) {
	fmt.Fprintf(w, "Removing %s, at site %s, %s:\n", r.Name, r.Site, map[bool]string{true: "in reach", false: "NOT in reach"}[r.Reached])
	fmt.Fprintf(w, "  ledger:  %s left, %d in reach; %s\n", plural(r.VotersAfter, "voter"), r.VotersReached, majority(r))
	switch {
	case r.Sole > 0:
		fmt.Fprintf(w, "  files:   it alone holds %s: gone with it, and links to them answer that the file is not available\n", plural(r.Sole, "content"))
	case r.Left > 0:
		fmt.Fprintf(w, "  files:   %s will have a copy less than wanted, until the others have made it\n", plural(r.Left, "content"))
	default:
		fmt.Fprintf(w, "  files:   nothing counts on it\n")
	}
	fmt.Fprintf(w, "  keys:    new epochs begin, which it does not learn; %s sealed for other servers\n", plural(len(r.Mailboxes), "password it knows is", "passwords it knows are"))
}

func majority(r api.Removal) string {
	if 2*r.VotersReached > r.VotersAfter {
		return "a majority"
	}
	return "NO majority"
}

// printPasswords lists whose upstream passwords should be changed (R5).
func printPasswords(w io.Writer, r api.Removal) {
	if len(r.Mailboxes) == 0 {
		return
	}
	fmt.Fprintf(w, "It could read the passwords of these mailboxes at their own servers. Change them there, then with \"valise mailbox add\":\n")
	for _, m := range r.Mailboxes {
		fmt.Fprintf(w, "  %s\n", m)
	}
}

var drainCommand = command{
	name: "node drain", args: "[NODE]", short: "have a node's copies made elsewhere",
	long: `
From now on the node gets no new copies, and what it holds is copied to others
until nothing counts on it; "valise status" shows how much still does. It goes
on serving meanwhile and afterwards. "valise node undrain" ends it. Without NODE
it is the node whose folder this is.`,
	flags: dirFlag,
	run:   func(ctx context.Context, c *call) error { return c.drain(ctx, "node drain", false) },
}

var undrainCommand = command{
	name: "node undrain", args: "[NODE]", short: "let a drained node hold copies again",
	long:  `Ends what "valise node drain" began: the node takes its share of the copies again.`,
	flags: dirFlag,
	run:   func(ctx context.Context, c *call) error { return c.drain(ctx, "node undrain", true) },
}

func (c *call) drain(ctx context.Context, name string, undo bool) error {
	if c.flags.NArg() > 1 {
		return misused(name, "one node at most")
	}
	a, err := c.client().Drain(ctx, api.DrainRequest{Node: c.flags.Arg(0), Undo: undo})
	switch {
	case err != nil:
		return err
	case undo:
		fmt.Fprintf(c.stdout, "%s takes its share of the copies again.\n", a.Name)
	case a.Left == 0:
		fmt.Fprintf(c.stdout, "%s is drained: nothing counts on it.\n", a.Name)
	default:
		fmt.Fprintf(c.stdout, "%s gets no new copies; %s still on it. \"valise status\" shows how many are left.\n", a.Name, plural(a.Left, "content counts", "contents count"))
	}
	return nil
}

var leaveCommand = command{
	name: "node leave", short: "take this node out of its cluster, in order",
	long: `
Drains the node whose folder this is, waits until nothing counts on it, removes
it from the cluster as "valise cluster remove" does, and ends its daemon. Its
folder may be deleted then. Interrupted, it can be run again; "valise node
undrain" takes it back as long as the node is a member.`,
	flags: dirFlag,
	run: func(ctx context.Context, c *call) error {
		plan, err := c.client().Remove(ctx, api.RemoveRequest{Plan: true})
		if err != nil {
			return err
		}
		if plan.Refused != "" && plan.Sole == 0 { // what only it holds, draining copies
			return &node.HintError{Err: errors.New(plan.Refused), Hint: plan.Hint}
		}
		if _, err := c.client().Drain(ctx, api.DrainRequest{}); err != nil {
			return err
		}
		if err := c.awaitDrained(ctx); err != nil {
			return err
		}
		if plan, err = c.client().Remove(ctx, api.RemoveRequest{}); err != nil {
			return err
		}
		fmt.Fprintf(c.stdout, "%s has left the cluster, and its daemon ends. Its folder may be deleted.\n", plan.Name)
		printPasswords(c.stdout, plan)
		return nil
	},
}

// awaitDrained waits until nothing counts on this node, and says how far it is.
func (c *call) awaitDrained(ctx context.Context) error {
	for last := -1; ; {
		s, err := c.client().Status(ctx)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(s.Members, func(m api.MemberStatus) bool { return m.Self })
		if i < 0 || !s.Members[i].Drained {
			return &node.HintError{Err: errors.New("this node is not drained any more"), Hint: `somebody ran "valise node undrain": run the command again if it is to leave all the same`}
		}
		left := s.Members[i].Left
		if left != last {
			fmt.Fprintf(c.stdout, "%s on this node.\n", plural(left, "content still counts", "contents still count"))
		}
		if last = left; left == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return &node.HintError{Err: ctx.Err(), Hint: `the node goes on being drained: run the command again, or "valise node undrain"`}
		case <-time.After(500 * time.Millisecond):
		}
	}
}

var moveCommand = command{
	name: "node move", args: "[NODE]", short: "say that a node stands at another site now",
	long: `
Changes the site in the node's record: copies and votes are spread anew by it.
The record leads, whatever the node's config says: mend site in its valise.toml
too, or status goes on saying that the two differ. The node itself counts its
own site for what it acknowledges only from its next start on. Without NODE it
is the node whose folder this is.`,
	flags: func(c *call) {
		dirFlag(c)
		c.flags.StringVar(&c.opt.site, "site", "", "the place it stands at now")
	},
	run: func(ctx context.Context, c *call) error {
		if c.flags.NArg() > 1 || c.opt.site == "" {
			return misused("node move", "--site and at most one node are needed")
		}
		a, err := c.client().Move(ctx, api.MoveRequest{Node: c.flags.Arg(0), Site: c.opt.site})
		if err != nil {
			return err
		}
		fmt.Fprintf(c.stdout, "%s stands at site %s now, no longer at %s.\nSet site = %q in its valise.toml and start it again, so that it counts itself there, too.\n", a.Name, a.Site, a.From, a.Site)
		return nil
	},
}

// stateOf is what a member is besides what it does for the ledger.
func stateOf(m api.MemberStatus) string {
	var words []string
	if m.Leaving {
		words = append(words, "leaving")
	}
	if m.Drained && m.Left == 0 {
		words = append(words, "drained")
	} else if m.Drained {
		words = append(words, "draining")
	}
	if m.Left > 0 {
		words = append(words, fmt.Sprintf("%d left", m.Left))
	}
	if len(words) == 0 {
		return "-"
	}
	return strings.Join(words, ", ")
}

func keyOf(m api.MemberStatus) string {
	if m.KeySealed {
		return "sealed"
	}
	return "unsealed"
}
