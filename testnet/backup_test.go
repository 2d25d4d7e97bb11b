package testnet

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/valise-mail/valise/node"
	"github.com/valise-mail/valise/node/api"
)

const backupDir = "/backup"

// backedUp makes a backup through house i.
func backedUp(t *testing.T, ctx context.Context, v *Village, i int, fs vfs.FS) api.BackupDone {
	t.Helper()
	done, err := v.Houses[i].Node().Backup(ctx, node.BackupOptions{FS: fs, Dir: backupDir, CARSize: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	return done
}

func keysOf(t *testing.T, ctx context.Context, v *Village) []byte {
	t.Helper()
	a, err := v.Houses[0].Node().Admin().BackupKeys(ctx)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := node.SealKeys(a.Keys, "correct horse", 4)
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range [][]byte{a.Keys, a.Keys[len(a.Keys)-20:]} {
		if bytes.Contains(sealed, secret) {
			t.Error("the keys file holds secrets in the clear")
		}
	}
	if _, err := node.UnsealKeys(sealed, "another"); err == nil || node.Hint(err) == "" {
		t.Errorf("another passphrase: got %v, want an error with a hint", err)
	}
	keys, err := node.UnsealKeys(sealed, "correct horse")
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// restoredVillage founds a village from a backup; o has what is special.
func restoredVillage(t *testing.T, fs vfs.FS, keys []byte, o node.RestoreOptions, sites ...string) (*Village, context.Context, node.Restored) {
	t.Helper()
	var out node.Restored
	o.FS, o.From, o.Keys = fs, backupDir, keys
	v, ctx := village(t, Config{Sites: sites, Adjust: twoCopies, Found: func(ctx context.Context, c node.Config) (err error) {
		out, err = node.Restore(ctx, c, o)
		return err
	}})
	return v, ctx, out
}

func journalOf(t *testing.T, ctx context.Context, v *Village) []byte {
	t.Helper()
	var buf bytes.Buffer
	if err := v.Houses[0].Node().Admin().Revocations(ctx, &buf); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// countFiles says how many files of a kind a backup has, and their bytes.
func countFiles(t *testing.T, fs vfs.FS, dir, end string) (n int, size int64) {
	t.Helper()
	names, err := fs.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if strings.HasSuffix(name, end) {
			info, err := fs.Stat(fs.PathJoin(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			n++
			size += info.Size()
		}
	}
	return n, size
}

// Lose everything, restore: every byte, version and grant is there, and what was revoked and deleted
// after the backup stays so.
func TestBackup_EverythingComesBack(t *testing.T) {
	t.Parallel()
	v, ctx := village(t, Config{Sites: threeAtTwo, Adjust: twoCopies})
	fs := vfs.NewCrashableMem()
	p := person(t, ctx, v, "sender@example.org")
	put := func(v *Village, r api.PutRequest, content []byte) api.PutDone {
		t.Helper()
		r.Account = p.Address
		done, err := v.Houses[1].Node().Admin().Put(ctx, r, bytes.NewReader(content))
		if err != nil {
			t.Fatal(err)
		}
		return done
	}
	type promise struct {
		link    string
		content []byte
	}
	var kept []promise
	send := func(i int, name string, content []byte) string {
		t.Helper()
		link := sendFile(t, ctx, v, i, p, name, content)
		kept = append(kept, promise{link, content})
		return link
	}
	first := randomBytes(3 << 20)
	send(0, "first.bin", first)
	old, changed := randomBytes(700_000), randomBytes(800_000)
	following := put(v, api.PutRequest{Name: "plan.bin"}, old)
	put(v, api.PutRequest{Name: "plan.bin", Replace: following.File}, changed)
	v.Promise(following.Link, changed)
	kept = append(kept, promise{following.Link, changed}, promise{following.Link + "?v=sent", old})
	before := put(v, api.PutRequest{Name: "gone-before.bin"}, randomBytes(600_000))
	deleted(t, ctx, v.Houses[0], p.Address, before.File)
	toDelete := put(v, api.PutRequest{Name: "gone-after.bin"}, randomBytes(900_000))
	toRevoke := put(v, api.PutRequest{Name: "revoked-after.bin"}, randomBytes(500_000))

	one := backedUp(t, ctx, v, 2, fs)
	if one.New != one.Blocks || one.NewBytes != one.Bytes || one.Bytes < 5<<20 || one.State != 1 {
		t.Errorf("first backup: %+v", one)
	}
	again := backedUp(t, ctx, v, 0, fs)
	if again.New != 0 || again.Blocks != one.Blocks || again.Contents != one.Contents || again.State != 2 {
		t.Errorf("a second one of the same: %+v, after %+v", again, one)
	}
	more := randomBytes(1_200_000)
	send(1, "more.bin", more)
	two := backedUp(t, ctx, v, 1, fs)
	if two.NewBytes < int64(len(more)) || two.NewBytes > int64(len(more))+100_000 || two.Bytes != one.Bytes+two.NewBytes {
		t.Errorf("an incremental backup of %d bytes more: %+v", len(more), two)
	}
	if n, _ := countFiles(t, fs, backupDir, ".ledger"); n != 1 {
		t.Errorf("%d states in the folder, want 1", n)
	}
	keys := keysOf(t, ctx, v)

	if _, err := v.Houses[1].Node().Admin().Revoke(ctx, api.RevokeRequest{Link: toRevoke.Link}); err != nil {
		t.Fatal(err)
	}
	receipt := deleted(t, ctx, v.Houses[2], p.Address, toDelete.File).Receipt
	if len(receipt.Backups) != 1 || receipt.Backups[0].Backup != two.Folder || receipt.Backups[0].State != 3 || receipt.Backups[0].Until != nil {
		t.Errorf("a receipt's backups: %+v, want the one made before", receipt.Backups)
	}
	if r, err := v.Houses[0].Node().Admin().Receipt(ctx, api.ReceiptRequest{File: before.File}); err != nil || len(r.Receipt.Backups) != 0 {
		t.Errorf("receipt of what was deleted before every backup: %+v, %v", r.Receipt.Backups, err)
	}
	journal := journalOf(t, ctx, v)
	verify(t, ctx, v) // and all of it is gone

	w, ctx, restored := restoredVillage(t, fs, keys, node.RestoreOptions{Journal: bytes.NewReader(journal)}, "rome", "oslo")
	if restored.Closed || restored.Replayed.Revoked != 1 || restored.Replayed.Deleted != 1 || restored.Blocks != two.Blocks || len(restored.Damaged) != 0 {
		t.Errorf("restored: %+v", restored)
	}
	for i := range w.Houses {
		for _, k := range kept {
			if a := get(t, ctx, w, i, k.link, nil); a.Status != http.StatusOK || a.Body != string(k.content) {
				t.Errorf("%s through %s: %d, %d bytes", k.link, w.Houses[i].Name, a.Status, len(a.Body))
			}
		}
		for name, link := range map[string]string{"deleted before": before.Link, "deleted after": toDelete.Link, "revoked after": toRevoke.Link} {
			if a := get(t, ctx, w, i, link, nil); a.Status != http.StatusForbidden {
				t.Errorf("%s the backup, through %s: %d, want a refusal", name, w.Houses[i].Name, a.Status)
			}
		}
	}
	// The account goes on with its app password, also through the node that joined.
	if err := w.Houses[1].Node().Admin().AddMailbox(ctx, api.MailboxRequest{Account: p.Address, Address: p.Address, NextHop: w.Mail.Addr(), TLS: "none"}); err != nil {
		t.Fatal(err)
	}
	sendFile(t, ctx, w, 1, p, "after.bin", randomBytes(400_000))
	files, err := w.Houses[1].Node().Admin().Files(ctx, api.FilesRequest{Account: p.Address})
	if err != nil || len(files.Files) != 5 {
		t.Errorf("files: %+v, %v", files, err)
	}
	w.Promise(kept[0].link, kept[0].content)
	verify(t, ctx, w)
}

// Without the journal a restored cluster opens no link, and says why; with it, or with the word that it
// is lost, it does.
func TestBackup_LinksStayClosedUntilTheJournal(t *testing.T) {
	t.Parallel()
	v, ctx := village(t, Config{Sites: []string{"berlin"}})
	fs := vfs.NewCrashableMem()
	p := person(t, ctx, v, "sender@example.org")
	content := randomBytes(400_000)
	link := sendFile(t, ctx, v, 0, p, "a.bin", content)
	backedUp(t, ctx, v, 0, fs)
	keys, journal := keysOf(t, ctx, v), journalOf(t, ctx, v)
	verify(t, ctx, v)

	for name, end := range map[string]api.OpenRequest{"replayed": {Journal: journal}, "lost": {Lost: true}} {
		w, ctx, restored := restoredVillage(t, fs, keys, node.RestoreOptions{}, "rome", "oslo")
		if !restored.Closed {
			t.Error("links are open without a journal")
		}
		for i := range w.Houses {
			a := get(t, ctx, w, i, link, browser)
			if a.Status != http.StatusServiceUnavailable || !strings.Contains(a.Body, "restoring") || a.Header.Get("Retry-After") == "" {
				t.Errorf("a link of a restored cluster: %d %s", a.Status, a.Body)
			}
		}
		if _, err := w.Houses[1].Node().Admin().OpenLinks(ctx, api.OpenRequest{}); err == nil {
			t.Error("links were opened without a word")
		}
		if _, err := w.Houses[1].Node().Admin().OpenLinks(ctx, end); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for i := range w.Houses {
			if err := w.Wait(ctx, "the link to open", func() (bool, error) {
				a := get(t, ctx, w, i, link, nil)
				return a.Status == http.StatusOK && a.Body == string(content), nil
			}); err != nil {
				t.Error(err)
			}
		}
		verify(t, ctx, w)
	}
}

// What a backup is for its thief: no name, no address, no content, and nothing that restores it.
func TestBackup_OpensNothingWithoutTheKeys(t *testing.T) {
	t.Parallel()
	v, ctx := village(t, Config{Sites: []string{"berlin"}})
	fs := vfs.NewCrashableMem()
	p := person(t, ctx, v, "sender@example.org")
	text := bytes.Repeat([]byte("a sentence that must not be read. "), 20_000)
	sendFile(t, ctx, v, 0, p, "confidential.txt", text)
	backedUp(t, ctx, v, 0, fs)
	keys := keysOf(t, ctx, v)
	for _, dir := range []string{backupDir, backupDir + "/blocks"} {
		names, err := fs.List(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			data := fileOf(t, fs, fs.PathJoin(dir, name))
			for _, word := range []string{"confidential", "sender@", "must not be read", p.Account} {
				if bytes.Contains(data, []byte(word)) {
					t.Errorf("%s has %q", name, word)
				}
			}
		}
	}
	c := newcomer(t, v, "rome")
	other := []byte("no keys")
	w, octx := village(t, Config{Sites: []string{"berlin"}})
	foreign := keysOf(t, octx, w)
	for name, k := range map[string][]byte{"none": nil, "not keys": other, "another organisation's": foreign} {
		if _, err := node.Restore(ctx, c, node.RestoreOptions{FS: fs, From: backupDir, Keys: k, Lost: true}); err == nil {
			t.Errorf("restored with keys: %s", name)
		}
	}
	if _, err := node.Restore(ctx, c, node.RestoreOptions{FS: fs, From: backupDir, Keys: keys, Lost: true}); err != nil {
		t.Errorf("with the keys: %v", err)
	}
	if _, err := w.Houses[0].Node().Backup(octx, node.BackupOptions{FS: fs, Dir: backupDir}); err == nil || node.Hint(err) == "" {
		t.Errorf("another organisation into the same folder: got %v, want an error with a hint", err)
	}
	verify(t, octx, w)
	verify(t, ctx, v)
}

// fileOf reads a file; nil for a folder.
func fileOf(t *testing.T, fs vfs.FS, path string) []byte {
	t.Helper()
	if info, err := fs.Stat(path); err != nil || info.IsDir() {
		return nil
	}
	f, err := fs.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	data, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
