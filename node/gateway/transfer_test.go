package gateway

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"mime"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/valise-mail/valise/authz"
)

const huge = 1 << 40 // more than any buffer on the way

// serve runs g behind a real listener.
func serve(t *testing.T, lib Library, change ...func(*Config)) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(nil)
	s.Config.Handler = newGateway(t, lib, append(change, func(c *Config) { c.Hosts = append(c.Hosts, s.Listener.Addr().String()) })...)
	s.Config.ConnContext = ConnContext
	s.Start()
	t.Cleanup(s.Close)
	return s
}

func get(t *testing.T, c *http.Client, url string, headers ...string) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	resp, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

// A client that reads on gets an error, not an end, once the grant is revoked.
func TestG5_RevokedDownloadEnds(t *testing.T) {
	t.Parallel()
	for name, two := range map[string]bool{"HTTP/1.1": false, "HTTP/2": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lib := newMemory()
			lib.grants["TOK-big"] = endless(huge, 0, nil)
			s := httptest.NewUnstartedServer(nil)
			s.Config.Handler = newGateway(t, lib, func(c *Config) {
				c.Still = 5 * time.Millisecond
				c.Hosts = append(c.Hosts, s.Listener.Addr().String())
			})
			s.EnableHTTP2 = two
			if two {
				s.StartTLS()
			} else {
				s.Start()
			}
			defer s.Close()

			resp := get(t, s.Client(), s.URL+"/a/bafysent/TOK-big/big.bin")
			if resp.StatusCode != 200 || (resp.ProtoMajor == 2) != two {
				t.Fatalf("got %s %s", resp.Proto, resp.Status)
			}
			if _, err := io.CopyN(io.Discard, resp.Body, 1<<20); err != nil {
				t.Fatal(err)
			}
			lib.revoke("TOK-big")
			n, err := io.Copy(io.Discard, resp.Body)
			if err == nil {
				t.Errorf("the body ended after %d bytes as if it were whole", n)
			}
			waitFor(t, "content closed", func() bool { return lib.closed.Load() == 1 })
		})
	}
}

// A client that does not read gets nothing more either: what the kernel holds is dropped.
func TestG5_RevokedWhileTheClientWaits(t *testing.T) {
	t.Parallel()
	for _, scheme := range []string{"http", "https"} {
		t.Run(scheme, func(t *testing.T) {
			t.Parallel()
			lib := newMemory()
			lib.grants["TOK-big"] = endless(huge, 0, nil)
			s := httptest.NewUnstartedServer(newGateway(t, lib, func(c *Config) { c.Still = 5 * time.Millisecond }))
			s.Config.ConnContext = ConnContext
			if scheme == "https" {
				s.StartTLS()
			} else {
				s.Start()
			}
			defer s.Close()
			c := dial(t, s)
			tcp := c
			if scheme == "https" {
				c = tls.Client(c, &tls.Config{InsecureSkipVerify: true})
			}
			if _, err := io.WriteString(c, "GET /a/bafysent/TOK-big/big.bin HTTP/1.1\r\nHost: files.example.org\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(c, make([]byte, 1000)); err != nil {
				t.Fatal(err)
			}
			lib.revoke("TOK-big")
			waitFor(t, "content closed", func() bool { return lib.closed.Load() == 1 })
			if _, err := io.Copy(io.Discard, tcp); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the connection ended with %v, want a reset", err)
			}
		})
	}
}

