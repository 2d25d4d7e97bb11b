package authz

import (
	"bytes"
	"crypto/subtle"
	"fmt"
	"slices"
	"time"
)

// An Ask is what a receiver presents.
type Ask struct {
	Token  Token
	Root   []byte    // the CID in the link, binary
	Name   string    // the name in the link, unescaped once
	Proven []Address // addresses the receiver has proven to hold; usually none
}

// A Decision is a yes.
type Decision struct {
	Claims    Claims
	Grant     Grant
	File      GrantFile // the file chosen: open its Root, never the one asked with (G2)
	MayNewest bool      // whether the newest version may be opened too; as sent always may
	Sender    Address
	Sent      time.Time
}

// Decide decides whether a receiver may read one file, in the order of G1: the token's signature and expiry, before
// anything is looked up; S301 the grant presents its sender's address; S302 that is known and in good standing; S303
// this is a receiver, the grant stands, the recipient is proven where the grant asks; S304 the CID and the name
// together choose a file of the grant.
//
// A refusal is a *Refusal: errors.Is(err, ErrAccessDenied), or ErrInvalidAccess at S304. ErrUnknownGrant is no refusal
// (G4). Any other error is trouble with the records.
func Decide(r Reader, keys *Keyring, ask Ask, now time.Time) (Decision, error) {
	claims, g, err := decideGrant(r, keys, ask.Token, ask.Proven, now)
	if err != nil {
		return Decision{}, err
	}
	f, err := chooseFile(&g, ask)
	if err != nil {
		return Decision{}, err
	}
	return Decision{
		Claims:    claims,
		Grant:     g,
		File:      f,
		MayNewest: f.Mode == Following,
		Sender:    g.Sender,
		Sent:      g.Created,
	}, nil
}

// A Landing is a yes to seeing the list of a grant's files.
type Landing struct {
	Claims Claims
	Grant  Grant
	Files  []GrantFile // those not revoked
	Sender Address
	Sent   time.Time
}

// DecideLanding decides whether a receiver may see what a grant holds (G6): Decide without S304. Its errors are those
// of Decide but ErrInvalidAccess.
func DecideLanding(r Reader, keys *Keyring, t Token, proven []Address, now time.Time) (Landing, error) {
	claims, g, err := decideGrant(r, keys, t, proven, now)
	if err != nil {
		return Landing{}, err
	}
	files := slices.DeleteFunc(slices.Clone(g.Files), func(f GrantFile) bool { return !f.RevokedAt.IsZero() })
	return Landing{Claims: claims, Grant: g, Files: files, Sender: g.Sender, Sent: g.Created}, nil
}

// decideGrant is everything up to S303.
func decideGrant(r Reader, keys *Keyring, t Token, proven []Address, now time.Time) (Claims, Grant, error) {
	v, err := verify(t, keys, now)
	if err != nil {
		return Claims{}, Grant{}, err
	}
	g, err := grantOf(r, v)
	if err != nil {
		return Claims{}, Grant{}, err
	}
	if g.Sender == "" { // S301, row B5
		return Claims{}, Grant{}, denied("S301", ErrNoSender)
	}
	if err := goodStanding(r, &g); err != nil { // S302, row B6
		return Claims{}, Grant{}, err
	}
	if err := isReceiver(&g, v.claims, proven, now); err != nil { // S303, row B7
		return Claims{}, Grant{}, err
	}
	return v.claims, g, nil
}

// grantOf loads the grant a genuine token names. Under a distrusted key the grant itself must vouch for the token,
// recorded before the cut-off (J4); as the cut-off is known here, so would be such a grant.
func grantOf(r Reader, v verified) (Grant, error) {
	cutOff := v.key.DistrustedAfter
	g, err := LoadGrant(r, v.claims.Grant)
	if isNotFound(err) && cutOff.IsZero() {
		return Grant{}, fmt.Errorf("grant %s: %w", v.claims.Grant, ErrUnknownGrant)
	}
	if err != nil && !isNotFound(err) {
		return Grant{}, err
	}
	if !cutOff.IsZero() && (err != nil || g.Created.After(cutOff) || !recorded(&g, v.hash)) {
		return Grant{}, denied("token", ErrDistrustedKey)
	}
	return g, nil
}

func recorded(g *Grant, hash [32]byte) bool {
	return subtle.ConstantTimeCompare(g.TokenHash[:], hash[:]) == 1
}

// goodStanding asks whether the sender's address is still the mailbox of the account that granted, and that active.
func goodStanding(r Reader, g *Grant) error {
	key, ok := ownerOf(r, g.Sender)
	if !ok {
		return denied("S302", ErrUnknownSender)
	}
	var m mailboxOwner
	if err := glance(r, idKey(mailboxPrefix, key), &m); err != nil {
		return fmt.Errorf("read mailbox %s: %w", key, err)
	}
	if m.Account != g.Account {
		return denied("S302", ErrUnknownSender)
	}
	var a accountStatus
	err := glance(r, AccountKey(g.Account), &a)
	if isNotFound(err) {
		return denied("S302", ErrUnknownSender)
	}
	if err != nil {
		return fmt.Errorf("read account %s: %w", g.Account, err)
	}
	if a.Status != Active {
		return denied("S302", ErrDisabled)
	}
	return nil
}

// What S302 reads of a Mailbox and of an Account: every click does.
type (
	mailboxOwner struct {
		Unknown
		Account AccountID `cbor:"2,keyasint"`
	}
	accountStatus struct {
		Unknown
		Status Status `cbor:"3,keyasint"`
	}
)

func glance(r Reader, key []byte, rec record) error {
	data, ok := r.Get(key)
	if !ok {
		return ErrNotFound
	}
	return unmarshalSome(data, rec)
}

// isReceiver asks whether the token makes its holder a receiver of this grant, now.
func isReceiver(g *Grant, c Claims, proven []Address, now time.Time) error {
	switch {
	case !May(c.Role, Get, Granted):
		return denied("S303", ErrNotReceiver)
	case !g.RevokedAt.IsZero():
		return denied("S303", ErrRevoked)
	case expired(g.Expires, now):
		return denied("S303", ErrExpired)
	case len(g.Recipients) > 0 && !provenRecipient(g, proven):
		return denied("S303", ErrNotProven)
	}
	return nil
}

func provenRecipient(g *Grant, proven []Address) bool {
	return slices.ContainsFunc(proven, func(a Address) bool {
		return slices.Contains(g.Recipients, RecipientHash(g.ID, a))
	})
}

// chooseFile is S304, row B8: the CID and the name must be those of one file as it was sent.
func chooseFile(g *Grant, ask Ask) (GrantFile, error) {
	refusal := &Refusal{Step: "S304", Answer: ErrInvalidAccess, Reason: ErrNoSuchFile}
	for _, f := range g.Files {
		if f.Name != ask.Name || !bytes.Equal(f.Root, ask.Root) {
			continue
		}
		if f.RevokedAt.IsZero() {
			return f, nil
		}
		refusal = &Refusal{Step: "S303", Answer: ErrAccessDenied, Reason: errRevokedFile}
	}
	return GrantFile{}, refusal
}
