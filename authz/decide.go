package authz

import (
	"errors"
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
	File      GrantFile // the file chosen; open its Root, never the one asked with
	MayNewest bool      // whether the newest version may be opened too
	Sender    Address
	Sent      time.Time
}

// Decide decides about one file (G1).
func Decide(r Reader, keys *Keyring, ask Ask, now time.Time) (Decision, error) {
	return Decision{}, errors.New("not yet")
}

// A Landing is a yes to seeing the list of a grant's files.
type Landing struct {
	Claims Claims
	Grant  Grant
	Files  []GrantFile // those not revoked
	Sender Address
	Sent   time.Time
}

// DecideLanding decides about the list of a grant's files.
func DecideLanding(r Reader, keys *Keyring, t Token, proven []Address, now time.Time) (Landing, error) {
	return Landing{}, errors.New("not yet")
}
