package node

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"

	"github.com/valise-mail/valise/dht"
	"github.com/valise-mail/valise/node/api"
	"github.com/valise-mail/valise/node/backup"
	"github.com/valise-mail/valise/node/gateway"
	"github.com/valise-mail/valise/node/store"
	"github.com/valise-mail/valise/replication"
	"github.com/valise-mail/valise/replication/copies"
)

// RestoreOptions say what a cluster is founded from.
type RestoreOptions struct {
	FS   vfs.FS // of From; nil is the real one
	From string // a backup's folder
	Keys []byte // as UnsealKeys gave them

	// Journal is what was revoked and deleted since; Lost confirms that nobody has it. With neither,
	// links stay closed until OpenLinks.
	Journal io.ReadSeeker
	Lost    bool

	// Damaged goes on without the blocks that are damaged in the backup; their files cannot be read.
	Damaged  bool
	Progress func(api.BackupProgress)
}

// Restored says what a restore brought back.
type Restored struct {
	At       time.Time // of the backup
	Node     string    // that wrote it
	Entries  int       // of the ledger
	Contents int
	Blocks   int
	Bytes    int64
	Damaged  []error // blocks left out
	Lacking  int     // contents that are not whole for want of them
	Closed   bool    // links are closed until OpenLinks
	Replayed api.Replayed
}

// restoredRecord says that this cluster was founded from a backup, and since when its links are open.
type restoredRecord struct {
	At     time.Time `cbor:"1,keyasint"`
	Backup time.Time `cbor:"2,keyasint"`
	Folder string    `cbor:"3,keyasint"`
	Opened time.Time `cbor:"4,keyasint,omitzero"` // zero: links are closed
	How    string    `cbor:"5,keyasint,omitempty"`
	replication.Unknown
}

// Restore makes c.Dir the folder of the first node of a new cluster that has everything a backup has, and
// the organisation's keys, so that the links already sent open again. As with Init, cluster.json is written
// last; a folder without it may be restored into again, and goes on where it was.
//
// Nodes of the cluster that was must not run any more: they have the same organisation and another ledger.
func Restore(ctx context.Context, c Config, o RestoreOptions) (Restored, error) {
	if o.FS == nil {
		o.FS = vfs.Default
	}
	b, err := backup.Open(o.FS, o.From)
	if err != nil {
		return Restored{}, backupHint(err)
	}
	keys, err := backup.DecodeKeys(o.Keys)
	if err == nil {
		err = b.Check(keys)
	}
	if err != nil {
		return Restored{}, backupHint(err)
	}
	if b.Header.Organisation != c.Organisation {
		return Restored{}, hint(fmt.Errorf("the backup is of organisation %q, not %q", b.Header.Organisation, c.Organisation), "name the organisation that it is of: --org "+b.Header.Organisation)
	}
	c.Public.Files = cmp.Or(c.Public.Files, b.Header.PublicFiles)
	c.Public.App = cmp.Or(c.Public.App, b.Header.PublicApp)
	if err := c.Validate(); err != nil {
		return Restored{}, err
	}
	if o.Journal != nil { // a damaged one is found before anything is done
		_, err := o.Journal.Seek(0, io.SeekStart)
		if err == nil {
			_, err = readJournal(o.Journal, keys.Cluster, func(journalEntry) error { return nil })
		}
		if err != nil {
			return Restored{}, err
		}
	}
	r := &restorer{c: c, o: o, b: b, keys: keys}
	r.out.At, r.out.Node = b.Header.At, b.Header.Node
	if err := r.run(ctx); err != nil {
		return r.out, backupHint(err)
	}
	return r.out, nil
}

// A restorer is one restore.
type restorer struct {
	c     Config
	o     RestoreOptions
	b     *backup.Backup
	keys  backup.Keys
	id    *identity
	store *store.Store
	db    *replication.DB
	out   Restored
}

