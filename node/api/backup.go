package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// BackupAdmin is what an operator may ask about backups.
type BackupAdmin interface {
	// Backup writes the cluster's present state to a folder of this machine. It may take hours, and
	// tells how far it is.
	Backup(ctx context.Context, r BackupRequest, progress func(BackupProgress)) (BackupDone, error)
	// Backups lists the backups that the ledger knows of.
	Backups(ctx context.Context) (BackupsAnswer, error)
	// BackupGone takes the operator's word that a backup's folder was deleted.
	BackupGone(ctx context.Context, r BackupGoneRequest) error
	// BackupKeys returns the organisation's secrets in the clear: the caller seals them.
	BackupKeys(ctx context.Context) (KeysAnswer, error)
	// Revocations writes the journal of what was revoked and deleted so far.
	Revocations(ctx context.Context, w io.Writer) error
	// OpenLinks ends a restore: links open again, once what the journal names is revoked and deleted,
	// or without a journal where Lost confirms that there is none.
	OpenLinks(ctx context.Context, r OpenRequest) (Replayed, error)
	// RestoreFile brings files of one account back from a backup.
	RestoreFile(ctx context.Context, r RestoreFileRequest, progress func(BackupProgress)) (RestoreFileDone, error)
}

// BackupRequest names the folder, and how long the backup is to be kept.
type BackupRequest struct {
	Dir  string        `json:"dir"`
	Keep time.Duration `json:"keep,omitempty"` // 0: no end is named
}

// BackupProgress says how far a backup or a restore is.
type BackupProgress struct {
	Contents int   `json:"contents"`
	Of       int   `json:"of"`
	Blocks   int   `json:"blocks_written"`
	Bytes    int64 `json:"bytes_written"`
}

// BackupDone says what a backup did.
type BackupDone struct {
	Folder   string     `json:"folder"` // its random id
	State    uint64     `json:"state"`  // counts the states of the folder
	At       time.Time  `json:"at"`     // when the ledger was read
	Index    uint64     `json:"index"`
	Until    *time.Time `json:"keep_until,omitempty"`
	Entries  int        `json:"ledger_entries"`
	Contents int        `json:"contents"`
	Blocks   int        `json:"blocks"`
	Bytes    int64      `json:"bytes"`
	New      int        `json:"new_blocks"`
	NewBytes int64      `json:"new_bytes"`
	Dropped  int64      `json:"dropped_bytes"`
	Views    int        `json:"ledger_reads"` // more than one where something was deleted meanwhile
}

// BackupsAnswer lists states of backups by folder.
type BackupsAnswer struct {
	Backups []ReceiptBackup `json:"backups"`
}

// BackupGoneRequest names a backup's folder by its random id.
type BackupGoneRequest struct {
	Backup string `json:"backup"`
}

// KeysAnswer holds the organisation's secrets, in the clear.
type KeysAnswer struct {
	Organisation string `json:"organisation"`
	Keys         []byte `json:"keys"`
}

// OpenRequest ends a restore.
type OpenRequest struct {
	Journal []byte `json:"journal,omitempty"`
	Lost    bool   `json:"lost,omitempty"`
}

// Replayed says what a journal brought.
type Replayed struct {
	Revoked int       `json:"revoked"` // links that were still open
	Deleted int       `json:"deleted"` // files that were still there
	Until   time.Time `json:"until"`   // the last that the journal tells of
}

// RestoreFileRequest names what is to come back: one file, or all of the account.
type RestoreFileRequest struct {
	Dir     string `json:"dir"`
	Keys    []byte `json:"keys"` // as KeysAnswer has them
	Account string `json:"account"`
	File    string `json:"file,omitempty"`
	All     bool   `json:"all,omitempty"`
}

// RestoreFileDone says what came back.
type RestoreFileDone struct {
	At    time.Time      `json:"at"` // of the backup
	Files []RestoredFile `json:"files"`
}

// RestoredFile is what became of one file of the backup.
type RestoredFile struct {
	File string `json:"file"` // its id in the backup
	Name string `json:"name"`
	// Did is new: a new file; version: a new version of the file; same: the cluster has it; deleted: it
	// was deleted for good since, and stays so.
	Did     string `json:"did"`
	Into    string `json:"into,omitempty"` // the id of the file that has it now
	Version uint32 `json:"version,omitempty"`
}

// maxJournal bounds a journal that is sent in a request.
const maxJournal = 256 << 20

// backupRoutes serves what BackupAdmin has.
func (s *server) backupRoutes(mux *http.ServeMux) {
	mux.HandleFunc("POST /v1/backups", func(w http.ResponseWriter, r *http.Request) {
		stream(s, w, r, maxRequest, s.admin.Backup)
	})
	mux.HandleFunc("POST /v1/backups/list", handle(s, func(ctx context.Context, _ struct{}) (BackupsAnswer, error) { return s.admin.Backups(ctx) }))
	mux.HandleFunc("POST /v1/backups/gone", handle(s, func(ctx context.Context, r BackupGoneRequest) (struct{}, error) {
		return struct{}{}, s.admin.BackupGone(ctx, r)
	}))
	mux.HandleFunc("POST /v1/backups/keys", handle(s, func(ctx context.Context, _ struct{}) (KeysAnswer, error) { return s.admin.BackupKeys(ctx) }))
	mux.HandleFunc("POST /v1/backups/files", func(w http.ResponseWriter, r *http.Request) {
		stream(s, w, r, maxRequest, s.admin.RestoreFile)
	})
	mux.HandleFunc("POST /v1/links/open", func(w http.ResponseWriter, r *http.Request) {
		stream(s, w, r, maxJournal, func(ctx context.Context, q OpenRequest, _ func(BackupProgress)) (Replayed, error) {
			return s.admin.OpenLinks(ctx, q)
		})
	})
	mux.HandleFunc("GET /v1/revocations", func(w http.ResponseWriter, r *http.Request) {
		begun := &began{w: w}
		switch err := s.admin.Revocations(r.Context(), begun); {
		case err != nil && !begun.yes:
			s.problem(w, r, http.StatusUnprocessableEntity, err)
		case err != nil:
			s.log.WarnContext(r.Context(), "journal of revocations not delivered", "err", err)
			panic(http.ErrAbortHandler) // the client must not take what it has for whole
		}
	})
}

