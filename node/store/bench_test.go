package store

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	blocks "github.com/ipfs/go-block-format"
)

const gib = 1 << 30

// bigFile writes n random bytes into a file, which is in the page cache afterwards.
func bigFile(b *testing.B, n int64) string {
	path := filepath.Join(b.TempDir(), "content")
	f, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	for i := int64(0); i < n; i += 4 << 20 {
		if _, err := f.Write(random(4<<20, uint64(i>>22))); err != nil {
			b.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		b.Fatal(err)
	}
	return path
}

// cpu reports the processor seconds per GiB since it was called.
func cpu(b *testing.B, bytes int64) func() {
	start := cpuTime()
	return func() {
		b.ReportMetric((cpuTime()-start).Seconds()/float64(b.N)/(float64(bytes)/gib), "cpu-s/GiB")
	}
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func openDisk(b *testing.B) *Store {
	s, err := Open(context.Background(), Config{Dir: filepath.Join(b.TempDir(), "store")})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close() })
	return s
}

// BenchmarkSeal cuts, encrypts and hashes a local file and drops the blocks.
func BenchmarkSeal(b *testing.B) {
	path := bigFile(b, gib)
	b.SetBytes(gib)
	b.ReportAllocs()
	defer cpu(b, gib)()
	for b.Loop() {
		f, err := os.Open(path)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := Seal(b.Context(), f, scopeKey("a"), func(context.Context, blocks.Block) error { return nil }); err != nil {
			b.Fatal(err)
		}
		f.Close()
	}
}

// BenchmarkStore makes a local file durable: "sealed" through a store, "copied" by copying and
// syncing it every 16 MiB.
func BenchmarkStore(b *testing.B) {
	path := bigFile(b, gib)
	b.Run("copied", func(b *testing.B) {
		dir := b.TempDir()
		b.SetBytes(gib)
		defer cpu(b, gib)()
		for b.Loop() {
			copySynced(b, path, filepath.Join(dir, "copy"))
		}
	})
	b.Run("sealed", func(b *testing.B) {
		s := openDisk(b)
		b.SetBytes(gib)
		defer cpu(b, gib)()
		for i := 0; b.Loop(); i++ {
			f, err := os.Open(path)
			if err != nil {
				b.Fatal(err)
			}
			batch := s.NewBatch(Kept)
			if _, err := Seal(b.Context(), f, scopeKey(fmt.Sprint(i)), batch.Add); err != nil {
				b.Fatal(err)
			}
			if err := batch.Commit(b.Context()); err != nil {
				b.Fatal(err)
			}
			f.Close()
		}
	})
}

func copySynced(b *testing.B, from, to string) {
	in, err := os.Open(from)
	if err != nil {
		b.Fatal(err)
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		b.Fatal(err)
	}
	defer out.Close()
	buf := make([]byte, 16<<20)
	for {
		n, err := io.ReadFull(in, buf)
		if _, err := out.Write(buf[:n]); err != nil {
			b.Fatal(err)
		}
		if err := out.Sync(); err != nil {
			b.Fatal(err)
		}
		if err != nil {
			return
		}
	}
}

// BenchmarkSmall stores objects of 100 KiB from 16 writers, each durable before the next.
func BenchmarkSmall(b *testing.B) {
	const size, writers = 100 << 10, 16
	s := openDisk(b)
	b.SetBytes(size)
	defer cpu(b, size)()
	var next atomic.Int64
	var wg sync.WaitGroup
	b.ResetTimer()
	for range writers {
		wg.Go(func() {
			data := random(size, 1)
			for {
				i := next.Add(1)
				if i > int64(b.N) {
					return
				}
				copy(data, fmt.Sprint(i))
				batch := s.NewBatch(Kept)
				if _, err := Seal(b.Context(), bytes.NewReader(data), scopeKey("a"), batch.Add); err != nil {
					b.Error(err)
					return
				}
				if err := batch.Commit(b.Context()); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "objects/s")
}

// BenchmarkRead reads a hot file: plainly from the file system, and decrypted.
func BenchmarkRead(b *testing.B) {
	path := bigFile(b, gib)
	b.Run("os", func(b *testing.B) {
		b.SetBytes(gib)
		defer cpu(b, gib)()
		buf := make([]byte, 1<<20)
		for b.Loop() {
			f, err := os.Open(path)
			if err != nil {
				b.Fatal(err)
			}
			for err == nil {
				_, err = f.Read(buf)
			}
			f.Close()
		}
	})
	s, sealed := storeFile(b, path)
	b.Run("File", func(b *testing.B) {
		b.SetBytes(gib)
		defer cpu(b, gib)()
		for b.Loop() {
			f := openFile(b, s, sealed)
			if n, err := f.WriteTo(struct{ io.Writer }{io.Discard}); n != gib || err != nil {
				b.Fatal(n, err)
			}
			f.Close()
		}
	})
}

func storeFile(b *testing.B, path string) (*Store, Sealed) {
	s := openDisk(b)
	f, err := os.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	batch := s.NewBatch(Kept)
	sealed, err := Seal(context.Background(), f, scopeKey("a"), batch.Add)
	if err != nil {
		b.Fatal(err)
	}
	if err := batch.Commit(context.Background()); err != nil {
		b.Fatal(err)
	}
	return s, sealed
}

// BenchmarkHTTP downloads a hot file over loopback: from Go's file server, and through a File with
// http.ServeContent and with WriteTo.
func BenchmarkHTTP(b *testing.B) {
	path := bigFile(b, gib)
	s, sealed := storeFile(b, path)
	handlers := map[string]http.HandlerFunc{
		"fileserver": func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, path) },
		"ServeContent": func(w http.ResponseWriter, r *http.Request) {
			f := openFile(b, s, sealed)
			defer f.Close()
			w.Header().Set("Content-Type", "application/octet-stream")
			http.ServeContent(w, r, "", time.Time{}, f)
		},
		"WriteTo": func(w http.ResponseWriter, r *http.Request) {
			f := openFile(b, s, sealed)
			defer f.Close()
			w.Header().Set("Content-Length", fmt.Sprint(f.Size()))
			f.WriteTo(w)
		},
	}
	for _, name := range []string{"fileserver", "ServeContent", "WriteTo"} {
		b.Run(name, func(b *testing.B) {
			server := httptest.NewServer(handlers[name])
			defer server.Close()
			buf := make([]byte, 1<<20)
			b.SetBytes(gib)
			defer cpu(b, gib)()
			for b.Loop() {
				resp, err := http.Get(server.URL)
				if err != nil {
					b.Fatal(err)
				}
				n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, resp.Body, buf)
				if n != gib || err != nil {
					b.Fatal(n, err)
				}
				resp.Body.Close()
			}
		})
	}
}

// BenchmarkBlock reads and verifies one block, as for a peer.
func BenchmarkBlock(b *testing.B) {
	s := open(b, Config{Dir: "/store", FS: vfs.NewMem()})
	blk := rawBlock(random(1<<20, 1))
	if err := add(b.Context(), s, Kept, blk); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(1 << 20)
	for b.Loop() {
		if _, err := s.Block(b.Context(), blk.Cid()); err != nil {
			b.Fatal(err)
		}
	}
}
