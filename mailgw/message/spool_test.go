package message

import (
	"bytes"
	"math/rand/v2"
	"os"
	"testing"
)

// TestM5_SpoolGivesBackWhatCame writes in pieces of every size around the block's, and reads anywhere meanwhile.
func TestM5_SpoolGivesBackWhatCame(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(1, 2))
	for _, limit := range []int64{0, 1000, spoolBlock, 3 * spoolBlock, 1 << 30} {
		dir := t.TempDir()
		s := &spool{dir: dir, limit: limit}
		var want []byte
		for len(want) < 10*spoolBlock {
			p := make([]byte, rnd.IntN(2*spoolBlock))
			for i := range p {
				p[i] = byte(rnd.Uint32())
			}
			if _, err := s.Write(p); err != nil {
				t.Fatal(err)
			}
			want = append(want, p...)
			from := rnd.Int64N(s.size + 1)
			to := from + rnd.Int64N(s.size-from+1)
			got := make([]byte, to-from)
			n, err := s.ReadAt(got, from)
			if n != len(got) || !bytes.Equal(got, want[from:to]) {
				t.Fatalf("limit %d: [%d, %d) of %d reads %d octets, %v", limit, from, to, s.size, n, err)
			}
		}
		if names, err := os.ReadDir(dir); err != nil || len(names) > 0 {
			t.Errorf("limit %d: the file has a name: %v, %v", limit, names, err)
		}
		if held := len(s.blocks) * spoolBlock; limit < 4*spoolBlock && (s.file == nil || held > 2*spoolBlock) {
			t.Errorf("limit %d: %d octets in memory, file %v", limit, held, s.file != nil)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}
