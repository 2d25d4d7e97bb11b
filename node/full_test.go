package node

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/ipfs/go-cid"

	"github.com/valise-mail/valise/authz"
	"github.com/valise-mail/valise/node/drive"
	"github.com/valise-mail/valise/replication"
)

// L11: others fill the disk to the last byte. The node stops and says why; with
// space again it has everything it acknowledged, and takes new work.
func TestL11_FullDiskStopsTheNodeAndLosesNothing(t *testing.T) {
	t.Parallel()
	for name, folder := range map[string]string{"the whole folder": "/node/", "the ledger alone": "/node/ledger/"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testFullDisk(t, folder)
		})
	}
}

func testFullDisk(t *testing.T, folder string) {
	disk := vfs.NewCrashableMem()
	var full atomic.Bool
	c := alone(t)
	book := &logBook{}
	c.Logger = book.logger()
	c.Seams.FS = disk
	if err := Init(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	c.Seams.FS = errorfs.Wrap(disk, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if full.Load() && takesSpace(op.Kind) && strings.HasPrefix(op.Path, folder) {
			return syscall.ENOSPC
		}
		return nil
	}))
	n := start(t, c)
	id := account(t, n)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()

	const whole = 5 // files before the disk is full
	acked := map[string]string{}
	for i := 0; n.ctx.Err() == nil; i++ {
		if i == whole {
			full.Store(true)
		}
		name, text := fmt.Sprintf("%d.txt", i), strings.Repeat(fmt.Sprintf("file %d. ", i), 1000)
		if tryPut(ctx, n, id, name, text) == nil {
			acked[name] = text
		}
		if ctx.Err() != nil {
			t.Fatal("the node runs on, on a full disk")
		}
	}
	if err := n.Err(); err == nil || !strings.Contains(Hint(err), "free space") {
		t.Errorf("the node ended with %v, hint %q; want an error whose hint speaks of free space", err, Hint(err))
	}
	if !book.has("level=ERROR", "node stops", "no space left", "hint=") {
		t.Errorf("the log does not say why:\n%s", book.buf.String())
	}
	if len(acked) < whole {
		t.Fatalf("%d files were acknowledged", len(acked))
	}

	// The machine may go down as well: what was not synced is gone.
	after := disk.CrashClone(vfs.CrashCloneCfg{})
	n.Close()
	c.Seams.FS = after
	n = start(t, c)
	for name, text := range acked {
		got, err := read(ctx, n, id, name)
		if err != nil || got != text {
			t.Errorf("%s: %d bytes, %v; %d were acknowledged", name, len(got), err, len(text))
		}
	}
	if err := tryPut(ctx, n, id, "after.txt", "there is room again"); err != nil {
		t.Errorf("after the restart: %v", err)
	}
}

// takesSpace says whether a full disk refuses the operation.
func takesSpace(k errorfs.OpKind) bool {
	switch k {
	case errorfs.OpCreate, errorfs.OpFileWrite, errorfs.OpFileWriteAt, errorfs.OpFilePreallocate, errorfs.OpMkdirAll:
		return true
	}
	return false
}

// tryPut does as the mail slot does: what could not be stored and shared is undone, which writes to the ledger (S1).
func tryPut(ctx context.Context, n *Node, id authz.AccountID, name, text string) (err error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	sending := authz.Sending{ID: authz.SendingID(authz.NewID()), Account: id, From: "sender@example.org", Created: n.cfg.now()}
	defer func() {
		if err != nil {
			_ = n.undo(ctx, sending.ID)
		}
	}()
	up, err := n.upload(ctx, id, "text/plain", strings.NewReader(text))
	if err != nil {
		return err
	}
	_, err = n.share(ctx, sharing{mode: authz.Following, sending: sending, files: []sharedFile{{name: name, upload: up}}})
	return err
}

// read returns the newest content of the account's file of that name.
func read(ctx context.Context, n *Node, id authz.AccountID, name string) (string, error) {
	files, err := n.Files(string(id))
	if err != nil {
		return "", err
	}
	for _, f := range files {
		if f.Name != name {
			continue
		}
		var root cid.Cid
		var key [32]byte
		if err := n.ledger.View(func(tx *replication.Tx) error {
			_, v, err := drive.Newest(tx, f.ID)
			if err != nil {
				return err
			}
			root = v.Root
			key, err = v.RootKey(n.keys)
			return err
		}); err != nil {
			return "", err
		}
		r, err := n.openContent(ctx, root, key)
		if err != nil {
			return "", err
		}
		defer r.Close()
		data, err := io.ReadAll(r)
		return string(data), err
	}
	return "", drive.ErrNoFile
}
