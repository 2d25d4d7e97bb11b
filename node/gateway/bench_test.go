package gateway

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
)

// A folder is a Library of one file on disk.
type folder struct {
	*memory
	path string
	size int64
}

func (f folder) Open(context.Context, Request) (*Opened, error) {
	return &Opened{
		Name: "big.bin", Size: f.size, Root: "bafysent", AsSent: true, Newest: true, Sent: sentAt, Modified: sentAt,
		Content: func(context.Context) (io.ReadSeekCloser, error) { return os.Open(f.path) },
	}, nil
}

func (folder) Still(context.Context, Request) error { return nil }

// BenchmarkDownload compares the door with net/http's file server on one
// file, over loopback TCP. "copied" is the file server without sendfile, which
// encrypted blocks cannot use.
func BenchmarkDownload(b *testing.B) {
	for _, size := range []int64{100 << 10, 64 << 20} {
		path := filepath.Join(b.TempDir(), "big.bin")
		if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
			b.Fatal(err)
		}
		files := http.FileServer(http.Dir(filepath.Dir(path)))
		for _, s := range []struct {
			name, path string
			h          func(host string) http.Handler
		}{
			{"door", "/a/bafysent/TOK/big.bin", func(host string) http.Handler {
				return newGateway(b, folder{path: path, size: size}, func(c *Config) { c.Hosts, c.Logger = []string{host}, nil })
			}},
			{"fileserver", "/big.bin", func(string) http.Handler { return files }},
			{"copied", "/big.bin", func(string) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { files.ServeHTTP(struct{ http.ResponseWriter }{w}, r) })
			}},
		} {
			b.Run(fmt.Sprintf("%s/%dKiB", s.name, size>>10), func(b *testing.B) {
				server := httptest.NewUnstartedServer(nil)
				server.Config.Handler = s.h(server.Listener.Addr().String())
				server.Config.ConnContext = ConnContext
				server.Start()
				defer server.Close()
				client := server.Client()
				client.Transport.(*http.Transport).DisableCompression = true
				buf := make([]byte, 256<<10)
				b.SetBytes(size)
				b.ReportAllocs()
				for b.Loop() {
					resp, err := client.Get(server.URL + s.path)
					if err != nil {
						b.Fatal(err)
					}
					n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, resp.Body, buf)
					if err != nil || n != size || resp.StatusCode != 200 {
						b.Fatal(n, err, resp.Status)
					}
					resp.Body.Close()
				}
			})
		}
	}
}
