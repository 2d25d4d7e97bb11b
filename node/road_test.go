package node

import (
	"net"
	"testing"
	"time"

	"github.com/valise-mail/valise/dht"
	"github.com/valise-mail/valise/replication"
)

// listed puts a member into the ledger whose host answers at addr, if anybody does.
func listed(t *testing.T, n *Node, addr string) {
	t.Helper()
	other, err := newIdentity()
	if err != nil {
		t.Fatal(err)
	}
	a, err := listenMultiaddr(addr)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.ledger.Update(t.Context(), func(tx *replication.Tx) error {
		put(tx, memberKey(other.id), memberRecord{
			Name: "away", Site: "paris", Class: uint8(dht.Member), SealKey: other.seal.PublicKey().Bytes(), Bulk: [][]byte{a.Bytes()}, Ledger: [][]byte{a.Bytes()},
		})
		bumpMembers(tx)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the list to name the member", func() bool {
		for _, p := range n.road.Peers().Peers {
			if p.ID == other.id {
				return true
			}
		}
		return false
	})
}

// R3: a node that nobody answers at its start may have been removed: its log says so.
func TestR3_StartWithoutAnAnswerIsExplained(t *testing.T) {
	t.Parallel()
	c, book := alone(t), &logBook{}
	if err := Init(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	n := start(t, c)
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	listed(t, n, gone.Addr().String())
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	c.Logger = book.logger()
	again, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if !book.has("no newer member list", "it was removed from the cluster") {
		t.Errorf("the log does not say what it may mean that nobody answers:\n%s", book.buf.String())
	}
}

// Members that accept a connection and say nothing do not hold up a start for longer than its bound.
func TestR3_SilentMembersHoldUpNoStart(t *testing.T) {
	t.Parallel()
	n := running(t)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	listed(t, n, silent.Addr().String())
	begun := time.Now()
	n.pullList(t.Context(), 100*time.Millisecond)
	if took := time.Since(begun); took > 3*time.Second { // a silent member takes 5 s on loopback, 10 s elsewhere
		t.Errorf("took %s", took)
	}
}
