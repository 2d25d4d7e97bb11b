package dht

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
)

// Config is what Open needs. Fields without a stated default are required.
type Config struct {
	Key       crypto.PrivKey    // the node's Ed25519 key
	ClusterID string            // must be ClusterID(OrgKey); default that
	OrgKey    ed25519.PublicKey // the organisation's key, which signs the list
	Dir       string            // folder of the stored list, made when missing
	FS        vfs.FS            // default vfs.Default

	// BulkListen and LedgerListen are the addresses to listen on; none means
	// that the lane only dials. TCP with
	// TLS, and QUIC where an address ends in /quic-v1.
	BulkListen, LedgerListen []multiaddr.Multiaddr

	// BulkMemory and LedgerMemory bound what each lane's connections and
	// streams may hold in buffers, in bytes; defaults 1 GiB and 256 MiB.
	BulkMemory, LedgerMemory int64
	// Sweep is how often connections are looked through for peers whose time
	// is over; default 5 s. Their streams are refused at once.
	Sweep time.Duration

	// HandshakeTimeout is what an incoming TCP connection may take until its
	// peer is known and admitted; default 10 s. QUIC keeps bounds of its own:
	// 5 s of silence, 10 s in all.
	HandshakeTimeout time.Duration

	// Reach is a fault seam: where it says false, the cable to that peer is
	// cut. It is asked for every dial, connection and stream; Disconnect closes
	// what is open already. Default: everybody is reachable.
	Reach  func(peer.ID) bool
	Clock  func() time.Time // for the ends of peers; default time.Now
	Logger *slog.Logger     // default none
}

// Validate names the first field that is wrong, and what to do about it.
func (c Config) Validate() error {
	if _, err := KeySeed(c.Key); err != nil {
		return fmt.Errorf("Config.Key: %w", err)
	}
	if len(c.OrgKey) != ed25519.PublicKeySize {
		return fmt.Errorf("Config.OrgKey: %d bytes, want the %d of an Ed25519 key", len(c.OrgKey), ed25519.PublicKeySize)
	}
	if c.ClusterID != "" && c.ClusterID != ClusterID(c.OrgKey) {
		return fmt.Errorf("Config.ClusterID: %q is not the id of Config.OrgKey, %q", c.ClusterID, ClusterID(c.OrgKey))
	}
	if c.Dir == "" {
		return errors.New("Config.Dir: empty; name a folder for the member list")
	}
	if c.BulkMemory < 0 || c.LedgerMemory < 0 || c.Sweep < 0 || c.HandshakeTimeout < 0 {
		return errors.New("Config.BulkMemory, LedgerMemory, Sweep, HandshakeTimeout: must not be negative")
	}
	return nil
}

func (c Config) withDefaults() Config {
	if c.ClusterID == "" {
		c.ClusterID = ClusterID(c.OrgKey)
	}
	if c.FS == nil {
		c.FS = vfs.Default
	}
	if c.BulkMemory == 0 {
		c.BulkMemory = 1 << 30
	}
	if c.LedgerMemory == 0 {
		c.LedgerMemory = 256 << 20
	}
	if c.Sweep == 0 {
		c.Sweep = 5 * time.Second
	}
	if c.HandshakeTimeout == 0 {
		c.HandshakeTimeout = handshakeTimeout
	}
	if c.Reach == nil {
		c.Reach = func(peer.ID) bool { return true }
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}
