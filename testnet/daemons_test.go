package testnet

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/valise-mail/valise/node"
	"github.com/valise-mail/valise/node/api"
)

// startBound is how long a killed node may take until it serves again, on a
// machine that does much else meanwhile.
const startBound = 90 * time.Second

// A cluster is a village whose nodes are processes of the real program.
type cluster struct {
	*Village // for its clients and its catcher; no House runs in this process
	program  string
	logs     string
	daemons  []*daemon
}

// A daemon is one process of "valise serve".
type daemon struct {
	dir   string
	cmd   *exec.Cmd
	log   *os.File
	ended chan struct{}
	err   error // valid once ended
}

// foundCluster builds the program and a cluster of it by init, invite and join.
func foundCluster(t *testing.T, ctx context.Context, sites []string) *cluster {
	t.Helper()
	dir := t.TempDir()
	c := &cluster{Village: &Village{}, program: filepath.Join(dir, "valise"), logs: dir}
	c.run(t, ctx, "", "go", "build", "-o", c.program, "../cmd/valise")
	var err error
	if c.Mail, err = NewCatcher(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Mail.Close() })
	t.Cleanup(func() {
		for i := range c.daemons {
			c.kill(i)
		}
		if t.Failed() {
			c.showLogs(t)
		}
	})
	for i, site := range sites {
		d := &daemon{dir: filepath.Join(dir, "n"+strconv.Itoa(i+1))}
		base := strconv.Itoa(lowBase(t))
		name := fmt.Sprintf("%s-%d", site, i+1)
		if i == 0 {
			c.run(t, ctx, "", c.program, "init", "--org", "example.org", "--site", site, "--name", name, "--dir", d.dir, "--listen-base", base)
		} else {
			ticket := c.run(t, ctx, "", c.program, "cluster", "invite", "--dir", c.daemons[0].dir, "--site", site)
			c.run(t, ctx, ticket, c.program, "join", "--name", name, "--dir", d.dir, "--listen-base", base)
		}
		cfg, err := node.LoadConfig(filepath.Join(d.dir, node.ConfigName))
		if err != nil {
			t.Fatal(err)
		}
		c.daemons = append(c.daemons, d)
		c.Houses = append(c.Houses, &House{Name: name, cfg: cfg})
		c.start(t, i)
		c.up(t, ctx)
	}
	c.waitStatus(t, ctx, 0, "all nodes to vote", func(s api.Status) bool { return s.Ledger.Voters == len(sites) })
	return c
}

// run runs a command to its good end and returns what it printed.
func (c *cluster) run(t *testing.T, ctx context.Context, stdin, program string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(ctx, program, args...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %s: %v\n%s", filepath.Base(program), args[0], err, errs.Bytes())
	}
	return out.String()
}

// lowBase finds six free ports in a row, below those that the system gives to
// clients: a killed node must find its own free again.
func lowBase(t *testing.T) int {
	t.Helper()
	for range 500 {
		if base := 10_000 + rand.IntN(9_000); free(base, 6) {
			return base
		}
	}
	t.Fatal("no six free ports in a row")
	return 0
}

func free(base, n int) bool {
	for port := base; port < base+n; port++ {
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			return false
		}
		l.Close()
	}
	return true
}

// start runs the daemon of house i.
func (c *cluster) start(t *testing.T, i int) {
	t.Helper()
	d := c.daemons[i]
	var err error
	if d.log, err = os.OpenFile(c.logName(i), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
		t.Fatal(err)
	}
	d.cmd = exec.Command(c.program, "serve", "--dir", d.dir)
	d.cmd.Stdout, d.cmd.Stderr = d.log, d.log
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	d.ended, d.err = make(chan struct{}), nil
	go func() {
		d.err = d.cmd.Wait()
		close(d.ended)
	}()
}

func (c *cluster) logName(i int) string { return filepath.Join(c.logs, c.Houses[i].Name+".log") }

