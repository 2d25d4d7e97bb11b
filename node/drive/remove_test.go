package drive

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/ipfs/go-cid"

	"github.com/valise-mail/valise/authz"
)

func replaced(t *testing.T, m memory, id authz.FileID, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if _, err := Replace(m, "account", id, content(t, text), noon.Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRemoveNamesRootsThatNothingRefersTo(t *testing.T) {
	t.Parallel()
	m := memory{}
	attach(t, m, "f1", "a.txt", content(t, "one"))
	replaced(t, m, "f1", "two", "one", "three")
	attach(t, m, "f2", "b.txt", content(t, "two"))
	orphans, err := Remove(m, "f1")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(texts(t, "one", "three"), names(orphans)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	orphans, err = Remove(m, "f2")
	if diff := cmp.Diff(texts(t, "two"), names(orphans)); diff != "" || err != nil {
		t.Errorf("%v (-want +got)\n%s", err, diff)
	}
	if len(m) > 0 {
		t.Errorf("left: %v", m)
	}
	if orphans, err := Remove(m, "f2"); len(orphans) > 0 || err != nil {
		t.Errorf("removed again: %v, %v", orphans, err)
	}
}

func names(roots []cid.Cid) (out []string) {
	for _, r := range roots {
		out = append(out, r.String())
	}
	return out
}

func texts(t *testing.T, all ...string) (out []string) {
	for _, text := range all {
		out = append(out, content(t, text).Root.String())
	}
	return out
}

func TestBuriedFilesAreGoneAtOnceAndClearedInSteps(t *testing.T) {
	t.Parallel()
	m := memory{}
	attach(t, m, "f1", "a.txt", content(t, "one"))
	replaced(t, m, "f1", "two", "three", "two", "four")
	attach(t, m, "f2", "b.txt", content(t, "three"))
	before := maps.Clone(m)
	if _, err := Bury(m, "somebody else", "f1", noon, "operator"); !errors.Is(err, ErrNoFile) || !maps.Equal(before, m) {
		t.Errorf("buried by another account: %v", err)
	}
	if _, err := Bury(m, "account", "f1", noon, "operator"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Newest(m, "f1"); !errors.Is(err, ErrNoFile) {
		t.Errorf("newest of a buried file: %v", err)
	}
	if _, _, err := WithRoot(m, "f1", content(t, "one").Root); !errors.Is(err, ErrNoFile) {
		t.Errorf("as sent of a buried file: %v", err)
	}
	if got := attach(t, m, "f3", "a.txt", content(t, "four")); got != "f3" {
		t.Errorf("attached to the buried file %q", got)
	}
	for f, err := range List(m, "account", Attachments) {
		if f.ID == "f1" || err != nil {
			t.Errorf("listed: %v, %v", f, err)
		}
	}
	var orphans []cid.Cid
	steps := 0
	for done := false; !done; steps++ {
		b, some, err := Clear(m, "f1", 2)
		if err != nil {
			t.Fatal(err)
		}
		orphans, done = append(orphans, some...), b.Done
	}
	if diff := cmp.Diff(texts(t, "one", "two"), names(orphans)); diff != "" || steps != 3 {
		t.Errorf("%d steps (-want +got)\n%s", steps, diff)
	}
	want := Burial{File: "f1", Account: "account", Name: "a.txt", Created: noon, At: noon, By: "operator", Versions: 5, Done: true}
	if got, err := LoadBurial(m, "f1"); err != nil || got != want {
		t.Errorf("burial: %+v, %v", got, err)
	}
	n := 0
	for root, err := range Orphans(m, "f1") {
		if err != nil || !root.Defined() {
			t.Errorf("orphan %s: %v", root, err)
		}
		n++
	}
	if n != 2 {
		t.Errorf("%d orphans are remembered", n)
	}
	for k := range m {
		if strings.HasPrefix(k, "dv"+"f1") || strings.HasPrefix(k, "dr"+"f1") || strings.HasPrefix(k, "du") && strings.HasSuffix(k, "f1") {
			t.Errorf("left: %q", k)
		}
	}
	if _, _, err := Newest(m, "f2"); err != nil {
		t.Errorf("the other file: %v", err)
	}
}

// L9: a burial stays readable.
func TestL9_GoldenBurial(t *testing.T) {
	t.Parallel()
	m := memory{}
	attach(t, m, "f1", "报告.pdf", content(t, "one"))
	replaced(t, m, "f1", "two")
	if _, err := Bury(m, "account", "f1", noon, "operator"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Clear(m, "f1", 1); err != nil {
		t.Fatal(err)
	}
	stored := golden(t, "burial.hex", fmt.Sprintf("%x\n", m["dxf1"]))
	var v []byte
	if _, err := fmt.Sscanf(stored, "%x", &v); err != nil {
		t.Fatal(err)
	}
	got, err := LoadBurial(memory{"dxf1": string(v)}, "f1")
	if want := (Burial{File: "f1", Account: "account", Name: "报告.pdf", At: noon, By: "operator", Versions: 1}); err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
}
