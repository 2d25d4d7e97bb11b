package store

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// L11: a store whose index has died is closed while the committer is in the middle of a round. What it is at
// work on is not taken from it.
func TestL11_CloseLeavesTheCommitterItsPacks(t *testing.T) {
	t.Parallel()
	disk := &faultFS{FS: vfs.NewMem()}
	s := open(t, testConfig(t, disk))
	gates := []chan struct{}{make(chan struct{}), make(chan struct{})}
	entered := make(chan struct{}, 2)
	var syncs atomic.Int64
	disk.set(func(op, path string) fault {
		if op == "sync" && isPack(path) {
			if n := int(syncs.Add(1)); n <= len(gates) {
				entered <- struct{}{}
				<-gates[n-1]
			}
		}
		return fine
	})
	var adds sync.WaitGroup
	adds.Go(func() { add(t.Context(), s, Kept, rawBlock(random(3000, 1))) })
	<-entered
	adds.Go(func() { add(t.Context(), s, Kept, rawBlock(random(3000, 2))) })
	adds.Go(func() { add(t.Context(), s, Cached, rawBlock(random(3000, 3))) })
	for both := false; !both; { // in one round: while the first of them is synced, the other waits its turn
		s.mu.Lock()
		both = len(s.dirty) == 2
		s.mu.Unlock()
	}
	close(gates[0])
	<-entered
	s.index.reason = errInjected
	close(s.index.dead)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	close(gates[1])
	<-s.done
	adds.Wait()
}
