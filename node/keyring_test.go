package node

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/valise-mail/valise/replication"
)

// founded is the folder of a fresh one-node cluster in memory, and its ledger opened alone.
func founded(t *testing.T) (Config, *identity, clusterFile, *replication.DB) {
	t.Helper()
	c := DefaultConfig(0)
	c.Organisation, c.Site, c.Dir = "example.org", "berlin", "/node"
	c.Seams.FS = vfs.NewMem()
	if err := Init(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	id, err := c.loadIdentity(t.Context(), c.fs())
	if err != nil {
		t.Fatal(err)
	}
	cluster, err := loadCluster(c.fs(), c.Dir, id, c.Organisation)
	if err != nil {
		t.Fatal(err)
	}
	db, err := replication.Open(context.WithoutCancel(t.Context()), replication.Config{
		Dir: c.fs().PathJoin(c.Dir, ledgerDir), FS: c.fs(), ID: id.id, Site: c.Site, Lane: nowhere{},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return c, id, cluster, db
}

func TestR5_SecretsOpenForTheirNodeAlone(t *testing.T) {
	t.Parallel()
	_, id, cluster, db := founded(t)
	keys := newKeyring(cluster.Cluster, id)
	if err := db.View(keys.load); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, kind := range kinds {
		s, epoch, err := keys.secret(kind, 0)
		if err != nil || len(s) != 32 || epoch != 1 || seen[string(s)] {
			t.Errorf("%s: %d bytes, epoch %d, %v, seen before %v", kind, len(s), epoch, err, seen[string(s)])
		}
		seen[string(s)] = true
	}
	other, err := newIdentity()
	if err != nil {
		t.Fatal(err)
	}
	stranger := newKeyring(cluster.Cluster, other)
	if err := db.View(stranger.load); err != nil {
		t.Fatal(err)
	}
	if _, _, err := stranger.secret(kindContent, 0); !errors.Is(err, errNoKey) {
		t.Errorf("another node's key opens: %v", err)
	}

	wrapped, _, err := keys.wrapAll(other.id, other.seal.PublicKey().Bytes(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Update(t.Context(), func(tx *replication.Tx) error {
		for key, w := range wrapped {
			put(tx, []byte(key), w)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := db.View(stranger.load); err != nil {
		t.Fatal(err)
	}
	for _, kind := range kinds {
		ours, _, _ := keys.secret(kind, 0)
		theirs, _, err := stranger.secret(kind, 0)
		if err != nil || !bytes.Equal(ours, theirs) {
			t.Errorf("%s after wrapping: %v", kind, err)
		}
	}
}

func TestSealedValuesAreBound(t *testing.T) {
	t.Parallel()
	_, id, cluster, db := founded(t)
	keys := newKeyring(cluster.Cluster, id)
	if err := db.View(keys.load); err != nil {
		t.Fatal(err)
	}
	epoch, sealed, err := keys.sealUnder(kindMail, []byte("this mailbox"), []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := keys.openUnder(kindMail, epoch, []byte("this mailbox"), sealed); err != nil || string(got) != "secret" {
		t.Fatalf("got %q, %v", got, err)
	}
	for _, c := range []struct {
		name, kind, aad string
		epoch           uint32
		sealed          []byte
	}{
		{"another mailbox", kindMail, "that mailbox", epoch, sealed},
		{"another kind", kindContent, "this mailbox", epoch, sealed},
		{"an epoch to come", kindMail, "this mailbox", epoch + 1, sealed},
		{"cut short", kindMail, "this mailbox", epoch, sealed[:11]},
		{"nothing", kindMail, "this mailbox", epoch, nil},
		{"a bit flipped", kindMail, "this mailbox", epoch, append(bytes.Clone(sealed[:20]), append([]byte{sealed[20] ^ 1}, sealed[21:]...)...)},
	} {
		if got, err := keys.openUnder(c.kind, c.epoch, []byte(c.aad), c.sealed); err == nil {
			t.Errorf("%s: opened as %q", c.name, got)
		}
	}
}

// An account's content secret does not depend on the node, and differs from epoch keys that wrap.
func TestT2_ScopeKeyIsTheSameOnEveryNode(t *testing.T) {
	t.Parallel()
	_, id, cluster, db := founded(t)
	a, b := newKeyring(cluster.Cluster, id), newKeyring(cluster.Cluster, id)
	if err := errors.Join(db.View(a.load), db.View(b.load)); err != nil {
		t.Fatal(err)
	}
	one, err1 := a.ScopeKey("account")
	two, err2 := b.ScopeKey("account")
	if err := errors.Join(err1, err2); err != nil || one != two || one.Scope != "account" || one.Epoch != 1 {
		t.Errorf("got %v and %v, %v", one, two, err)
	}
	raw, _, err := a.secret(kindContent, 0)
	if err != nil || bytes.Equal(raw, one.Secret[:]) {
		t.Errorf("the content key itself leaves the ring, %v", err)
	}
}

func TestInitIsDoneOnce(t *testing.T) {
	t.Parallel()
	c, id, _, db := founded(t)
	db.Close()
	if err := Init(t.Context(), c); err == nil || Hint(err) == "" {
		t.Errorf("init again: got %v", err)
	}
	again, err := c.loadIdentity(t.Context(), c.fs())
	if err != nil || again.id != id.id {
		t.Errorf("the refused init changed the key: %v", err)
	}
}

// An init that was cut off before its last file may be run again.
func TestInitCutOffStartsOver(t *testing.T) {
	t.Parallel()
	c, _, _, db := founded(t)
	db.Close()
	if err := c.fs().Remove(c.fs().PathJoin(c.Dir, clusterName)); err != nil {
		t.Fatal(err)
	}
	if err := Init(t.Context(), c); err != nil {
		t.Fatal(err)
	}
}
