package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/valise-mail/valise/testnet"
)

var demoCommand = command{
	name: "demo", short: "show the whole way of a message, on three nodes at two sites",
	long: `
Builds a village of three nodes at two sites in a temporary folder, sends a
message with attachments through the mail gateway of the first, shows what the
recipient's server gets, and fetches the files through a node that holds no
copy. Then it stays up until Ctrl-C, so that a mail program and a browser can
be pointed at it.`,
	flags: func(c *call) {
		c.flags.BoolVar(&c.opt.demoOnce, "once", false, "do it once and exit: status 0, or 1 with the reason")
		c.flags.StringVar(&c.opt.message, "message", "", "send this message instead (a file as mail programs save it)")
		c.flags.StringVar(&c.opt.keep, "keep", "", "keep the message as sent and as delivered in this folder")
		c.flags.BoolVar(&c.opt.json, "json", false, "print one JSON object and nothing else; implies -once")
		c.flags.BoolVar(&c.opt.verbose, "v", false, "show what the nodes log")
	},
	run: runDemo,
}

func runDemo(ctx context.Context, c *call) error {
	cfg := testnet.DemoConfig{Keep: c.opt.keep, Out: c.stdout}
	if c.opt.json {
		cfg.Out = io.Discard
	}
	if c.opt.verbose {
		cfg.Logger = c.logger(slog.LevelInfo)
	}
	if c.opt.message != "" {
		message, err := os.ReadFile(c.opt.message)
		if err != nil {
			return err
		}
		cfg.Message = message
	}
	dir, err := os.MkdirTemp("", "valise-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	d, err := testnet.OpenDemo(ctx, dir, cfg)
	if err != nil {
		return err
	}
	defer d.Close()
	result, err := d.Run(ctx)
	if c.opt.json {
		if jsonErr := c.printJSON(result); err == nil {
			err = jsonErr
		}
	}
	if err != nil || c.opt.json || c.opt.demoOnce {
		return err
	}
	fmt.Fprint(c.stdout, d.Addresses(os.Args[0]))
	d.Watch(ctx)
	fmt.Fprintln(c.stdout, "Stopping.")
	return nil
}
