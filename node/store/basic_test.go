package store

import (
	"bytes"
	"testing"
)

func TestT1_AnySizeReadsBack(t *testing.T) {
	t.Parallel()
	s := openMem(t)
	for i, n := range []int{0, 1, 1000, chunkMin - 1, chunkMin, chunkMin + 1, chunkMax - 1, chunkMax, chunkMax + 1, 3<<20 + 17, 50 << 20} {
		data := random(n, uint64(i))
		sealed := put(t, s, scopeKey("a"), data)
		if sealed.Size != int64(n) {
			t.Errorf("size of %d bytes: got %d", n, sealed.Size)
		}
		if !bytes.Equal(readBack(t, s, sealed), data) {
			t.Errorf("%d bytes do not read back", n)
		}
	}
}