// began notes whether an answer has begun.
type began struct {
	w   io.Writer
	yes bool
}

func (b *began) Write(p []byte) (int, error) {
	b.yes = true
	return b.w.Write(p)
}

// A line is one line of a streamed answer: progress, and at the end one of the others.
type line struct {
	Progress *BackupProgress `json:"progress,omitempty"`
	Done     json.RawMessage `json:"done,omitempty"`
	Problem  *Problem        `json:"problem,omitempty"`
}

// stream answers with lines while fn works.
func stream[Q, A any](s *server, w http.ResponseWriter, r *http.Request, most int64, fn func(context.Context, Q, func(BackupProgress)) (A, error)) {
	var q Q
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, most))
	d.DisallowUnknownFields()
	if err := d.Decode(&q); err != nil {
		s.problem(w, r, http.StatusBadRequest, fmt.Errorf("request: %w", err))
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	enc, flush := json.NewEncoder(w), http.NewResponseController(w)
	last := time.Now()
	a, err := fn(r.Context(), q, func(p BackupProgress) {
		if time.Since(last) > time.Second || p.Contents == p.Of {
			last = time.Now()
			_ = enc.Encode(line{Progress: &p})
			_ = flush.Flush()
		}
	})
	if err != nil {
		s.log.InfoContext(r.Context(), "admin request refused", "request", r.Method+" "+r.URL.Path, "err", err)
		detail, hint := s.explain(err)
		_ = enc.Encode(line{Problem: &Problem{Title: http.StatusText(http.StatusUnprocessableEntity), Status: http.StatusUnprocessableEntity, Detail: detail, Hint: hint}})
		return
	}
	s.log.InfoContext(r.Context(), "admin request done", "request", r.Method+" "+r.URL.Path)
	done, err := json.Marshal(a)
	if err == nil {
		_ = enc.Encode(line{Done: done})
	}
}

// Backup writes a backup, however long it takes.
func (c *Client) Backup(ctx context.Context, r BackupRequest, progress func(BackupProgress)) (a BackupDone, err error) {
	return a, c.streamed(ctx, "/v1/backups", r, progress, &a)
}

// Backups lists the backups that the cluster knows of.
func (c *Client) Backups(ctx context.Context) (a BackupsAnswer, err error) {
	return a, c.do(ctx, http.MethodPost, "/v1/backups/list", struct{}{}, &a)
}

// BackupGone says that a backup's folder was deleted.
func (c *Client) BackupGone(ctx context.Context, r BackupGoneRequest) error {
	return c.do(ctx, http.MethodPost, "/v1/backups/gone", r, nil)
}

// BackupKeys asks for the organisation's secrets.
func (c *Client) BackupKeys(ctx context.Context) (a KeysAnswer, err error) {
	return a, c.do(ctx, http.MethodPost, "/v1/backups/keys", struct{}{}, &a)
}

// RestoreFile brings files back from a backup.
func (c *Client) RestoreFile(ctx context.Context, r RestoreFileRequest, progress func(BackupProgress)) (a RestoreFileDone, err error) {
	return a, c.streamed(ctx, "/v1/backups/files", r, progress, &a)
}

// OpenLinks ends a restore.
func (c *Client) OpenLinks(ctx context.Context, r OpenRequest) (a Replayed, err error) {
	return a, c.streamed(ctx, "/v1/links/open", r, func(BackupProgress) {}, &a)
}

// Revocations copies the journal.
func (c *Client) Revocations(ctx context.Context, w io.Writer) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://valise/v1/revocations", nil)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return decodeProblem(resp)
	}
	_, err = io.Copy(w, resp.Body)
	return err
}

func (c *Client) streamed(ctx context.Context, path string, in any, progress func(BackupProgress), out any) error {
	body, w := io.Pipe()
	go func() { w.CloseWithError(json.NewEncoder(w).Encode(in)) }()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://valise"+path, body)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		body.CloseWithError(err)
		if errors.Is(err, ErrNotRunning) {
			return ErrNotRunning
		}
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return decodeProblem(resp)
	}
	for lines := json.NewDecoder(bufio.NewReader(resp.Body)); ; {
		var l line
		switch err := lines.Decode(&l); {
		case errors.Is(err, io.EOF):
			return errors.New("the node ended before it had done this")
		case err != nil:
			return fmt.Errorf("read answer: %w", err)
		case l.Problem != nil:
			return l.Problem
		case l.Done != nil:
			return json.Unmarshal(l.Done, out)
		case l.Progress != nil:
			progress(*l.Progress)
		}
	}
}
