// Package drive keeps accounts' files and their versions.
//
// It holds no bytes: a version is the root of a manifest and the key that
// opens it, wrapped. All functions work inside a ledger transaction that the
// caller owns, so that a file, its grant and its copies appear together.
package drive

import (
	"bytes"
	"crypto/rand"
	"encoding/base32"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/valise-mail/valise/authz"
	"github.com/valise-mail/valise/node/store"
	"github.com/valise-mail/valise/replication"
)

// Attachments is the container that mail puts files into, and the only one
// that the sender role can see (B2).
const Attachments = "Attachments"

var (
	// ErrNoFile says that there is no such file, or none for this account.
	ErrNoFile = errors.New("no such file")
	// ErrNoVersion says that a file has no version with that root.
	ErrNoVersion = errors.New("no such version")
)

// Keys wraps root keys for the ledger.
type Keys interface {
	Wrap(aad, plain []byte) (epoch uint32, sealed []byte, err error)
	Unwrap(epoch uint32, aad, sealed []byte) (plain []byte, err error)
}

// A Content is what a version points at. It is made before the transaction,
// since what runs inside may run twice.
type Content struct {
	Root      cid.Cid
	Size      int64 // bytes of plaintext
	MediaType string
	keyEpoch  uint32
	wrapped   []byte
}

// NewContent wraps the key of freshly stored bytes.
func NewContent(k Keys, s store.Sealed, mediaType string) (Content, error) {
	epoch, wrapped, err := k.Wrap(rootAAD(s.Root), s.Key[:])
	if err != nil {
		return Content{}, fmt.Errorf("wrap root key: %w", err)
	}
	return Content{Root: s.Root, Size: s.Size, MediaType: mediaType, keyEpoch: epoch, wrapped: wrapped}, nil
}

func rootAAD(root cid.Cid) []byte { return append([]byte("valise root key 1\x00"), root.Bytes()...) }

// A File is what an account calls a file: its id never changes, its name and newest version may.
type File struct {
	ID        authz.FileID
	Account   authz.AccountID
	Container string
	Name      string
	Created   time.Time
	Changed   time.Time
	Newest    uint32 // number of the newest version, from 1
	// Sending is what brought the file into the drive; empty if it did not come that way.
	Sending authz.SendingID
}

// A Version is one state of a file's bytes.
type Version struct {
	Number    uint32
	Root      cid.Cid
	Size      int64
	MediaType string
	Created   time.Time
	keyEpoch  uint32
	wrapped   []byte
}

// RootKey unwraps the key that opens the version's manifest.
func (v Version) RootKey(k Keys) (key [32]byte, err error) {
	plain, err := k.Unwrap(v.keyEpoch, rootAAD(v.Root), v.wrapped)
	if err != nil {
		return key, fmt.Errorf("root key of %s: %w", v.Root, err)
	}
	if len(plain) != len(key) {
		return key, fmt.Errorf("root key of %s: %d bytes", v.Root, len(plain))
	}
	copy(key[:], plain)
	return key, nil
}

// NewFileID returns 128 random bits as 26 lower-case letters and digits.
func NewFileID() authz.FileID {
	var b [16]byte
	rand.Read(b[:])
	return authz.FileID(strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(b[:])))
}

// Attach puts content into an account's attachments container under name and
// returns its file. When the container has a file of that name whose newest
// version is this very content, that file is the answer (A2). A file whose
// newest version differs is another file, even if an older version is the
// same: a mail must show what its sender sent. id is used for a new file.
func Attach(tx authz.ReadWriter, id authz.FileID, by authz.Sending, name string, c Content) (authz.FileID, error) {
	account, now := by.Account, by.Created
	if old, ok := tx.Get(contentKey(account, Attachments, c.Root, name)); ok {
		return authz.FileID(bytes.Clone(old)), nil
	}
	f := fileRecord{Account: string(account), Container: Attachments, Name: name, Created: now, Sending: string(by.ID)}
	save(tx, listKey(account, Attachments, name, id), listRecord{Created: now})
	addVersion(tx, id, &f, c, now)
	return id, nil
}

// Replace makes c the newest version of a file of the account (A4). Content
// equal to the newest version changes nothing.
func Replace(tx authz.ReadWriter, account authz.AccountID, id authz.FileID, c Content, now time.Time) (File, error) {
	f, err := loadFile(tx, id)
	if err != nil {
		return File{}, err
	}
	if authz.AccountID(f.Account) != account {
		return File{}, fmt.Errorf("file %s: %w", id, ErrNoFile)
	}
	newest, err := loadVersion(tx, id, f.Newest)
	if err != nil {
		return File{}, err
	}
	if newest.Root.Equals(c.Root) {
		return f.file(id), nil
	}
	dropContent(tx, id, f, newest.Root)
	addVersion(tx, id, &f, c, now)
	return f.file(id), nil
}

func addVersion(tx authz.ReadWriter, id authz.FileID, f *fileRecord, c Content, now time.Time) {
	f.Newest++
	f.Changed = now
	save(tx, fileKey(id), *f)
	save(tx, versionKey(id, f.Newest), versionRecord{
		Root: c.Root.Bytes(), Size: c.Size, MediaType: c.MediaType,
		KeyEpoch: c.keyEpoch, Key: c.wrapped, Created: now,
	})
	tx.Put(rootKey(id, c.Root), numberValue(f.Newest))
	tx.Put(userKey(c.Root, id), []byte{1})
	tx.Put(contentKey(authz.AccountID(f.Account), f.Container, c.Root, f.Name), []byte(id))
}

// dropContent takes away the index entry that names this file as the one with that content.
func dropContent(tx authz.ReadWriter, id authz.FileID, f fileRecord, root cid.Cid) {
	key := contentKey(authz.AccountID(f.Account), f.Container, root, f.Name)
	if holder, ok := tx.Get(key); ok && string(holder) == string(id) {
		tx.Delete(key)
	}
}

// Newest returns a file and its newest version.
func Newest(tx authz.Reader, id authz.FileID) (File, Version, error) {
	f, err := loadFile(tx, id)
	if err != nil {
		return File{}, Version{}, err
	}
	v, err := loadVersion(tx, id, f.Newest)
	return f.file(id), v, err
}

// WithRoot returns a file and its latest version that has this root.
func WithRoot(tx authz.Reader, id authz.FileID, root cid.Cid) (File, Version, error) {
	f, err := loadFile(tx, id)
	if err != nil {
		return File{}, Version{}, err
	}
	n, ok := tx.Get(rootKey(id, root))
	if !ok {
		return File{}, Version{}, fmt.Errorf("file %s, root %s: %w", id, root, ErrNoVersion)
	}
	v, err := loadVersion(tx, id, numberOf(n))
	return f.file(id), v, err
}

// List yields the files of a container in the order of their names.
func List(tx authz.Reader, account authz.AccountID, container string) iter.Seq2[File, error] {
	return func(yield func(File, error) bool) {
		from := listPrefix(account, container)
		for k := range tx.Scan(from, replication.PrefixEnd(from)) {
			id := authz.FileID(k[bytes.LastIndexByte(k, 0)+1:])
			f, err := loadFile(tx, id)
			if !yield(f.file(id), err) {
				return
			}
		}
	}
}
