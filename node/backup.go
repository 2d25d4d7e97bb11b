package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"

	"github.com/valise-mail/valise/node/api"
	"github.com/valise-mail/valise/node/backup"
	"github.com/valise-mail/valise/node/drive"
	"github.com/valise-mail/valise/node/store"
	"github.com/valise-mail/valise/replication"
	"github.com/valise-mail/valise/replication/copies"
)

// BackupOptions say where a backup goes.
type BackupOptions struct {
	FS       vfs.FS        // of Dir; nil is the real one
	Dir      string        // the backup's folder
	Keep     time.Duration // how long it is to be kept; 0: no end is named
	CARSize  int64         // for tests; 0 is the usual
	Progress func(api.BackupProgress)
}

const scratchDir = "scratch" // in the node's folder: what a backup looks things up in

// Backup makes the folder hold the cluster's present state and nothing else. The state is one view of the
// ledger, confirmed by a read index, with every block that it refers to; blocks that are not here come
// from the other nodes. A folder that holds an earlier state gets only what is new.
func (n *Node) Backup(ctx context.Context, o BackupOptions) (api.BackupDone, error) {
	if !n.backups.TryLock() {
		return api.BackupDone{}, hint(errors.New("this node is busy with a backup already"), "wait until that one has ended")
	}
	defer n.backups.Unlock()
	c := backup.Config{
		FS: o.FS, Dir: o.Dir, ScratchFS: n.fs, Scratch: n.fs.PathJoin(n.cfg.Dir, scratchDir), Cluster: n.cluster.Cluster, CARSize: o.CARSize,
	}
	if c.FS == nil {
		c.FS = vfs.Default
	}
	if o.Progress != nil {
		c.Progress = func(p backup.Progress) { o.Progress(api.BackupProgress(p)) }
	}
	ctx, cancel := n.whileUp(ctx)
	defer cancel()
	s, err := backup.Write(ctx, c, backupSource{n, o.Keep})
	if err != nil {
		return api.BackupDone{}, backupHint(fmt.Errorf("backup to %s: %w", o.Dir, err))
	}
	h := s.Header
	n.log.InfoContext(ctx, "backup done", "folder", h.Folder, "state", h.State, "contents", s.Contents, "blocks", s.Blocks, "new", s.New, "bytes", s.NewBytes)
	done := api.BackupDone{
		Folder: h.Folder, State: h.State, At: h.At, Index: h.Index, Entries: s.Entries, Contents: s.Contents,
		Blocks: s.Blocks, Bytes: s.Bytes, New: s.New, NewBytes: s.NewBytes, Dropped: s.Dropped, Views: s.Views,
	}
	if !h.Until.IsZero() {
		done.Until = &h.Until
	}
	return done, nil
}

// whileUp is ctx until the node closes.
func (n *Node) whileUp(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(n.ctx, cancel)
	return ctx, func() { stop(); cancel() }
}

func backupHint(err error) error {
	switch {
	case err == nil:
		return nil
	case Hint(err) != "":
		return err
	case errors.Is(err, backup.ErrForeign):
		return hint(err, "use a folder of its own for each organisation")
	case errors.Is(err, backup.ErrDamaged):
		return hint(err, `"valise backup verify" names all that is damaged. A damaged ledger file cannot be mended: begin a new folder. Of a damaged .car file, delete it and run "valise backup" again: its blocks are written anew`)
	case errors.Is(err, backup.ErrNone):
		return hint(err, `name the folder that "valise backup" wrote to`)
	case errors.Is(err, backup.ErrNewer):
		return hint(err, "use the valise that wrote it, or a newer one")
	case errors.Is(err, backup.ErrKeys):
		return hint(err, `restoring needs the file that "valise backup keys" wrote, after the last change of keys, and its passphrase`)
	case errors.Is(err, os.ErrPermission):
		return hint(err, "the folder is read and written by the node itself: it must belong to the user that runs it")
	case errors.Is(err, syscall.ENOSPC):
		return hint(err, "make room and run it again: it goes on where it was, and the folder has the state it had before")
	case errors.Is(err, store.ErrNoSpace):
		return hint(err, "the node's disk is full, or free space is at the reserve: make room and run it again, it goes on where it was")
	case errors.Is(err, errNoKey):
		return hint(err, "run it on a full node: this one does not hold the organisation's secrets")
	case errors.Is(err, copies.ErrNotFound):
		return hint(err, `no node in reach has that block: "valise status" shows which are away. The folder has the state it had before`)
	}
	return ledgerHint(err)
}

