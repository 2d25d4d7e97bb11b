package node

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/valise-mail/valise/authz"
	"github.com/valise-mail/valise/node/api"
	"github.com/valise-mail/valise/node/drive"
	"github.com/valise-mail/valise/replication"
)

// The journal of revocations says what a backup made before does not know: which links were revoked, and
// which files deleted. It is a text of lines that is only appended to; each is the CRC-32C of what follows,
// in eight hexadecimal digits, a space, and a JSON object. The first names the format and the cluster. A
// last line without its end was cut short, and does not count.

// journalVersion is the format of the first line.
const journalVersion = 1

// A journalEntry is one line.
type journalEntry struct {
	Version int    `json:"valise_revocations,omitempty"` // in the first line only, with Cluster
	Cluster string `json:"cluster,omitempty"`

	At      time.Time `json:"at,omitzero"`
	Revoked string    `json:"revoked,omitempty"` // id of a grant
	File    string    `json:"file,omitempty"`    // with Revoked: this file of the grant only
	Why     string    `json:"why,omitempty"`
	Deleted string    `json:"deleted,omitempty"` // id of a file
	Account string    `json:"account,omitempty"` // whose file it was
}

// key is the same for two lines that say the same.
func (e journalEntry) key() string { return e.Revoked + "/" + e.File + "/" + e.Deleted }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func journalLine(e journalEntry) []byte {
	data, err := json.Marshal(e)
	if err != nil {
		panic(fmt.Sprintf("node: encode %T: %v", e, err))
	}
	return fmt.Appendf(nil, "%08x %s\n", crc32.Checksum(data, castagnoli), data)
}

// readJournal calls fn for each entry, and returns how many bytes of whole lines there are.
func readJournal(r io.Reader, cluster string, fn func(journalEntry) error) (size int64, err error) {
	br := bufio.NewReader(r)
	for n := 1; ; n++ {
		text, err := br.ReadString('\n')
		if errors.Is(err, io.EOF) {
			if n == 1 {
				return 0, hint(errors.New("the journal of revocations is empty"), "it begins with a line that names its cluster; if there is no other, --revocations-lost confirms that it is lost")
			}
			return size, nil
		}
		if err != nil {
			return size, err
		}
		e, err := parseLine(strings.TrimSuffix(text, "\n"))
		switch {
		case err != nil:
			return size, hint(fmt.Errorf("journal of revocations, line %d: %w", n, err), "the file was changed or damaged: use another copy of it")
		case n == 1 && (e.Version != journalVersion || e.Cluster != cluster):
			return size, hint(fmt.Errorf("journal of revocations: version %d, cluster %q; wanted %d, %q", e.Version, e.Cluster, journalVersion, cluster), "use the journal of this organisation's cluster")
		case n > 1 && e.Version == 0: // a node that begins anew writes the first line once more
			if err := fn(e); err != nil {
				return size, err
			}
		}
		size += int64(len(text))
	}
}

func parseLine(text string) (e journalEntry, err error) {
	sum, data, ok := strings.Cut(text, " ")
	if !ok || fmt.Sprintf("%08x", crc32.Checksum([]byte(data), castagnoli)) != sum {
		return e, errors.New("its checksum is another one")
	}
	return e, json.Unmarshal([]byte(data), &e)
}

// grantEntries are what a grant's record adds to the journal.
func grantEntries(g authz.Grant) (out []journalEntry) {
	if !g.RevokedAt.IsZero() {
		return []journalEntry{{At: g.RevokedAt, Revoked: g.ID.String(), Why: g.RevokedWhy}}
	}
	for _, f := range g.Files {
		if !f.RevokedAt.IsZero() {
			out = append(out, journalEntry{At: f.RevokedAt, Revoked: g.ID.String(), File: string(f.File)})
		}
	}
	return out
}

func burialEntry(b drive.Burial) journalEntry {
	return journalEntry{At: b.At, Deleted: string(b.File), Account: string(b.Account)}
}

// Revocations implements api.Admin: the whole journal, from what the ledger has now.
func (a admin) Revocations(ctx context.Context, w io.Writer) error {
	if err := a.n.ledger.ReadIndex(ctx); err != nil {
		return ledgerHint(err)
	}
	bw := bufio.NewWriter(w)
	bw.Write(journalLine(journalEntry{Version: journalVersion, Cluster: a.n.cluster.Cluster}))
	err := a.n.ledger.View(func(tx *replication.Tx) error {
		for _, v := range tx.Scan(authz.GrantPrefix(), replication.PrefixEnd(authz.GrantPrefix())) {
			g, err := authz.DecodeGrant(v)
			if err != nil {
				return err
			}
			for _, e := range grantEntries(g) {
				bw.Write(journalLine(e))
			}
		}
		for b, err := range drive.Burials(tx) {
			if err != nil {
				return err
			}
			bw.Write(journalLine(burialEntry(b)))
		}
		return nil
	})
	return errors.Join(err, bw.Flush())
}

