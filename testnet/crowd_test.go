package testnet

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// A crowd is connections that are held open by people who want nothing good.
type crowd struct {
	t    *testing.T
	mu   sync.Mutex // guards the field below
	held []net.Conn
}

func newCrowd(t *testing.T) *crowd {
	c := &crowd{t: t}
	t.Cleanup(c.leave)
	return c
}

func (c *crowd) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.held {
		conn.Close()
	}
	c.held = nil
}

// come opens n connections to addr, some at a time, and says what each does first. Nobody waits for answers.
func (c *crowd) come(addr string, n int, say func(i int) string) {
	var all sync.WaitGroup
	room := make(chan struct{}, 32)
	for i := range n {
		room <- struct{}{}
		all.Go(func() {
			defer func() { <-room }()
			conn, err := net.DialTimeout("tcp", addr, 10*time.Second)
			if err != nil {
				return // a full backlog is a bound, too
			}
			c.mu.Lock()
			c.held = append(c.held, conn)
			c.mu.Unlock()
			if text := say(i); text != "" {
				_ = conn.SetWriteDeadline(time.Now().Add(time.Second))
				_, _ = io.WriteString(conn, text)
			}
		})
	}
	all.Wait()
}

// footprint is what this process holds, after what is garbage is gone.
func footprint() (goroutines int, heap uint64) {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return runtime.NumGoroutine(), m.HeapAlloc + m.StackInuse
}

// Promise 6, overload: crowds of slow and idle strangers hold every door of a node, of its files face more than it
// takes at once: who comes then waits until the first of them are sent away. Meanwhile a message goes out and a link
// is served, through that very node and through another; when they are gone, nothing is left of them.
//
// It is not parallel: it counts what the whole process holds.
func TestOverload_TheRestIsServed(t *testing.T) {
	v, ctx := village(t, Config{Sites: []string{"berlin", "paris"}})
	p := person(t, ctx, v, "sender@example.org")
	content := randomBytes(400_000)
	link := sendFile(t, ctx, v, 0, p, "before.bin", content)
	listen := v.Houses[0].cfg.Listen
	goroutines, heap := footprint()

	c := newCrowd(t)
	slow, idle := fit(1000), fit(3500)              // together more than a web face takes at once
	c.come(listen.Files, slow, func(i int) string { // headers that never end
		return fmt.Sprintf("GET /a/x/%d/y HTTP/1.1\r\nHost: %s\r\nX-Slow: %s", i, listen.Files, strings.Repeat("s", i%4000))
	})
	c.come(listen.App, slow/2, func(int) string { return "POST / HTTP/1.1\r\nContent-Length: 1000000\r\n" })
	c.come(listen.Files, idle, func(int) string { return "" })
	c.come(listen.Metrics, idle/4, func(int) string { return "" })
	c.come(listen.Libp2p, idle/4, func(int) string { return "" })
	c.come(listen.Ledger, idle/4, func(int) string { return "\x13/multistream/1.0.0\n" })
	full, heapFull := footprint()
	held := len(c.held)
	t.Logf("%d connections: %d goroutines more, %d KiB more", held, full-goroutines, (int64(heapFull)-int64(heap))>>10)
	if perConn := (int64(heapFull) - int64(heap)) / int64(held); perConn > 64<<10 {
		t.Errorf("%d bytes a connection", perConn)
	}
	if full-goroutines > 4*held {
		t.Errorf("%d goroutines for %d connections", full-goroutines, held)
	}
	served(t, ctx, v, p, link, content)

	c.leave()

	// Mail: all sessions are taken by clients that say EHLO and then nothing. The next is told so at once.
	c.come(listen.SMTP, 1000, func(int) string { return "EHLO slow.example.net\r\n" })
	soon, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := v.Wait(soon, "421 at the full mail door", func() (bool, error) {
		line, err := greeting(listen.SMTP)
		return strings.HasPrefix(line, "421 "), errors.Join(err, errors.New(line))
	}); err != nil {
		t.Error(err)
	}
	if got := get(t, ctx, v, 0, link, nil); got.Status != http.StatusOK {
		t.Errorf("a link while the mail door is full: %d", got.Status)
	}
	v.Promise(sendThrough(t, ctx, v, 1, p, content), content)

	c.leave()
	served(t, ctx, v, p, link, content)
	if err := v.Wait(ctx, "what the crowd took to be given back", func() (bool, error) {
		n, h := footprint()
		if n > goroutines+100 || h > heap+64<<20 {
			return false, fmt.Errorf("%d goroutines, was %d; %d KiB, was %d", n, goroutines, h>>10, heap>>10)
		}
		return true, nil
	}); err != nil {
		t.Error(err)
	}
	verify(t, ctx, v)
}

// fit scales a number of connections down where this process may not open so many files.
func fit(n int) int {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil || limit.Cur >= 18_000 {
		return n
	}
	return max(10, int(uint64(n)*limit.Cur/18_000))
}

func greeting(addr string) (string, error) {
	conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	return bufio.NewReader(conn).ReadString('\n')
}

