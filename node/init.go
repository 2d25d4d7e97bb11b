package node

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/valise-mail/valise/authz"
	"github.com/valise-mail/valise/dht"
	"github.com/valise-mail/valise/replication"
)

const ledgerDir = "ledger"

// Init makes c.Dir the folder of the first node of a new cluster: key, config,
// and a ledger with one voter that holds the organisation's secrets, wrapped
// to this node. cluster.json is written last; a folder without it is
// unfinished and may be initialised again.
func Init(ctx context.Context, c Config) error {
	if err := c.Validate(); err != nil {
		return err
	}
	fs, err := c.freshDir()
	if err != nil {
		return err
	}
	id, err := newIdentity()
	if err != nil {
		return err
	}
	if err := c.saveIdentity(fs, id); err != nil {
		return fmt.Errorf("save node key: %w", err)
	}
	if err := c.save(fs); err != nil {
		return err
	}
	orgPublic, orgKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	cluster := clusterFile{Version: 1, Cluster: dht.ClusterID(orgPublic), Organisation: c.Organisation, OrgKey: orgPublic, Node: id.id.String()}
	if err := c.foundLedger(ctx, fs, id, cluster, orgKey); err != nil {
		return fmt.Errorf("found ledger: %w", err)
	}
	return cluster.save(fs, c.Dir)
}

// freshDir makes the folder, and refuses one that is a node already.
func (c *Config) freshDir() (vfs.FS, error) {
	fs := c.fs()
	for _, found := range []struct {
		name string
		err  error
	}{
		{clusterName, hint(fmt.Errorf("%s is a node's folder already", c.Dir), `"valise serve" starts it; choose another --dir for a new one`)},
		{"road", hint(fmt.Errorf("%s holds a node that has run, without its %s", c.Dir, clusterName), "put that file back from a backup, or choose another --dir for a new node")},
	} {
		switch _, err := fs.Stat(fs.PathJoin(c.Dir, found.name)); {
		case err == nil:
			return nil, found.err
		case !errors.Is(err, errNotExist): // below, a ledger is removed: only from a folder that is known to be no node's
			return nil, hint(fmt.Errorf("look whether %s is a node's folder: %w", c.Dir, err), "choose a --dir that this user may read and write")
		}
	}
	if err := fs.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, hint(fmt.Errorf("make folder %s: %w", c.Dir, err), "choose a --dir that this user may write to")
	}
	if err := fs.RemoveAll(fs.PathJoin(c.Dir, ledgerDir)); err != nil && !errors.Is(err, errNotExist) {
		return nil, err
	}
	return fs, syncDir(fs, fs.PathDir(c.Dir))
}

func (c *Config) save(fs vfs.FS) error {
	var buf bytes.Buffer
	if err := c.WriteTOML(&buf); err != nil {
		return err
	}
	if err := writeFile(fs, fs.PathJoin(c.Dir, ConfigName), buf.Bytes()); err != nil {
		return fmt.Errorf("save config: %w", err)
	}
	return nil
}

// foundLedger bootstraps the ledger and writes its first entries, without a
// port open: a ledger of one voter talks to nobody.
func (c *Config) foundLedger(ctx context.Context, fs vfs.FS, id *identity, cluster clusterFile, orgKey ed25519.PrivateKey) error {
	lc := replication.Config{Dir: fs.PathJoin(c.Dir, ledgerDir), FS: fs, ID: id.id, Site: c.Site, Lane: nowhere{}, Logger: c.log()}
	if err := replication.Create(lc, true); err != nil {
		return err
	}
	db, err := replication.Open(ctx, lc)
	if err != nil {
		return err
	}
	defer db.Close()
	secrets := map[string][]byte{kindOrg: orgKey.Seed()}
	for _, kind := range kinds {
		if secrets[kind] == nil {
			s := make([]byte, 32)
			rand.Read(s)
			secrets[kind] = s
		}
	}
	bulk, ledger, err := c.planned()
	if err != nil {
		return err
	}
	now := c.now()
	wrapped := map[string][]byte{}
	for kind, secret := range secrets {
		if wrapped[kind], err = wrap(cluster.Cluster, kind, 1, id.id, id.seal.PublicKey().Bytes(), secret); err != nil {
			return err
		}
	}
	signing := ed25519.NewKeyFromSeed(secrets[kindSigning])
	return db.Update(ctx, func(tx *replication.Tx) error {
		put(tx, keyOrg, orgRecord{Name: c.Organisation, PublicFiles: c.Public.Files, PublicApp: c.Public.App, Created: now})
		put(tx, memberKey(id.id), memberRecord{
			Name: c.name(), Site: c.Site, Class: uint8(dht.Member),
			SealKey: id.seal.PublicKey().Bytes(), Joined: now, Bulk: bulk, Ledger: ledger,
		})
		for kind, sealed := range wrapped {
			put(tx, secretKey(kind, 1, id.id), wrappedRecord{Sealed: sealed, Created: now})
		}
		bumpMembers(tx)
		return authz.PutSigningKey(tx, authz.SigningKey{ID: 1, Public: signing.Public().(ed25519.PublicKey), Created: now})
	})
}

// nowhere is the lane of a ledger that is alone.
type nowhere struct{}

var _ replication.Lane = nowhere{}

func (nowhere) Handle(string, func(network.Stream)) {}
func (nowhere) Dial(context.Context, peer.ID, string) (network.Stream, error) {
	return nil, net.ErrClosed
}

// closeTimeout bounds each step of a shutdown that waits for others.
const closeTimeout = 5 * time.Second
