package testnet

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/textproto"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/valise-mail/valise/node"
	"github.com/valise-mail/valise/node/api"
)

// benchVillage is a village on real disks with the production timers.
func benchVillage(b *testing.B, sites ...string) (*Village, context.Context, Person) {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), 20*time.Minute)
	b.Cleanup(cancel)
	v, err := Open(ctx, Config{Sites: sites, Dir: b.TempDir(), Logger: slog.New(slog.DiscardHandler), Adjust: func(_ int, c *node.Config) {
		c.Copies.Wanted, c.Copies.Ack = 2, 2
		c.Store.Cache = 32 << 20
		c.Seams.Fast = false
	}})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { v.Close() })
	p, err := v.AddPerson(ctx, 0, "sender@example.org")
	if err != nil {
		b.Fatal(err)
	}
	return v, ctx, p
}

// noise is a reader of n bytes that no other call yields.
func noise(n int64) io.Reader {
	seed := [32]byte(randomBytes(32))
	return io.LimitReader(&chacha{seed: seed}, n)
}

func put(b *testing.B, ctx context.Context, v *Village, i int, p Person, size int64) string {
	b.Helper()
	done, err := v.Houses[i].node.Admin().Put(ctx, api.PutRequest{Account: p.Address, Name: "bench.bin"}, noise(size))
	if err != nil {
		b.Fatal(err)
	}
	return done.Link
}

// download reads a link through house i and throws the bytes away. It returns
// the time to the first byte of the body.
func download(b *testing.B, client *http.Client, host, link string, want int64) time.Duration {
	b.Helper()
	u, err := url.Parse(link)
	if err != nil {
		b.Fatal(err)
	}
	u.Host = host
	start := time.Now()
	resp, err := client.Get(u.String())
	if err != nil {
		b.Fatal(err)
	}
	defer resp.Body.Close()
	var one [1]byte
	if _, err := io.ReadFull(resp.Body, one[:]); err != nil {
		b.Fatalf("%s: %v", resp.Status, err)
	}
	first := time.Since(start)
	n, err := io.Copy(io.Discard, resp.Body)
	if err != nil || n+1 != want {
		b.Fatalf("%s: %d bytes, %v", resp.Status, n+1, err)
	}
	return first
}

// Hot download over HTTP from the node that holds the file, and Go's file server on the same bytes in the same run.
func BenchmarkHotDownload1GiB(b *testing.B) {
	const size = 1 << 30
	v, ctx, p := benchVillage(b, "berlin")
	link := put(b, ctx, v, 0, p, size)
	dir := b.TempDir()
	f, err := os.Create(filepath.Join(dir, "plain.bin"))
	if err != nil {
		b.Fatal(err)
	}
	if _, err := io.Copy(f, noise(size)); err != nil {
		b.Fatal(err)
	}
	f.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	plain := &http.Server{Handler: http.FileServer(http.Dir(dir))}
	go func() { _ = plain.Serve(l) }()
	b.Cleanup(func() { plain.Close() })
	b.SetBytes(size)
	var ours, theirs time.Duration
	for b.Loop() {
		start := time.Now()
		download(b, http.DefaultClient, v.Houses[0].cfg.Listen.Files, link, size)
		ours += time.Since(start)
		b.StopTimer()
		start = time.Now()
		download(b, http.DefaultClient, l.Addr().String(), "http://x/plain.bin", size)
		theirs += time.Since(start)
		b.StartTimer()
	}
	b.ReportMetric(float64(theirs)/float64(ours), "of-fileserver")
}

// Cold download over HTTP through a node that holds nothing, and the raw
// stream between two hosts of the same kind in the same run.
func BenchmarkColdDownload256MiB(b *testing.B) {
	const size = 256 << 20
	v, ctx, p := benchVillage(b, "berlin", "berlin", "paris")
	b.SetBytes(size)
	var first time.Duration
	n := 0
	for b.Loop() {
		b.StopTimer()
		link := put(b, ctx, v, 0, p, size)
		through := stranger(b, v, link)
		b.StartTimer()
		first += download(b, http.DefaultClient, v.Houses[through].cfg.Listen.Files, link, size)
		n++
	}
	b.ReportMetric(float64(first.Microseconds())/float64(n)/1000, "ms-first-byte")
}

// stranger is the house that holds no copy of what is behind link.
func stranger(b *testing.B, v *Village, link string) int {
	b.Helper()
	names, err := v.Houses[0].node.Holders(cidOf(link))
	if err != nil {
		b.Fatal(err)
	}
	for i, h := range v.Houses {
		if !bytes.Contains([]byte(fmt.Sprint(names)), []byte(h.Name)) {
			return i
		}
	}
	b.Fatalf("every node holds %s", link)
	return 0
}

