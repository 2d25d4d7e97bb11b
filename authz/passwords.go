package authz

import (
	"errors"
	"fmt"
	"iter"
)

func isNotFound(err error) bool { return errors.Is(err, ErrNotFound) }

// PutAppPassword adds an app password to an existing account.
func PutAppPassword(rw ReadWriter, p AppPassword) error {
	if p.Hash == ([32]byte{}) {
		return fmt.Errorf("app password without a hash: %w", ErrInvalid)
	}
	if _, err := LoadAccount(rw, p.Account); err != nil {
		return err
	}
	if _, taken := rw.Get(appPasswordKey(p.Hash)); taken {
		return fmt.Errorf("app password: %w", ErrExists)
	}
	rw.Put(appPasswordByAccountKey(p.Account, p.Hash), []byte{})
	return save(rw, appPasswordKey(p.Hash), &p)
}

// RemoveAppPassword removes an app password. Removing one that is not there does nothing.
func RemoveAppPassword(rw ReadWriter, hash [32]byte) error {
	p, err := loadAppPassword(rw, hash)
	if isNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	rw.Delete(appPasswordByAccountKey(p.Account, p.Hash))
	rw.Delete(appPasswordKey(p.Hash))
	return nil
}

func loadAppPassword(r Reader, hash [32]byte) (AppPassword, error) {
	var p AppPassword
	if err := load(r, appPasswordKey(hash), &p, "app password"); err != nil {
		return AppPassword{}, err
	}
	p.Created = utc(p.Created)
	return p, nil
}

// AppPasswords yields an account's app passwords. It ends with the first error.
func AppPasswords(r Reader, id AccountID) iter.Seq2[AppPassword, error] {
	return func(yield func(AppPassword, error) bool) {
		for rest := range scan(r, ownedPrefix(appPasswordByAccount, id)) {
			var hash [32]byte
			copy(hash[:], rest)
			p, err := loadAppPassword(r, hash)
			if !yield(p, err) || err != nil {
				return
			}
		}
	}
}

// CheckAppPassword logs a mail program in, as sender: with one of an account's addresses and one of the same
// account's app passwords. Refusals are ErrBadCredentials, with the reason for the log; anything else is trouble with
// the records, not an answer. Both are looked up before it answers.
func CheckAppPassword(r Reader, login Address, s Secret) (Account, Mailbox, error) {
	p, perr := loadAppPassword(r, s.Hash())
	m, merr := FindMailbox(r, login)
	for _, err := range []error{perr, merr} {
		if err != nil && !isNotFound(err) {
			return Account{}, Mailbox{}, err
		}
	}
	if perr != nil || merr != nil || !s.Matches(p.Hash) || p.Account != m.Account {
		return Account{}, Mailbox{}, fmt.Errorf("%w: %w", ErrBadCredentials, ErrWrongSecret)
	}
	a, err := LoadAccount(r, m.Account)
	if err != nil {
		return Account{}, Mailbox{}, err
	}
	if a.Status != Active {
		return Account{}, Mailbox{}, fmt.Errorf("%w: %w", ErrBadCredentials, ErrDisabled)
	}
	return a, m, nil
}
