package node

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/valise-mail/valise/replication"
)

// L9: what lies in ledgers stays readable. The file has one of each record of this room, and never changes.
func TestL9_GoldenRecords(t *testing.T) {
	t.Parallel()
	noon := time.Date(2026, 11, 2, 12, 0, 0, 0, time.UTC)
	addr := []byte{4, 127, 0, 0, 1, 6, 0x10, 0x05}
	records := []struct {
		name string
		want any
	}{
		{"organisation", orgRecord{Name: "example.org", PublicFiles: "https://files.example.org", Created: noon}},
		{"member", memberRecord{
			Name: "berlin-1", Site: "berlin", Class: 1, Bulk: [][]byte{addr}, Ledger: [][]byte{addr}, SealKey: []byte("seal"), Store: []byte("0123456789abcdef"),
			Weight: 7, Joined: noon, Files: "127.0.0.1:8080", Program: "0.1.0", Drained: true, Removal: &removalRecord{Asked: noon, Force: true}, Sealed: true,
		}},
		{"ticket", ticketRecord{Site: "paris", Created: noon, Expires: noon.Add(time.Hour), JoinedAs: []byte("joiner"), By: []byte("inviter"), Replaces: []byte("old")}},
		{"secret", wrappedRecord{Sealed: []byte("sealed"), Created: noon}},
		{"epochs", epochsRecord{InForce: map[string]uint32{kindContent: 2, kindMail: 2, kindSigning: 2, kindCookie: 2}, Attempt: []byte("attempt")}},
		{"undone", undoneRecord{At: noon}},
	}
	var lines strings.Builder
	for _, r := range records {
		data, err := replication.Marshal(r.want)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&lines, "%s %x\n", r.name, data)
	}
	stored := golden(t, "records.hex", lines.String())
	if diff := cmp.Diff(stored, lines.String()); diff != "" {
		t.Errorf("records are written differently (-stored +now):\n%s", diff)
	}
	old := map[string][]byte{}
	for line := range strings.Lines(stored) {
		var name string
		var data []byte
		if _, err := fmt.Sscanf(line, "%s %x", &name, &data); err != nil {
			t.Fatal(err)
		}
		old[name] = data
	}
	for _, r := range records {
		got := reflect.New(reflect.TypeOf(r.want))
		if err := replication.Unmarshal(old[r.name], got.Interface()); err != nil {
			t.Fatalf("%s: %v", r.name, err)
		}
		if again, err := replication.Marshal(got.Elem().Interface()); err != nil || !bytes.Equal(again, old[r.name]) {
			t.Errorf("%s: a field was not read: %+v, %v", r.name, got.Elem(), err)
		}
	}
}

// A key that was sealed once opens in every later version.
func TestL9_GoldenSealedKey(t *testing.T) {
	t.Parallel()
	const passphrase = "correct horse battery"
	c := alone(t)
	id, err := identityOf(ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, 32)))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.fs().MkdirAll(c.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	c.NewPassphrase = passphrase
	if err := c.saveIdentity(c.fs(), id); err != nil {
		t.Fatal(err)
	}
	name := c.fs().PathJoin(c.Dir, keyName)
	now, err := readFile(c.fs(), name)
	if err != nil {
		t.Fatal(err)
	}
	if err := writeFile(c.fs(), name, []byte(golden(t, "node.key.age", string(now)))); err != nil {
		t.Fatal(err)
	}
	c.NewPassphrase, c.Passphrase = "", saying(passphrase)
	if got, err := c.loadIdentity(t.Context(), c.fs()); err != nil || got.id != id.id {
		t.Errorf("the stored key: %v", err)
	}
}

// golden returns the stored form. With UPDATE_GOLDEN=1 it writes a missing file; one that is there never changes.
func golden(t *testing.T, name, now string) string {
	t.Helper()
	path := filepath.Join("testdata", name)
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) && os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(path, []byte(now), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	stored, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(stored)
}