// 100 KiB files one after another through a node that holds none of them.
func BenchmarkColdDownloadSmall(b *testing.B) {
	const size = 100 << 10
	v, ctx, p := benchVillage(b, "berlin", "berlin", "paris")
	links := make([]string, 200)
	for i := range links {
		links[i] = put(b, ctx, v, 0, p, size)
	}
	i := 0
	b.SetBytes(size)
	for b.Loop() {
		link := links[i%len(links)]
		download(b, http.DefaultClient, v.Houses[stranger(b, v, link)].cfg.Listen.Files, link, size)
		i++
	}
	b.ReportMetric(float64(i)/b.Elapsed().Seconds(), "files/s")
}

// 100 MiB durable on three nodes, ledger entry included.
func BenchmarkPut100MiBThreeCopies(b *testing.B) {
	const size = 100 << 20
	ctx, cancel := context.WithTimeout(b.Context(), 20*time.Minute)
	defer cancel()
	v, err := Open(ctx, Config{Sites: []string{"berlin", "berlin", "paris"}, Dir: b.TempDir(), Logger: slog.New(slog.DiscardHandler), Adjust: func(_ int, c *node.Config) {
		c.Copies.Wanted, c.Copies.Ack = 3, 3
	}})
	if err != nil {
		b.Fatal(err)
	}
	defer v.Close()
	p, err := v.AddPerson(ctx, 0, "sender@example.org")
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(size)
	for b.Loop() {
		put(b, ctx, v, 0, p, size)
	}
}

// A 25 MiB attachment through the mail slot of one node, durable, to a next hop
// that throws it away. The client is as cheap as can be, so that it is not what is measured.
func BenchmarkMail25MiBData(b *testing.B) { benchmarkMail(b, false) }

// The same by BDAT (RFC 3030).
func BenchmarkMail25MiBBdat(b *testing.B) { benchmarkMail(b, true) }

func benchmarkMail(b *testing.B, bdat bool) {
	v, _, p := benchVillage(b, "berlin")
	messages := make([][]byte, 4)
	for i := range messages {
		messages[i] = letter("bench.bin", randomBytes(25<<20))
	}
	c, err := textproto.Dial("tcp", v.Houses[0].cfg.Listen.SMTP)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	raw := func(code int, line string) {
		if line != "" {
			if err := c.PrintfLine("%s", line); err != nil {
				b.Fatal(err)
			}
		}
		if _, _, err := c.ReadResponse(code); err != nil {
			b.Fatal(err)
		}
	}
	raw(220, "")
	raw(250, "EHLO bench.example.org")
	raw(235, "AUTH PLAIN "+base64.StdEncoding.EncodeToString([]byte("\x00"+p.Address+"\x00"+p.Password)))
	b.SetBytes(25 << 20)
	i := 0
	for b.Loop() {
		m := messages[i%len(messages)]
		i++
		raw(250, "MAIL FROM:<"+p.Address+">")
		raw(250, "RCPT TO:<recipient@example.net>")
		if bdat {
			if err := c.PrintfLine("BDAT %d LAST", len(m)); err != nil {
				b.Fatal(err)
			}
		} else {
			raw(354, "DATA")
			m = append(m[:len(m):len(m)], ".\r\n"...) // no line begins with a dot
		}
		if _, err := c.W.Write(m); err != nil {
			b.Fatal(err)
		}
		if err := c.W.Flush(); err != nil {
			b.Fatal(err)
		}
		raw(250, "")
	}
}

// Memory: an idle node, and what one 500 MiB attachment adds while it passes.
func BenchmarkMemory(b *testing.B) {
	v, ctx, p := benchVillage(b, "berlin")
	for b.Loop() {
		runtime.GC()
		var idle runtime.MemStats
		runtime.ReadMemStats(&idle)
		peak := make(chan uint64)
		stop := make(chan struct{})
		go func() {
			var most uint64
			tick := time.NewTicker(20 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-tick.C:
					var m runtime.MemStats
					runtime.ReadMemStats(&m)
					most = max(most, m.HeapInuse+m.StackInuse)
				case <-stop:
					peak <- most
					return
				}
			}
		}()
		if err := v.SendFrom(ctx, 0, p, to, largeLetter(500<<20)); err != nil {
			b.Fatal(err)
		}
		close(stop)
		base := idle.HeapInuse + idle.StackInuse
		b.ReportMetric(float64(base)/(1<<20), "MiB-idle")
		b.ReportMetric(float64(<-peak-base)/(1<<20), "MiB-extra")
	}
}
