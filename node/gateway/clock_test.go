package gateway

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// A pipeListener hands its server the other ends of pipes: a network in which
// time may be simulated.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error { close(l.closed); return nil }

func (*pipeListener) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }

// connect starts a server and returns a connection to it, in simulated time.
func connect(t *testing.T, lib Library, connContext func(context.Context, net.Conn) context.Context) net.Conn {
	t.Helper()
	l := &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
	s := &http.Server{Handler: newGateway(t, lib), ConnContext: connContext}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	client, server := net.Pipe()
	t.Cleanup(func() {
		client.Close()
		s.Close()
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	l.conns <- server
	return client
}

// download starts a transfer that does not end by itself and returns its body behind the header.
func download(t *testing.T, lib *memory, connContext func(context.Context, net.Conn) context.Context) io.Reader {
	t.Helper()
	lib.grants["TOK-big"] = endless(huge, 0, nil)
	client := connect(t, lib, connContext)
	if _, err := io.WriteString(client, "GET /a/bafysent/TOK-big/big.bin HTTP/1.1\r\nHost: files.example.org\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(client), nil)
	if err != nil || resp.StatusCode != 200 {
		t.Fatal(resp, err)
	}
	return resp.Body
}

// A slow client keeps its transfer for as long as it takes some bytes each minute, and loses it then.
func TestStallIsWithoutProgress(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		lib := newMemory()
		body := download(t, lib, ConnContext)
		for range 20 {
			time.Sleep(50 * time.Second)
			if _, err := io.CopyN(io.Discard, body, 2*copyBuffer); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(61 * time.Second)
		synctest.Wait()
		if lib.closed.Load() != 1 {
			t.Error("a client that takes nothing is still waited for")
		}
		if _, err := io.Copy(io.Discard, body); err == nil {
			t.Error("the transfer ended as if it were whole")
		}
	})
}

// Half a second after the decision changed here, nothing goes out any more:
// to a client that reads, and to one that does not.
func TestG5_WithinASecond(t *testing.T) {
	t.Parallel()
	for name, connContext := range map[string]func(context.Context, net.Conn) context.Context{"with ConnContext": ConnContext, "without": nil} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				lib := newMemory()
				body := download(t, lib, connContext)
				if _, err := io.CopyN(io.Discard, body, 10*copyBuffer); err != nil {
					t.Fatal(err)
				}
				time.Sleep(10 * time.Second)
				lib.revoke("TOK-big")
				time.Sleep(501 * time.Millisecond)
				synctest.Wait()
				if lib.closed.Load() != 1 {
					t.Error("the transfer goes on")
				}
				if n, err := io.Copy(io.Discard, body); err == nil || n > 4<<10 {
					t.Errorf("%d bytes more, %v", n, err)
				}
			})
		})
	}
}

// No deadline of one answer is left for the next on its connection.
func TestConnectionIsLeftAsItCame(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := connect(t, newMemory(), ConnContext)
		r := bufio.NewReader(c)
		for range 3 {
			if _, err := io.WriteString(c, "GET "+good+" HTTP/1.1\r\nHost: files.example.org\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
			resp, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatal(err)
			}
			if n, err := io.Copy(io.Discard, resp.Body); err != nil || n != int64(len(report)) {
				t.Fatal(n, err)
			}
			time.Sleep(time.Hour)
		}
	})
}

// Whoever asks for a page and does not take it is not waited for either.
func TestPageIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := connect(t, newMemory(), ConnContext)
		if _, err := io.WriteString(c, "GET "+good+" HTTP/1.1\r\nHost: files.example.org\r\nAccept: text/html\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(61 * time.Second)
		synctest.Wait()
		if b, err := io.ReadAll(c); len(b) > 0 {
			t.Errorf("%d bytes waited for a minute, %v", len(b), err)
		}
	})
}

// Promise 6: a body that is announced and does not come is not waited for, and no download ends because of it.
func TestBodyIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		request string
		status  int
	}{
		"POST with a length":  {"POST " + good + " HTTP/1.1\r\nHost: files.example.org\r\nContent-Length: 1000\r\n\r\nabc", 405},
		"POST in chunks":      {"POST " + good + " HTTP/1.1\r\nHost: files.example.org\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", 405},
		"POST that asks":      {"POST " + good + " HTTP/1.1\r\nHost: files.example.org\r\nExpect: 100-continue\r\nContent-Length: 1000\r\n\r\n", 405},
		"GET with a length":   {"GET /a/bafysent/TOK-no/x HTTP/1.1\r\nHost: files.example.org\r\nContent-Length: 1000\r\n\r\nabc", 403},
		"GET of a large file": {"GET /a/bafysent/TOK-big/big.bin HTTP/1.1\r\nHost: files.example.org\r\nContent-Length: 3\r\n\r\nabc", 200},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				lib := newMemory()
				const size = 100 * copyBuffer
				lib.grants["TOK-big"] = endless(size, 0, nil)
				c := connect(t, lib, ConnContext)
				began := time.Now()
				if _, err := io.WriteString(c, tt.request); err != nil {
					t.Fatal(err)
				}
				resp, err := http.ReadResponse(bufio.NewReader(c), nil)
				if err != nil || resp.StatusCode != tt.status || time.Since(began) > 0 {
					t.Fatalf("after %s: got %v, %v", time.Since(began), resp, err)
				}
				n := int64(0)
				for err == nil && n < size {
					var m int64
					m, err = io.CopyN(io.Discard, resp.Body, 2*copyBuffer)
					n += m
					time.Sleep(50 * time.Second)
				}
				if tt.status == 200 && n != size {
					t.Errorf("the download ended after %d bytes: %v", n, err)
				}
				if n, err := io.Copy(io.Discard, c); n > 0 || err != nil {
					t.Errorf("want the end of the connection, got %d bytes, %v", n, err)
				}
				if waited := time.Since(began); tt.status != 200 && waited > 2*time.Minute {
					t.Errorf("the connection ended after %s", waited)
				}
			})
		})
	}
}
