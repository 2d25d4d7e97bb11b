package node

import (
	"bytes"
	"strings"
	"testing"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
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