func dial(t *testing.T, s *httptest.Server) net.Conn {
	t.Helper()
	c, err := new(net.Dialer).DialContext(t.Context(), "tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func rawGet(t *testing.T, s *httptest.Server, path, headers string) net.Conn {
	t.Helper()
	c := dial(t, s)
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: files.example.org\r\n%s\r\n", path, headers); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestClientThatLeavesIsLetGo(t *testing.T) {
	t.Parallel()
	lib := newMemory()
	lib.grants["TOK-big"] = endless(huge, 0, nil)
	s := serve(t, lib)
	for _, headers := range []string{"", "Range: bytes=0-500000,600000-99999999\r\n"} {
		closed := lib.closed.Load()
		c := rawGet(t, s, "/a/bafysent/TOK-big/big.bin", headers)
		if _, err := io.ReadFull(c, make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
		c.Close()
		waitFor(t, "content closed", func() bool { return lib.closed.Load() == closed+1 })
	}
}

// What goes wrong before the first byte is an answer; after it, a broken transfer.
func TestContentFails(t *testing.T) {
	t.Parallel()
	gone := fmt.Errorf("block 7: %w", ErrUnavailable)
	tests := []struct {
		name, headers string
		failAt        int64
		status        int
		noOpen        bool
	}{
		{name: "no holder", noOpen: true, status: 503},
		{name: "no holder of this range", headers: "bytes=700-800", noOpen: true, status: 503},
		{name: "first block", headers: "bytes=5000-6000", failAt: 1, status: 503},
		{name: "in mid-stream", failAt: 3 << 20, status: 200},
		{name: "in mid-range", headers: "bytes=100-", failAt: 3 << 20, status: 206},
		{name: "in the second range", headers: "bytes=0-2999999,4000000-4000010", failAt: 3 << 20, status: 206},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			lib := newMemory()
			lib.grants["TOK-big"] = endless(8<<20, tt.failAt, gone)
			if tt.noOpen {
				lib.grants["TOK-big"].files[0].versions[0].open = func(context.Context) (io.ReadSeekCloser, error) { return nil, gone }
			}
			s := serve(t, lib)
			var headers []string
			if tt.headers != "" {
				headers = []string{"Range", tt.headers}
			}
			resp := get(t, s.Client(), s.URL+"/a/bafysent/TOK-big/big.bin", headers...)
			if resp.StatusCode != tt.status {
				t.Fatalf("got %s, want %d", resp.Status, tt.status)
			}
			body, err := io.ReadAll(resp.Body)
			if tt.status < 300 && err == nil {
				t.Errorf("%d bytes ended as if they were whole", len(body))
			}
			if tt.status == 503 {
				wantProblem(t, 503, "GET", body)
				for _, k := range []string{"ETag", "Content-Disposition", "Accept-Ranges", "Content-Range", "Last-Modified"} {
					if v := resp.Header.Get(k); v != "" {
						t.Errorf("%s: %s is left in the refusal", k, v)
					}
				}
				if resp.Header.Get("Retry-After") == "" || resp.Header.Get("Cache-Control") != "no-store" {
					t.Errorf("headers of the refusal: %v", resp.Header)
				}
			}
			waitFor(t, "content closed", func() bool { return lib.closed.Load() == lib.opened.Load() })
		})
	}
}

// short is a grant of a file that ends before its size.
func short(name string) *memoryGrant {
	g := one(name, nil)
	g.files[0].versions[0].size = 1 << 20
	g.files[0].versions[0].open = func(context.Context) (io.ReadSeekCloser, error) {
		return nopCloser{bytes.NewReader(report)}, nil
	}
	return g
}

// A file shorter than its record must not pass for whole.
func TestContentShorterThanPromised(t *testing.T) {
	t.Parallel()
	lib := newMemory()
	lib.grants["TOK-short"] = short("short.bin")
	s := serve(t, lib)
	resp := get(t, s.Client(), s.URL+"/a/bafysent/TOK-short/short.bin")
	if b, err := io.ReadAll(resp.Body); err == nil {
		t.Errorf("%d bytes ended as if they were whole", len(b))
	}
}

// Random ranges, one and several, over real TCP, are the bytes of the file.
func TestG5_Ranges(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	data := make([]byte, 300_001)
	for i := range data {
		data[i] = byte(random.Uint32())
	}
	lib := newMemory()
	lib.grants["TOK-random"] = one("random.bin", data)
	s := serve(t, lib)
	for range 200 {
		from := random.IntN(len(data))
		to := from + random.IntN(len(data)-from)
		resp := get(t, s.Client(), s.URL+"/a/bafysent/TOK-random/random.bin", "Range", fmt.Sprintf("bytes=%d-%d", from, to))
		got, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != 206 || !bytes.Equal(got, data[from:to+1]) {
			t.Fatalf("bytes %d-%d: %s, %d bytes, %v", from, to, resp.Status, len(got), err)
		}
	}
	for range 50 {
		var want [][]byte
		var ranges []string
		for range 2 + random.IntN(maxRanges-1) {
			from := random.IntN(len(data))
			to := min(from+random.IntN(len(data)/maxRanges), len(data)-1)
			want = append(want, data[from:to+1])
			ranges = append(ranges, fmt.Sprintf("%d-%d", from, to))
		}
		resp := get(t, s.Client(), s.URL+"/a/bafysent/TOK-random/random.bin", "Range", "bytes="+strings.Join(ranges, ", "))
		wantParts(t, resp, want)
	}
	waitFor(t, "contents closed", func() bool { return lib.closed.Load() == lib.opened.Load() })
}

