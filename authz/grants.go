package authz

import (
	"crypto/sha256"
	"fmt"
	"iter"
	"slices"
	"time"
)

// RecipientHash stands for a recipient in a grant: SHA-256(grant id ‖ address). The id salts it, so that equal
// recipients of two grants look different.
func RecipientHash(id GrantID, a Address) [32]byte {
	return sha256.Sum256(append(id[:], a...))
}

// LoadGrant returns a grant, or ErrNotFound.
func LoadGrant(r Reader, id GrantID) (Grant, error) {
	data, ok := r.Get(GrantKey(id))
	if !ok {
		return Grant{}, fmt.Errorf("grant %s: %w", id, ErrNotFound)
	}
	return DecodeGrant(data)
}

// DecodeGrant reads a grant's record, for those who watch GrantKey.
func DecodeGrant(data []byte) (Grant, error) {
	var g Grant
	if err := unmarshal(data, &g); err != nil {
		return Grant{}, fmt.Errorf("read grant: %w", err)
	}
	g.Created, g.Expires, g.RevokedAt = utc(g.Created), utc(g.Expires), utc(g.RevokedAt)
	for i := range g.Files {
		g.Files[i].RevokedAt = utc(g.Files[i].RevokedAt)
	}
	return g, nil
}

// LoadSending returns a sending, or ErrNotFound.
func LoadSending(r Reader, id SendingID) (Sending, error) {
	var s Sending
	if err := load(r, idKey(sendingPrefix, id), &s, "sending "+string(id)); err != nil {
		return Sending{}, err
	}
	s.Created = utc(s.Created)
	return s, nil
}

// IssueGrants records a sending and its grants; they are valid from the commit on. It fills each grant's Account,
// Sender, Sending and Created from the sending where they are empty, and cleans file names. It refuses a sender that
// is none of the account's (ErrNotYours), a disabled account (ErrDisabled), an id already there (ErrExists) and a
// grant without a file, a token hash or an id (ErrInvalid).
func IssueGrants(rw ReadWriter, s Sending, grants ...Grant) error {
	if err := checkID("sending", s.ID); err != nil {
		return err
	}
	if _, ok := rw.Get(idKey(sendingPrefix, s.ID)); ok {
		return fmt.Errorf("sending %s: %w", s.ID, ErrExists)
	}
	a, err := LoadAccount(rw, s.Account)
	if err != nil {
		return err
	}
	if a.Status != Active {
		return fmt.Errorf("account %s: %w", a.ID, ErrDisabled)
	}
	if _, err := MailboxOf(rw, s.Account, s.From); err != nil {
		return err
	}
	for _, g := range grants {
		if err := issueGrant(rw, s, g); err != nil {
			return fmt.Errorf("grant %s: %w", g.ID, err)
		}
	}
	return save(rw, idKey(sendingPrefix, s.ID), &s)
}

func issueGrant(rw ReadWriter, s Sending, g Grant) error {
	g.Account, g.Sending = s.Account, s.ID
	if g.Sender == "" {
		g.Sender = s.From
	}
	if g.Created.IsZero() {
		g.Created = s.Created
	}
	g.Files = slices.Clone(g.Files)
	for i := range g.Files {
		g.Files[i].Name = CleanName(g.Files[i].Name)
	}
	if err := checkGrant(rw, g); err != nil {
		return err
	}
	if _, ok := rw.Get(GrantKey(g.ID)); ok {
		return ErrExists
	}
	rw.Put(grantByAccountKey(&g), []byte{})
	rw.Put(grantBySendingKey(g.Sending, g.ID), []byte{})
	for _, f := range g.Files {
		rw.Put(grantByFileKey(f.File, g.ID), []byte{})
	}
	return save(rw, GrantKey(g.ID), &g)
}

func checkGrant(r Reader, g Grant) error {
	switch {
	case g.ID == GrantID{}:
		return fmt.Errorf("no id: %w", ErrInvalid)
	case g.TokenHash == [32]byte{}:
		return fmt.Errorf("no token hash: %w", ErrInvalid)
	case len(g.Files) == 0:
		return fmt.Errorf("no file: %w", ErrInvalid)
	}
	for _, f := range g.Files {
		if err := checkID("file", f.File); err != nil {
			return err
		}
		if len(f.Root) == 0 || f.Size < 0 || f.Mode != Following && f.Mode != Pinned {
			return fmt.Errorf("file %s: root of %d octets, size %d, %v: %w", f.File, len(f.Root), f.Size, f.Mode, ErrInvalid)
		}
	}
	_, err := MailboxOf(r, g.Account, g.Sender)
	return err
}

// ListGrants yields what an account has granted, newest first, revoked and expired grants too. It ends with the first
// error.
func ListGrants(r Reader, id AccountID) iter.Seq2[Grant, error] {
	return listGrants(r, ownedPrefix(grantByAccountPrefix, id))
}

// GrantsOfSending yields the grants of one sending.
func GrantsOfSending(r Reader, id SendingID) iter.Seq2[Grant, error] {
	return listGrants(r, ownedPrefix(grantBySendingPrefix, id))
}

// GrantsOfFile yields the grants that name a file.
func GrantsOfFile(r Reader, id FileID) iter.Seq2[Grant, error] {
	return listGrants(r, ownedPrefix(grantByFilePrefix, id))
}

// listGrants follows an index whose keys end in a grant id.
func listGrants(r Reader, prefix []byte) iter.Seq2[Grant, error] {
	return func(yield func(Grant, error) bool) {
		for rest := range scan(r, prefix) {
			g, err := LoadGrant(r, GrantID(rest[len(rest)-len(GrantID{}):]))
			if !yield(g, err) || err != nil {
				return
			}
		}
	}
}

