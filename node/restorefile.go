package node

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"

	"github.com/valise-mail/valise/authz"
	"github.com/valise-mail/valise/node/api"
	"github.com/valise-mail/valise/node/backup"
	"github.com/valise-mail/valise/node/drive"
	"github.com/valise-mail/valise/node/store"
	"github.com/valise-mail/valise/replication"
)

// RestoreFile implements api.Admin.
func (a admin) RestoreFile(ctx context.Context, r api.RestoreFileRequest, progress func(api.BackupProgress)) (api.RestoreFileDone, error) {
	if !filepath.IsAbs(r.Dir) {
		return api.RestoreFileDone{}, fmt.Errorf("backup folder %q is not absolute", r.Dir)
	}
	return a.n.RestoreFile(ctx, vfs.Default, r, progress)
}

// RestoreFile brings files of one account back from a backup in fs, each in its newest version there, as
// a new file or as a new version; it overwrites and deletes nothing. No link is made.
func (n *Node) RestoreFile(ctx context.Context, fs vfs.FS, r api.RestoreFileRequest, progress func(api.BackupProgress)) (out api.RestoreFileDone, err error) {
	if (r.File == "") != r.All {
		return out, errors.New("either one file or all of them")
	}
	account, err := admin{n}.account(ctx, r.Account)
	if err != nil {
		return out, err
	}
	if !n.backups.TryLock() {
		return out, hint(errors.New("this node is busy with a backup"), "wait until that one has ended")
	}
	defer n.backups.Unlock()
	ctx, cancel := n.whileUp(ctx)
	defer cancel()
	b, err := backup.Open(fs, r.Dir)
	if err != nil {
		return out, backupHint(err)
	}
	keys, err := backup.DecodeKeys(r.Keys)
	if err == nil {
		err = b.Check(keys)
	}
	if err != nil {
		return out, backupHint(err)
	}
	out = api.RestoreFileDone{At: b.Header.At, Files: []api.RestoredFile{}}
	err = b.View(keys, n.fs, n.fs.PathJoin(n.cfg.Dir, scratchDir), func(v *backup.View) error {
		f := fileRestorer{n: n, v: v, keys: ringOf(keys), account: account, at: b.Header.At}
		files, err := f.find(r)
		if err != nil {
			return err
		}
		for i, file := range files {
			done, err := f.restore(ctx, file, r.All)
			if err != nil {
				return fmt.Errorf("file %s, %q: %w", file.ID, file.Name, err)
			}
			out.Files = append(out.Files, done)
			if progress != nil {
				progress(api.BackupProgress{Contents: i + 1, Of: len(files)})
			}
		}
		return nil
	})
	return out, backupHint(err)
}

// ringOf is a keyring that has the secrets of a keys file, and is of no node.
func ringOf(k backup.Keys) *keyring {
	ring := newKeyring(k.Cluster, nil)
	for _, s := range k.Secrets {
		ring.secrets[secretID{s.Kind, s.Epoch}] = s.Value
		ring.newest[s.Kind] = max(ring.newest[s.Kind], s.Epoch)
	}
	return ring
}

// A fileRestorer brings files of one account back.
type fileRestorer struct {
	n       *Node
	v       *backup.View
	keys    *keyring
	account authz.AccountID // of the cluster
	at      time.Time       // of the backup
}

// readOnly is a backup's ledger, for functions that only read.
type readOnly struct{ *backup.View }

var _ authz.Reader = readOnly{}

// find lists the files asked for, as the backup has them.
func (f *fileRestorer) find(r api.RestoreFileRequest) (files []drive.File, err error) {
	from, err := f.accountThen(r.Account)
	if err != nil {
		return nil, err
	}
	if r.All {
		for file, err := range drive.List(readOnly{f.v}, from, drive.Attachments) {
			if err != nil {
				return nil, err
			}
			files = append(files, file)
		}
		return files, nil
	}
	file, _, err := drive.Newest(readOnly{f.v}, authz.FileID(r.File))
	if err == nil && file.Account != from {
		err = fmt.Errorf("file %s: %w", r.File, drive.ErrNoFile)
	}
	if errors.Is(err, drive.ErrNoFile) {
		err = hint(fmt.Errorf("the backup has no such file of this account: %w", err), "it was made after the backup, or deleted before; --all shows what there is")
	}
	return []drive.File{file}, err
}

