package node

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"testing"

	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"

	"github.com/valise-mail/valise/authz"
	"github.com/valise-mail/valise/node/api"
	"github.com/valise-mail/valise/node/drive"
	"github.com/valise-mail/valise/node/store"
	"github.com/valise-mail/valise/replication"
	"github.com/valise-mail/valise/replication/copies"
)

// T6: cached blocks obey deletion, though nobody knows whose they are.
func TestT6_CachesObeyDeletion(t *testing.T) {
	t.Parallel()
	n := running(t)
	id := account(t, n)
	links, err := n.share(t.Context(), aSharing(t, n, id, "a.txt", "hello"))
	if err != nil {
		t.Fatal(err)
	}
	data := []byte("a block that only passed through")
	sum := sha256.Sum256(data)
	mh, err := multihash.Encode(sum[:], multihash.SHA2_256)
	if err != nil {
		t.Fatal(err)
	}
	blk, err := blocks.NewBlockWithCid(data, cid.NewCidV1(cid.Raw, mh))
	if err != nil {
		t.Fatal(err)
	}
	b := n.store.NewBatch(store.Cached)
	if err := errors.Join(b.Add(t.Context(), blk), b.Commit(t.Context())); err != nil {
		t.Fatal(err)
	}
	if err := n.cleaner.clean(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := n.store.Block(t.Context(), blk.Cid()); err != nil {
		t.Errorf("evicted although nothing was deleted: %v", err)
	}
	if _, err := n.deleteFile(t.Context(), id, links.ids[0], "test"); err != nil {
		t.Fatal(err)
	}
	if err := n.cleaner.clean(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := n.store.Block(t.Context(), blk.Cid()); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("after a deletion: %v, want ErrNotFound", err)
	}
}

// A deletion takes as many transactions as it needs: a file may have any number of links and versions.
func TestDeleteFile_InSteps(t *testing.T) {
	t.Parallel()
	n := running(t)
	id := account(t, n)
	s := aSharing(t, n, id, "a.txt", "hello")
	links, err := n.share(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	for range deleteStep + 5 { // the same content under the same name is the same file, with another grant
		again := s
		again.sending.ID = authz.SendingID(authz.NewID())
		if more, err := n.share(t.Context(), again); err != nil || more.ids[0] != links.ids[0] {
			t.Fatal(more.ids, err)
		}
	}
	for i := range deleteStep + 5 {
		if _, _, err := n.replace(t.Context(), id, links.ids[0], "", strings.NewReader(fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	a, err := n.Admin().Delete(t.Context(), api.DeleteRequest{Account: string(id), File: string(links.ids[0])})
	if err != nil {
		t.Fatal(err)
	}
	if r := a.Receipt; !r.KeysGone || r.Versions != deleteStep+6 || r.Grants != 0 || len(r.Contents) != deleteStep+6 {
		t.Errorf("receipt: %d versions, %d grants, %d contents, %+v", r.Versions, r.Grants, len(r.Contents), r.Nodes)
	}
	if _, err := n.Admin().Delete(t.Context(), api.DeleteRequest{Account: string(id), File: string(links.ids[0])}); !errors.Is(err, drive.ErrNoFile) || Hint(err) == "" {
		t.Errorf("deleted again: %v", err)
	}
}

// A deletion that was cut short after its first step is finished by the leader's cleaner.
func TestDeleteFile_CutShort(t *testing.T) {
	t.Parallel()
	n := running(t)
	id := account(t, n)
	links, err := n.share(t.Context(), aSharing(t, n, id, "a.txt", "hello"))
	if err != nil {
		t.Fatal(err)
	}
	err = n.ledger.Update(t.Context(), func(tx *replication.Tx) error {
		_, err := drive.Bury(tx, id, links.ids[0], n.cfg.now(), "test")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if r, _, err := n.receipt(links.ids[0]); err != nil || r.KeysGone && r.Grants > 0 {
		t.Errorf("receipt of a deletion under way: %+v, %v", r, err)
	}
	if err := n.cleaner.finishBurials(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r, _, err := n.receipt(links.ids[0]); err != nil || !r.KeysGone || r.Grants != 0 {
		t.Errorf("receipt: %+v, %v", r, err)
	}
}

// What came with a message that was not sent is garbage: its copies are not recorded any more.
func TestS1_UndoLeavesNoRecordOfCopies(t *testing.T) {
	t.Parallel()
	n := running(t)
	s := aSharing(t, n, account(t, n), "a.txt", "hello")
	if _, err := n.share(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	root := s.files[0].content.Root.String()
	if names, err := n.Holders(root); err != nil || len(names) != 1 {
		t.Fatal(names, err)
	}
	if err := n.undo(t.Context(), s.sending.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Holders(root); !errors.Is(err, copies.ErrNotRecorded) {
		t.Errorf("got %v, want ErrNotRecorded", err)
	}
}
