package gateway

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/valise-mail/valise/authz"
)

var (
	sentAt    = time.Date(2026, 11, 20, 9, 41, 0, 0, time.UTC)
	changedAt = time.Date(2026, 11, 22, 11, 41, 30, 0, time.UTC)
)

// A memory is a working Library of one process: grants by token, files with
// versions, in the order of decisions the law has.
type memory struct {
	opened, closed atomic.Int64 // contents

	mu     sync.Mutex
	grants map[authz.Token]*memoryGrant
	asked  []Request // in the order of Open
}

type memoryGrant struct {
	err    error // instead of a decision
	pinned bool
	files  []*memoryFile
}

type memoryFile struct {
	cid, name, mediaType string
	versions             []memoryVersion // the first is the one sent
}

type memoryVersion struct {
	root    string
	data    []byte
	size    int64                                                // when open is set
	open    func(ctx context.Context) (io.ReadSeekCloser, error) // nil: data
	created time.Time
}

func (m *memory) grant(t authz.Token) *memoryGrant {
	g := m.grants[t]
	if g == nil {
		return &memoryGrant{err: authz.ErrAccessDenied}
	}
	return g
}

func (m *memory) find(r Request) (*memoryGrant, *memoryFile, error) {
	g := m.grant(r.Token)
	if g.err != nil {
		return nil, nil, g.err
	}
	for _, f := range g.files {
		if f.cid == r.CID && f.name == r.Name {
			return g, f, nil
		}
	}
	return nil, nil, authz.ErrInvalidAccess
}

func (m *memory) Open(_ context.Context, r Request) (*Opened, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked = append(m.asked, r)
	g, f, err := m.find(r)
	if err != nil {
		return nil, err
	}
	newest := len(f.versions) - 1
	n := newest
	if r.Version == AsSent || g.pinned {
		n = 0
	}
	v := f.versions[n]
	o := &Opened{
		Name: f.name, MediaType: f.mediaType, Size: v.size, Root: v.root, AsSent: n == 0, Newest: n == newest, Pinned: g.pinned,
		Sender: "wang.fang@example.org", Sent: sentAt, Modified: v.created,
	}
	open := v.open
	if open == nil {
		o.Size = int64(len(v.data))
		open = func(context.Context) (io.ReadSeekCloser, error) { return nopCloser{bytes.NewReader(v.data)}, nil }
	}
	o.Content = func(ctx context.Context) (io.ReadSeekCloser, error) {
		m.opened.Add(1)
		c, err := open(ctx)
		if err != nil {
			m.closed.Add(1)
			return nil, err
		}
		return &counted{ReadSeekCloser: c, closed: &m.closed}, nil
	}
	return o, nil
}

func (m *memory) Landing(_ context.Context, t authz.Token) (*Landing, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	g := m.grant(t)
	if g.err != nil {
		return nil, g.err
	}
	l := &Landing{Sender: "wang.fang@example.org", Sent: sentAt}
	for _, f := range g.files {
		v := f.versions[len(f.versions)-1]
		l.Files = append(l.Files, LandingFile{CID: f.cid, Name: f.name, Size: max(v.size, int64(len(v.data)))})
	}
	return l, nil
}

func (m *memory) Still(_ context.Context, r Request) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, _, err := m.find(r)
	return err
}

func (m *memory) revoke(t authz.Token) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.grants[t].err = authz.ErrAccessDenied
}

func (m *memory) change(t authz.Token, v memoryVersion) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.grants[t].files[0]
	f.versions = append(f.versions, v)
}

func (m *memory) requests() []Request {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.asked)
}

type nopCloser struct{ *bytes.Reader }

func (nopCloser) Close() error { return nil }

type counted struct {
	io.ReadSeekCloser
	closed *atomic.Int64
	once   sync.Once
}

func (c *counted) Close() error {
	c.once.Do(func() { c.closed.Add(1) })
	return c.ReadSeekCloser.Close()
}

// zeros is a file of any size without memory. after, if set, is called once
// the position reaches its byte and ends the reading with its error.
type zeros struct {
	ctx    context.Context
	at     int64
	failAt int64 // 0: never
	err    error
}

func (z *zeros) Read(p []byte) (int, error) {
	if z.ctx.Err() != nil {
		return 0, context.Cause(z.ctx)
	}
	if z.failAt > 0 && z.at >= z.failAt {
		return 0, z.err
	}
	clear(p)
	z.at += int64(len(p))
	return len(p), nil
}

func (z *zeros) Seek(offset int64, _ int) (int64, error) { z.at = offset; return offset, nil }
func (*zeros) Close() error                              { return nil }

func one(name string, data []byte) *memoryGrant {
	return &memoryGrant{files: []*memoryFile{{cid: "bafysent", name: name, versions: []memoryVersion{{root: "bafysent", data: data, created: sentAt}}}}}
}

func endless(size, failAt int64, err error) *memoryGrant {
	g := one("big.bin", nil)
	g.files[0].versions[0].size = size
	g.files[0].versions[0].open = func(ctx context.Context) (io.ReadSeekCloser, error) {
		return &zeros{ctx: ctx, failAt: failAt, err: err}, nil
	}
	return g
}

// report is the data of what most tests ask for.
var report = bytes.Repeat([]byte("0123456789abcdef"), 4096)

// newMemory has one grant of each sort.
func newMemory() *memory {
	changed := one("report.pdf", report)
	changed.files[0].versions = append(changed.files[0].versions, memoryVersion{root: "bafynew", data: []byte("the newer one"), created: changedAt})
	pinned := one("report.pdf", report)
	pinned.pinned = true
	several := one("report.pdf", report)
	several.files = append(several.files, one("会议纪要.docx", report[:2000]).files[0], one(`<script>alert("1")</script>.html`, nil).files[0])
	several.files[1].cid, several.files[2].cid = "bafysecond", "bafythird"
	return &memory{grants: map[authz.Token]*memoryGrant{
		"TOK-good":        one("report.pdf", report),
		"TOK-changed":     changed,
		"TOK-pinned":      pinned,
		"TOK-several":     several,
		"TOK-chinese":     one("会议纪要（最终版）.docx", report),
		"TOK-none":        {},
		"TOK-empty":       one("empty.txt", nil),
		"TOK-script":      one(`<script>alert("1")</script>.html`, report),
		"TOK-bidi":        one("annexe\u202Efdp.exe", report),
		"TOK-unknown":     {err: ErrNotYet},
		"TOK-unavailable": {err: ErrUnavailable},
		"TOK-stale":       {err: ErrStale},
		"TOK-restoring":   {err: ErrRestoring},
		"TOK-broken":      {err: io.ErrClosedPipe},
	}}
}

func newGateway(t testing.TB, lib Library, change ...func(*Config)) *Gateway {
	t.Helper()
	c := Config{
		Library: lib, Origin: &url.URL{Scheme: "https", Host: "files.example.org"}, Organisation: "Example & Co",
		Logger: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
	for _, f := range change {
		f(&c)
	}
	g, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// ask answers one request without a connection. Headers are pairs.
func ask(g http.Handler, method, path string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, "https://files.example.org"+path, nil)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	g.ServeHTTP(w, r)
	return w
}

// waitFor returns once cond holds.
func waitFor(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("waited a minute for: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}