// backupSource is the cluster, as a backup sees it.
type backupSource struct {
	n    *Node
	keep time.Duration
}

var _ backup.Source = backupSource{}

// State implements backup.Source.
func (s backupSource) State(ctx context.Context, w backup.StateSink) error {
	n := s.n
	if err := n.ledger.ReadIndex(ctx); err != nil {
		return err
	}
	return n.ledger.View(func(tx *replication.Tx) error {
		h, secret, err := s.header(tx)
		if err != nil {
			return err
		}
		if err := w.Begin(h, secret); err != nil {
			return err
		}
		for k, v := range tx.Scan(nil, nil) {
			if err := context.Cause(ctx); err != nil {
				return err
			}
			if root, ok := copies.RecordedRoot(k); ok {
				if err := w.Root(root); err != nil {
					return err
				}
			}
			if keepsOut(k) {
				continue
			}
			if err := w.Entry(k, v); err != nil {
				return err
			}
		}
		return nil
	})
}

// keepsOut says what no backup holds: the secrets, even wrapped, and tickets.
func keepsOut(key []byte) bool {
	return bytes.HasPrefix(key, secretKeys) || bytes.HasPrefix(key, ticketKeys)
}

func (s backupSource) header(tx *replication.Tx) (h backup.Header, secret []byte, err error) {
	n := s.n
	if err := n.keys.load(tx); err != nil {
		return h, nil, err
	}
	secret, epoch, err := n.keys.secret(kindContent, 0)
	if err != nil {
		return h, nil, err
	}
	var org orgRecord
	if _, err := get(tx, keyOrg, &org); err != nil {
		return h, nil, err
	}
	h = backup.Header{
		Organisation: n.cluster.Organisation, Cluster: n.cluster.Cluster, OrgKey: n.cluster.OrgKey, At: n.cfg.now(), Index: tx.Index(),
		Node: n.cfg.name(), Program: Version, KeyEpoch: epoch, Secrets: neededChecks(n.keys.export(n.cluster, n.cfg.now())),
		PublicFiles: org.PublicFiles, PublicApp: org.PublicApp,
	}
	if s.keep > 0 {
		h.Until = h.At.Add(s.keep)
	}
	return h, secret, nil
}

// neededChecks are of the secrets without which a restore is not whole: all but what signs for browsers,
// which a restore draws anew.
func neededChecks(k backup.Keys) []backup.SecretCheck {
	return slices.DeleteFunc(k.Checks(), func(c backup.SecretCheck) bool { return c.Kind == kindCookie })
}

// export is every secret that this node holds.
func (k *keyring) export(c clusterFile, now time.Time) backup.Keys {
	k.mu.RLock()
	defer k.mu.RUnlock()
	out := backup.Keys{Organisation: c.Organisation, Cluster: c.Cluster, OrgKey: c.OrgKey, Created: now}
	for id, value := range k.secrets {
		out.Secrets = append(out.Secrets, backup.Secret{Kind: id.kind, Epoch: id.epoch, Value: bytes.Clone(value)})
	}
	return out
}

// Blocks implements backup.Source: from this disk where it has them, else from the other nodes; all are verified.
func (s backupSource) Blocks(ctx context.Context, root cid.Cid, want []cid.Cid) iter.Seq2[blocks.Block, error] {
	return func(yield func(blocks.Block, error) bool) {
		for len(want) > 0 {
			if b, err := s.n.store.Block(ctx, want[0]); err == nil {
				if !yield(b, nil) {
					return
				}
				want = want[1:]
				continue
			}
			away := 1 // as many as are not here, so that they come in one go
			for away < len(want) && !s.n.store.Has(want[away]) {
				away++
			}
			got, more, err := s.fetch(ctx, root, want[:away], yield)
			if !more {
				return
			}
			if err != nil {
				yield(nil, err)
				return
			}
			want = want[got:]
		}
	}
}

