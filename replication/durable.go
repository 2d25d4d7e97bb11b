package replication

import (
	"context"
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// stateSyncEvery is how far the state on disk may lag behind the one shown.
const stateSyncEvery = 250 * time.Millisecond

// keepStateSynced makes the state durable soon after it changed. Nothing that was
// acknowledged depends on it: the log is synced, and raft applies it again once it
// knows what is committed, which takes a majority. But a node that was killed and
// starts alone shows its state on disk until then, and that should know the
// revocations of a moment ago.
func (db *DB) keepStateSynced(ctx context.Context) {
	var synced uint64
	for ctx.Err() == nil {
		pause(ctx, stateSyncEvery)
		applied := db.machine.applied.Load()
		if applied == synced {
			continue
		}
		st, err := db.states.acquire()
		if err != nil {
			return // closed
		}
		err = st.pdb.LogData(nil, pebble.Sync)
		db.states.release(st)
		if err != nil {
			db.fatal.park(fmt.Errorf("sync ledger state: %w", err))
		}
		synced = applied
	}
}
