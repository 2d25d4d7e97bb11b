package testnet

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/valise-mail/valise/node"
	"github.com/valise-mail/valise/node/api"
)

// P3: what a node that stays away held is copied to another, and the node that comes back is a holder of
// nothing it should not be.
func TestP3_CopiesOfANodeThatStaysAway(t *testing.T) {
	t.Parallel()
	v, ctx := village(t, Config{Sites: []string{"berlin", "berlin", "paris", "paris"}, Adjust: func(i int, c *node.Config) {
		twoCopies(i, c)
		c.Copies.Patience = node.Duration(2 * time.Second)
	}})
	p := person(t, ctx, v, "sender@example.org")
	var roots []string
	for i := range 8 {
		content := randomBytes(300_000)
		put, err := v.Houses[i%4].Node().Admin().Put(ctx, api.PutRequest{Account: p.Address, Name: "a.bin"}, bytes.NewReader(content))
		if err != nil {
			t.Fatal(err)
		}
		v.Promise(put.Link, content)
		roots = append(roots, put.CID)
	}
	if err := v.Settled(ctx); err != nil {
		t.Fatal(err)
	}
	gone := v.Houses[3].Name
	if err := v.Stop(3); err != nil {
		t.Fatal(err)
	}
	if err := v.Wait(ctx, "two live nodes to hold everything", func() (bool, error) {
		for _, root := range roots {
			names, err := v.Houses[0].Node().Holders(root)
			if err != nil {
				return false, err
			}
			live := 0
			for _, name := range names {
				if name != gone {
					live++
				}
			}
			if live < 2 {
				return false, nil
			}
		}
		return true, nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := v.Restart(ctx, 3); err != nil {
		t.Fatal(err)
	}
	verify(t, ctx, v)
}

// T7: a scrub finds a bit that flipped on a disk, and mends the block from another node.
func TestT7_ScrubMendsAFlippedBit(t *testing.T) {
	t.Parallel()
	v, ctx := village(t, Config{Sites: threeAtTwo, Adjust: func(_ int, c *node.Config) {
		c.Store.ScrubEvery, c.Store.ScrubRate = node.Duration(500*time.Millisecond), 1<<30
	}})
	p := person(t, ctx, v, "sender@example.org")
	content := randomBytes(600_000)
	put, err := v.Houses[0].Node().Admin().Put(ctx, api.PutRequest{Account: p.Address, Name: "a.bin"}, bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	v.Promise(put.Link, content)
	if err := v.Settled(ctx); err != nil {
		t.Fatal(err)
	}
	chunk := contentOf(t, v, put.CID)[1]
	h := v.Houses[2]
	if leftOn(t, h, contentOf(t, v, put.CID)[1:2]) != 1 {
		t.Fatal("the house holds no copy: the test proves nothing")
	}
	file, at := whereOn(t, h, chunk.RawData())
	f, err := h.disk.OpenReadWrite(file, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	sample := chunk.RawData()[1000:1064]
	if _, err := f.WriteAt([]byte{sample[0] ^ 1}, at+1000); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if found, _ := findOn(t, h, sample); found != "" {
		t.Fatal("the bit did not flip")
	}
	if err := v.Wait(ctx, "the block to be mended", func() (bool, error) {
		found, _ := findOn(t, h, sample)
		return found != "", nil
	}); err != nil {
		t.Fatal(err)
	}
	verify(t, ctx, v)
}

// whereOn finds a block's bytes on a house's disk.
func whereOn(t *testing.T, h *House, data []byte) (file string, at int64) {
	t.Helper()
	file, at = findOn(t, h, data)
	if file == "" {
		t.Fatalf("%s has no such block", h.Name)
	}
	return file, at
}

// findOn finds bytes in a house's packs; an empty name where they are nowhere.
func findOn(t *testing.T, h *House, data []byte) (file string, at int64) {
	t.Helper()
	dir := h.disk.PathJoin(h.cfg.Dir, "store", "packs")
	names, err := h.disk.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		path := h.disk.PathJoin(dir, name)
		all, err := readAll(h.disk, path)
		if err != nil {
			continue // collected meanwhile
		}
		if i := bytes.Index(all, data); i >= 0 {
			return path, int64(i)
		}
	}
	return "", 0
}

func readAll(fs vfs.FS, path string) ([]byte, error) {
	f, err := fs.Open(path)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(f)
	return data, errors.Join(err, f.Close())
}