func (r *restorer) run(ctx context.Context) (err error) {
	fs, err := r.c.freshDir()
	if err != nil {
		return err
	}
	if r.id, err = newIdentity(); err != nil {
		return err
	}
	if err := r.c.saveIdentity(fs, r.id); err != nil {
		return fmt.Errorf("save node key: %w", err)
	}
	if err := r.c.save(fs); err != nil {
		return err
	}
	r.store, err = store.Open(ctx, store.Config{Dir: fs.PathJoin(r.c.Dir, "store"), FS: fs, Reserve: int64(r.c.Store.Reserve), Free: r.c.free, Logger: r.c.log()})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.store.Close()) }()
	if err := r.blocks(ctx); err != nil {
		return err
	}
	if err := r.ledger(ctx, fs); err != nil {
		return fmt.Errorf("found ledger: %w", err)
	}
	cluster := clusterFile{Version: 1, Cluster: r.keys.Cluster, Organisation: r.c.Organisation, OrgKey: r.keys.OrgKey, Node: r.id.id.String()}
	return cluster.save(fs, r.c.Dir)
}

// commitEvery is how many bytes of blocks one batch makes durable.
const commitEvery = 64 << 20

// blocks brings the backup's blocks into the store.
func (r *restorer) blocks(ctx context.Context) error {
	batch, inside := r.store.NewBatch(store.Kept), 0
	defer func() { batch.Abort() }()
	err := r.b.Blocks(ctx, func(b blocks.Block) error {
		if err := batch.Add(ctx, b); err != nil {
			return err
		}
		r.out.Blocks++
		r.out.Bytes += int64(len(b.RawData()))
		if r.o.Progress != nil {
			r.o.Progress(api.BackupProgress{Blocks: r.out.Blocks, Bytes: r.out.Bytes})
		}
		if inside += len(b.RawData()); inside < commitEvery {
			return nil
		}
		if err := batch.Commit(ctx); err != nil {
			return err
		}
		batch, inside = r.store.NewBatch(store.Kept), 0
		return nil
	}, func(bad error) error {
		r.out.Damaged = append(r.out.Damaged, bad)
		return nil
	})
	if err != nil {
		return err
	}
	if err := batch.Commit(ctx); err != nil {
		return err
	}
	if len(r.out.Damaged) > 0 && !r.o.Damaged {
		return hint(errors.Join(r.out.Damaged...), "another copy of the backup may have these blocks. --damaged restores everything else; the files that have them then cannot be read")
	}
	return nil
}

// whole says whether a root and all below it are in the store.
func (r *restorer) whole(ctx context.Context, c cid.Cid) (bool, error) {
	if !r.store.Has(c) || c.Type() == cid.Raw {
		return r.store.Has(c), nil
	}
	b, err := r.store.Block(ctx, c)
	if err != nil {
		return false, err
	}
	links, err := store.Links(b)
	if err != nil {
		return false, err
	}
	for _, l := range links {
		if ok, err := r.whole(ctx, l); !ok || err != nil {
			return ok, err
		}
	}
	return true, nil
}

// ledger founds a ledger of one voter and fills it, without a port open.
func (r *restorer) ledger(ctx context.Context, fs vfs.FS) error {
	lc := replication.Config{Dir: fs.PathJoin(r.c.Dir, ledgerDir), FS: fs, ID: r.id.id, Site: r.c.Site, Lane: nowhere{}, Logger: r.c.log()}
	if err := replication.Create(lc, true); err != nil {
		return err
	}
	db, err := replication.Open(ctx, lc)
	if err != nil {
		return err
	}
	defer db.Close()
	r.db = db
	if err := r.fill(ctx); err != nil {
		return err
	}
	if err := r.begin(ctx); err != nil {
		return err
	}
	return r.replay(ctx)
}

// self is the one node of the new cluster.
func (r *restorer) self() copies.Node {
	return copies.Node{ID: r.id.id, Site: r.c.Site, Store: r.store.ID()}
}

// A step of filling the ledger is one transaction: as much as makes a good entry (L8).
const (
	fillBytes = 256 << 10
	fillKeys  = 400
)

type entry struct {
	key, value []byte
	lacking    bool // key is of a root's record, and not all of the root is here
}

