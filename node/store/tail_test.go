package store

import (
	"bytes"
	"testing"
)

func TestT4_TailWithAFlippedBitIsCut(t *testing.T) {
	t.Parallel()
	mem, kept, file, good := tornStore(t)
	last := rawBlock(random(30, 2))
	whole := append(sectionHead(last.Cid(), 30), last.RawData()...)
	for at := range whole {
		torn := bytes.Clone(whole)
		torn[at] ^= 1 << (at % 8)
		overwrite(t, mem, file, append(bytes.Clone(good), torn...))
		s := open(t, testConfig(t, mem))
		if n := len(s.indexed(t, Kept)); n != 1 || !s.Has(kept.Cid()) {
			t.Fatalf("byte %d changed: %d blocks indexed", at, n)
		}
		r := recovery{store: s, kind: Kept, id: 1}
		if err := r.index(nil, int64(len(good)), 0); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