// replayJournal revokes and deletes what the journal names, as far as it is there.
func replayJournal(ctx context.Context, ledger *replication.DB, cluster string, journal io.ReadSeeker, now time.Time) (out api.Replayed, err error) {
	if _, err := journal.Seek(0, io.SeekStart); err != nil {
		return out, err
	}
	_, err = readJournal(journal, cluster, func(e journalEntry) error {
		if e.At.After(out.Until) {
			out.Until = e.At
		}
		did, err := replayEntry(ctx, ledger, e, now)
		switch {
		case err != nil:
			return fmt.Errorf("replay the journal: %w", err)
		case did && e.Deleted != "":
			out.Deleted++
		case did:
			out.Revoked++
		}
		return nil
	})
	return out, err
}

func replayEntry(ctx context.Context, ledger *replication.DB, e journalEntry, now time.Time) (did bool, err error) {
	if e.Deleted != "" {
		return replayDeletion(ctx, ledger, e)
	}
	id, err := authz.ParseGrantID(e.Revoked)
	if err != nil {
		return false, err
	}
	// Most of a journal is older than the backup: looking costs no entry of the log.
	err = ledger.View(func(tx *replication.Tx) error {
		g, err := authz.LoadGrant(tx, id)
		if errors.Is(err, authz.ErrNotFound) {
			return nil
		}
		did = err == nil && g.RevokedAt.IsZero() && !slices.ContainsFunc(g.Files, func(f authz.GrantFile) bool {
			return string(f.File) == e.File && !f.RevokedAt.IsZero()
		})
		return err
	})
	if err != nil || !did {
		return false, err
	}
	return true, ledger.Update(ctx, func(tx *replication.Tx) error {
		if e.File != "" {
			return authz.RevokeGrantFile(tx, id, authz.FileID(e.File), e.At, e.Why)
		}
		return authz.RevokeGrant(tx, id, e.At, e.Why)
	})
}

// replayDeletion deletes a file again that a backup brought back.
func replayDeletion(ctx context.Context, ledger *replication.DB, e journalEntry) (did bool, err error) {
	id := authz.FileID(e.Deleted)
	err = ledger.View(func(tx *replication.Tx) error {
		_, _, err := drive.Newest(tx, id)
		did = err == nil
		if errors.Is(err, drive.ErrNoFile) {
			return nil
		}
		return err
	})
	if err != nil || !did {
		return false, err
	}
	err = ledger.Update(ctx, func(tx *replication.Tx) error {
		_, err := drive.Bury(tx, authz.AccountID(e.Account), id, e.At, "journal of revocations")
		return err
	})
	if err == nil {
		_, err = finishBurial(ctx, ledger, id)
	}
	return true, err
}

// keepJournal appends to the file that the config names whatever is revoked or deleted, a moment after it
// was committed, and syncs it. A file that was there is gone on with.
func (n *Node) keepJournal(ctx context.Context) error {
	if n.cfg.Backup.Journal == "" {
		return nil
	}
	for {
		err := n.followJournal(ctx)
		if ctx.Err() != nil || err == nil {
			return nil
		}
		n.log.ErrorContext(ctx, "the journal of revocations cannot be written; trying again", "file", n.cfg.Backup.Journal, "err", err,
			"hint", "until it can, a restore would not know what is revoked and deleted from now on")
		if !sleep(ctx, 10*time.Second) {
			return nil
		}
	}
}

func (n *Node) followJournal(ctx context.Context) error {
	j, err := openJournal(n.journalPath(), n.cluster.Cluster)
	if err != nil {
		return err
	}
	defer j.close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	done := make(chan error, 2)
	follow := func(prefix []byte, entries func(value, key []byte) ([]journalEntry, error)) {
		done <- func() error {
			for change, err := range n.ledger.Watch(ctx, prefix) {
				if err != nil {
					return watchEnded(ctx, err)
				}
				if change.Kind != replication.Put {
					continue
				}
				all, err := entries(change.Value, change.Key)
				if err == nil {
					err = j.append(all)
				}
				if err != nil {
					cancel(err)
					return err
				}
			}
			return nil
		}()
	}
	go follow(drive.BurialPrefix(), func(value, key []byte) ([]journalEntry, error) {
		b, err := drive.DecodeBurial(key, value)
		return []journalEntry{burialEntry(b)}, err
	})
	go follow(authz.GrantPrefix(), func(value, _ []byte) ([]journalEntry, error) {
		g, err := authz.DecodeGrant(value)
		return grantEntries(g), err
	})
	return errors.Join(<-done, <-done)
}
