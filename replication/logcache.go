package replication

import (
	"sync"

	"github.com/hashicorp/raft"
)

// Bounds of what is kept of the log in memory, for followers a little behind.
const (
	cachedEntries = 512
	cachedBytes   = 4 << 20
)

// A logCache keeps the end of the log in memory, bounded in entries and bytes: raft's
// own counts entries only, and 512 of them may be half a gigabyte.
type logCache struct {
	*logStore

	mu    sync.RWMutex
	logs  []*raft.Log // one after the other; the last is the log's last
	bytes int
}

var (
	_ raft.LogStore          = (*logCache)(nil)
	_ raft.MonotonicLogStore = (*logCache)(nil)
)

// GetLog implements raft.LogStore.
func (c *logCache) GetLog(index uint64, l *raft.Log) error {
	c.mu.RLock()
	if len(c.logs) > 0 && index >= c.logs[0].Index && index-c.logs[0].Index < uint64(len(c.logs)) {
		*l = *c.logs[index-c.logs[0].Index]
		c.mu.RUnlock()
		return nil
	}
	c.mu.RUnlock()
	return c.logStore.GetLog(index, l)
}

// StoreLog implements raft.LogStore.
func (c *logCache) StoreLog(l *raft.Log) error { return c.StoreLogs([]*raft.Log{l}) }

// StoreLogs implements raft.LogStore.
func (c *logCache) StoreLogs(logs []*raft.Log) error {
	if err := c.logStore.StoreLogs(logs); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range logs {
		if n := len(c.logs); n > 0 && c.logs[n-1].Index+1 != l.Index {
			c.logs, c.bytes = nil, 0
		}
		c.logs = append(c.logs, l)
		c.bytes += len(l.Data) + len(l.Extensions)
	}
	old := 0
	for c.bytes > cachedBytes || len(c.logs)-old > cachedEntries {
		c.bytes -= len(c.logs[old].Data) + len(c.logs[old].Extensions)
		c.logs[old] = nil // the array outlives it
		old++
	}
	c.logs = c.logs[old:]
	return nil
}

// DeleteRange implements raft.LogStore.
func (c *logCache) DeleteRange(low, high uint64) error {
	c.mu.Lock()
	c.logs, c.bytes = nil, 0
	c.mu.Unlock()
	return c.logStore.DeleteRange(low, high)
}