// accountThen finds the account in the backup: by its id, or, where a cluster was made anew, by its address.
func (f *fileRestorer) accountThen(named string) (authz.AccountID, error) {
	if _, err := authz.LoadAccount(readOnly{f.v}, f.account); err == nil {
		return f.account, nil
	}
	address, err := authz.ParseAddress(named)
	if err == nil {
		var box authz.Mailbox
		if box, err = authz.FindMailbox(readOnly{f.v}, address); err == nil {
			return box.Account, nil
		}
	}
	return "", hint(fmt.Errorf("the backup has no account %q", named), "name the account by an address that it had then")
}

// restore brings one file back. Where the cluster has the file in another state, that goes on: one file
// asked for becomes its newest version, all at once become files beside those that there are.
func (f *fileRestorer) restore(ctx context.Context, file drive.File, beside bool) (api.RestoredFile, error) {
	n, out := f.n, api.RestoredFile{File: string(file.ID), Name: file.Name}
	_, then, err := drive.Newest(readOnly{f.v}, file.ID)
	if err != nil {
		return out, err
	}
	var there drive.File
	err = n.ledger.View(func(tx *replication.Tx) error {
		if _, err := drive.LoadBurial(tx, file.ID); err == nil {
			out.Did = "deleted"
			return nil
		}
		var now drive.Version
		there, now, err = drive.Newest(tx, file.ID)
		if errors.Is(err, drive.ErrNoFile) || err == nil && there.Account != f.account {
			there = drive.File{}
			return nil
		}
		if err == nil && now.Root.Equals(then.Root) {
			out.Did, out.Into, out.Version = "same", string(there.ID), now.Number
		}
		return err
	})
	if err != nil || out.Did != "" {
		return out, err
	}
	key, err := then.RootKey(f.keys)
	if err != nil {
		return out, err
	}
	content, err := store.OpenFile(ctx, then.Root, key, backupBlocks{f.v})
	if err != nil {
		return out, err
	}
	defer content.Close()
	if there.ID != "" && !beside {
		now, _, err := n.replace(ctx, f.account, there.ID, then.MediaType, content)
		out.Did, out.Into, out.Version = "version", string(now.ID), now.Newest
		return out, n.putErrorOf(err)
	}
	if there.ID != "" {
		out.Name = nameBeside(file.Name, f.at)
	}
	out.Did, out.Version = "new", 1
	up, err := n.upload(ctx, f.account, then.MediaType, content)
	if err != nil {
		return out, n.putErrorOf(err)
	}
	fresh, now := drive.NewFileID(), n.cfg.now()
	err = n.ledger.Update(ctx, func(tx *replication.Tx) error {
		id, err := drive.Attach(tx, fresh, authz.Sending{Account: f.account, Created: now}, out.Name, up.content)
		if err != nil {
			return err
		}
		if out.Into = string(id); id != fresh {
			out.Did = "same" // a file of that name has this very content
		}
		return n.copies.Record(tx, up.placed)
	})
	return out, err
}

func (n *Node) putErrorOf(err error) error {
	if err == nil {
		return nil
	}
	return n.putError(err)
}

// nameBeside is the name of a file that comes to stand beside one of the same name.
func nameBeside(name string, at time.Time) string {
	ext := path.Ext(name)
	return authz.CleanName(strings.TrimSuffix(name, ext) + " (" + at.UTC().Format("2006-01-02 15.04") + ")" + ext)
}

// backupBlocks reads a file's blocks from a backup.
type backupBlocks struct{ v *backup.View }

var _ store.Source = backupBlocks{}

// Blocks implements store.Source.
func (b backupBlocks) Blocks(ctx context.Context, want []cid.Cid) iter.Seq2[blocks.Block, error] {
	return b.v.Blocks(ctx, want)
}
