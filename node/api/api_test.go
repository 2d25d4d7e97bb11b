package api

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// answering is an Admin that does what its fields say.
type answering struct {
	Admin
	put    func(PutRequest, io.Reader) (PutDone, error)
	status Status
}

func (a answering) Status(context.Context) (Status, error) { return a.status, nil }
func (a answering) Put(_ context.Context, r PutRequest, content io.Reader) (PutDone, error) {
	return a.put(r, content)
}
func (a answering) Revoke(context.Context, RevokeRequest) (Revoked, error) {
	return Revoked{}, errors.New("no such link")
}

func serve(t *testing.T, dir string, a Admin) *Client {
	t.Helper()
	l, err := Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	s := NewServer(Handler(a, func(err error) (string, string) { return err.Error(), "look again" }, log), log)
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() { s.Close(); <-done })
	return Dial(dir)
}

func TestF4_SocketIsForItsOwnerAlone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := serve(t, dir, answering{status: Status{Name: "berlin"}})
	info, err := os.Stat(filepath.Join(dir, SocketName))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if s, err := c.Status(t.Context()); err != nil || s.Name != "berlin" {
		t.Errorf("got %+v, %v", s, err)
	}
}

// A folder whose path is too long for a socket's address is reached all the same.
func TestLongPath(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), strings.Repeat("long", 30))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	c := serve(t, dir, answering{status: Status{Name: "paris"}})
	if s, err := c.Status(t.Context()); err != nil || s.Name != "paris" {
		t.Errorf("got %+v, %v", s, err)
	}
}

func TestErrorsTravelWithTheirHint(t *testing.T) {
	t.Parallel()
	c := serve(t, t.TempDir(), answering{})
	_, err := c.Revoke(t.Context(), RevokeRequest{Link: "x"})
	p, ok := errors.AsType[*Problem](err)
	if !ok || p.Detail != "no such link" || p.Hint != "look again" {
		t.Errorf("got %#v", err)
	}
}

// An upload that breaks off is an error to whoever reads it, never a short file.
func TestBrokenUploadIsNoFile(t *testing.T) {
	t.Parallel()
	broken := make(chan error, 1)
	c := serve(t, t.TempDir(), answering{put: func(r PutRequest, content io.Reader) (PutDone, error) {
		_, err := io.Copy(io.Discard, content)
		broken <- err
		return PutDone{}, err
	}})
	half := io.MultiReader(strings.NewReader("half of it"), errReader{})
	if _, err := c.Put(t.Context(), PutRequest{Name: "a.txt"}, half, -1); err == nil {
		t.Error("the client heard of no error")
	}
	if err := <-broken; err == nil {
		t.Error("the node took half a file for a whole one")
	}
}

type errReader struct{}

func (errReader) Read([]byte) (int, error) { return 0, errors.New("cable pulled") }

func TestNobodyListens(t *testing.T) {
	t.Parallel()
	if _, err := Dial(filepath.Join(t.TempDir(), "nowhere")).Status(t.Context()); !errors.Is(err, ErrNotRunning) {
		t.Errorf("got %v, want ErrNotRunning", err)
	}
}

// A daemon that hangs takes connections and never answers: whoever asks is told so.
func TestSilentNode(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l, err := Listen(dir) // nobody accepts
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	c := Dial(dir)
	c.patience = 50 * time.Millisecond
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := c.Status(ctx); !errors.Is(err, ErrSilent) {
		t.Errorf("got %v, want ErrSilent", err)
	}
}
