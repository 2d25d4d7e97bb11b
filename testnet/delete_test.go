package testnet

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	car "github.com/ipld/go-car/v2"

	"github.com/valise-mail/valise/node/api"
	"github.com/valise-mail/valise/node/store"
)

// packs returns the bytes of every pack on a house's disk, cached ones too.
func packs(t *testing.T, h *House) (all [][]byte) {
	t.Helper()
	for _, kind := range []string{"packs", "cache"} {
		dir := h.disk.PathJoin(h.cfg.Dir, "store", kind)
		names, err := h.disk.List(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			data, err := readAll(h.disk, h.disk.PathJoin(dir, name))
			if err != nil {
				continue // collected meanwhile
			}
			all = append(all, data)
		}
	}
	return all
}

// contentOf finds a root and all blocks under it in the packs of the houses.
func contentOf(t *testing.T, v *Village, root string) (out []blocks.Block) {
	t.Helper()
	found := make(map[cid.Cid]blocks.Block)
	for _, h := range v.Houses {
		for _, data := range packs(t, h) {
			r, err := car.NewBlockReader(bytes.NewReader(data))
			if err != nil {
				t.Fatal(err)
			}
			for b, err := r.Next(); err != io.EOF; b, err = r.Next() {
				if err != nil {
					t.Fatal(err)
				}
				found[b.Cid()] = b
			}
		}
	}
	c, err := cid.Decode(root)
	if err != nil {
		t.Fatal(err)
	}
	manifest := found[c]
	if manifest == nil {
		t.Fatalf("no pack has %s", root)
	}
	links, err := store.Links(manifest)
	if err != nil {
		t.Fatal(err)
	}
	out = append(out, manifest)
	for _, l := range links {
		out = append(out, found[l])
	}
	return out
}

// leftOn counts the blocks of which a house's disk still has bytes.
func leftOn(t *testing.T, h *House, content []blocks.Block) (n int) {
	t.Helper()
	all := packs(t, h)
	for _, b := range content {
		sample := b.RawData()[len(b.RawData())/2:]
		sample = sample[:min(len(sample), 64)]
		for _, data := range all {
			if bytes.Contains(data, sample) {
				n++
				break
			}
		}
	}
	return n
}

