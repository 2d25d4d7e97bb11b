package testnet

import (
	"bytes"
	"net/http"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/valise-mail/valise/node"
	"github.com/valise-mail/valise/node/api"
)

// A restore after a member was removed: what was sealed under the old keys opens, and so does what was
// sealed under the new.
func TestBackup_AfterNewEpochs(t *testing.T) {
	t.Parallel()
	v, ctx := village(t, Config{Sites: threeAtTwo, Adjust: twoCopies})
	fs := vfs.NewCrashableMem()
	p := person(t, ctx, v, "sender@example.org")
	put := func(content []byte) api.PutDone {
		t.Helper()
		done, err := v.Houses[0].Node().Admin().Put(ctx, api.PutRequest{Account: p.Address, Name: "a.bin"}, bytes.NewReader(content))
		if err != nil {
			t.Fatal(err)
		}
		return done
	}
	before := randomBytes(300_000)
	old := put(before)
	if _, err := v.Houses[0].Node().Admin().Remove(ctx, api.RemoveRequest{Node: v.Houses[1].Name, Force: true}); err != nil {
		t.Fatal(err)
	}
	after := randomBytes(310_000)
	fresh := put(after)
	backedUp(t, ctx, v, 0, fs)
	keys := keysOf(t, ctx, v)
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}

	r, ctx, _ := restoredVillage(t, fs, keys, node.RestoreOptions{Lost: true}, "rome")
	for link, content := range map[string][]byte{old.Link: before, fresh.Link: after} {
		if got := get(t, ctx, r, 0, link, nil); got.Status != http.StatusOK || got.Body != string(content) {
			t.Errorf("%d, %d bytes: %s", got.Status, len(got.Body), got.title())
		}
	}
	again := randomBytes(100_000)
	done, err := r.Houses[0].Node().Admin().Put(ctx, api.PutRequest{Account: p.Address, Name: "b.bin"}, bytes.NewReader(again))
	if err != nil {
		t.Fatal(err)
	}
	r.Promise(done.Link, again)
	verify(t, ctx, r)
}
