package testnet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/valise-mail/valise/node"
	"github.com/valise-mail/valise/node/api"
	"github.com/valise-mail/valise/node/backup"
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
	checkSecrets(t, keys, keysOf(t, ctx, w))
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

// checkSecrets compares the secrets before and after a restore: all are the same, but for the one that
// signs what browsers carry.
func checkSecrets(t *testing.T, before, after []byte) {
	t.Helper()
	secrets := func(data []byte) map[string]string {
		k, err := backup.DecodeKeys(data)
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]string{}
		for _, s := range k.Secrets {
			out[fmt.Sprint(s.Kind, s.Epoch)] = string(s.Value)
		}
		return out
	}
	was, is := secrets(before), secrets(after)
	if is["cookie1"] != "" || is["cookie2"] == "" || is["cookie2"] == was["cookie1"] {
		t.Error("the cookie key is the one from before the restore")
	}
	delete(was, "cookie1")
	delete(is, "cookie2")
	if len(was) < 4 || !maps.Equal(was, is) {
		t.Errorf("%d secrets before, %d after, and they differ", len(was), len(is))
	}
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
	if _, err := v.Houses[0].Node().Admin().Invite(ctx, api.InviteRequest{Site: "paris"}); err != nil {
		t.Fatal(err)
	}
	backedUp(t, ctx, v, 0, fs)
	keys := keysOf(t, ctx, v)
	checkKeptOut(t, fs, keys)
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

// checkKeptOut opens the ledger of a backup, with the keys, and looks for what no backup has.
func checkKeptOut(t *testing.T, fs vfs.FS, keys []byte) {
	t.Helper()
	k, err := backup.DecodeKeys(keys)
	if err != nil {
		t.Fatal(err)
	}
	b, err := backup.Open(fs, backupDir)
	if err != nil {
		t.Fatal(err)
	}
	entries := 0
	err = b.Ledger(k, func(key, value []byte) error {
		entries++
		if bytes.HasPrefix(key, []byte("nk")) || bytes.HasPrefix(key, []byte("nt")) {
			t.Errorf("entry %q is in the backup", key)
		}
		for _, s := range k.Secrets {
			if bytes.Contains(value, s.Value) {
				t.Errorf("entry %q has the %s key", key, s.Kind)
			}
		}
		return nil
	})
	if err != nil || entries < 10 {
		t.Errorf("%d entries, %v", entries, err)
	}
}

