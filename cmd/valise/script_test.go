package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/valise-mail/valise/node/api"
	"github.com/valise-mail/valise/testnet"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"valise": main})
}

// TestScripts runs the command line as people do, against real daemons.
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			for _, name := range []string{"BASE1", "BASE2", "BASE3"} {
				base, err := freeBase()
				if err != nil {
					return err
				}
				e.Setenv(name, strconv.Itoa(base))
				e.Setenv(name+"FILES", strconv.Itoa(base+1))
			}
			c, err := testnet.NewCatcher()
			if err != nil {
				return err
			}
			e.Defer(func() { c.Close() })
			e.Setenv("NEXTHOP", c.Addr())
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"waitup":  waitUp,
			"capture": capture,

			"waitdrained": waitDrained,
		},
	})
}

// bases counts the port ranges given out, so that no two scripts get the same one.
var bases atomic.Int32

// freeBase finds six free ports in a row, below those that the system gives to
// clients: the daemon listens a while later. (The tests of killed daemons look
// in a part of their own.)
func freeBase() (int, error) {
	const low, high, step = 20_000, 30_000, 10
	begin := os.Getpid() * 7919
	for range (high - low) / step {
		base := low + (begin+int(bases.Add(1))*step)%(high-low)/step*step
		free := true
		for i := range 6 {
			l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", base+i))
			if err != nil {
				free = false
				break
			}
			l.Close()
		}
		if free {
			return base, nil
		}
	}
	return 0, fmt.Errorf("no six free ports in a row")
}

// waitUp DIR NODES waits until the daemon in DIR answers and sees that many
// members, all of them able to hold copies.
func waitUp(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[1])
	ts.Check(err)
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	client := api.Dial(ts.MkAbs(args[0]))
	for {
		s, err := client.Status(ctx)
		if err == nil && len(s.Members) == want && s.Copies.Nodes == want && s.Ledger.Quorum && s.Ledger.Age >= 0 {
			return
		}
		if ctx.Err() != nil {
			ts.Fatalf("%s is not up with %d nodes: %+v, %v", args[0], want, s, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// waitdrained DIR NODE waits until nothing counts on the node, as the daemon in DIR sees it.
func waitDrained(ts *testscript.TestScript, _ bool, args []string) {
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	client := api.Dial(ts.MkAbs(args[0]))
	for {
		s, err := client.Status(ctx)
		for _, m := range s.Members {
			if m.Name == args[1] && m.Drained && m.Left == 0 {
				return
			}
		}
		if ctx.Err() != nil {
			ts.Fatalf("%s is not drained: %+v, %v", args[1], s, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// capture NAME PREFIX sets $NAME to what follows PREFIX in the last standard output.
func capture(ts *testscript.TestScript, _ bool, args []string) {
	for line := range strings.Lines(ts.ReadFile("stdout")) {
		if rest, ok := strings.CutPrefix(line, args[1]); ok {
			ts.Setenv(args[0], strings.TrimSpace(rest))
			return
		}
	}
	ts.Fatalf("no line begins with %q", args[1])
}

// Every command has a manual that is printed by -h.
func TestEveryCommandHasAManual(t *testing.T) {
	t.Parallel()
	for _, cmd := range commands() {
		t.Run(cmd.name, func(t *testing.T) {
			t.Parallel()
			var out, errs strings.Builder
			if code := run(t.Context(), append(strings.Fields(cmd.name), "-h"), strings.NewReader(""), &out, &errs); code != 0 {
				t.Fatalf("exit status %d: %s", code, errs.String())
			}
			if !strings.HasPrefix(out.String(), "Usage: valise "+cmd.name) || len(cmd.short) == 0 || len(strings.TrimSpace(cmd.long)) < 20 {
				t.Errorf("manual of %q:\n%s", cmd.name, out.String())
			}
		})
	}
}
