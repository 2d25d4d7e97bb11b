package drive

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// L9: what lies in ledgers stays readable. The file has every key and record
// of one file with two versions, and never changes.
func TestL9_GoldenRecords(t *testing.T) {
	t.Parallel()
	m := memory{}
	sent, changed := content(t, "as sent"), content(t, "changed since")
	id := attach(t, m, "f1", "报告.pdf", sent)
	if _, err := Replace(m, "account", id, changed, noon.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	var lines strings.Builder
	for _, k := range slices.Sorted(maps.Keys(m)) {
		fmt.Fprintf(&lines, "%x %x\n", k, m[k])
	}
	stored := golden(t, "records.hex", lines.String())
	if diff := cmp.Diff(stored, lines.String()); diff != "" {
		t.Errorf("records are written differently (-stored +now):\n%s", diff)
	}

	old := memory{}
	for line := range strings.Lines(stored) {
		var k, v []byte
		if _, err := fmt.Sscanf(line, "%x %x", &k, &v); err != nil {
			t.Fatal(err)
		}
		old[string(k)] = string(v)
	}
	f, newest, err := Newest(old, id)
	want := File{ID: "f1", Account: "account", Container: Attachments, Name: "报告.pdf", Created: noon, Changed: noon.Add(time.Hour), Newest: 2, Sending: "s1"}
	if diff := cmp.Diff(want, f); diff != "" || err != nil {
		t.Errorf("file: %v\n%s", err, diff)
	}
	_, first, err := WithRoot(old, id, sent.Root)
	if err != nil {
		t.Fatal(err)
	}
	for c, v := range map[*Content]Version{&sent: first, &changed: newest} {
		if key, err := v.RootKey(plainKeys{epoch: 3}); err != nil || key == [32]byte{} || !v.Root.Equals(c.Root) || v.Size != c.Size || v.MediaType != c.MediaType {
			t.Errorf("version: got %+v, %v", v, err)
		}
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