// fetch yields blocks from the other nodes. A node that restarts is waited for: a backup may take hours,
// and goes on. What is no longer referred to is not.
func (s backupSource) fetch(ctx context.Context, root cid.Cid, want []cid.Cid, yield func(blocks.Block, error) bool) (got int, more bool, err error) {
	for wait := time.Second; ; wait *= 2 {
		err = nil
		for b, e := range s.n.copies.Blocks(ctx, root, want[got:]) {
			if err = e; err != nil {
				break
			}
			got++
			if !yield(b, nil) {
				return got, false, nil
			}
		}
		if err == nil || wait > 16*time.Second {
			return got, true, err
		}
		if refers, rerr := s.Refers(ctx, root); rerr != nil || !refers || !sleep(ctx, wait) {
			return got, true, err
		}
	}
}

// Links implements backup.Source.
func (backupSource) Links(b blocks.Block) ([]cid.Cid, error) { return store.Links(b) }

// Refers implements backup.Source.
func (s backupSource) Refers(ctx context.Context, root cid.Cid) (yes bool, err error) {
	if err := s.n.ledger.ReadIndex(ctx); err != nil { // a deletion may not have come here yet
		return false, err
	}
	err = s.n.ledger.View(func(tx *replication.Tx) error { yes = copies.Recorded(tx, root); return nil })
	return yes, err
}

// Noted implements backup.Source: the ledger knows of a state before it is there, and forgets one after it is gone.
func (s backupSource) Noted(ctx context.Context, h backup.Header, done bool) error {
	return s.n.ledger.Update(ctx, func(tx *replication.Tx) error { return noteBackup(tx, h, done) })
}

// backupRecord says which states a backup's folder holds.
type backupRecord struct {
	States []backupState `cbor:"1,keyasint"`
	replication.Unknown
}

type backupState struct {
	State uint64    `cbor:"1,keyasint"`
	At    time.Time `cbor:"2,keyasint"`
	Index uint64    `cbor:"3,keyasint,omitempty"` // of the ledger it was read from; 0: that of a cluster before this one
	Until time.Time `cbor:"4,keyasint,omitzero"`
	Node  string    `cbor:"5,keyasint"`
}

// answer is the state as operators see it, of the folder whose record has that key.
func (s backupState) answer(key []byte) api.ReceiptBackup {
	out := api.ReceiptBackup{Backup: string(key[len(backupKeys):]), State: s.State, Node: s.Node, At: s.At.UTC()}
	if !s.Until.IsZero() {
		until := s.Until.UTC()
		out.Until = &until
	}
	return out
}

var (
	backupKeys    = []byte("nb")
	keyRestored   = []byte("nr")
	restoredKinds = [][]byte{keyOrg, undoneKeys, backupKeys}
)

func backupKey(folder string) []byte { return append(slices.Clone(backupKeys), folder...) }

// noteBackup puts a state into its folder's record; with done it is the only one there.
func noteBackup(tx *replication.Tx, h backup.Header, done bool) error {
	var r backupRecord
	if _, err := get(tx, backupKey(h.Folder), &r); err != nil {
		return err
	}
	this := backupState{State: h.State, At: h.At, Index: h.Index, Until: h.Until, Node: h.Node}
	r.States = slices.DeleteFunc(r.States, func(s backupState) bool { return done || s.State == h.State })
	r.States = append(r.States, this)
	put(tx, backupKey(h.Folder), r)
	return nil
}

// receiptBackups lists the backups that may still hold a deleted file: those read before the last of it
// had gone from the ledger, that are not past their end.
func receiptBackups(tx *replication.Tx, b drive.Burial, now time.Time) ([]api.ReceiptBackup, error) {
	out := []api.ReceiptBackup{}
	gone := tx.ChangeIndex(append(drive.BurialPrefix(), b.File...))
	for k, v := range tx.Scan(backupKeys, replication.PrefixEnd(backupKeys)) {
		var r backupRecord
		if err := replication.Unmarshal(v, &r); err != nil {
			return nil, fmt.Errorf("backup %q: %w", k, err)
		}
		for _, s := range r.States {
			holds := s.Index < gone && !s.At.Before(b.Created)
			if s.Index == 0 { // indexes of another ledger tell nothing
				holds = !s.At.After(b.At) && !s.At.Before(b.Created)
			}
			if !holds || !s.Until.IsZero() && now.After(s.Until) {
				continue
			}
			out = append(out, s.answer(k))
		}
	}
	return out, nil
}

