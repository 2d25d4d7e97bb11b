package dht

import (
	"crypto/tls"
	"crypto/x509"
	"strings"
	"testing"
	"time"

	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
	"github.com/libp2p/go-libp2p/p2p/transport/quicreuse"
	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
	"github.com/multiformats/go-multistream"
	"github.com/quic-go/quic-go"
)

// R6: nodes whose clocks differ by years understand each other. The machine's
// clock cannot be set for one node of a test, so this looks at what the others
// judge by it: the certificate, as they see it on each lane and transport.
func TestR6_CertificateIsValidByAnyClock(t *testing.T) {
	t.Parallel()
	both := addrs("/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1")
	r := newOrg(t).members(1, func(c *Config) { c.BulkListen, c.LedgerListen = both, both })[0]
	for name, lane := range map[string]*Lane{"bulk": r.Bulk(), "ledger": r.Ledger()} {
		for _, addr := range lane.Addrs() {
			t.Run(name+strings.ReplaceAll(addr.String(), "/", "_"), func(t *testing.T) {
				t.Parallel()
				cert := certificate(t, addr)
				roots := x509.NewCertPool()
				roots.AddCert(cert)
				cert.UnhandledCriticalExtensions = nil // libp2p's own
				for _, clock := range []time.Time{time.Unix(60, 0), time.Now().Add(-2 * time.Hour), time.Now(), time.Now().AddDate(200, 0, 0)} {
					if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: clock}); err != nil {
						t.Errorf("at %v: %v", clock, err)
					}
				}
			})
		}
	}
}

// certificate is what a node at addr shows to a stranger.
func certificate(t *testing.T, addr multiaddr.Multiaddr) *x509.Certificate {
	t.Helper()
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	id, err := libp2ptls.NewIdentity(key)
	if err != nil {
		t.Fatal(err)
	}
	config, _ := id.ConfigForPeer("")
	var shown []byte
	config.VerifyPeerCertificate = func(raw [][]byte, _ [][]*x509.Certificate) error { shown = raw[0]; return nil }
	if isQUIC(addr) {
		to, _, err := quicreuse.FromQuicMultiaddr(addr)
		if err != nil {
			t.Fatal(err)
		}
		if c, err := quic.DialAddr(within(t), to.String(), config, nil); err == nil {
			c.CloseWithError(0, "")
		}
	} else {
		raw, err := manet.Dial(addr)
		if err != nil {
			t.Fatal(err)
		}
		defer raw.Close()
		raw.SetDeadline(time.Now().Add(patience))
		if err := multistream.SelectProtoOrFail(libp2ptls.ID, raw); err != nil {
			t.Fatal(err)
		}
		if err := tls.Client(raw, config).HandshakeContext(within(t)); err != nil {
			t.Fatal(err)
		}
	}
	cert, err := x509.ParseCertificate(shown)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}
