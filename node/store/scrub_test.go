package store

import (
	"context"
	"errors"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"
	"github.com/ipfs/go-cid"
)

// flip changes one bit of a block where it lies.
func flip(t testing.TB, fs vfs.FS, s *Store, c cid.Cid) {
	t.Helper()
	d, err := digestOf(c)
	if err != nil {
		t.Fatal(err)
	}
	p, ok, err := s.index.find(Kept, d)
	if !ok || err != nil {
		t.Fatal(ok, err)
	}
	f, err := fs.OpenReadWrite("/data/store/packs/"+packName(p.pack), diskWrites)
	if err != nil {
		t.Fatal(err)
	}
	one := make([]byte, 1)
	if _, err := f.ReadAt(one, p.offset+int64(p.length)/2); err != nil {
		t.Fatal(err)
	}
	one[0] ^= 4
	if _, err := f.WriteAt(one, p.offset+int64(p.length)/2); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestT7_ScrubFindsAFlippedBitAndItIsHealed(t *testing.T) {
	t.Parallel()
	mem := vfs.NewMem()
	s := open(t, smallPacks(t, mem))
	blks := rawBlocks(200, 300, 1)
	if err := add(t.Context(), s, Kept, blks...); err != nil {
		t.Fatal(err)
	}
	flip(t, mem, s, blks[77].Cid())
	found := func() (bad []string) {
		t.Helper()
		if err := s.Scrub(t.Context(), 0, func(_ context.Context, c cid.Cid) error {
			bad = append(bad, c.String())
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return bad
	}
	if diff := cmp.Diff([]string{blks[77].Cid().String()}, found()); diff != "" {
		t.Errorf("bad blocks (-want +got):\n%s", diff)
	}
	if err := s.Damaged(t.Context(), blks[77].Cid()); err != nil {
		t.Fatal(err)
	}
	if s.Has(blks[77].Cid()) {
		t.Error("a damaged block counts as held")
	}
	if err := add(t.Context(), s, Kept, blks[77]); err != nil {
		t.Fatal(err)
	}
	checkHeld(t, s, true, "healed", blks[77])
	if bad := found(); len(bad) > 0 {
		t.Errorf("after healing: %v", bad)
	}
}

func TestT7_ScrubGoesOnWhereItWasCutOff(t *testing.T) {
	t.Parallel()
	mem := vfs.NewMem()
	s := open(t, smallPacks(t, mem))
	blks := rawBlocks(3*scrubPage, 100, 1)
	if err := add(t.Context(), s, Kept, blks...); err != nil {
		t.Fatal(err)
	}
	for _, b := range blks {
		flip(t, mem, s, b.Cid())
	}
	seen := map[cid.Cid]int{}
	stop := errors.New("enough")
	err := s.Scrub(t.Context(), 0, func(_ context.Context, c cid.Cid) error {
		if seen[c]++; len(seen) == scrubPage+10 {
			return stop
		}
		return nil
	})
	if !errors.Is(err, stop) {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, smallPacks(t, mem))
	if err := s.Scrub(t.Context(), 0, func(_ context.Context, c cid.Cid) error { seen[c]++; return nil }); err != nil {
		t.Fatal(err)
	}
	twice := 0
	for _, n := range seen {
		twice += n - 1
	}
	if len(seen) != len(blks) || twice != 10 {
		t.Errorf("%d of %d blocks seen, %d of them twice", len(seen), len(blks), twice)
	}
}