// Nodes fail and files are deleted while a backup runs; it ends all the same, and is whole. So is the one
// before when the node that writes is killed.
func TestBackup_WhileNodesFail(t *testing.T) {
	t.Parallel()
	v, ctx := village(t, Config{Sites: threeAtTwo, Adjust: twoCopies})
	fs := vfs.NewCrashableMem()
	p := person(t, ctx, v, "sender@example.org")
	links, doomed := map[string][]byte{}, []api.PutDone{}
	put := func(name string) (api.PutDone, []byte) {
		t.Helper()
		content := randomBytes(400_000)
		done, err := v.Houses[0].Node().Admin().Put(ctx, api.PutRequest{Account: p.Address, Name: name}, bytes.NewReader(content))
		if err != nil {
			t.Fatal(err)
		}
		return done, content
	}
	for i := range 12 {
		done, content := put(fmt.Sprintf("%d.bin", i))
		if i%4 == 3 {
			doomed = append(doomed, done)
			continue
		}
		links[done.Link] = content
		v.Promise(done.Link, content)
	}
	waitAllCopies(t, ctx, v)
	at := v.Houses[2].Node()
	var failed error
	step := 0
	done, err := at.Backup(ctx, node.BackupOptions{FS: fs, Dir: backupDir, CARSize: 1 << 20, Progress: func(p api.BackupProgress) {
		step++
		switch {
		case step == 2:
			failed = errors.Join(failed, v.Kill(1))
		case step == 4:
			failed = errors.Join(failed, v.Restart(ctx, 1))
		case step >= 5 && len(doomed) > 0 && len(links) == 9:
			_, err := at.Admin().Delete(ctx, api.DeleteRequest{Account: "sender@example.org", File: doomed[0].File})
			failed = errors.Join(failed, err)
			doomed = doomed[1:]
		}
	}})
	if err != nil || failed != nil {
		t.Fatal(err, failed)
	}
	if done.Contents < 9 || done.Contents > 12 {
		t.Errorf("done: %+v", done)
	}
	keys := keysOf(t, ctx, v)

	// Another one, whose writer is killed: its folder is what had been synced by then.
	last, content := put("last.bin")
	v.Promise(last.Link, content)
	cut, cancel := context.WithCancel(ctx)
	if _, err := v.Houses[0].Node().Backup(cut, node.BackupOptions{FS: fs, Dir: backupDir, Progress: func(api.BackupProgress) { cancel() }}); err == nil {
		t.Error("it was cut short and says that it is done")
	}
	fs = fs.CrashClone(vfs.CrashCloneCfg{})
	if err := v.Settled(ctx); err != nil {
		t.Fatal(err)
	}
	verify(t, ctx, v)
	w, ctx, restored := restoredVillage(t, fs, keys, node.RestoreOptions{Lost: true}, "rome")
	if restored.Contents != done.Contents {
		t.Errorf("restored %d contents of %d", restored.Contents, done.Contents)
	}
	for link, content := range links {
		if a := get(t, ctx, w, 0, link, nil); a.Status != http.StatusOK || a.Body != string(content) {
			t.Errorf("%s: %d, %d bytes", link, a.Status, len(a.Body))
		}
	}
	verify(t, ctx, w)
}

