// Command valise runs and steers a Valise node: attachments that stay home.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/valise-mail/valise/node"
	"github.com/valise-mail/valise/node/api"
)

// A command is one verb. Its usage is the manual: printed by -h, and nowhere written twice.
type command struct {
	name  string // one or two words
	args  string // what follows the flags
	short string
	long  string
	run   func(ctx context.Context, c *call) error
	flags func(c *call)
}

// A call is one invocation of a command.
type call struct {
	flags  *flag.FlagSet
	stdin  io.Reader
	in     *bufio.Reader // over stdin, once lines were read from it
	stdout io.Writer
	stderr io.Writer
	opt    options
}

func commands() []command {
	return []command{
		initCommand, serveCommand, joinCommand, statusCommand, inviteCommand, cancelCommand,
		removeCommand, recoverCommand, drainCommand, undrainCommand, leaveCommand, moveCommand, passphraseCommand,
		accountAddCommand, accountPasswordCommand, mailboxAddCommand, putCommand, filesCommand, revokeCommand, deleteCommand, receiptCommand,
		backupKeysCommand, backupVerifyCommand, backupListCommand, backupGoneCommand, backupCommand, restoreCommand, revocationsCommand, linksOpenCommand, restoreFileCommand,
		demoCommand, configExampleCommand, versionCommand,
	}
}

func main() {
	syscall.Umask(0o077) // a node's folder holds its key
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run returns the exit status: 0 done, 1 failed, 2 called wrongly.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		overview(stderr)
		return 2
	}
	if strings.Trim(args[0], "-") == "help" || args[0] == "-h" {
		overview(stdout)
		return 0
	}
	for _, cmd := range commands() {
		words := strings.Fields(cmd.name)
		if len(args) < len(words) || !equal(args[:len(words)], words) {
			continue
		}
		return cmd.exec(ctx, args[len(words):], stdin, stdout, stderr)
	}
	if group(stdout, args[0]) {
		return 0
	}
	fmt.Fprintf(stderr, "valise: error: no command %q\nvalise: hint: \"valise help\" lists them\n", strings.Join(args, " "))
	return 2
}

// group lists the commands that begin with a word, such as "cluster".
func group(w io.Writer, word string) (any bool) {
	for _, cmd := range commands() {
		if strings.HasPrefix(cmd.name, word+" ") {
			fmt.Fprintf(w, "  valise %-16s %s\n", cmd.name, cmd.short)
			any = true
		}
	}
	return any
}

func equal(a, b []string) bool {
	for i := range b {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

func (cmd command) exec(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	c := &call{flags: flag.NewFlagSet("valise "+cmd.name, flag.ContinueOnError), stdin: stdin, stdout: stdout, stderr: stderr}
	c.flags.SetOutput(io.Discard)
	if cmd.flags != nil {
		cmd.flags(c)
	}
	c.flags.Usage = func() {}
	switch err := parse(c.flags, args); {
	case errors.Is(err, flag.ErrHelp):
		cmd.usage(c, stdout)
		return 0
	case err != nil:
		fmt.Fprintf(stderr, "valise: error: %v\nvalise: hint: \"valise %s -h\" shows what it takes\n", err, cmd.name)
		return 2
	}
	var err error
	if cmd.args == "" && c.flags.NArg() > 0 {
		err = misused(cmd.name, "%q stands alone: flags begin with --, and this command takes nothing else", c.flags.Arg(0))
	} else {
		err = cmd.run(ctx, c)
	}
	if err == nil {
		return 0
	}
	fmt.Fprintf(stderr, "valise: error: %v\n", err)
	if h := hintOf(err); h != "" {
		fmt.Fprintf(stderr, "valise: hint: %s\n", h)
	}
	if errors.Is(err, errUsage) {
		return 2
	}
	return 1
}

// parse takes flags wherever they stand, up to "--": before what they are about or after it.
func parse(flags *flag.FlagSet, args []string) error {
	var others []string
	for {
		if err := flags.Parse(args); err != nil {
			return err
		}
		rest := flags.Args()
		if ended := len(args) - len(rest); len(rest) == 0 || ended > 0 && args[ended-1] == "--" {
			others = append(others, rest...)
			break
		}
		others, args = append(others, rest[0]), rest[1:]
	}
	return flags.Parse(append([]string{"--"}, others...))
}

var errUsage = errors.New("wrong usage")

// misused is an error of the caller's, with the way to the manual.
func misused(cmd, format string, args ...any) error {
	return &node.HintError{Err: fmt.Errorf("%w: "+format, append([]any{errUsage}, args...)...), Hint: fmt.Sprintf("\"valise %s -h\" shows what it takes", cmd)}
}

// hintOf finds what to try next, whichever side of the admin socket said it.
func hintOf(err error) string {
	if p, ok := errors.AsType[*api.Problem](err); ok {
		return p.Hint
	}
	if errors.Is(err, api.ErrNotRunning) {
		return `start it with "valise serve --dir DIR", or name the folder of one that runs with --dir`
	}
	if errors.Is(err, api.ErrSilent) {
		return "its process hangs, was stopped, or has no processor time: look at its log, and start it again if need be; what you asked for may have happened"
	}
	return node.Hint(err)
}

func overview(w io.Writer) {
	fmt.Fprint(w, "Valise keeps e-mail attachments at home and lets the mail carry a link.\n\nUsage: valise COMMAND [FLAGS] [ARGUMENTS]\n\n")
	for _, cmd := range commands() {
		fmt.Fprintf(w, "  %-16s %s\n", cmd.name, cmd.short)
	}
	fmt.Fprint(w, "\n\"valise COMMAND -h\" is the manual of a command.\n")
}

func (cmd command) usage(c *call, w io.Writer) {
	fmt.Fprintf(w, "Usage: valise %s [FLAGS]%s\n\n%s\n", cmd.name, prefixed(" ", cmd.args), strings.TrimSpace(cmd.long))
	any := false
	c.flags.VisitAll(func(*flag.Flag) { any = true })
	if any {
		fmt.Fprint(w, "\nFlags:\n")
		c.flags.VisitAll(func(f *flag.Flag) {
			kind, text := flag.UnquoteUsage(f)
			fmt.Fprintf(w, "  --%s%s\n        %s\n", f.Name, prefixed(" ", kind), text)
		})
	}
}

func prefixed(prefix, s string) string {
	if s == "" {
		return ""
	}
	return prefix + s
}

var versionCommand = command{
	name: "version", short: "print the program's version",
	long: "Prints the program's version.",
	run: func(_ context.Context, c *call) error {
		_, err := fmt.Fprintln(c.stdout, "valise", node.Version)
		return err
	},
}