func deleted(t *testing.T, ctx context.Context, h *House, account, file string) api.ReceiptAnswer {
	t.Helper()
	a, err := h.Node().Admin().Delete(ctx, api.DeleteRequest{Account: account, File: file})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// A9, deletion that can be proven: at once nobody can open the file, and its keys and grants are gone;
// soon no disk has a block of it; the receipt says so, node by node, and no more than is so. What another
// account stored stays, though it is the same content.
func TestA9_DeletedForGood(t *testing.T) {
	t.Parallel()
	v, ctx := village(t, Config{Sites: threeAtTwo, Adjust: twoCopies})
	p, q := person(t, ctx, v, "sender@example.org"), person(t, ctx, v, "other@example.org")
	first, second := randomBytes(700_000), randomBytes(800_000)
	put := func(i int, r api.PutRequest, content []byte) api.PutDone {
		t.Helper()
		done, err := v.Houses[i].Node().Admin().Put(ctx, r, bytes.NewReader(content))
		if err != nil {
			t.Fatal(err)
		}
		return done
	}
	doomed := put(0, api.PutRequest{Account: p.Address, Name: "a.bin"}, first)
	changed := put(1, api.PutRequest{Account: p.Address, Name: "a.bin", Replace: doomed.File}, second)
	kept := put(2, api.PutRequest{Account: q.Address, Name: "a.bin"}, first)
	alsoKept := put(0, api.PutRequest{Account: p.Address, Name: "b.bin"}, second[:400_000])
	v.Promise(kept.Link, first)
	v.Promise(alsoKept.Link, second[:400_000])
	content := append(contentOf(t, v, doomed.CID), contentOf(t, v, changed.CID)...)

	if _, err := v.Houses[0].Node().Admin().Delete(ctx, api.DeleteRequest{Account: q.Address, File: doomed.File}); err == nil {
		t.Error("another account deleted the file")
	}
	a := deleted(t, ctx, v.Houses[1], p.Address, doomed.Link)
	if !a.Receipt.KeysGone || a.Receipt.Versions != 2 || a.Receipt.Grants != 0 || len(a.Receipt.Contents) != 2 {
		t.Errorf("receipt: %+v", a.Receipt)
	}
	for i := range v.Houses {
		if err := v.Wait(ctx, "the link to be refused", func() (bool, error) {
			return get(t, ctx, v, i, doomed.Link, nil).Status == http.StatusForbidden, nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	var last api.ReceiptAnswer
	if err := v.Wait(ctx, "all nodes to have dropped it", func() (bool, error) {
		var err error
		last, err = v.Houses[0].Node().Admin().Receipt(ctx, api.ReceiptRequest{File: doomed.File})
		if err != nil {
			return false, err
		}
		all := true
		for i, n := range last.Receipt.Nodes {
			if n.State != "dropped" {
				all = false
			} else if left := leftOn(t, houseNamed(t, v, n.Name), content); left > 0 {
				t.Errorf("%s says dropped and has %d of %d blocks", last.Receipt.Nodes[i].Name, left, len(content))
			}
		}
		return all, nil
	}); err != nil {
		t.Fatal(err)
	}
	checkSignature(t, v, last)
	verify(t, ctx, v)
}

func houseNamed(t *testing.T, v *Village, name string) *House {
	t.Helper()
	for _, h := range v.Houses {
		if h.Name == name {
			return h
		}
	}
	t.Fatalf("no house %q", name)
	return nil
}

// checkSignature verifies a receipt as anybody who has the organisation's public key would.
func checkSignature(t *testing.T, v *Village, a api.ReceiptAnswer) {
	t.Helper()
	parts := strings.Split(a.Signed, ".")
	if len(parts) != 3 {
		t.Fatalf("signed: %q", a.Signed)
	}
	sig, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil {
		t.Fatal(err)
	}
	if !ed25519.Verify(v.Houses[0].Node().OrganisationKey(), []byte(parts[0]+"."+parts[1]), sig) {
		t.Error("the signature is not the organisation's")
	}
	body, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var r api.Receipt
	if err := json.Unmarshal(body, &r); err != nil || r.File != a.Receipt.File || len(r.Nodes) != len(a.Receipt.Nodes) {
		t.Errorf("signed receipt: %+v, %v", r, err)
	}
}

// A node that was away when a file was deleted, and a message that was taken back: nothing is left of either.
func TestT6_GarbageGoesEverywhere(t *testing.T) {
	t.Parallel()
	v, ctx := village(t, Config{Sites: threeAtTwo})
	p := person(t, ctx, v, "sender@example.org")
	doomed, err := v.Houses[0].Node().Admin().Put(ctx, api.PutRequest{Account: p.Address, Name: "a.bin"}, bytes.NewReader(randomBytes(600_000)))
	if err != nil {
		t.Fatal(err)
	}
	keep := sendFile(t, ctx, v, 1, p, "keep.bin", randomBytes(500_000))
	_ = keep
	if err := v.Settled(ctx); err != nil {
		t.Fatal(err)
	}
	content := contentOf(t, v, doomed.CID)
	if err := v.Stop(2); err != nil {
		t.Fatal(err)
	}
	deleted(t, ctx, v.Houses[0], p.Address, doomed.File)
	state := func(name string) string {
		a, err := v.Houses[0].Node().Admin().Receipt(ctx, api.ReceiptRequest{File: doomed.File})
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range a.Receipt.Nodes {
			if n.Name == name {
				return n.State
			}
		}
		return ""
	}
	away := v.Houses[2].Name
	if err := v.Wait(ctx, "the others to drop it", func() (bool, error) {
		return state(v.Houses[0].Name) == "dropped" && state(v.Houses[1].Name) == "dropped", nil
	}); err != nil {
		t.Fatal(err)
	}
	if got := state(away); got == "dropped" || leftOn(t, v.Houses[2], content) == 0 {
		t.Errorf("the node that is away: %s, with %d blocks on its disk", got, leftOn(t, v.Houses[2], content))
	}
	if err := v.Restart(ctx, 2); err != nil {
		t.Fatal(err)
	}
	if err := v.Wait(ctx, "the node that was away to drop it", func() (bool, error) { return state(away) == "dropped", nil }); err != nil {
		t.Fatal(err)
	}
	for _, h := range v.Houses {
		if n := leftOn(t, h, content); n > 0 {
			t.Errorf("%s has %d blocks left", h.Name, n)
		}
	}
	verify(t, ctx, v)
}
