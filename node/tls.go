package node

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"time"
)

// certificate returns the TLS set-up of the faces, or nil where they do without.
func (n *Node) certificate() (*tls.Config, error) {
	t := n.cfg.TLS
	var cert tls.Certificate
	var err error
	switch {
	case t.Cert != "":
		cert, err = tls.LoadX509KeyPair(n.cfg.path(t.Cert), n.cfg.path(t.Key))
		if err != nil {
			return nil, hint(fmt.Errorf("load certificate: %w", err), "tls.cert and tls.key name PEM files; relative names start at the node's folder")
		}
	case t.SelfSigned:
		if cert, err = n.selfSigned(); err != nil {
			return nil, fmt.Errorf("make certificate: %w", err)
		}
	default:
		return nil, nil
	}
	return &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}}, nil
}

// path is a file or folder that the config names: relative names start at the node's folder.
func (c *Config) path(name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(c.Dir, name)
}

// selfSigned makes a certificate for the node's own names, for a year.
func (n *Node) selfSigned() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return tls.Certificate{}, err
	}
	now := n.cfg.clock()()
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: n.cfg.name(), Organization: []string{n.cfg.Organisation}},
		NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(1, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
	}
	names := append([]string{"localhost", "127.0.0.1", "::1", n.cfg.mailHostname()}, n.cfg.Advertise...)
	for _, origin := range []string{n.cfg.Public.Files, n.cfg.Public.App} {
		if u, err := url.Parse(origin); err == nil && u.Hostname() != "" {
			names = append(names, u.Hostname())
		}
	}
	for _, name := range names {
		if ip, err := netip.ParseAddr(name); err == nil {
			template.IPAddresses = append(template.IPAddresses, net.IP(ip.AsSlice()))
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

func (c *Config) mailHostname() string {
	if c.Mail.Hostname != "" {
		return c.Mail.Hostname
	}
	return c.Organisation
}
