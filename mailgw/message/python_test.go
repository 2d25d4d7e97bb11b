package message

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// pyLeaf is a leaf as Python's email package sees it.
type pyLeaf struct {
	media, sum, text string
}

// python returns the leaves of messages.
func python(t *testing.T, messages [][]byte) [][]pyLeaf {
	t.Helper()
	exe, err := exec.LookPath("python3")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("needs python3, which CI must have")
		}
		t.Skip("needs python3, as a second, independent parser")
	}
	dir := t.TempDir()
	var paths strings.Builder
	for i, m := range messages {
		p := filepath.Join(dir, "m"+string(rune('0'+i%10))+hex.EncodeToString([]byte{byte(i >> 8), byte(i)}))
		if err := os.WriteFile(p, m, 0o600); err != nil {
			t.Fatal(err)
		}
		paths.WriteString(p + "\n")
	}
	cmd := exec.CommandContext(t.Context(), exe, "testdata/leaves.py")
	cmd.Stdin = strings.NewReader(paths.String())
	cmd.Stderr = t.Output()
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("python3: %v", err)
	}
	var all [][]pyLeaf
	lines := bufio.NewScanner(bytes.NewReader(out))
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		var raw [][]*string
		if err := json.Unmarshal(lines.Bytes(), &raw); err != nil {
			t.Fatal(err)
		}
		var leaves []pyLeaf
		for _, r := range raw {
			l := pyLeaf{media: *r[0], sum: *r[1]}
			if r[2] != nil {
				l.text = *r[2]
			}
			leaves = append(leaves, l)
		}
		all = append(all, leaves)
	}
	if len(all) != len(messages) {
		t.Fatalf("python3 read %d messages, want %d", len(all), len(messages))
	}
	return all
}

// TestM3_SecondParser holds the results against Python's parser: what was taken is what it decodes, everything else is
// there unchanged, and only texts are new, each with the link.
func TestM3_SecondParser(t *testing.T) {
	t.Parallel()
	onEverything(t, secondParser)
}

func secondParser(t *testing.T, all map[string][]byte) {
	var names []string
	var messages [][]byte
	var results []result
	for name, in := range all {
		r := pass(t, bytes.NewReader(in), Options{}, "en")
		names, results = append(names, name), append(results, r)
		messages = append(messages, normal(in), r.rewritten)
	}
	seen := python(t, messages)
	taken := 0
	for i, name := range names {
		before, after, r := seen[2*i], seen[2*i+1], results[i]
		for index, content := range r.taken {
			sum := sha256.Sum256(content)
			at := slices.IndexFunc(before, func(l pyLeaf) bool { return l.sum == hex.EncodeToString(sum[:]) })
			if at < 0 {
				t.Errorf("%s: python decodes no part to the content of part %d", name, index)
				continue
			}
			before = slices.Delete(before, at, at+1)
			taken++
		}
		for _, l := range before { // what both have is unchanged
			if at := slices.Index(after, l); at >= 0 {
				after = slices.Delete(after, at, at+1)
			} else if len(r.taken) == 0 || !strings.HasPrefix(l.media, "text/") {
				t.Errorf("%s: a part of type %s is lost or changed", name, l.media)
			}
		}
		if (len(after) > 0) != (len(r.taken) > 0) {
			t.Errorf("%s: %d parts changed, %d were taken", name, len(after), len(r.taken))
		}
		for _, l := range after {
			link := "https://files.example.org/"
			if !strings.HasPrefix(l.media, "text/") || !strings.Contains(l.text, link) {
				t.Errorf("%s: a part of type %s changed and has no link", name, l.media)
			}
		}
	}
	if taken < 45 {
		t.Errorf("%d parts compared, want 45 at least", taken)
	}
}
