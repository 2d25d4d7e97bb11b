package node

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

const twinHint = "a node's folder was copied and both copies run: stop one, delete its folder and join it anew with a ticket; then restart the other"

const (
	voiceLife = 15 * time.Second // how long a run that has gone silent is remembered
	twinGrace = time.Second      // the last words of a run may be heard after its successor's first
)

// A voice is one run of a daemon, as this node hears it.
type voice struct {
	run         runID
	from        string
	first, last time.Time
}

// twins notices when two daemons run with one key, as after a folder was
// copied: of a restarted node the old run never speaks again, of a copied one
// both do.
type twins struct {
	mu      sync.Mutex // guards the fields below
	voices  map[peer.ID][]voice
	told    map[peer.ID]bool
	ours    string    // where others hear a second node under our key
	oursAt  time.Time // when they last said so
	written *memberRecord
	foreign bool // somebody else has written our record
}

// heard notes that a run of the node spoke. It returns where another run of the
// same node is heard at the same time, and whether that is news.
func (t *twins) heard(id peer.ID, run runID, from string, now time.Time) (other string, news bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.voices == nil {
		t.voices, t.told = map[peer.ID][]voice{}, map[peer.ID]bool{}
	}
	all := slices.DeleteFunc(t.voices[id], func(v voice) bool { return now.Sub(v.last) > voiceLife })
	i := slices.IndexFunc(all, func(v voice) bool { return v.run == run })
	if i < 0 {
		i, all = len(all), append(all, voice{run: run, first: now})
	}
	all[i].from, all[i].last = from, now
	t.voices[id] = all
	for j, v := range all {
		if j != i && overlap(v, all[i]) {
			other = v.from
		}
	}
	news = other != "" && !t.told[id]
	t.told[id] = other != ""
	return other, news
}

// overlap says whether the older of two runs spoke after the newer had begun.
func overlap(a, b voice) bool {
	if b.first.Before(a.first) {
		a, b = b, a
	}
	return a.last.After(b.first.Add(twinGrace))
}

// noteTwin takes over what a member said of a second node under our key.
func (n *Node) noteTwin(ctx context.Context, by peer.ID, address string) {
	if address == "" {
		return
	}
	n.twins.mu.Lock()
	news := time.Since(n.twins.oursAt) > voiceLife
	n.twins.ours, n.twins.oursAt = address, time.Now()
	n.twins.mu.Unlock()
	if news {
		n.log.ErrorContext(ctx, "another running node has this node's identity", "address", address, "peer", by, "hint", twinHint)
	}
}

// twin is where a second node under our key is heard now, or "".
func (t *twins) twin() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if time.Since(t.oursAt) > voiceLife {
		return ""
	}
	return t.ours
}

// wrote notes how this node's own record stands in the ledger.
func (t *twins) wrote(m memberRecord) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.written = &m
}

// foreignHand says whether another daemon has written this node's record.
func (t *twins) foreignHand() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.foreign
}

func (t *twins) lastWritten() *memberRecord {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.written
}

// checkOwnRecord says so when the record is no longer what this node wrote:
// nobody else writes it but another node with the same key. before is what
// this node had written when the view of the ledger was taken, or earlier.
func (n *Node) checkOwnRecord(before *memberRecord, now member) {
	if before == nil || sameRecord(*before, now.memberRecord) {
		return
	}
	addrs, _ := multiaddrs(now.Bulk)
	n.log.ErrorContext(n.ctx, "this node's record was written by another running node with the same identity",
		"addresses", addrs, "same_store", bytes.Equal(before.Store, now.Store), "hint", twinHint)
	n.twins.wrote(now.memberRecord) // said once for each change
	n.twins.mu.Lock()
	n.twins.foreign = true
	n.twins.mu.Unlock()
}

// sameRecord compares what a node itself writes into its record.
func sameRecord(a, b memberRecord) bool {
	return slices.EqualFunc(a.Bulk, b.Bulk, bytes.Equal) && slices.EqualFunc(a.Ledger, b.Ledger, bytes.Equal) &&
		bytes.Equal(a.Store, b.Store) && a.Name == b.Name && a.Program == b.Program && a.Files == b.Files && a.Sealed == b.Sealed
}
