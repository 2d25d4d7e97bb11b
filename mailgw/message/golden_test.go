package message

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write testdata/golden/*/out.eml anew; read every one before it is committed")

// TestM6_Golden runs the project's own messages, one for each rule and pitfall, at threshold 0. The language is Chinese
// where the folder's name starts with zh.
func TestM6_Golden(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/golden/*/in.eml")
	if err != nil || len(files) < 40 {
		t.Fatalf("%d messages, want 40 at least (%v)", len(files), err)
	}
	for _, f := range files {
		dir := filepath.Dir(f)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			t.Parallel()
			in, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			lang := "en"
			if strings.HasPrefix(filepath.Base(dir), "zh") {
				lang = "zh-CN"
			}
			r := pass(t, bytes.NewReader(in), Options{}, lang)
			if !bytes.Equal(r.original, normal(in)) {
				t.Error("the original is not the normal form")
			}
			again := pass(t, bytes.NewReader(r.rewritten), Options{}, lang)
			if d := cmp.Diff(string(r.rewritten), string(again.rewritten)); d != "" {
				t.Errorf("a second pass changes it again (-once +twice):\n%s", d)
			}
			out := filepath.Join(dir, "out.eml")
			if *update {
				if err := os.WriteFile(out, r.rewritten, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(out)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), string(r.rewritten)); d != "" {
				t.Errorf("%s (-want +got):\n%s", r.m.untouched, d)
			}
		})
	}
}
