package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/valise-mail/valise/node/api"
	"github.com/valise-mail/valise/replication"
)

func saying(passphrase string) func(context.Context) (string, error) {
	return func(context.Context) (string, error) { return passphrase, nil }
}

// found looks for bytes in every file below a folder.
func found(t *testing.T, fs vfs.FS, dir string, what []byte) (where []string) {
	t.Helper()
	names, err := fs.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		path := fs.PathJoin(dir, name)
		info, err := fs.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.IsDir() {
			where = append(where, found(t, fs, path, what)...)
			continue
		}
		data, err := readFile(fs, path)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(data, what) {
			where = append(where, path)
		}
	}
	return where
}

// R5, a stolen disk: with a sealed key it holds nothing that opens the ledger's
// secrets; without the passphrase, or with a wrong one, the node does not start
// and says what is missing.
func TestR5_StolenDiskOfASealedNode(t *testing.T) {
	t.Parallel()
	c := alone(t)
	c.NewPassphrase = "seven words make a long passphrase"
	if err := Init(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	right := c.NewPassphrase
	c.NewPassphrase = ""
	for name, ask := range map[string]func(context.Context) (string, error){
		"nobody to ask": nil, "a wrong passphrase": saying("seven words make a short passphrase"), "an empty one": saying(""),
	} {
		c.Passphrase = ask
		_, err := Open(t.Context(), c)
		if err == nil || !strings.Contains(Hint(err), "--key-passphrase-file") || ask != nil && !errors.Is(err, ErrPassphrase) {
			t.Errorf("%s: got %v, hint %q", name, err, Hint(err))
		}
	}
	c.Passphrase = saying(right)
	n := start(t, c)
	s, err := n.Admin().Status(t.Context())
	if err != nil || !s.Members[0].KeySealed {
		t.Errorf("status does not say that the key is sealed: %+v, %v", s.Members, err)
	}
	secrets := map[string][]byte{"node's key": n.id.key.Seed()}
	for _, kind := range kinds {
		if secrets[kind], _, err = n.keys.secret(kind, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	for name, secret := range secrets {
		if where := found(t, c.fs(), c.Dir, secret); len(where) > 0 {
			t.Errorf("the %s lies open in %v", name, where)
		}
	}
	for _, text := range []string{"PRIVATE KEY", right} {
		if where := found(t, c.fs(), c.Dir, []byte(text)); len(where) > 0 {
			t.Errorf("%q lies in %v", text, where)
		}
	}
}

// A stolen disk with an unsealed key is a stolen node, as SECURITY.md says.
func TestR5_StolenDiskOfAnUnsealedNode(t *testing.T) {
	t.Parallel()
	c, _, cluster, db := founded(t)
	id, err := c.loadIdentity(t.Context(), c.fs())
	if err != nil {
		t.Fatal(err)
	}
	keys := newKeyring(cluster.Cluster, id)
	if err := db.View(func(tx *replication.Tx) error { return keys.load(tx) }); err != nil {
		t.Fatal(err)
	}
	if _, _, err := keys.secret(kindContent, 0); err != nil {
		t.Errorf("its key opens nothing: %v", err)
	}
}

// A joiner seals its key, too, and may ask again with the same passphrase.
func TestR4_SealedJoinerMayAskAgain(t *testing.T) {
	t.Parallel()
	berlin := running(t)
	ticket, err := berlin.Admin().Invite(t.Context(), api.InviteRequest{Site: "paris"})
	if err != nil {
		t.Fatal(err)
	}
	c := alone(t)
	c.NewPassphrase = "seven words make a long passphrase"
	if _, err := Join(t.Context(), c, ticket.Ticket); err != nil {
		t.Fatal(err)
	}
	if err := c.fs().Remove(c.fs().PathJoin(c.Dir, clusterName)); err != nil { // the answer was lost
		t.Fatal(err)
	}
	wrong := c
	wrong.NewPassphrase = "another passphrase"
	if _, err := Join(t.Context(), wrong, ticket.Ticket); !errors.Is(err, ErrPassphrase) {
		t.Errorf("with another passphrase: %v", err)
	}
	if _, err := Join(t.Context(), c, ticket.Ticket); err != nil {
		t.Errorf("with the same: %v", err)
	}
	if sealed, err := KeySealed(c); err != nil || !sealed {
		t.Errorf("sealed %v, %v", sealed, err)
	}
}

// However far a change of the passphrase came when the power failed, the key
// opens with the old one or with the new one, and a start leaves no other copy.
func TestPromise5_KillWhileThePassphraseChanges(t *testing.T) {
	t.Parallel()
	for _, change := range []struct{ name, from, to string }{
		{"first", "", "the first passphrase"},
		{"another", "the first passphrase", "the second passphrase"},
		{"none any more", "the first passphrase", ""},
	} {
		t.Run(change.name, func(t *testing.T) {
			t.Parallel()
			disk := vfs.NewCrashableMem()
			c := alone(t)
			c.Seams.FS, c.NewPassphrase = disk, change.from
			if err := Init(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			want, err := c.loadIdentity(t.Context(), disk)
			if err != nil {
				t.Fatal(err)
			}
			var images []*vfs.MemFS
			c.Seams.FS = errorfs.Wrap(disk, errorfs.InjectorFunc(func(op errorfs.Op) error {
				if op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
					images = append(images, disk.CrashClone(vfs.CrashCloneCfg{}))
				}
				return nil
			}))
			c.NewPassphrase, c.Passphrase = "", saying(change.from)
			if err := ChangePassphrase(t.Context(), c, change.to); err != nil {
				t.Fatal(err)
			}
			if images = append(images, disk.CrashClone(vfs.CrashCloneCfg{})); len(images) < 6 {
				t.Errorf("only %d moments were tried", len(images))
			}
			for i, image := range images {
				opened := 0
				for _, passphrase := range []string{change.from, change.to} {
					c.Passphrase = saying(passphrase)
					if id, err := c.loadIdentity(t.Context(), image); err == nil && id.id == want.id {
						opened++
					}
				}
				if opened == 0 {
					t.Errorf("after write %d of %d the key does not open any more", i, len(images))
				}
			}
			last := images[len(images)-1]
			if sealed, err := keySealed(last, c.Dir); err != nil || sealed != (change.to != "") {
				t.Errorf("at the end sealed %v, %v", sealed, err)
			}
		})
	}
}

// A change that was cut off leaves no unsealed key behind once the node has started.
func TestUnfinishedKeyIsRemoved(t *testing.T) {
	t.Parallel()
	c := alone(t)
	if err := Init(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	name := c.fs().PathJoin(c.Dir, keyName)
	text, err := readFile(c.fs(), name)
	if err != nil {
		t.Fatal(err)
	}
	if err := writeFile(c.fs(), name+".new", text); err != nil {
		t.Fatal(err)
	}
	start(t, c)
	if _, err := c.fs().Stat(name + ".new"); !errors.Is(err, errNotExist) {
		t.Errorf("the unsealed key is still there: %v", err)
	}
}

func TestPassphraseThatIsNone(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "short", "two\nlines of it", strings.Repeat("x", 20) + "\x00"} {
		if err := CheckPassphrase(text); err == nil || Hint(err) == "" {
			t.Errorf("%q: got %v, want an error with a hint", text, err)
		}
	}
	if err := CheckPassphrase("correct horse battery"); err != nil {
		t.Error(err)
	}
}

// What asks for more work than we ever write is refused before it is done.
func TestSealedKeyWithTooMuchWork(t *testing.T) {
	t.Parallel()
	file, err := seal([]byte("x"), "correct horse battery", fastScryptWork)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := unseal(file, "correct horse battery"); err != nil || string(text) != "x" {
		t.Errorf("got %q, %v", text, err)
	}
	// A line of an age file's header says the work; forged, it is refused, not tried.
	plain := fmt.Sprintf("age-encryption.org/v1\n-> scrypt AAAAAAAAAAAAAAAAAAAAAA %d\n%s\n--- %s\n", maxScryptWork+1, strings.Repeat("A", 43), strings.Repeat("A", 43))
	if _, err := unseal([]byte(plain), "correct horse battery"); err == nil {
		t.Error("a file that asks for endless work was opened")
	}
}