var sentNames atomic.Int64

func sendThrough(t *testing.T, ctx context.Context, v *Village, i int, p Person, content []byte) string {
	t.Helper()
	caught := len(v.Mail.Messages())
	start := time.Now()
	if err := v.Send(ctx, i, p, to, letter(fmt.Sprintf("%d.bin", sentNames.Add(1)), content)); err != nil {
		t.Fatalf("send through %s: %v", v.Houses[i].Name, err)
	}
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("a message took %s", took)
	}
	return onlyLink(t, ctx, v, caught)
}

// served checks that every node sends and serves.
func served(t *testing.T, ctx context.Context, v *Village, p Person, link string, content []byte) {
	t.Helper()
	for i, h := range v.Houses {
		v.Promise(sendThrough(t, ctx, v, i, p, content), content)
		resp, data, err := v.Fetch(ctx, i, link, nil)
		if err != nil || resp.StatusCode != http.StatusOK || !bytes.Equal(data, content) {
			t.Errorf("fetch through %s: %v, %v, %d bytes", h.Name, resp, err, len(data))
		}
	}
}

// Promise 6, a stranger's noise: garbage at every port, TLS where there is none, with other protocols' names
// and half of a handshake, headers without end. Nobody gets more than a refusal, no connection stays, and the
// node goes on.
func TestStranger_NoiseAtEveryPort(t *testing.T) {
	t.Parallel()
	v, ctx := village(t, Config{Sites: []string{"berlin", "paris"}})
	p := person(t, ctx, v, "sender@example.org")
	content := randomBytes(300_000)
	link := sendFile(t, ctx, v, 0, p, "before.bin", content)
	listen := v.Houses[0].cfg.Listen
	ports := map[string]string{"smtp": listen.SMTP, "files": listen.Files, "app": listen.App, "metrics": listen.Metrics, "libp2p": listen.Libp2p, "ledger": listen.Ledger}
	garbage := make([]byte, 200_000)
	_, _ = rand.Read(garbage)
	var refusals sync.Map
	var all sync.WaitGroup
	for name, addr := range ports {
		for _, noise := range [][]byte{
			garbage, bytes.Repeat([]byte{0}, 100_000), []byte("\r\n\r\n\r\n"), bytes.Repeat([]byte("A"), 1<<20),
			[]byte("GET / HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("h", 1<<20) + "\r\n\r\n"), // a huge header
			[]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + string(garbage[:100])),
			[]byte("\x16\x03\x01\x40\x00\x01" + string(garbage[:10000])), // a ClientHello that is none
			[]byte("\x13/multistream/1.0.0\n\x0b/noise/xyz\n" + string(garbage[:1000])),
			[]byte("BDAT 99999999999999999999 LAST\r\n" + string(garbage[:1000]) + "\r\n"),
		} {
			all.Go(func() {
				conn, err := net.DialTimeout("tcp", addr, 10*time.Second)
				if err != nil {
					t.Errorf("%s: %v", name, err)
					return
				}
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(45 * time.Second))
				_, _ = conn.Write(noise)
				if tcp, ok := conn.(*net.TCPConn); ok {
					_ = tcp.CloseWrite()
				}
				said, err := io.ReadAll(io.LimitReader(conn, 1<<20))
				if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
					t.Errorf("%s holds on to a stranger who has ended: %q", name, noise[:min(20, len(noise))])
				}
				if len(said) > 16<<10 || bytes.Contains(said, []byte("goroutine ")) {
					t.Errorf("%s says %d bytes to noise: %q", name, len(said), said[:min(200, len(said))])
				}
				if bytes.Contains(said, []byte(" 431 ")) {
					refusals.Store(name, true)
				}
			})
		}
		for _, alpn := range [][]string{nil, {"http/1.1"}, {"h2"}, {"libp2p"}, {"valise/other"}} {
			all.Go(func() { strangeTLS(t, name, addr, alpn) })
		}
	}
	all.Wait()
	for _, name := range []string{"files", "app", "metrics"} {
		if _, ok := refusals.Load(name); !ok {
			t.Errorf("the %s face took a header of a megabyte", name)
		}
	}
	served(t, ctx, v, p, link, content)
	verify(t, ctx, v)
}

// strangeTLS shakes hands with a port as a browser or another cluster's node would. If it goes through at all, which
// is only where peers speak, the stranger's certificate is refused right after.
func strangeTLS(t *testing.T, name, addr string, alpn []string) {
	d := net.Dialer{Timeout: 10 * time.Second}
	conn, err := tls.DialWithDialer(&d, "tcp", addr, &tls.Config{InsecureSkipVerify: true, NextProtos: alpn})
	if err != nil {
		return
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	_, _ = io.WriteString(conn, "\x13/multistream/1.0.0\n")
	said, err := io.ReadAll(io.LimitReader(conn, 1<<16))
	if err == nil || len(said) > 0 {
		t.Errorf("%s answers a stranger's TLS (%q): %d bytes, %v", name, alpn, len(said), err)
	}
}
