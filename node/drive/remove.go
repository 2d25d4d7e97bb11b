package drive

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/valise-mail/valise/authz"
	"github.com/valise-mail/valise/replication"
)

// Remove takes a file of few versions, its versions and its index entries away, as if it had never
// been. It returns the roots that nothing refers to any more; their records of copies must go in the
// same transaction. Removing what is not there is no error.
func Remove(tx authz.ReadWriter, id authz.FileID) (orphans []cid.Cid, err error) {
	f, err := loadFile(tx, id)
	if errors.Is(err, ErrNoFile) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for n := uint32(1); n <= f.Newest; n++ {
		root, err := removeVersion(tx, id, f, n)
		if err != nil {
			return nil, err
		}
		if root.Defined() {
			orphans = append(orphans, root)
		}
	}
	removeFile(tx, id, f)
	return orphans, nil
}

func removeFile(tx authz.ReadWriter, id authz.FileID, f fileRecord) {
	tx.Delete(listKey(authz.AccountID(f.Account), f.Container, f.Name, id))
	tx.Delete(fileKey(id))
}

// removeVersion takes one version away, its root's key with it, and returns the root if nothing refers
// to it any more.
func removeVersion(tx authz.ReadWriter, id authz.FileID, f fileRecord, n uint32) (orphan cid.Cid, err error) {
	v, err := loadVersion(tx, id, n)
	if errors.Is(err, ErrNoVersion) {
		return cid.Undef, nil
	}
	if err != nil {
		return cid.Undef, err
	}
	dropContent(tx, id, f, v.Root)
	tx.Delete(versionKey(id, n))
	latest, ok := tx.Get(rootKey(id, v.Root))
	if ok && numberOf(latest) != n {
		return cid.Undef, nil // a later version has the same root
	}
	tx.Delete(rootKey(id, v.Root))
	tx.Delete(userKey(v.Root, id))
	for k := range tx.Scan(userPrefix(v.Root), replication.PrefixEnd(userPrefix(v.Root))) {
		if !bytes.Equal(k, userKey(v.Root, id)) {
			return cid.Undef, nil
		}
	}
	return v.Root, nil
}

// A Burial is a file that is being deleted for good, or was. Its record stays, so that what became of
// the bytes can be told.
type Burial struct {
	File     authz.FileID
	Account  authz.AccountID
	Name     string
	Created  time.Time // the file; zero if that was not noted
	At       time.Time // deleted
	By       string    // who had it deleted
	Versions int       // versions whose keys are gone
	Done     bool      // all of them are
}

// Bury begins deleting a file of the account for good: from the commit on there is no such file, for
// anybody. What it has is then taken away by Clear, in steps.
func Bury(tx authz.ReadWriter, account authz.AccountID, id authz.FileID, at time.Time, by string) (Burial, error) {
	f, err := loadFile(tx, id)
	if err != nil {
		return Burial{}, err
	}
	if authz.AccountID(f.Account) != account {
		return Burial{}, fmt.Errorf("file %s: %w", id, ErrNoFile)
	}
	newest, err := loadVersion(tx, id, f.Newest)
	if err != nil {
		return Burial{}, err
	}
	dropContent(tx, id, f, newest.Root) // nothing may be attached to it any more
	removeFile(tx, id, f)
	b := burialRecord{Account: f.Account, Name: f.Name, At: at, By: by, Newest: f.Newest, Next: 1, Created: f.Created}
	save(tx, burialKey(id), b)
	return b.burial(id), nil
}

// Clear takes up to limit versions of a buried file away, with the keys that open them. It returns the
// roots that nothing refers to any more; their records of copies must go in the same transaction. It is
// to be called again until the burial is done.
func Clear(tx authz.ReadWriter, id authz.FileID, limit int) (b Burial, orphans []cid.Cid, err error) {
	r, err := loadBurial(tx, id)
	if err != nil {
		return Burial{}, nil, err
	}
	f := fileRecord{Account: r.Account, Name: r.Name, Newest: r.Newest}
	for ; limit > 0 && r.Next > 0; limit-- {
		root, err := removeVersion(tx, id, f, r.Next)
		if err != nil {
			return Burial{}, nil, err
		}
		if root.Defined() {
			orphans = append(orphans, root)
			tx.Put(append(orphanPrefix(id), root.Bytes()...), []byte{1})
		}
		r.Versions++
		if r.Next++; r.Next > r.Newest {
			r.Next = 0
		}
	}
	save(tx, burialKey(id), r)
	return r.burial(id), orphans, nil
}

func loadBurial(tx authz.Reader, id authz.FileID) (burialRecord, error) {
	data, ok := tx.Get(burialKey(id))
	if !ok {
		return burialRecord{}, fmt.Errorf("deleted file %s: %w", id, ErrNoFile)
	}
	var r burialRecord
	if err := replication.Unmarshal(data, &r); err != nil {
		return burialRecord{}, fmt.Errorf("deleted file %s: %w", id, err)
	}
	return r, nil
}

func (r burialRecord) burial(id authz.FileID) Burial {
	return Burial{File: id, Account: authz.AccountID(r.Account), Name: r.Name, Created: r.Created.UTC(), At: r.At.UTC(), By: r.By, Versions: int(r.Versions), Done: r.Next == 0}
}

// LoadBurial returns a deleted file's record, or ErrNoFile.
func LoadBurial(tx authz.Reader, id authz.FileID) (Burial, error) {
	r, err := loadBurial(tx, id)
	if err != nil {
		return Burial{}, err
	}
	return r.burial(id), nil
}

// BurialPrefix begins the keys of deleted files' records, for those who watch them.
func BurialPrefix() []byte { return bytes.Clone(burialKeys) }

// Burials yields the deleted files.
func Burials(tx authz.Reader) iter.Seq2[Burial, error] {
	return func(yield func(Burial, error) bool) {
		for k, v := range tx.Scan(burialKeys, replication.PrefixEnd(burialKeys)) {
			var r burialRecord
			err := replication.Unmarshal(v, &r)
			if !yield(r.burial(authz.FileID(k[len(burialKeys):])), err) {
				return
			}
		}
	}
}

// Orphans yields the roots that nothing refers to since a file was buried.
func Orphans(tx authz.Reader, id authz.FileID) iter.Seq2[cid.Cid, error] {
	return func(yield func(cid.Cid, error) bool) {
		from := orphanPrefix(id)
		for k := range tx.Scan(from, replication.PrefixEnd(from)) {
			root, err := cid.Cast(bytes.Clone(k[len(from):]))
			if !yield(root, err) {
				return
			}
		}
	}
}

// DecodeBurial reads a deleted file's record, for those who watch them.
func DecodeBurial(key, value []byte) (Burial, error) {
	var r burialRecord
	if err := replication.Unmarshal(value, &r); err != nil {
		return Burial{}, fmt.Errorf("deleted file %q: %w", key, err)
	}
	return r.burial(authz.FileID(key[len(burialKeys):])), nil
}