func (c *cluster) showLogs(t *testing.T) {
	for i, h := range c.Houses {
		data, _ := os.ReadFile(c.logName(i))
		t.Logf("%s wrote, at last:\n%s", h.Name, data[max(0, len(data)-64<<10):])
	}
}

// kill sends SIGKILL to all of them before it waits for any.
func (c *cluster) kill(houses ...int) {
	for _, i := range houses {
		if d := c.daemons[i]; d.cmd != nil {
			_ = d.cmd.Process.Kill() // it may have ended by itself
		}
	}
	for _, i := range houses {
		if d := c.daemons[i]; d.cmd != nil {
			<-d.ended
			d.log.Close()
			d.cmd = nil
		}
	}
}

// up waits until every daemon serves, knows all members and has had its copy
// of the ledger confirmed. One that ended instead fails the test.
func (c *cluster) up(t *testing.T, ctx context.Context) {
	t.Helper()
	began := time.Now()
	for i := range c.daemons {
		c.waitStatus(t, ctx, i, "to be up", func(s api.Status) bool {
			return len(s.Members) == len(c.daemons) && s.Copies.Nodes == len(c.daemons) && s.Ledger.Quorum && s.Ledger.Age >= 0
		})
	}
	t.Logf("%d nodes up after %s", len(c.daemons), time.Since(began).Round(time.Millisecond))
}

func (c *cluster) waitStatus(t *testing.T, ctx context.Context, i int, what string, enough func(api.Status) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(ctx, startBound, fmt.Errorf("not within %s", startBound))
	defer cancel()
	d := c.daemons[i]
	client := api.Dial(d.dir)
	if err := c.Wait(ctx, c.Houses[i].Name+" "+what, func() (bool, error) {
		select {
		case <-d.ended:
			cancel()
			return false, fmt.Errorf("the daemon ended: %w", errors.Join(d.err, errors.New("see its log")))
		default:
		}
		s, err := client.Status(ctx)
		if err != nil {
			return false, err
		}
		if !enough(s) {
			return false, fmt.Errorf("status %+v", s)
		}
		return true, nil
	}); err != nil {
		t.Fatal(err)
	}
}

// person adds an account and its mailbox as an operator does.
func (c *cluster) person(t *testing.T, ctx context.Context, address string) Person {
	t.Helper()
	var a api.AccountAdded
	out := c.run(t, ctx, "", c.program, "account", "add", "--json", "--dir", c.daemons[0].dir, address)
	if err := json.Unmarshal([]byte(out), &a); err != nil {
		t.Fatal(err)
	}
	c.run(t, ctx, "", c.program, "mailbox", "add", "--dir", c.daemons[0].dir, "--next-hop", c.Mail.Addr(), "--tls", "none", address)
	return Person{Account: a.Account, Address: address, Password: a.AppPassword}
}

// send sends a file that must be acknowledged, and promises it.
func (c *cluster) send(t *testing.T, ctx context.Context, i int, p Person, name string, size int) string {
	t.Helper()
	return sendFile(t, ctx, c.Village, i, p, name, randomBytes(size))
}

// end checks every promise through every node, that the missing copies were
// made, and that each daemon stops in order.
func (c *cluster) end(t *testing.T, ctx context.Context) {
	t.Helper()
	if err := c.verifyFiles(ctx); err != nil {
		t.Error(err)
	}
	for i := range c.daemons {
		c.waitStatus(t, ctx, i, "to see all copies made", func(s api.Status) bool { return s.Copies.Missing == 0 })
	}
	for i, d := range c.daemons {
		if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		select {
		case <-d.ended:
			if d.err != nil {
				t.Errorf("%s did not stop in order: %v", c.Houses[i].Name, d.err)
			}
		case <-time.After(startBound):
			t.Errorf("%s does not stop; where it hangs:", c.Houses[i].Name)
			_ = d.cmd.Process.Signal(syscall.SIGQUIT) // writes its goroutines into the log
			<-d.ended
		}
	}
}
