package testnet

import (
	"bytes"
	"context"
	"crypto/sha256"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/valise-mail/valise/node"
	"github.com/valise-mail/valise/node/api"
)

// bigFile is much more than what the buffers between a node and a slow reader hold, in bytes.
const bigFile = 64 << 20

// An inflight is a GET under way by a reader that takes what it wants when it
// wants: little lies between it and the node.
type inflight struct {
	resp *http.Response
	sum  [32]byte // of what was read, once it ended
	n    int64
	err  error // what it ended with, nil for the end promised
	end  time.Time
}

func startDownload(t *testing.T, ctx context.Context, v *Village, i int, link string) *inflight {
	t.Helper()
	u, err := url.Parse(link)
	if err != nil {
		t.Fatal(err)
	}
	u.Host = v.Houses[i].cfg.Listen.Files
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true, ReadBufferSize: 4 << 10, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err == nil {
			err = conn.(*net.TCPConn).SetReadBuffer(32 << 10)
		}
		return conn, err
	}}}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s answered %s", v.Houses[i].Name, resp.Status)
	}
	return &inflight{resp: resp}
}

// finish reads to the end, wherever that is. pace is the time between two
// pieces of 32 KiB; 0 reads as fast as it comes. between is called once, after
// some bytes.
func (d *inflight) finish(after int64, between func(), pace time.Duration) {
	defer func() { d.end = time.Now() }()
	var tick <-chan time.Time
	if pace > 0 {
		ticker := time.NewTicker(pace)
		defer ticker.Stop()
		tick = ticker.C
	}
	h, buf := sha256.New(), make([]byte, 32<<10)
	for {
		n, err := io.ReadFull(d.resp.Body, buf)
		h.Write(buf[:n])
		d.n += int64(n)
		if between != nil && d.n >= after {
			between()
			between = nil
		}
		if err != nil {
			if d.n != d.resp.ContentLength || err != io.EOF && err != io.ErrUnexpectedEOF {
				d.err = err
			}
			h.Sum(d.sum[:0])
			return
		}
		if tick != nil {
			<-tick
		}
	}
}

// putFile stores a file without mail and returns its link.
func putFile(t *testing.T, ctx context.Context, v *Village, i int, p Person, name string, content []byte) string {
	t.Helper()
	a, err := v.Houses[i].Node().Admin().Put(ctx, api.PutRequest{Account: p.Address, Name: name}, bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	return a.Link
}

// everywhere waits until every node has heard of the grant behind link.
func everywhere(t *testing.T, ctx context.Context, v *Village, link string) {
	t.Helper()
	for i, h := range v.Houses {
		if err := v.Wait(ctx, h.Name+" to know the grant", func() (bool, error) {
			return knock(t, ctx, v, i, http.MethodHead, link, "", nil).Status == http.StatusOK, nil
		}); err != nil {
			t.Fatal(err)
		}
	}
}

// Promise 2 and G5: a revocation through one node breaks the downloads that
// are under way at every node, whether it holds the file or not; another link
// to the same bytes goes on. The reader takes 3 MiB a second, so that only the
// revocation can end what it reads before its end.
func TestG5_RevokedDownloadInFlightBreaks(t *testing.T) {
	t.Parallel()
	v, ctx := village(t, Config{Sites: threeAtTwo, Dir: t.TempDir(), Adjust: func(i int, c *node.Config) {
		twoCopies(i, c)
		c.Seams.Listen = nil // the village's doors would hide that these are TCP connections, which can be reset
	}})
	p := person(t, ctx, v, "sender@example.org")
	content := make([]byte, bigFile)
	fillNoise(content, 7)
	link, other := putFile(t, ctx, v, 0, p, "revoked.bin", content), putFile(t, ctx, v, 0, p, "stays.bin", content[:8<<20])
	v.Promise(other, content[:8<<20])
	everywhere(t, ctx, v, other)
	everywhere(t, ctx, v, link)

	const pace = 10 * time.Millisecond
	var wg sync.WaitGroup
	revoked, started := make(chan struct{}), make(chan struct{}, len(v.Houses))
	downloads, others := make([]*inflight, len(v.Houses)), make([]*inflight, len(v.Houses))
	for i := range v.Houses {
		downloads[i], others[i] = startDownload(t, ctx, v, i, link), startDownload(t, ctx, v, i, other)
		wg.Go(func() { others[i].finish(0, nil, pace) })
		wg.Go(func() {
			downloads[i].finish(1<<20, func() {
				started <- struct{}{}
				<-revoked
			}, pace)
		})
	}
	for range v.Houses {
		<-started
	}
	if _, err := v.Houses[1].Node().Admin().Revoke(ctx, api.RevokeRequest{Link: link}); err != nil {
		t.Error(err)
	}
	acked := time.Now()
	close(revoked)
	wg.Wait()
	for i, h := range v.Houses {
		if d := downloads[i]; d.err == nil || d.n >= bigFile {
			t.Errorf("through %s: the revoked download went on to its end, %d bytes", h.Name, d.n)
		} else {
			t.Logf("through %s: broke after %d bytes, %s after the revocation: %v", h.Name, d.n, d.end.Sub(acked), d.err)
		}
		if d := others[i]; d.err != nil || d.sum != sha256.Sum256(content[:8<<20]) {
			t.Errorf("through %s: the download of another link broke after %d bytes: %v", h.Name, d.n, d.err)
		}
		if got := get(t, ctx, v, i, link, nil); got.Status != http.StatusForbidden || got.title() != "access denied" {
			t.Errorf("through %s, %s after the revocation: got %d %s", h.Name, time.Since(acked), got.Status, got.title())
		}
	}
	verify(t, ctx, v)
}

// E5 and E1: a download through a node without a copy goes on from the other
// holder when the one it reads from dies. Which of the two that is, is not
// known from outside, so each is killed once.
func TestE5_DownloadGoesOnWhenAHolderDies(t *testing.T) {
	t.Parallel()
	v, ctx := village(t, Config{Sites: threeAtTwo, Adjust: twoCopies, Dir: t.TempDir()})
	p := person(t, ctx, v, "sender@example.org")
	for victim := range 2 {
		content := make([]byte, bigFile)
		fillNoise(content, byte(victim+1))
		link := putFile(t, ctx, v, victim, p, []string{"first.bin", "second.bin"}[victim], content)
		if victim == 1 { // one of the two is enough to read again through every node
			v.Promise(link, content)
		}
		everywhere(t, ctx, v, link)
		names, err := v.Houses[0].Node().Holders(cidOf(link))
		if err != nil || len(names) != 2 {
			t.Fatalf("got holders %q, %v; want two", names, err)
		}
		through := slices.IndexFunc(v.Houses, func(h *House) bool { return !slices.Contains(names, h.Name) })
		dies := slices.IndexFunc(v.Houses, func(h *House) bool { return h.Name == names[victim] })
		d := startDownload(t, ctx, v, through, link)
		d.finish(2<<20, func() {
			if err := v.Kill(dies); err != nil {
				t.Error(err)
			}
		}, 0)
		if d.err != nil || d.n != bigFile || d.sum != sha256.Sum256(content) {
			t.Errorf("through %s while %s dies: %d bytes, %v, right: %v", v.Houses[through].Name, names[victim], d.n, d.err, d.sum == sha256.Sum256(content))
		}
		if err := v.Restart(ctx, dies); err != nil {
			t.Fatal(err)
		}
		if err := v.Settled(ctx); err != nil {
			t.Fatal(err)
		}
	}
	verify(t, ctx, v)
}
