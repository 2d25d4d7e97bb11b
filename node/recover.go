package node

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/valise-mail/valise/replication"
)

// Recovered says what a recovery found, and what may be missing.
type Recovered = replication.Recovered

// Recover makes the copy of the ledger in a stopped node's folder that of a cluster of one voter, after
// the majority was lost for good. Nodes of before stop when they meet it, and join anew.
func Recover(c Config) (Recovered, error) {
	if err := c.Validate(); err != nil {
		return Recovered{}, err
	}
	fs := c.fs()
	lock, err := fs.Lock(fs.PathJoin(c.Dir, "lock"))
	if err != nil {
		return Recovered{}, hint(fmt.Errorf("lock %s: %w", c.Dir, err), "the node must not run while its ledger is recovered: stop it, and name its folder with --dir")
	}
	defer lock.Close()
	// The id stands beside the key: a sealed key need not be opened for this.
	data, err := readFile(fs, fs.PathJoin(c.Dir, clusterName))
	if err != nil {
		return Recovered{}, hint(err, "this folder holds no finished node")
	}
	var file clusterFile
	if err := json.Unmarshal(data, &file); err != nil {
		return Recovered{}, fmt.Errorf("%s: %w", clusterName, err)
	}
	id, err := peer.Decode(file.Node)
	if err != nil {
		return Recovered{}, fmt.Errorf("%s: node %q: %w", clusterName, file.Node, err)
	}
	got, err := replication.Recover(replication.Config{Dir: fs.PathJoin(c.Dir, ledgerDir), FS: fs, ID: id, Site: c.Site, Logger: c.log()})
	if errors.Is(err, replication.ErrWhole) {
		return got, hint(err, `start it: it needs nobody else to change anything`)
	}
	return got, err
}

// beyond says whether the ledger went on without this node or this program: no disk is at fault.
func beyond(err error) bool {
	_, recovered := errors.AsType[*replication.RecoveredError](err)
	_, newer := errors.AsType[*replication.FormatError](err)
	return recovered || newer
}

// ledgerStopHint says what to do about a ledger that cannot go on.
func ledgerStopHint(err error) string {
	if _, ok := errors.AsType[*replication.RecoveredError](err); ok {
		return `a majority was lost and the cluster went on without this node: remove it there ("valise cluster remove --force"), delete its folder, and join it with a new ticket`
	}
	if _, ok := errors.AsType[*replication.FormatError](err); ok {
		return "this program is older than the cluster's ledger: install the newer one on this node, too, and start it again"
	}
	return "the ledger could not be written: look at free space and at the disk's health, then start the node again; nothing acknowledged is lost"
}
