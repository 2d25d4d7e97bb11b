package node

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var journalSample = []journalEntry{
	{At: time.Date(2026, 11, 2, 12, 0, 0, 0, time.UTC), Revoked: "000102030405060708090a0b0c0d0e0f", Why: "administrator"},
	{At: time.Date(2026, 11, 2, 12, 0, 1, 0, time.UTC), Revoked: "000102030405060708090a0b0c0d0e0f", File: "abcdefghijklmnopqrstuvwxyz"},
	{At: time.Date(2026, 11, 2, 12, 0, 2, 0, time.UTC), Deleted: "abcdefghijklmnopqrstuvwxyz", Account: "account"},
}

func journalText() []byte {
	out := journalLine(journalEntry{Version: journalVersion, Cluster: "cluster"})
	for _, e := range journalSample {
		out = append(out, journalLine(e)...)
	}
	return out
}

// Journals lie where no upgrade comes: the stored one never changes.
func TestGoldenJournal(t *testing.T) {
	t.Parallel()
	stored, err := os.ReadFile(filepath.Join("testdata", "journal-1.txt"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(stored), string(journalText())); diff != "" {
		t.Errorf("journals are written differently (-stored +now):\n%s", diff)
	}
	var got []journalEntry
	size, err := readJournal(bytes.NewReader(stored), "cluster", func(e journalEntry) error { got = append(got, e); return nil })
	if diff := cmp.Diff(journalSample, got); diff != "" || err != nil || size != int64(len(stored)) {
		t.Errorf("%d bytes, %v\n%s", size, err, diff)
	}
}

// A journal cut anywhere says what its whole lines say; a bit that flipped is named by its line.
func TestJournalCutAndDamaged(t *testing.T) {
	t.Parallel()
	text := journalText()
	for cut := range text {
		n := 0
		_, err := readJournal(bytes.NewReader(text[:cut]), "cluster", func(journalEntry) error { n++; return nil })
		lines := bytes.Count(text[:cut], []byte("\n"))
		if lines == 0 {
			if err == nil || Hint(err) == "" {
				t.Errorf("cut at %d: got %v, want an error with a hint", cut, err)
			}
			continue
		}
		if err != nil || n != lines-1 {
			t.Errorf("cut at %d: %d entries, %v; want %d", cut, n, err, lines-1)
		}
		name := filepath.Join(t.TempDir(), "journal") // a node goes on with it
		if err := os.WriteFile(name, text[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		j, err := openJournal(name, "cluster")
		if err != nil {
			t.Fatal(err)
		}
		if err := j.append(journalSample); err != nil {
			t.Fatal(err)
		}
		j.close()
		if got, err := os.ReadFile(name); err != nil || string(got) != string(text) {
			t.Errorf("cut at %d and gone on with: %q, %v", cut, got, err)
		}
	}
	for i := range text[:len(text)-1] {
		bad := bytes.Clone(text)
		bad[i] ^= 1
		if bad[i] == '\n' || text[i] == '\n' {
			continue // two lines, or one
		}
		_, err := readJournal(bytes.NewReader(bad), "cluster", func(journalEntry) error { return nil })
		if err == nil || !strings.Contains(err.Error(), "line ") {
			t.Errorf("byte %d: got %v, want an error that names the line", i, err)
		}
	}
	if _, err := readJournal(bytes.NewReader(text), "another", func(journalEntry) error { return nil }); err == nil || Hint(err) == "" {
		t.Errorf("another cluster's: got %v, want an error with a hint", err)
	}
}

// What reads a journal that lay anywhere takes no harm, and never more than it says to be whole.
func FuzzJournal(f *testing.F) {
	f.Add(journalText())
	f.Add([]byte("00000000 {}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		size, err := readJournal(bytes.NewReader(data), "cluster", func(e journalEntry) error {
			if again, perr := parseLine(strings.TrimSuffix(string(journalLine(e)), "\n")); perr != nil || !again.At.Equal(e.At) {
				t.Errorf("%+v is read back as %+v, %v", e, again, perr)
			}
			return nil
		})
		if size > int64(len(data)) || err == nil && size == 0 {
			t.Errorf("%d of %d bytes, %v", size, len(data), err)
		}
	})
}
