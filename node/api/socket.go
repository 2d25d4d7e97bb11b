package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// SocketName is the admin socket's name inside a node's folder.
const SocketName = "admin.sock"

// maxSocketPath is what fits sockaddr_un.sun_path on Linux, with its final NUL.
const maxSocketPath = 107

var (
	// ErrNotRunning says that no node listens in that folder.
	ErrNotRunning = errors.New("no node is running in this folder")
	// ErrSilent says that a node took the request and did not answer in time. What was asked may have happened.
	ErrSilent = errors.New("the node in this folder does not answer")
)

// patience is how long a node may take over anything but an upload: several
// times what the ledger gives a write.
const patience = 30 * time.Second

// Listen opens the admin socket in dir, mode 0600, replacing one that a killed
// node left. Only the node's own user and root get past it.
func Listen(dir string) (net.Listener, error) {
	path, done, err := socketPath(dir)
	if err != nil {
		return nil, err
	}
	defer done()
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on admin socket: %w", err)
	}
	// Until here, and beyond, Accept looks at who is calling; the process's umask is not ours to change.
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, err
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // the path may go through a descriptor that is closed by then
	return &ownListener{UnixListener: l.(*net.UnixListener), file: filepath.Join(dir, SocketName)}, nil
}

// ownListener accepts connections of this process's user and of root only.
type ownListener struct {
	*net.UnixListener
	file string
}

func (l *ownListener) Accept() (net.Conn, error) {
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		if uid, err := peerUID(c); err == nil && (uid == 0 || int(uid) == os.Getuid()) {
			return c, nil
		}
		c.Close()
	}
}

func (l *ownListener) Close() error {
	err := l.UnixListener.Close()
	os.Remove(l.file)
	return err
}

func peerUID(c *net.UnixConn) (uint32, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return 0, err
	}
	if credErr != nil {
		return 0, credErr
	}
	return cred.Uid, nil
}

// socketPath returns a path for the socket that is short enough, going through
// an open descriptor of the folder where its own is not.
func socketPath(dir string) (string, func(), error) {
	path := filepath.Join(dir, SocketName)
	if len(path) <= maxSocketPath {
		return path, func() {}, nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return "", nil, err
	}
	return "/proc/self/fd/" + strconv.Itoa(int(d.Fd())) + "/" + SocketName, func() { d.Close() }, nil
}

// NewServer returns an HTTP server for the admin socket.
func NewServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
}

// A Client speaks to the node that runs in a folder.
type Client struct {
	http     *http.Client
	patience time.Duration
}

// Dial returns a client for the node in dir. No connection is made yet.
func Dial(dir string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		end := time.Now().Add(startTime)
		for {
			c, err := connect(ctx, dir)
			if err == nil || errors.Is(err, os.ErrPermission) || time.Now().After(end) || !exists(dir) {
				return c, err
			}
			select { // it may just be starting
			case <-time.After(50 * time.Millisecond):
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
	}
	return &Client{http: &http.Client{Transport: &http.Transport{DialContext: dial}}, patience: patience}
}

// startTime is how long a client waits for a node that is being started.
const startTime = 3 * time.Second

func connect(ctx context.Context, dir string) (net.Conn, error) {
	path, done, err := socketPath(dir)
	if err != nil {
		return nil, err
	}
	defer done()
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", path)
	switch {
	case errors.Is(err, os.ErrPermission):
		return nil, fmt.Errorf("admin socket of %s: only the node's own user and root may steer it: %w", dir, err)
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrNotRunning, err)
	}
	return c, nil
}

func exists(dir string) bool {
	info, err := os.Stat(dir)
	return err == nil && info.IsDir()
}

// Status asks for the node's view of the cluster.
func (c *Client) Status(ctx context.Context) (s Status, err error) {
	return s, c.do(ctx, http.MethodGet, "/v1/status", nil, &s)
}

// Invite asks for a ticket.
func (c *Client) Invite(ctx context.Context, r InviteRequest) (a Invited, err error) {
	return a, c.do(ctx, http.MethodPost, "/v1/tickets", r, &a)
}

// Remove removes a member, or says what that would mean.
func (c *Client) Remove(ctx context.Context, r RemoveRequest) (a Removal, err error) {
	return a, c.do(ctx, http.MethodPost, "/v1/members/remove", r, &a)
}

// Drain has a node give up its copies, or have some again.
func (c *Client) Drain(ctx context.Context, r DrainRequest) (a Drained, err error) {
	return a, c.do(ctx, http.MethodPost, "/v1/members/drain", r, &a)
}

// Move says that a node stands at another site.
func (c *Client) Move(ctx context.Context, r MoveRequest) (a Moved, err error) {
	return a, c.do(ctx, http.MethodPost, "/v1/members/move", r, &a)
}

// AddAccount adds an account.
func (c *Client) AddAccount(ctx context.Context, r AccountRequest) (a AccountAdded, err error) {
	return a, c.do(ctx, http.MethodPost, "/v1/accounts", r, &a)
}

// AddMailbox adds a mailbox.
func (c *Client) AddMailbox(ctx context.Context, r MailboxRequest) error {
	return c.do(ctx, http.MethodPost, "/v1/mailboxes", r, nil)
}

// AddPassword gives an account another app password.
func (c *Client) AddPassword(ctx context.Context, r PasswordRequest) (a AccountAdded, err error) {
	return a, c.do(ctx, http.MethodPost, "/v1/passwords", r, &a)
}

// CancelTicket ends a ticket that was not used.
func (c *Client) CancelTicket(ctx context.Context, r CancelRequest) error {
	return c.do(ctx, http.MethodPost, "/v1/tickets/cancel", r, nil)
}

// Files lists an account's files.
func (c *Client) Files(ctx context.Context, r FilesRequest) (a FilesAnswer, err error) {
	return a, c.do(ctx, http.MethodPost, "/v1/files/list", r, &a)
}

// Delete deletes a file for good.
func (c *Client) Delete(ctx context.Context, r DeleteRequest) (a ReceiptAnswer, err error) {
	return a, c.do(ctx, http.MethodPost, "/v1/files/delete", r, &a)
}

// Receipt asks what has become of a deleted file.
func (c *Client) Receipt(ctx context.Context, r ReceiptRequest) (a ReceiptAnswer, err error) {
	return a, c.do(ctx, http.MethodPost, "/v1/receipts", r, &a)
}

// Revoke ends a link.
func (c *Client) Revoke(ctx context.Context, r RevokeRequest) (a Revoked, err error) {
	return a, c.do(ctx, http.MethodPost, "/v1/revocations", r, &a)
}

// Put stores a file. size is only told to the node's side of HTTP; -1 where it is not known.
func (c *Client) Put(ctx context.Context, r PutRequest, content io.Reader, size int64) (a PutDone, err error) {
	q := url.Values{"account": {r.Account}, "name": {r.Name}, "replace": {r.Replace}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://valise/v1/files?"+q.Encode(), content)
	if err != nil {
		return a, err
	}
	req.ContentLength = size
	return a, c.send(req, &a)
}

func (c *Client) do(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(data)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, c.patience, ErrSilent)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://valise"+path, body)
	if err != nil {
		return err
	}
	err = c.send(req, out)
	if err != nil && errors.Is(context.Cause(ctx), ErrSilent) {
		return ErrSilent
	}
	return err
}

func (c *Client) send(req *http.Request, out any) error {
	resp, err := c.http.Do(req)
	if err != nil {
		if errors.Is(err, ErrNotRunning) {
			return ErrNotRunning
		}
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		return decodeProblem(resp)
	}
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	return nil
}