// RevokeGrant ends a grant. Revoking again keeps the first time and reason. ErrNotFound if it is not there.
func RevokeGrant(rw ReadWriter, id GrantID, at time.Time, why string) error {
	g, err := LoadGrant(rw, id)
	if err != nil {
		return err
	}
	return revoke(rw, g, at, why)
}

func revoke(rw ReadWriter, g Grant, at time.Time, why string) error {
	if !g.RevokedAt.IsZero() {
		return nil
	}
	g.RevokedAt, g.RevokedWhy = at, why
	return save(rw, GrantKey(g.ID), &g)
}

// RevokeSending ends all grants of a sending and says how many that were. None is not an error.
func RevokeSending(rw ReadWriter, id SendingID, at time.Time, why string) (int, error) {
	grants, err := collect(GrantsOfSending(rw, id))
	if err != nil {
		return 0, err
	}
	for _, g := range grants {
		if err := revoke(rw, g, at, why); err != nil {
			return 0, err
		}
	}
	return len(grants), nil
}

// RevokeFile takes a file out of every grant that names it, and says how many those were; a grant with no file left
// is revoked. It reads two keys for each grant, and one transaction reads a thousand: a file sent to more than a few
// hundred needs steps, which come with the ledger's cursors.
func RevokeFile(rw ReadWriter, id FileID, at time.Time, why string) (int, error) {
	grants, err := collect(GrantsOfFile(rw, id))
	if err != nil {
		return 0, err
	}
	for _, g := range grants {
		left := false
		for i := range g.Files {
			f := &g.Files[i]
			if f.File == id && f.RevokedAt.IsZero() {
				f.RevokedAt = at
			}
			left = left || f.RevokedAt.IsZero()
		}
		if !left && g.RevokedAt.IsZero() {
			g.RevokedAt, g.RevokedWhy = at, why
		}
		if err := save(rw, GrantKey(g.ID), &g); err != nil {
			return 0, err
		}
	}
	return len(grants), nil
}

// EraseFile takes a file out of up to limit grants that name it, for good: not even that they named it is left. A grant
// with no other file goes with it. It says how many grants those were; fewer than limit means that no more name it. A
// grant that goes is unknown from then on, which to whoever holds its token is a refusal.
func EraseFile(rw ReadWriter, id FileID, limit int) (int, error) {
	var grants []Grant
	for g, err := range GrantsOfFile(rw, id) {
		if err != nil {
			return 0, err
		}
		if len(grants) == limit {
			break
		}
		grants = append(grants, g)
	}
	for _, g := range grants {
		rest := slices.DeleteFunc(slices.Clone(g.Files), func(f GrantFile) bool { return f.File == id })
		if len(rest) == 0 {
			removeGrant(rw, &g)
			continue
		}
		rw.Delete(grantByFileKey(id, g.ID))
		g.Files = rest
		if err := save(rw, GrantKey(g.ID), &g); err != nil {
			return 0, err
		}
	}
	return len(grants), nil
}

// Undo removes a sending and its grants as if they had never been, and returns the files they named that no other
// grant refers to; the caller decides whether those came with this message. Doing it again does nothing (S1).
func Undo(rw ReadWriter, id SendingID) ([]FileID, error) {
	grants, err := collect(GrantsOfSending(rw, id))
	if err != nil {
		return nil, err
	}
	leaving := map[GrantID]bool{}
	var files []FileID
	for _, g := range grants {
		leaving[g.ID] = true
		for _, f := range g.Files {
			files = append(files, f.File)
		}
	}
	slices.Sort(files)
	files = slices.DeleteFunc(slices.Compact(files), func(f FileID) bool { return referred(rw, f, leaving) })
	for _, g := range grants {
		removeGrant(rw, &g)
	}
	rw.Delete(idKey(sendingPrefix, id))
	return files, nil
}

func removeGrant(rw ReadWriter, g *Grant) {
	for _, f := range g.Files {
		rw.Delete(grantByFileKey(f.File, g.ID))
	}
	rw.Delete(grantBySendingKey(g.Sending, g.ID))
	rw.Delete(grantByAccountKey(g))
	rw.Delete(GrantKey(g.ID))
}

// referred says whether a grant other than those that are leaving names the file.
func referred(r Reader, f FileID, leaving map[GrantID]bool) bool {
	for rest := range scan(r, ownedPrefix(grantByFilePrefix, f)) {
		if !leaving[GrantID(rest)] {
			return true
		}
	}
	return false
}

// collect reads a sequence to its end before anything is written under it.
func collect[T any](seq iter.Seq2[T, error]) ([]T, error) {
	var all []T
	for v, err := range seq {
		if err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, nil
}

// GrantPrefix begins the keys of all grants, for those who watch or read them all; values are for DecodeGrant.
func GrantPrefix() []byte { return []byte(grantPrefix) }

// RevokeGrantFile takes one file out of one grant; a grant with no file left is revoked. Revoking again keeps
// the first time. ErrNotFound if the grant is not there.
func RevokeGrantFile(rw ReadWriter, id GrantID, file FileID, at time.Time, why string) error {
	g, err := LoadGrant(rw, id)
	if err != nil {
		return err
	}
	left := false
	for i := range g.Files {
		f := &g.Files[i]
		if f.File == file && f.RevokedAt.IsZero() {
			f.RevokedAt = at
		}
		left = left || f.RevokedAt.IsZero()
	}
	if !left && g.RevokedAt.IsZero() {
		g.RevokedAt, g.RevokedWhy = at, why
	}
	return save(rw, GrantKey(g.ID), &g)
}
