package node

import (
	"context"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/valise-mail/valise/dht"
)

// Names of the files that say who a node is. The private key is the one secret
// that is not in the ledger: everything else this node may know is wrapped to it there.
const (
	keyName     = "node.key"     // PKCS #8 in PEM, Ed25519; or an age file with that inside
	clusterName = "cluster.json" // which cluster the key belongs to
)

// identity is a node's key pair and the keys derived from it.
type identity struct {
	key  ed25519.PrivateKey
	p2p  crypto.PrivKey
	id   peer.ID
	seal hpke.PrivateKey // X25519, derived: what the ledger's secrets are wrapped to
}

// clusterFile is cluster.json: what must be known of the cluster before its ledger is open.
type clusterFile struct {
	Version      int    `json:"version"`
	Cluster      string `json:"cluster"`
	Organisation string `json:"organisation"`
	OrgKey       []byte `json:"organisation_key"` // Ed25519 public key
	Node         string `json:"node"`             // peer id, to notice a swapped key
}

func newIdentity() (*identity, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	return identityOf(key)
}

func identityOf(key ed25519.PrivateKey) (*identity, error) {
	p2p, err := crypto.UnmarshalEd25519PrivateKey(key)
	if err != nil {
		return nil, err
	}
	id, err := peer.IDFromPrivateKey(p2p)
	if err != nil {
		return nil, err
	}
	ikm, err := hkdf.Key(sha256.New, key.Seed(), nil, "valise node sealing key 1", 32)
	if err != nil {
		return nil, err
	}
	seal, err := hpke.DHKEM(ecdh.X25519()).DeriveKeyPair(ikm)
	if err != nil {
		return nil, err
	}
	return &identity{key: key, p2p: p2p, id: id, seal: seal}, nil
}

// saveIdentity writes the node's key, sealed where there is a passphrase for it:
// then it is never on the disk in the clear.
func (c *Config) saveIdentity(fs vfs.FS, i *identity) error {
	der, err := x509.MarshalPKCS8PrivateKey(i.key)
	if err != nil {
		return err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	if c.NewPassphrase != "" {
		if text, err = seal(text, c.NewPassphrase, c.scryptWork()); err != nil {
			return fmt.Errorf("seal node key: %w", err)
		}
	}
	return writeFile(fs, fs.PathJoin(c.Dir, keyName), text)
}

func (c *Config) loadIdentity(ctx context.Context, fs vfs.FS) (*identity, error) {
	name := fs.PathJoin(c.Dir, keyName)
	data, err := c.openKeyFile(ctx, fs, name)
	if errors.Is(err, errNotExist) {
		return nil, hint(fmt.Errorf("%s: %w", name, err), `this folder holds no node; "valise init" or "valise join" makes one`)
	}
	if err != nil {
		return nil, fmt.Errorf("read node key: %w", err)
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("node key %s: no PEM block", name)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("node key %s: %w", name, err)
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("node key %s: %T is not Ed25519", name, parsed)
	}
	return identityOf(key)
}

func (c clusterFile) save(fs vfs.FS, dir string) error {
	data, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(fs, fs.PathJoin(dir, clusterName), append(data, '\n'))
}

// loadCluster reads cluster.json and checks it against the key beside it and
// the organisation of the config.
func loadCluster(fs vfs.FS, dir string, id *identity, organisation string) (clusterFile, error) {
	name := fs.PathJoin(dir, clusterName)
	data, err := readFile(fs, name)
	if errors.Is(err, errNotExist) {
		return clusterFile{}, hint(fmt.Errorf("%s: %w", name, err), `the node has a key but no cluster: an "init" or "join" did not finish; run "valise join" again, with the same ticket if it answered nothing`)
	}
	if err != nil {
		return clusterFile{}, err
	}
	var c clusterFile
	if err := json.Unmarshal(data, &c); err != nil {
		return clusterFile{}, fmt.Errorf("%s: %w", name, err)
	}
	if c.Version != 1 {
		return clusterFile{}, hint(fmt.Errorf("%s has version %d", name, c.Version), "this folder was written by a newer valise; use that one")
	}
	if len(c.OrgKey) != ed25519.PublicKeySize || dht.ClusterID(c.OrgKey) != c.Cluster {
		return clusterFile{}, fmt.Errorf("%s: the organisation's key does not match cluster %s", name, c.Cluster)
	}
	if c.Node != id.id.String() {
		return clusterFile{}, hint(fmt.Errorf("%s is of node %s, but %s is the key of %s", name, c.Node, keyName, id.id),
			"the folder was mixed from two nodes: put back the key that belongs here")
	}
	if c.Organisation != organisation {
		return clusterFile{}, hint(fmt.Errorf("data folder %s belongs to organisation %q, the config says %q", dir, c.Organisation, organisation),
			"point --dir at the right folder, or mend organisation in the config")
	}
	return c, nil
}