func waitAllCopies(t *testing.T, ctx context.Context, v *Village) {
	t.Helper()
	if err := v.Wait(ctx, "all copies", func() (bool, error) {
		s, err := v.Houses[0].Node().Admin().Status(ctx)
		return err == nil && s.Copies.Missing == 0, err
	}); err != nil {
		t.Fatal(err)
	}
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

// A flipped bit in a backup is named by verify and by restore; a restore that is told so leaves it out.
func TestBackup_DamageIsNamedAndLeftOut(t *testing.T) {
	t.Parallel()
	v, ctx := village(t, Config{Sites: []string{"berlin"}})
	fs := vfs.NewCrashableMem()
	p := person(t, ctx, v, "sender@example.org")
	contents := map[string][]byte{}
	for _, name := range []string{"a.bin", "b.bin", "c.bin"} {
		content := randomBytes(1_500_000)
		contents[sendFile(t, ctx, v, 0, p, name, content)] = content
	}
	backedUp(t, ctx, v, 0, fs)
	keys, journal := keysOf(t, ctx, v), journalOf(t, ctx, v)
	const name = "0000000000000001.car"
	path := backupDir + "/blocks/" + name
	data := fileOf(t, fs, path)
	data[len(data)-1000] ^= 1
	f, err := fs.Create(path, "test")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(data); err != nil {
		t.Fatal(err)
	}
	f.Close()
	_, _, damaged, err := node.VerifyBackup(ctx, fs, backupDir)
	if err != nil || len(damaged) != 1 || !strings.Contains(damaged[0].Error(), name) {
		t.Errorf("verify: %v, %v; want one that names %s", damaged, err, name)
	}
	c := newcomer(t, v, "rome")
	o := node.RestoreOptions{FS: fs, From: backupDir, Keys: keys, Journal: bytes.NewReader(journal)}
	if _, err := node.Restore(ctx, c, o); err == nil || !strings.Contains(err.Error(), name) || node.Hint(err) == "" {
		t.Errorf("restore: got %v, want an error that names %s, with a hint", err, name)
	}
	verify(t, ctx, v)

	o.Damaged = true
	w, ctx, restored := restoredVillage(t, fs, keys, o, "rome")
	if len(restored.Damaged) != 1 || restored.Lacking != 1 || restored.Contents != 3 {
		t.Errorf("restored: %+v", restored)
	}
	whole := 0
	for link, content := range contents {
		resp, got, err := w.Fetch(ctx, 0, link, nil) // one breaks off, where it is damaged
		if err == nil && resp.StatusCode == http.StatusOK && bytes.Equal(got, content) {
			whole++
		}
	}
	if whole != 2 {
		t.Errorf("%d of 3 files are whole, want 2", whole)
	}
	verify(t, ctx, w)
}

// A restore that was cut short is run again, and a node that was restored into is not restored into again.
func TestBackup_RestoreCutShortIsRunAgain(t *testing.T) {
	t.Parallel()
	v, ctx := village(t, Config{Sites: []string{"berlin"}})
	fs := vfs.NewCrashableMem()
	p := person(t, ctx, v, "sender@example.org")
	content := randomBytes(5 << 20)
	link := sendFile(t, ctx, v, 0, p, "a.bin", content)
	done := backedUp(t, ctx, v, 0, fs)
	keys := keysOf(t, ctx, v)
	verify(t, ctx, v)
	var c node.Config
	w, ctx := village(t, Config{Sites: []string{"rome"}, Found: func(ctx context.Context, fresh node.Config) error {
		c = fresh
		for _, blocks := range []int{1, 3, done.Blocks} {
			cut, cancel := context.WithCancel(ctx)
			o := node.RestoreOptions{FS: fs, From: backupDir, Keys: keys, Lost: true, Progress: func(p api.BackupProgress) {
				if p.Blocks == blocks {
					cancel()
				}
			}}
			if _, err := node.Restore(cut, c, o); err == nil {
				t.Errorf("cut short after %d blocks, it says that it is done", blocks)
			}
			if _, err := node.Open(ctx, c); err == nil {
				t.Fatal("half a restore is a node")
			}
		}
		_, err := node.Restore(ctx, c, node.RestoreOptions{FS: fs, From: backupDir, Keys: keys, Lost: true})
		return err
	}})
	if a := get(t, ctx, w, 0, link, nil); a.Status != http.StatusOK || a.Body != string(content) {
		t.Errorf("the link: %d, %d bytes", a.Status, len(a.Body))
	}
	if _, err := node.Restore(ctx, c, node.RestoreOptions{FS: fs, From: backupDir, Keys: keys, Lost: true}); err == nil || node.Hint(err) == "" {
		t.Errorf("into a node's folder: got %v, want an error with a hint", err)
	}
	verify(t, ctx, w)
}

// Files of one account come back into the running cluster, and nothing that is there is overwritten.
func TestBackup_FilesOfOneAccount(t *testing.T) {
	t.Parallel()
	v, ctx := village(t, Config{Sites: threeAtTwo, Adjust: twoCopies})
	fs := vfs.NewCrashableMem()
	p, q := person(t, ctx, v, "sender@example.org"), person(t, ctx, v, "other@example.org")
	put := func(r api.PutRequest, content []byte) api.PutDone {
		t.Helper()
		done, err := v.Houses[0].Node().Admin().Put(ctx, r, bytes.NewReader(content))
		if err != nil {
			t.Fatal(err)
		}
		return done
	}
	was, is := randomBytes(2_500_000), randomBytes(700_000)
	same := put(api.PutRequest{Account: p.Address, Name: "same.bin"}, randomBytes(300_000))
	changed := put(api.PutRequest{Account: p.Address, Name: "plan.tar.gz"}, was)
	gone := put(api.PutRequest{Account: p.Address, Name: "gone.bin"}, randomBytes(400_000))
	theirs := put(api.PutRequest{Account: q.Address, Name: "theirs.bin"}, randomBytes(400_000))
	backedUp(t, ctx, v, 0, fs)
	keys := keysOf(t, ctx, v)
	put(api.PutRequest{Account: p.Address, Name: "plan.tar.gz", Replace: changed.File}, is)
	deleted(t, ctx, v.Houses[1], p.Address, gone.File)
	v.Promise(changed.Link, is)

	restore := func(r api.RestoreFileRequest) (map[string]api.RestoredFile, error) {
		r.Dir, r.Keys, r.Account = backupDir, keys, p.Address
		a, err := v.Houses[2].Node().RestoreFile(ctx, fs, r, nil)
		out := map[string]api.RestoredFile{}
		for _, f := range a.Files {
			out[f.File] = f
		}
		return out, err
	}
	for round, did := range []string{"new", "same"} {
		all, err := restore(api.RestoreFileRequest{All: true})
		if err != nil {
			t.Fatal(err)
		}
		if len(all) != 3 || all[same.File].Did != "same" || all[gone.File].Did != "deleted" || all[changed.File].Did != did || !strings.HasPrefix(all[changed.File].Name, "plan.tar (20") {
			t.Errorf("all files, round %d: %+v", round, all)
		}
	}
	if _, err := restore(api.RestoreFileRequest{File: theirs.File}); err == nil || node.Hint(err) == "" {
		t.Errorf("another account's file: got %v, want an error with a hint", err)
	}
	if a := get(t, ctx, v, 1, changed.Link, nil); a.Body != string(is) {
		t.Error("the file that is there was changed")
	}
	one, err := restore(api.RestoreFileRequest{File: changed.File})
	if err != nil || one[changed.File].Did != "version" || one[changed.File].Version != 3 {
		t.Errorf("one file: %+v, %v", one, err)
	}
	if err := v.Wait(ctx, "the version that was", func() (bool, error) {
		a := get(t, ctx, v, 1, changed.Link, nil)
		return a.Body == string(was), nil
	}); err != nil {
		t.Error(err)
	}
	v.acks = nil
	v.Promise(changed.Link, was)
	verify(t, ctx, v)
}

// A node appends to its journal what is revoked and deleted, wherever in the cluster; kept through
// restarts and torn lines, it says the same as the one that is exported.
func TestBackup_JournalIsKept(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "journal")
	v, ctx := village(t, Config{Sites: []string{"berlin", "paris"}, Adjust: func(i int, c *node.Config) {
		if i == 1 {
			c.Backup.Journal = name
		}
	}})
	p := person(t, ctx, v, "sender@example.org")
	put := func(name string) api.PutDone {
		t.Helper()
		done, err := v.Houses[0].Node().Admin().Put(ctx, api.PutRequest{Account: p.Address, Name: name}, bytes.NewReader(randomBytes(1000)))
		if err != nil {
			t.Fatal(err)
		}
		return done
	}
	end := func(what string) {
		t.Helper()
		if _, err := v.Houses[0].Node().Admin().Revoke(ctx, api.RevokeRequest{Link: put("r" + what).Link}); err != nil {
			t.Fatal(err)
		}
		deleted(t, ctx, v.Houses[0], p.Address, put("d"+what).File)
	}
	equal := func() {
		t.Helper()
		if err := v.Wait(ctx, "the journal to say what the ledger does", func() (bool, error) {
			kept, err := os.ReadFile(name)
			if err != nil {
				return false, err
			}
			lines := func(data []byte) []string { return slices.Sorted(strings.Lines(string(data))) }
			got, want := lines(kept), lines(journalOf(t, ctx, v))
			return slices.Equal(got, want), fmt.Errorf("%d lines, want %d", len(got), len(want))
		}); err != nil {
			t.Error(err)
		}
	}
	end("1")
	equal()
	if err := v.Kill(1); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`1234abcd {"at":"20`); err != nil { // a power cut in the middle of a line
		t.Fatal(err)
	}
	f.Close()
	if err := v.Restart(ctx, 1); err != nil {
		t.Fatal(err)
	}
	if err := v.Settled(ctx); err != nil {
		t.Fatal(err)
	}
	end("2")
	equal()
	verify(t, ctx, v)
}