// Backups implements api.Admin: the folders that the ledger knows of.
func (a admin) Backups(ctx context.Context) (api.BackupsAnswer, error) {
	wait, cancel := context.WithTimeout(ctx, freshWait)
	defer cancel()
	_ = a.n.ledger.ReadIndex(wait)
	out := api.BackupsAnswer{Backups: []api.ReceiptBackup{}}
	err := a.n.ledger.View(func(tx *replication.Tx) error {
		out.Backups = out.Backups[:0]
		for k, v := range tx.Scan(backupKeys, replication.PrefixEnd(backupKeys)) {
			var r backupRecord
			if err := replication.Unmarshal(v, &r); err != nil {
				return fmt.Errorf("backup %q: %w", k, err)
			}
			for _, s := range r.States {
				out.Backups = append(out.Backups, s.answer(k))
			}
		}
		return nil
	})
	return out, err
}

// BackupGone implements api.Admin.
func (a admin) BackupGone(ctx context.Context, r api.BackupGoneRequest) error {
	err := a.n.ledger.Update(ctx, func(tx *replication.Tx) error {
		if _, ok := tx.Get(backupKey(r.Backup)); !ok || r.Backup == "" {
			return hint(fmt.Errorf("no backup %q is known", r.Backup), `"valise backup list" shows the ids of all that are`)
		}
		tx.Delete(backupKey(r.Backup))
		return nil
	})
	return ledgerHint(err)
}

// Backup implements api.Admin.
func (a admin) Backup(ctx context.Context, r api.BackupRequest, progress func(api.BackupProgress)) (api.BackupDone, error) {
	if !filepath.IsAbs(r.Dir) {
		return api.BackupDone{}, fmt.Errorf("backup folder %q is not absolute", r.Dir)
	}
	own, err := filepath.Abs(a.n.cfg.Dir)
	if err == nil && (r.Dir == own || strings.HasPrefix(r.Dir, own+string(filepath.Separator))) {
		return api.BackupDone{}, hint(fmt.Errorf("backup folder %s lies in the node's own", r.Dir), "a backup belongs on another disk, at another place")
	}
	return a.n.Backup(ctx, BackupOptions{Dir: r.Dir, Keep: r.Keep, Progress: progress})
}

// BackupKeys implements api.Admin.
func (a admin) BackupKeys(ctx context.Context) (api.KeysAnswer, error) {
	n := a.n
	if err := n.ledger.ReadIndex(ctx); err != nil {
		return api.KeysAnswer{}, ledgerHint(err)
	}
	if err := n.ledger.View(n.keys.load); err != nil {
		return api.KeysAnswer{}, err
	}
	keys := n.keys.export(n.cluster, n.cfg.now())
	if len(keys.Secrets) == 0 {
		return api.KeysAnswer{}, backupHint(fmt.Errorf("export the secrets: %w", errNoKey))
	}
	data, err := keys.Encode()
	return api.KeysAnswer{Organisation: n.cluster.Organisation, Keys: data}, err
}

// SealKeys seals what BackupKeys answered with a passphrase, as a file that age opens. work is scrypt's
// work factor; 0 is the usual.
func SealKeys(keys []byte, passphrase string, work int) ([]byte, error) {
	return backup.Seal(keys, passphrase, work)
}

// UnsealKeys opens what SealKeys made.
func UnsealKeys(sealed []byte, passphrase string) ([]byte, error) {
	data, err := backup.Unseal(sealed, passphrase)
	if err != nil {
		return nil, backupHint(err)
	}
	return data, nil
}

// VerifyBackup reads all of a backup and returns what is damaged in it, each with its file and offset.
func VerifyBackup(ctx context.Context, fs vfs.FS, dir string) (h backup.Header, blocksRead int, damaged []error, err error) {
	b, err := backup.Open(fs, dir)
	if err != nil {
		return h, 0, nil, backupHint(err)
	}
	err = b.Blocks(ctx, func(blocks.Block) error { blocksRead++; return nil }, func(bad error) error {
		damaged = append(damaged, bad)
		return nil
	})
	return b.Header, blocksRead, damaged, err
}
