package authz

import (
	"fmt"
	"iter"
	"net"
	"net/netip"
	"slices"
)

// load reads the record under key into rec; what names it in an error.
func load(r Reader, key []byte, rec record, what string) error {
	data, ok := r.Get(key)
	if !ok {
		return fmt.Errorf("%s: %w", what, ErrNotFound)
	}
	if err := unmarshal(data, rec); err != nil {
		return fmt.Errorf("read %s: %w", what, err)
	}
	return nil
}

func save(w Writer, key []byte, rec record) error {
	data, err := marshal(rec)
	if err != nil {
		return err
	}
	w.Put(key, data)
	return nil
}

// checkID keeps text ids free of the zero octet that ends them in keys, and of what a log or a shell would mangle.
func checkID[T ~string](what string, id T) error {
	if len(id) < 1 || len(id) > 128 {
		return fmt.Errorf("%s id of %d octets, want 1 to 128: %w", what, len(id), ErrInvalid)
	}
	for _, c := range []byte(id) {
		if c <= ' ' || c > '~' {
			return fmt.Errorf("%s id %q: want printable ASCII: %w", what, string(id), ErrInvalid)
		}
	}
	return nil
}

// LoadAccount returns an account, or ErrNotFound.
func LoadAccount(r Reader, id AccountID) (Account, error) {
	var a Account
	if err := load(r, AccountKey(id), &a, "account "+string(id)); err != nil {
		return Account{}, err
	}
	a.Created = utc(a.Created)
	return a, nil
}

// PutAccount adds an account or replaces the one with its id.
func PutAccount(w Writer, a Account) error {
	if err := checkID("account", a.ID); err != nil {
		return err
	}
	if a.Status != Active && a.Status != Disabled {
		return fmt.Errorf("account %s: %v: %w", a.ID, a.Status, ErrInvalid)
	}
	return save(w, AccountKey(a.ID), &a)
}

// Accounts yields all accounts, by id. It ends with the first error.
func Accounts(r Reader) iter.Seq2[Account, error] {
	return func(yield func(Account, error) bool) {
		for id := range scan(r, []byte(accountPrefix)) {
			a, err := LoadAccount(r, AccountID(id))
			if !yield(a, err) || err != nil {
				return
			}
		}
	}
}

// LoadMailbox returns a mailbox, or ErrNotFound.
func LoadMailbox(r Reader, key MailboxKey) (Mailbox, error) {
	var m Mailbox
	if err := load(r, idKey(mailboxPrefix, key), &m, "mailbox "+string(key)); err != nil {
		return Mailbox{}, err
	}
	m.ProvenAt = utc(m.ProvenAt)
	return m, nil
}

// FindMailbox returns the mailbox that an address belongs to: as its address, as an alias, or as a +tag of either
// (M2). ErrNotFound where there is none.
func FindMailbox(r Reader, a Address) (Mailbox, error) {
	key, ok := ownerOf(r, a)
	if !ok {
		return Mailbox{}, fmt.Errorf("mailbox of %s: %w", a, ErrNotFound)
	}
	return LoadMailbox(r, key)
}

// MailboxOf is FindMailbox for one account: ErrNotYours where the address is none of its own (M2).
func MailboxOf(r Reader, id AccountID, a Address) (Mailbox, error) {
	m, err := FindMailbox(r, a)
	if err != nil && !isNotFound(err) {
		return Mailbox{}, err
	}
	if err != nil || m.Account != id {
		return Mailbox{}, fmt.Errorf("%s: %w", a, ErrNotYours)
	}
	return m, nil
}

// ownerOf looks an address up, then the address it is a +tag of.
func ownerOf(r Reader, a Address) (MailboxKey, bool) {
	if v, ok := r.Get(addressKey(a)); ok {
		return MailboxKey(v), true
	}
	base, tagged := a.Tagged()
	if !tagged {
		return "", false
	}
	v, ok := r.Get(addressKey(base))
	return MailboxKey(v), ok
}

// AddMailbox adds a mailbox to an existing account. An address belongs to one account and never merges two (J5):
// ErrAddressTaken if one of its addresses belongs to another mailbox, is a +tag of another account's, or has +tags
// that are another account's. A mailbox that is already there is ErrAddressTaken too; ReplaceMailbox changes it.
func AddMailbox(rw ReadWriter, m Mailbox) error {
	if _, ok := rw.Get(idKey(mailboxPrefix, m.Key())); ok {
		return fmt.Errorf("mailbox %s: %w", m.Address, ErrAddressTaken)
	}
	return putMailbox(rw, m)
}