// fill writes what the backup's ledger has and a new cluster keeps.
func (r *restorer) fill(ctx context.Context) error {
	var step []entry
	size := 0
	flush := func() error {
		if len(step) == 0 {
			return nil
		}
		err := r.db.Update(ctx, func(tx *replication.Tx) error {
			for _, e := range step {
				if root, ok := copies.RecordedRoot(e.key); ok {
					if err := copies.Adopt(tx, r.self(), root, e.lacking); err != nil {
						return err
					}
					continue
				}
				tx.Put(e.key, e.value)
			}
			return nil
		})
		step, size = nil, 0
		return err
	}
	err := r.b.Ledger(r.keys, func(key, value []byte) error {
		e := entry{key: bytes.Clone(key), value: bytes.Clone(value)}
		if root, ok := copies.RecordedRoot(e.key); ok {
			r.out.Contents++
			ok, err := r.whole(ctx, root)
			if err != nil {
				return fmt.Errorf("content %s: %w", root, err)
			}
			if !ok {
				r.out.Lacking++
				if !r.o.Damaged {
					return fmt.Errorf("content %s is not whole in the backup: %w", root, backup.ErrDamaged)
				}
			}
			e.lacking = !ok
		} else if !outlives(key) {
			return nil
		}
		r.out.Entries++
		if size+len(key)+len(value) > fillBytes || len(step) == fillKeys { // a large one goes alone
			if err := flush(); err != nil {
				return err
			}
		}
		step, size = append(step, e), size+len(key)+len(value)
		return nil
	})
	if err != nil {
		return err
	}
	return flush()
}

// outlives says which entries of the ledger a restore keeps. Void are: members, secrets wrapped to them,
// words of their disks, tickets (they are in no backup either), and where copies lie. Sessions, one-time
// codes and whatever else is good only for a while belong here when they exist: their prefixes go the same way.
func outlives(key []byte) bool {
	switch {
	case bytes.HasPrefix(key, []byte("n")):
		return slices.ContainsFunc(restoredKinds, func(prefix []byte) bool { return bytes.HasPrefix(key, prefix) })
	case bytes.HasPrefix(key, []byte("c")):
		return false
	}
	return true
}

// begin writes what is new in the new cluster: its one member, the secrets wrapped to it, and that it is
// a restored one, whose links are closed.
func (r *restorer) begin(ctx context.Context) error {
	bulk, ledger, err := r.c.planned()
	if err != nil {
		return err
	}
	now, id := r.c.now(), r.store.ID()
	wrapped := map[string][]byte{}
	inForce := map[string]uint32{}
	for _, s := range r.secrets() {
		inForce[s.Kind] = max(inForce[s.Kind], s.Epoch)
		key := string(secretKey(s.Kind, s.Epoch, r.id.id))
		if wrapped[key], err = wrap(r.keys.Cluster, s.Kind, s.Epoch, r.id.id, r.id.seal.PublicKey().Bytes(), s.Value); err != nil {
			return err
		}
	}
	h := r.b.Header
	return r.db.Update(ctx, func(tx *replication.Tx) error {
		var org orgRecord
		if _, err := get(tx, keyOrg, &org); err != nil {
			return err
		}
		org.Name, org.PublicFiles, org.PublicApp = r.c.Organisation, r.c.Public.Files, r.c.Public.App
		put(tx, keyOrg, org)
		put(tx, memberKey(r.id.id), memberRecord{
			Name: r.c.name(), Site: r.c.Site, Class: uint8(dht.Member), SealKey: r.id.seal.PublicKey().Bytes(), Joined: now, Bulk: bulk, Ledger: ledger, Store: id[:],
		})
		for key, sealed := range wrapped {
			put(tx, []byte(key), wrappedRecord{Sealed: sealed, Created: now})
		}
		put(tx, keyEpochs, epochsRecord{InForce: inForce})
		copies.Found(tx, r.self())
		put(tx, keyRestored, restoredRecord{At: now, Backup: h.At, Folder: h.Folder})
		if err := adoptNotes(tx); err != nil {
			return err
		}
		old := h
		old.Index = 0
		if err := noteBackup(tx, old, true); err != nil {
			return err
		}
		bumpMembers(tx)
		return nil
	})
}

