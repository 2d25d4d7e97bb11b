package node

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"

	"github.com/valise-mail/valise/node/gateway"
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
