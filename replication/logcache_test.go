package replication

import (
	"errors"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"
)

// What the log keeps in memory is bounded in bytes, whatever the size of its entries; all
// of it is read from disk all the same.
func TestLogCache(t *testing.T) {
	t.Parallel()
	f := newFatal(testLogger(t))
	pdb := must((&folder{fs: vfs.NewMem(), dir: "/l", fatal: f}).newState()).pdb
	defer pdb.Close()
	c := &logCache{logStore: must(newLogStore(pdb, f))}
	store := func(from, to uint64, term uint64, size int) {
		t.Helper()
		var logs []*raft.Log
		for i := from; i <= to; i++ {
			logs = append(logs, &raft.Log{Index: i, Term: term, Data: make([]byte, size)})
		}
		if err := c.StoreLogs(logs); err != nil {
			t.Fatal(err)
		}
	}
	check := func(kept int, last, term uint64) {
		t.Helper()
		if len(c.logs) != kept || c.bytes > cachedBytes || kept > 0 && c.logs[kept-1].Index != last {
			t.Errorf("%d entries, %d bytes in memory, want %d entries up to %d", len(c.logs), c.bytes, kept, last)
		}
		for i := uint64(1); i <= last; i++ {
			var l raft.Log
			if err := c.GetLog(i, &l); err != nil || l.Index != i || i == last && l.Term != term {
				t.Errorf("entry %d: %d of term %d, %v", i, l.Index, l.Term, err)
			}
		}
		if err := c.GetLog(last+1, new(raft.Log)); !errors.Is(err, raft.ErrLogNotFound) {
			t.Errorf("behind the end: %v", err)
		}
	}
	check(0, 0, 0)
	store(1, 600, 1, 10)
	check(cachedEntries, 600, 1)
	store(601, 610, 1, 1<<20)
	check(4, 610, 1)
	if err := c.DeleteRange(605, 610); err != nil {
		t.Fatal(err)
	}
	check(0, 604, 1)
	store(605, 606, 2, 100)
	check(2, 606, 2)
}