// adoptNotes keeps the notes of backups of the ledger that was: their indexes mean nothing in this one.
func adoptNotes(tx *replication.Tx) error {
	notes := map[string]backupRecord{}
	for k, v := range tx.Scan(backupKeys, replication.PrefixEnd(backupKeys)) {
		var b backupRecord
		if err := replication.Unmarshal(v, &b); err != nil {
			return fmt.Errorf("backup %q: %w", k, err)
		}
		for i := range b.States {
			b.States[i].Index = 0
		}
		notes[string(k)] = b
	}
	for k, b := range notes {
		put(tx, []byte(k), b)
	}
	return nil
}

// secrets are the organisation's, but for the one that signs what browsers carry: a new one voids all of that.
func (r *restorer) secrets() []backup.Secret {
	var out []backup.Secret
	newest := map[string]uint32{}
	for _, s := range r.keys.Secrets {
		newest[s.Kind] = max(newest[s.Kind], s.Epoch)
		if s.Kind != kindCookie {
			out = append(out, s)
		}
	}
	for _, kind := range kinds {
		if kind != kindCookie && newest[kind] > 0 {
			continue
		}
		value := make([]byte, 32)
		rand.Read(value)
		if kind == kindOrg || kind == kindSigning {
			value = ed25519.NewKeyFromSeed(value).Seed()
		}
		out = append(out, backup.Secret{Kind: kind, Epoch: newest[kind] + 1, Value: value})
	}
	return out
}

// replay does what the journal says, and opens the links, unless that is left for later.
func (r *restorer) replay(ctx context.Context) (err error) {
	r.out.Closed = r.o.Journal == nil && !r.o.Lost
	if r.out.Closed {
		return nil
	}
	r.out.Replayed, err = openLinks(ctx, r.db, r.keys.Cluster, r.o.Journal, r.c.now())
	return err
}

// linksClosed says that no link may be opened: the cluster was restored and does not know yet what was
// revoked since the backup.
func linksClosed(tx *replication.Tx) error {
	var r restoredRecord
	ok, err := get(tx, keyRestored, &r)
	if err != nil || !ok || !r.Opened.IsZero() {
		return err
	}
	return gateway.ErrRestoring
}

func (n *Node) linksAreClosed() bool {
	return errors.Is(n.ledger.View(linksClosed), gateway.ErrRestoring)
}

// openLinks replays a journal, nil where it is lost, and opens the links. Cut short, it is to be done
// again: what was done stays done.
func openLinks(ctx context.Context, ledger *replication.DB, cluster string, journal io.ReadSeeker, now time.Time) (out api.Replayed, err error) {
	how := "journal lost"
	if journal != nil {
		how = "journal replayed"
		if out, err = replayJournal(ctx, ledger, cluster, journal, now); err != nil {
			return out, err
		}
	}
	return out, ledger.Update(ctx, func(tx *replication.Tx) error {
		var r restoredRecord
		ok, err := get(tx, keyRestored, &r)
		if err != nil || !ok || !r.Opened.IsZero() {
			return err
		}
		r.Opened, r.How = now, how
		put(tx, keyRestored, r)
		return nil
	})
}

// OpenLinks implements api.Admin.
func (a admin) OpenLinks(ctx context.Context, r api.OpenRequest) (api.Replayed, error) {
	if (len(r.Journal) == 0) == !r.Lost {
		return api.Replayed{}, errors.New("either a journal, or that it is lost")
	}
	if !a.n.linksAreClosed() && r.Lost {
		return api.Replayed{}, errors.New("links are open: there is nothing to end")
	}
	var journal io.ReadSeeker
	if !r.Lost {
		journal = bytes.NewReader(r.Journal)
	}
	out, err := openLinks(ctx, a.n.ledger, a.n.cluster.Cluster, journal, a.n.cfg.now())
	return out, ledgerHint(err)
}
