package authz

import (
	"bytes"
	"encoding/binary"
	"strings"
)

// Every key of this room, under the first byte 'a'. A text id ends with a zero octet where something follows it.
//
//	a a account                          Account
//	a d domain 0 local                   key of the mailbox that this address belongs to
//	a f file 0 grant(16)                 empty: grants by file
//	a g grant(16)                        Grant
//	a k key(4)                           SigningKey
//	a m mailbox                          Mailbox
//	a o account 0 mailbox                empty: mailboxes by account
//	a p hash(32)                         AppPassword
//	a q account 0 hash(32)               empty: app passwords by account
//	a s sending                          Sending
//	a t account 0 ^seconds(8) grant(16)  empty: grants by account, newest first
//	a u sending 0 grant(16)              empty: grants by sending
//
// Numbers are big-endian; ^ is the complement.
const (
	accountPrefix          = "aa"
	addressPrefix          = "ad"
	grantByFilePrefix      = "af"
	grantPrefix            = "ag"
	signingKeyPrefix       = "ak"
	mailboxPrefix          = "am"
	mailboxByAccountPrefix = "ao"
	appPasswordPrefix      = "ap"
	appPasswordByAccount   = "aq"
	sendingPrefix          = "as"
	grantByAccountPrefix   = "at"
	grantBySendingPrefix   = "au"
)

// SigningKeyPrefix is what to watch to keep a Keyring up to date; SigningKeys reads it.
func SigningKeyPrefix() []byte { return []byte(signingKeyPrefix) }

// GrantKey is what to watch to notice that a grant is revoked or undone; its value is for DecodeGrant.
func GrantKey(id GrantID) []byte { return append([]byte(grantPrefix), id[:]...) }

// AccountKey is what to watch to notice that an account is disabled.
func AccountKey(id AccountID) []byte { return idKey(accountPrefix, id) }

func idKey[T ~string](prefix string, id T) []byte { return append([]byte(prefix), id...) }

func ownedPrefix[T ~string](prefix string, owner T) []byte {
	return append(append([]byte(prefix), owner...), 0)
}

func addressKey(a Address) []byte {
	at := max(strings.LastIndexByte(string(a), '@'), 0) // no @ in the empty address of a bounce: it finds nothing
	return localPrefix(a.Domain(), string(a[:at]))
}

func localPrefix(domain, local string) []byte {
	return append(ownedPrefix(addressPrefix, domain), local...)
}

func grantByAccountKey(g *Grant) []byte {
	k := ownedPrefix(grantByAccountPrefix, g.Account)
	k = binary.BigEndian.AppendUint64(k, ^uint64(g.Created.Unix()))
	return append(k, g.ID[:]...)
}

func grantBySendingKey(s SendingID, id GrantID) []byte {
	return append(ownedPrefix(grantBySendingPrefix, s), id[:]...)
}

func grantByFileKey(f FileID, id GrantID) []byte {
	return append(ownedPrefix(grantByFilePrefix, f), id[:]...)
}

func appPasswordKey(hash [32]byte) []byte { return append([]byte(appPasswordPrefix), hash[:]...) }

func appPasswordByAccountKey(a AccountID, hash [32]byte) []byte {
	return append(ownedPrefix(appPasswordByAccount, a), hash[:]...)
}

func signingKeyKey(id KeyID) []byte {
	return binary.BigEndian.AppendUint32([]byte(signingKeyPrefix), uint32(id))
}

// scan yields a copy of every key under prefix, cut to what follows it.
func scan(r Reader, prefix []byte) func(yield func(rest []byte) bool) {
	return func(yield func([]byte) bool) {
		for k := range r.Scan(prefix, prefixEnd(prefix)) {
			if !yield(bytes.Clone(k[len(prefix):])) {
				return
			}
		}
	}
}

// prefixEnd returns the first key after all keys with this prefix; ours never ends in 0xff.
func prefixEnd(prefix []byte) []byte {
	end := bytes.Clone(prefix)
	end[len(end)-1]++
	return end
}
