package node

import (
	"errors"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// Nothing behind a face closes while somebody still serves a request through it.
func TestClosingWaitsForRequests(t *testing.T) {
	t.Parallel()
	n := running(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cut, release := make(chan struct{}), make(chan struct{})
	n.serveHTTP("slow", l, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		<-r.Context().Done()
		close(cut)
		<-release
	}))
	go func() {
		if resp, err := http.Get("http://" + l.Addr().String()); err == nil {
			resp.Body.Close()
		}
	}()
	closed := make(chan struct{})
	eventually(t, "the request to be under way", func() bool {
		n.faces.requests.mu.Lock()
		defer n.faces.requests.mu.Unlock()
		return n.faces.requests.open > 0
	})
	go func() {
		n.closeFaces()
		close(closed)
	}()
	<-cut
	select {
	case <-closed:
		t.Error("the faces are closed while a request is under way")
	case <-time.After(300 * time.Millisecond):
	}
	close(release)
	<-closed
}

// A folder that cannot be looked at may be a node's: its ledger is not removed.
func TestInitRemovesNothingFromAFolderItCannotRead(t *testing.T) {
	t.Parallel()
	c := alone(t)
	if err := Init(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	disk := c.Seams.FS
	c.Seams.FS = errorfs.Wrap(disk, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpStat && strings.HasSuffix(op.Path, clusterName) {
			return errors.New("input/output error")
		}
		return nil
	}))
	if err := Init(t.Context(), c); err == nil || Hint(err) == "" {
		t.Errorf("got %v, want an error with a hint", err)
	}
	if _, err := Join(t.Context(), c, ""); err == nil {
		t.Error("join went on")
	}
	c.Seams.FS = disk
	start(t, c)
}