// ReplaceMailbox changes everything of a mailbox but its first address and its account. ErrNotFound if it is not
// there, ErrAddressTaken as for AddMailbox.
func ReplaceMailbox(rw ReadWriter, m Mailbox) error {
	old, err := LoadMailbox(rw, m.Key())
	if err != nil {
		return err
	}
	if old.Account != m.Account {
		return fmt.Errorf("mailbox %s belongs to another account: %w", m.Address, ErrAddressTaken)
	}
	for _, a := range old.Aliases {
		rw.Delete(addressKey(a))
	}
	return putMailbox(rw, m)
}

// RemoveMailbox removes a mailbox and frees its addresses. Grants that present them are refused from now on (S302).
// Removing one that is not there does nothing.
func RemoveMailbox(rw ReadWriter, key MailboxKey) error {
	m, err := LoadMailbox(rw, key)
	if isNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, a := range append([]Address{m.Address}, m.Aliases...) {
		rw.Delete(addressKey(a))
	}
	rw.Delete(ownedMailboxKey(m))
	rw.Delete(idKey(mailboxPrefix, key))
	return nil
}

func ownedMailboxKey(m Mailbox) []byte {
	return append(ownedPrefix(mailboxByAccountPrefix, m.Account), m.Address...)
}

// putMailbox checks and writes a mailbox whose old aliases are out of the index.
func putMailbox(rw ReadWriter, m Mailbox) error {
	if err := checkMailbox(m); err != nil {
		return fmt.Errorf("mailbox %s: %w", m.Address, err)
	}
	if _, err := LoadAccount(rw, m.Account); err != nil {
		return err
	}
	for _, a := range append([]Address{m.Address}, m.Aliases...) {
		if err := checkFree(rw, m, a); err != nil {
			return fmt.Errorf("%s: %w", a, err)
		}
		rw.Put(addressKey(a), []byte(m.Key()))
	}
	rw.Put(ownedMailboxKey(m), []byte{})
	return save(rw, idKey(mailboxPrefix, m.Key()), &m)
}

// checkFree refuses an address that belongs, or whose +tags belong, to somebody else.
func checkFree(r Reader, m Mailbox, a Address) error {
	if v, ok := r.Get(addressKey(a)); ok && MailboxKey(v) != m.Key() {
		return ErrAddressTaken
	}
	related := [][]byte{}
	if base, tagged := a.Tagged(); tagged {
		if v, ok := r.Get(addressKey(base)); ok {
			related = append(related, slices.Clone(v))
		}
	}
	for _, local := range []string{a.Local(), `"` + escapeLocal(a.Local())} {
		prefix := localPrefix(a.Domain(), local+"+")
		for _, v := range r.Scan(prefix, prefixEnd(prefix)) {
			related = append(related, slices.Clone(v))
		}
	}
	for _, key := range related {
		other, err := LoadMailbox(r, MailboxKey(key))
		if err != nil {
			return err
		}
		if other.Account != m.Account {
			return fmt.Errorf("%w: %w", errNotThisAccounts, ErrAddressTaken)
		}
	}
	return nil
}

func checkMailbox(m Mailbox) error {
	for _, a := range append([]Address{m.Address}, m.Aliases...) {
		if b, err := ParseAddress(string(a)); err != nil || a != b {
			return fmt.Errorf("address %q is not normalised: %w", string(a), ErrInvalid)
		}
	}
	if m.NextHop == "" {
		return nil // cannot send yet
	}
	host, port, err := net.SplitHostPort(m.NextHop)
	if err != nil || host == "" || port == "" {
		return fmt.Errorf("next hop %q: want host:port: %w", m.NextHop, ErrInvalid)
	}
	switch m.TLS {
	case StartTLS, Implicit:
		return nil
	case NoTLS:
		if ip, err := netip.ParseAddr(host); host == "localhost" || err == nil && ip.IsLoopback() {
			return nil
		}
		return fmt.Errorf("next hop %q without TLS: only a loopback address may be: %w", m.NextHop, ErrInvalid)
	}
	return fmt.Errorf("%v: %w", m.TLS, ErrInvalid)
}

// Mailboxes yields an account's mailboxes, by address. It ends with the first error.
func Mailboxes(r Reader, id AccountID) iter.Seq2[Mailbox, error] {
	return func(yield func(Mailbox, error) bool) {
		for key := range scan(r, ownedPrefix(mailboxByAccountPrefix, id)) {
			m, err := LoadMailbox(r, MailboxKey(key))
			if !yield(m, err) || err != nil {
				return
			}
		}
	}
}
