package node

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"

	"github.com/valise-mail/valise/authz"
	"github.com/valise-mail/valise/node/drive"
	"github.com/valise-mail/valise/replication"
)

// A receipt names the backups that may hold the file, and no others.
func TestA9_ReceiptNamesBackups(t *testing.T) {
	t.Parallel()
	n := running(t)
	noon := time.Date(2026, 11, 2, 12, 0, 0, 0, time.UTC)
	b := drive.Burial{File: authz.FileID("f1"), Created: noon.Add(-time.Hour), At: noon}
	key := append(drive.BurialPrefix(), b.File...)
	update := func(fn func(tx *replication.Tx)) {
		t.Helper()
		if err := n.ledger.Update(t.Context(), func(tx *replication.Tx) error { fn(tx); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	update(func(tx *replication.Tx) { tx.Put(key, []byte{1}) })
	var gone uint64
	if err := n.ledger.View(func(tx *replication.Tx) error { gone = tx.ChangeIndex(key); return nil }); err != nil {
		t.Fatal(err)
	}
	const minute = time.Minute
	cases := map[string]struct {
		state backupState
		named bool
	}{
		"read before":                                {backupState{At: noon.Add(-minute), Index: gone - 1}, true},
		"read before, by a clock that is ahead":      {backupState{At: noon.Add(minute), Index: gone - 1}, true},
		"read after":                                 {backupState{At: noon.Add(minute), Index: gone}, false},
		"read after, by a clock that is behind":      {backupState{At: noon.Add(-minute), Index: gone + 9}, false},
		"kept on":                                    {backupState{At: noon.Add(-minute), Index: gone - 1, Until: noon.Add(48 * time.Hour)}, true},
		"past its end":                               {backupState{At: noon.Add(-minute), Index: gone - 1, Until: noon.Add(12 * time.Hour)}, false},
		"older than the file":                        {backupState{At: noon.Add(-2 * time.Hour), Index: gone - 1}, false},
		"before a restore, before the deletion":      {backupState{At: noon.Add(-minute)}, true},
		"before a restore, in the deletion's second": {backupState{At: noon}, true},
		"before a restore, after the deletion":       {backupState{At: noon.Add(minute)}, false},
	}
	want := map[string]bool{}
	update(func(tx *replication.Tx) {
		for name, c := range cases {
			put(tx, backupKey(name), backupRecord{States: []backupState{c.state}})
			if c.named {
				want[name] = true
			}
		}
	})
	got := map[string]bool{}
	err := n.ledger.View(func(tx *replication.Tx) error {
		named, err := receiptBackups(tx, b, noon.Add(24*time.Hour))
		for _, r := range named {
			got[r.Backup] = true
		}
		return err
	})
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v (-want +got)\n%s", err, diff)
	}
}

// A ledger of many entries, and of large ones, goes through a backup and a restore as it is (L8).
func TestL8_RestoreIsDoneInSteps(t *testing.T) {
	t.Parallel()
	n := running(t)
	want := map[string]string{}
	for step := range 6 {
		if err := n.ledger.Update(t.Context(), func(tx *replication.Tx) error {
			for i := range 300 {
				key, value := fmt.Sprintf("zz %d %03d", step, i), strings.Repeat("x", 10*i)
				want[key] = value
				if i == 200 {
					continue
				}
				tx.Put([]byte(key), []byte(value))
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		key := fmt.Sprintf("zz %d 200", step)
		want[key] = strings.Repeat("large", 190_000)
		if err := n.ledger.Update(t.Context(), func(tx *replication.Tx) error { tx.Put([]byte(key), []byte(want[key])); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	fs := vfs.NewMem()
	if _, err := n.Backup(t.Context(), BackupOptions{FS: fs, Dir: "/backup"}); err != nil {
		t.Fatal(err)
	}
	keys, err := n.Admin().BackupKeys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c := alone(t)
	c.Seams.FS = vfs.NewMem()
	if _, err := Restore(t.Context(), c, RestoreOptions{FS: fs, From: "/backup", Keys: keys.Keys, Lost: true}); err != nil {
		t.Fatal(err)
	}
	m, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	got := map[string]string{}
	if err := m.ledger.View(func(tx *replication.Tx) error {
		for k, v := range tx.Scan([]byte("zz"), []byte("z{")) {
			got[string(k)] = string(v)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(want, got) {
		t.Errorf("%d entries came back of %d, or they differ", len(got), len(want))
	}
}
