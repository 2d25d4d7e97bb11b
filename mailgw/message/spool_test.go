package message

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
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

// However Read ends, the spool's file is closed: an unlinked file that stays open is room on the disk that nobody sees.
func TestRead_ClosesItsSpool(t *testing.T) {
	t.Parallel()
	in := mixed("\r\n"+strings.Repeat("more than the first block\r\n", 2000), attached("Content-Type: application/pdf"))
	for name, end := range map[string]func() error{
		"error": func() error { return errors.New("a mishap") },
		"panic": func() error { panic("a broken promise") },
	} {
		dir := t.TempDir()
		before := 0
		take := func(context.Context, Part, io.Reader) error {
			before = openIn(t, dir)
			return end()
		}
		func() {
			defer func() { recover() }()
			Read(t.Context(), str(in), Options{SpoolDir: dir, SpoolMemory: 1}, take)
		}()
		if after := openIn(t, dir); before != 1 || after != 0 {
			t.Errorf("%s: %d files are open while a part is taken, and %d afterwards, want 1 and 0", name, before, after)
		}
	}
}

// openIn counts the files of this process that are, or were, in dir.
func openIn(t *testing.T, dir string) (n int) {
	t.Helper()
	fds, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if name, err := os.Readlink(fd); err == nil && strings.HasPrefix(name, dir+"/") {
			n++
		}
	}
	return n
}
