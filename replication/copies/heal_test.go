package copies

import (
	"context"
	"errors"
	"testing"

	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
)

// A block that a scrub found bad comes from whoever has it sound, by its digest alone, and is durable.
func TestT7_Heal(t *testing.T) {
	t.Parallel()
	boom := errors.New("input/output error")
	for name, tc := range map[string]struct {
		spoil func(cl *testCluster, b blocks.Block)
		want  error
	}{
		"two have it":         {func(*testCluster, blocks.Block) {}, nil},
		"one lost it":         {func(cl *testCluster, b blocks.Block) { delete(cl.peers[1].disk.kept, b.Cid()) }, nil},
		"one has another bit": {func(cl *testCluster, b blocks.Block) { cl.peers[1].disk.badFor[b.Cid()] = true }, nil},
		"one is gone":         {func(cl *testCluster, b blocks.Block) { cl.peers[1].die() }, nil},
		"cached here":         {func(cl *testCluster, b blocks.Block) { cl.isolate(0, true); cl.peers[0].disk.cached[b.Cid()] = b }, nil},
		"nobody has it":       {func(cl *testCluster, b blocks.Block) { cl.isolate(0, true) }, ErrNotFound},
		"all have another bit": {func(cl *testCluster, b blocks.Block) {
			cl.peers[1].disk.badFor[b.Cid()] = true
			cl.peers[2].disk.badFor[b.Cid()] = true
		}, ErrNotFound},
		"the disk fails": {func(cl *testCluster, b blocks.Block) { cl.peers[0].disk.syncErr = boom }, boom},
		"no room":        {func(cl *testCluster, b blocks.Block) { cl.peers[0].disk.room = 10 }, errNoRoom},
		"the disk is unchanged": {func(cl *testCluster, b blocks.Block) {
			cl.peers[0].disk.badFor[b.Cid()], cl.peers[0].disk.cached[b.Cid()] = true, b
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cl := newCluster(t, 3, "a", "b", "b").start()
			leaf := newFile(1, 1000).blocks[0]
			for i, p := range cl.peers {
				p.disk.set(func(d *memDisk) {
					if i > 0 {
						d.kept[leaf.Cid()] = leaf
					}
				})
			}
			tc.spoil(cl, leaf)
			err := cl.peers[0].Heal(t.Context(), leaf.Cid())
			if !errors.Is(err, tc.want) || (err == nil) != cl.peers[0].disk.Has(leaf.Cid()) {
				t.Errorf("got %v, want %v; held %v", err, tc.want, cl.peers[0].disk.Has(leaf.Cid()))
			}
			if err == nil && string(cl.peers[0].disk.kept[leaf.Cid()].RawData()) != string(leaf.RawData()) {
				t.Error("healed with other bytes")
			}
		})
	}
	cl := newCluster(t, 1, "a").start()
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := cl.peers[0].Heal(gone, cid.Undef); err == nil {
		t.Error("healed nothing")
	}
}
