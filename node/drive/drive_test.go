package drive

import (
	"bytes"
	"errors"
	"iter"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"

	"github.com/valise-mail/valise/authz"
	"github.com/valise-mail/valise/node/store"
)

// memory is a transaction over a map.
type memory map[string]string

func (m memory) Get(key []byte) ([]byte, bool) {
	v, ok := m[string(key)]
	return []byte(v), ok
}

func (m memory) Scan(from, to []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func(k, v []byte) bool) {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			if k >= string(from) && (to == nil || k < string(to)) && !yield([]byte(k), []byte(m[k])) {
				return
			}
		}
	}
}

func (m memory) Put(key, value []byte)       { m[string(key)] = string(value) }
func (m memory) Delete(key []byte)           { delete(m, string(key)) }
func (m memory) Add(key []byte, delta int64) {}

// plainKeys wraps by putting the associated data in front, so that a mix-up shows.
type plainKeys struct{ epoch uint32 }

func (k plainKeys) Wrap(aad, plain []byte) (uint32, []byte, error) {
	return k.epoch, slices.Concat(aad, plain), nil
}

func (k plainKeys) Unwrap(epoch uint32, aad, sealed []byte) ([]byte, error) {
	plain, ok := bytes.CutPrefix(sealed, aad)
	if !ok || epoch != k.epoch {
		return nil, errors.New("sealed for something else")
	}
	return plain, nil
}

var noon = time.Date(2026, 11, 2, 12, 0, 0, 0, time.UTC)

func content(t *testing.T, text string) Content {
	t.Helper()
	sum, err := multihash.Sum([]byte(text), multihash.SHA2_256, -1)
	if err != nil {
		t.Fatal(err)
	}
	s := store.Sealed{Root: cid.NewCidV1(cid.Raw, sum), Size: int64(len(text))}
	copy(s.Key[:], text)
	c, err := NewContent(plainKeys{epoch: 3}, s, "text/plain")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func attach(t *testing.T, m memory, id authz.FileID, name string, c Content) authz.FileID {
	t.Helper()
	got, err := Attach(m, id, authz.Sending{ID: "s1", Account: "account", Created: noon}, name, c)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestA2_SameContentSameNameIsOneFile(t *testing.T) {
	t.Parallel()
	m := memory{}
	one, two := content(t, "one"), content(t, "two")
	first := attach(t, m, "f1", "a.txt", one)
	for _, c := range []struct {
		name string
		got  authz.FileID
		want authz.FileID
	}{
		{"the same again", attach(t, m, "f2", "a.txt", one), first},
		{"another name", attach(t, m, "f3", "b.txt", one), "f3"},
		{"another content", attach(t, m, "f4", "a.txt", two), "f4"},
	} {
		if c.got != c.want {
			t.Errorf("%s: got file %q, want %q", c.name, c.got, c.want)
		}
	}
	if _, err := Replace(m, "account", first, content(t, "newer"), noon.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if got := attach(t, m, "f5", "a.txt", one); got != "f5" {
		t.Errorf("what is only an older version was taken for the file %q: a following link would show something else", got)
	}
}

func TestA4_NewestAndAsSent(t *testing.T) {
	t.Parallel()
	m := memory{}
	sent, changed := content(t, "as sent"), content(t, "changed since")
	id := attach(t, m, "f1", "a.txt", sent)
	later := noon.Add(time.Hour)
	f, err := Replace(m, "account", id, changed, later)
	if err != nil {
		t.Fatal(err)
	}
	want := File{ID: "f1", Account: "account", Container: Attachments, Name: "a.txt", Created: noon, Changed: later, Newest: 2, Sending: "s1"}
	if diff := cmp.Diff(want, f); diff != "" {
		t.Error(diff)
	}
	_, newest, err := Newest(m, id)
	if err != nil || newest.Number != 2 || !newest.Root.Equals(changed.Root) {
		t.Errorf("newest: got %+v, %v", newest, err)
	}
	_, old, err := WithRoot(m, id, sent.Root)
	if err != nil || old.Number != 1 || old.Size != sent.Size || !old.Created.Equal(noon) {
		t.Errorf("as sent: got %+v, %v", old, err)
	}
	key, err := old.RootKey(plainKeys{epoch: 3})
	if err != nil || !bytes.HasPrefix(key[:], []byte("as sent")) {
		t.Errorf("root key: got %q, %v", key, err)
	}
	if _, _, err := WithRoot(m, id, content(t, "never").Root); !errors.Is(err, ErrNoVersion) {
		t.Errorf("a root it never had: got %v, want ErrNoVersion", err)
	}
	if again, err := Replace(m, "account", id, changed, later.Add(time.Hour)); err != nil || again.Newest != 2 {
		t.Errorf("equal content again: got %+v, %v; want no new version", again, err)
	}
}

func TestReplaceIsForTheOwnerOnly(t *testing.T) {
	t.Parallel()
	m := memory{}
	id := attach(t, m, "f1", "a.txt", content(t, "mine"))
	before := maps.Clone(m)
	if _, err := Replace(m, "somebody else", id, content(t, "theirs"), noon); !errors.Is(err, ErrNoFile) {
		t.Errorf("got %v, want ErrNoFile", err)
	}
	if _, err := Replace(m, "account", "nosuchfile", content(t, "theirs"), noon); !errors.Is(err, ErrNoFile) {
		t.Errorf("got %v, want ErrNoFile", err)
	}
	if diff := cmp.Diff(before, m); diff != "" {
		t.Error("a refused change changed something:", diff)
	}
}

// Remove leaves nothing behind, and nothing of others is missing after it.
func TestRemoveTakesAllItsRecords(t *testing.T) {
	t.Parallel()
	m := memory{}
	attach(t, m, "other", "b.txt", content(t, "one"))
	want := maps.Clone(m)
	id := attach(t, m, "f1", "a.txt", content(t, "one"))
	for _, text := range []string{"two", "three", "one"} {
		if _, err := Replace(m, "account", id, content(t, text), noon); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if _, err := Remove(m, id); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, m); diff != "" {
			t.Error(diff)
		}
	}
}

func TestListIsByName(t *testing.T) {
	t.Parallel()
	m := memory{}
	for i, name := range []string{"b.txt", "a.txt", "照片.png", "a.txt"} {
		attach(t, m, authz.FileID(rune('p'+i)), name, content(t, name+string(rune('0'+i))))
	}
	if _, err := Attach(m, "z", authz.Sending{Account: "another account", Created: noon}, "a.txt", content(t, "x")); err != nil {
		t.Fatal(err)
	}
	var got []string
	for f, err := range List(m, "account", Attachments) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, f.Name+" "+string(f.ID))
	}
	if diff := cmp.Diff([]string{"a.txt q", "a.txt s", "b.txt p", "照片.png r"}, got); diff != "" {
		t.Error(diff)
	}
}
