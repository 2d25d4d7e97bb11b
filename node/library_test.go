package node

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"

	"github.com/valise-mail/valise/authz"
	"github.com/valise-mail/valise/node/drive"
	"github.com/valise-mail/valise/node/gateway"
	"github.com/valise-mail/valise/replication"
)

// Promise 6: a CID is decoded before the token is checked, so that a long one must cost nothing.
func TestRootOfIsBounded(t *testing.T) {
	t.Parallel()
	of := func(kind uint64, length int) cid.Cid {
		sum, err := multihash.Sum(bytes.Repeat([]byte{7}, length), kind, -1)
		if err != nil {
			t.Fatal(err)
		}
		return cid.NewCidV1(cid.DagCBOR, sum)
	}
	ours := of(multihash.SHA2_256, 1)
	for name, tt := range map[string]struct {
		cid  string
		want []byte
	}{
		"ours":        {ours.String(), ours.Bytes()},
		"in capitals": {strings.ToUpper(ours.String()), nil},
		"none":        {"", nil},
		"too long":    {of(multihash.IDENTITY, 100).String(), nil},
	} {
		if got := rootOf(tt.cid); !bytes.Equal(got, tt.want) {
			t.Errorf("%s: got %x, want %x", name, got, tt.want)
		}
	}
}

// A key that is not wrapped to this node yet is no fault: another node can serve the file.
func TestMissingKeyIsUnavailable(t *testing.T) {
	t.Parallel()
	n := running(t)
	s := aSharing(t, n, account(t, n), "a.txt", "hello")
	links, err := n.share(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	r := gateway.Request{Token: links.token, CID: s.files[0].content.Root.String(), Name: "a.txt"}
	if _, err := (library{n}).Open(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	n.keys.mu.Lock()
	delete(n.keys.secrets, secretID{kindContent, 1})
	n.keys.mu.Unlock()
	if _, err := (library{n}).Open(t.Context(), r); !errors.Is(err, gateway.ErrUnavailable) || !errors.Is(err, errNoKey) {
		t.Errorf("got %v, want %v", err, gateway.ErrUnavailable)
	}
}

// G6: what its owner deleted is not listed, and what was changed is listed with
// the size its link opens: pinned, the one sent.
func TestG6_LandingListsWhatItsLinksOpen(t *testing.T) {
	t.Parallel()
	n := running(t)
	id := account(t, n)
	for mode, want := range map[authz.Mode]int64{authz.Following: 12, authz.Pinned: 5} {
		s := aSharing(t, n, id, "changed.txt", "hello")
		s.mode = mode
		s.files = append(s.files, aSharing(t, n, id, "deleted.txt", "good bye").files...)
		links, err := n.share(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := n.replace(t.Context(), id, links.ids[0], "", strings.NewReader("hello, world")); err != nil {
			t.Fatal(err)
		}
		if err := n.ledger.Update(t.Context(), func(tx *replication.Tx) error {
			_, err := drive.Remove(tx, links.ids[1])
			return err
		}); err != nil {
			t.Fatal(err)
		}
		got, err := library{n}.Landing(t.Context(), links.token)
		if err != nil || len(got.Files) != 1 || got.Files[0].Name != "changed.txt" || got.Files[0].Size != want {
			t.Errorf("mode %d: got %+v, %v; want changed.txt alone, of %d bytes", mode, got, err, want)
		}
		gone := gateway.Request{Token: links.token, CID: s.files[1].content.Root.String(), Name: "deleted.txt"}
		if _, err := (library{n}).Open(t.Context(), gone); !errors.Is(err, authz.ErrAccessDenied) {
			t.Errorf("mode %d: the deleted file: got %v, want %v", mode, err, authz.ErrAccessDenied)
		}
	}
}
