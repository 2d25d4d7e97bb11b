package store

import "sync"

// Buffers are reused between calls. The pools hold nothing but memory, so they may be shared by
// all stores of a process.
var bufferPools = [...]struct {
	size int
	pool *sync.Pool
}{
	{4 << 10, new(sync.Pool)},
	{32 << 10, new(sync.Pool)},
	{256 << 10, new(sync.Pool)},
	{1 << 20, new(sync.Pool)},
	{MaxBlock, new(sync.Pool)},
}

// getBuffer returns n bytes of any content; n is at most MaxBlock.
func getBuffer(n int) []byte {
	for i := range bufferPools {
		if c := &bufferPools[i]; n <= c.size {
			if p, ok := c.pool.Get().(*[]byte); ok {
				return (*p)[:n]
			}
			return make([]byte, n, c.size)
		}
	}
	return make([]byte, n)
}

// putBuffer gives back what getBuffer returned, whatever its length is now.
func putBuffer(b []byte) {
	for i := range bufferPools {
		if c := &bufferPools[i]; cap(b) == c.size {
			c.pool.Put(&b)
			return
		}
	}
}