func wantParts(t *testing.T, resp *http.Response, want [][]byte) {
	t.Helper()
	_, params, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil || resp.StatusCode != 206 {
		t.Fatalf("got %s, %v", resp.Status, err)
	}
	parts := multipart.NewReader(resp.Body, params["boundary"])
	for i, w := range want {
		p, err := parts.NextPart()
		if err != nil {
			t.Fatalf("part %d: %v", i, err)
		}
		if got, err := io.ReadAll(p); err != nil || !bytes.Equal(got, w) {
			t.Fatalf("part %d: %d bytes, want %d, %v", i, len(got), len(w), err)
		}
	}
	if _, err := parts.NextPart(); !errors.Is(err, io.EOF) {
		t.Fatalf("more parts than asked for: %v", err)
	}
}

// A download broken off and resumed many times is the file.
func TestG5_Resume(t *testing.T) {
	t.Parallel()
	lib := newMemory()
	s := serve(t, lib)
	var got []byte
	etag := ""
	for len(got) < len(report) {
		headers := []string{"Range", fmt.Sprintf("bytes=%d-", len(got)), "If-Range", etag}
		if etag == "" {
			headers = nil
		}
		resp := get(t, s.Client(), s.URL+good, headers...)
		etag = resp.Header.Get("ETag")
		part, err := io.ReadAll(io.LimitReader(resp.Body, 9999))
		resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, part...)
	}
	if !bytes.Equal(got, report) {
		t.Error("the parts are not the file")
	}
	lib.change("TOK-good", memoryVersion{root: "bafynew", data: []byte("newer"), created: changedAt})
	resp := get(t, s.Client(), s.URL+good, "Range", "bytes=3-", "If-Range", etag)
	if b, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != 200 || string(b) != "newer" {
		t.Errorf("resumed into another version: %s %q, %v", resp.Status, b, err)
	}
}

// Still is asked with the request that was decided, and any error of it counts.
func TestG5_StillFailsClosed(t *testing.T) {
	t.Parallel()
	for _, reason := range []error{authz.ErrAccessDenied, authz.ErrUnknownGrant, ErrStale, io.ErrUnexpectedEOF} {
		t.Run(reason.Error(), func(t *testing.T) {
			t.Parallel()
			lib := newMemory()
			lib.grants["TOK-big"] = endless(huge, 0, nil)
			s := serve(t, lib, func(c *Config) { c.Still = 5 * time.Millisecond })
			resp := get(t, s.Client(), s.URL+"/a/bafysent/TOK-big/big.bin")
			lib.mu.Lock()
			lib.grants["TOK-big"].err = reason
			lib.mu.Unlock()
			if _, err := io.Copy(io.Discard, resp.Body); err == nil {
				t.Error("the download went on to its end")
			}
		})
	}
}

// patient is a Library whose Still takes as long as the transfer does, and then says that it was ended.
type patient struct{ *memory }

func (patient) Still(ctx context.Context, _ Request) error {
	<-ctx.Done()
	return ctx.Err()
}

// A download that went out whole is left alone, though it was being decided anew when it ended.
func TestG5_WholeDownloadIsNotCut(t *testing.T) {
	t.Parallel()
	s := serve(t, patient{newMemory()}, func(c *Config) { c.Still = time.Nanosecond })
	var conns sync.Map
	for range 200 {
		r, err := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
			GotConn: func(i httptrace.GotConnInfo) { conns.Store(i.Conn.LocalAddr().String(), true) },
		}), "GET", s.URL+good, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := s.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || !bytes.Equal(got, report) {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
	}
	n := 0
	conns.Range(func(any, any) bool { n++; return true })
	if n > 1 {
		t.Errorf("%d connections for one client's downloads: whole ones were cut", n)
	}
}

// A body reads from where it was sought to, whatever was read ahead.
func TestBody(t *testing.T) {
	t.Parallel()
	b := &body{ctx: t.Context(), size: int64(len(report)), open: func(context.Context) (io.ReadSeekCloser, error) {
		return nopCloser{bytes.NewReader(report)}, nil
	}}
	for _, at := range []int64{0, 5000, 17, 17, int64(len(report)) - 3, 0} {
		if _, err := b.Seek(at, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		if at == 5000 || at == 17 {
			if err := b.prepare(); err != nil {
				t.Fatal(err)
			}
		}
		got, err := io.ReadAll(io.LimitReader(b, 9999))
		if want := report[at:min(at+9999, int64(len(report)))]; err != nil || !bytes.Equal(got, want) {
			t.Errorf("from %d: %d bytes, want %d, %v", at, len(got), len(want), err)
		}
		if _, err := b.Seek(at, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		if err := b.prepare(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.Seek(-1, io.SeekStart); err == nil {
		t.Error("sought before the start")
	}
	if err := b.close(); err != nil {
		t.Error(err)
	}
	if _, err := b.Read(make([]byte, 1)); err == nil {
		t.Error("read after close")
	}
}
