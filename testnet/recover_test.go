package testnet

import (
	"bytes"
	"errors"
	"net/http"
	"testing"

	"github.com/valise-mail/valise/node"
	"github.com/valise-mail/valise/node/api"
	"github.com/valise-mail/valise/replication"
)

// L10: two of three voters are lost for good. The one that is left goes on alone after an operator said
// so, with all that it has; one of the others that comes back after all stops and says why.
func TestL10_RecoverAfterTheMajorityWasLost(t *testing.T) {
	t.Parallel()
	v, ctx := village(t, Config{Sites: threeAtTwo})
	p := person(t, ctx, v, "sender@example.org")
	content := randomBytes(400_000)
	put, err := v.Houses[0].Node().Admin().Put(ctx, api.PutRequest{Account: p.Address, Name: "a.bin"}, bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Settled(ctx); err != nil {
		t.Fatal(err)
	}
	for i := range v.Houses {
		if err := v.Stop(i); err != nil {
			t.Fatal(err)
		}
	}
	got, err := node.Recover(v.Houses[2].Config())
	if err != nil {
		t.Fatal(err)
	}
	if got.Number != 1 || len(got.Servers) != 3 || got.Last == 0 {
		t.Errorf("recovered: %+v", got)
	}
	if err := v.Restart(ctx, 2); err != nil {
		t.Fatal(err)
	}
	alone := v.Houses[2].Node()
	if err := v.Wait(ctx, "the node to change something alone", func() (bool, error) {
		_, err := alone.Admin().AddAccount(ctx, api.AccountRequest{Address: "another@example.org"})
		return err == nil, err
	}); err != nil {
		t.Fatal(err)
	}
	if got := get(t, ctx, v, 2, put.Link, nil); got.Status != http.StatusOK || got.Body != string(content) {
		t.Errorf("the file: %d, %d bytes", got.Status, len(got.Body))
	}

	// One of the lost comes back after all.
	err = v.Restart(ctx, 0)
	if err == nil {
		back := v.Houses[0].Node()
		select {
		case <-back.Done():
			err = back.Err()
		case <-ctx.Done():
			t.Fatal("a node of before goes on")
		}
	}
	if _, ok := errors.AsType[*replication.RecoveredError](err); !ok || node.Hint(err) == "" {
		t.Errorf("it stopped with %v, hint %q", err, node.Hint(err))
	}
}
