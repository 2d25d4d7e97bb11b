package drive

import (
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/valise-mail/valise/authz"
	"github.com/valise-mail/valise/replication"
)

// The drive's records in the ledger, under first byte 'd'. Ids, account ids
// and container names hold no NUL; names come cleaned and hold none either.
//
//	d f <file id>                                  file
//	d v <file id> 0 <number, 4 bytes>              version
//	d r <file id> 0 <root>                         number of the latest version with that root
//	d l <account> 0 <container> 0 <name> 0 <file id>   listing
//	d c <account> 0 <container> 0 <root> <name>    the file of that name whose newest version is that root
//	d u <root> <file id>                           a file some version of which has that root; a CID ends itself
//	d x <file id>                                  burial: a file that is being deleted for good, or was
//	d y <file id> 0 <root>                         a root that nothing refers to since a burial
var (
	fileKeys    = []byte("df")
	versionKeys = []byte("dv")
	rootKeys    = []byte("dr")
	listKeys    = []byte("dl")
	contentKeys = []byte("dc")
	userKeys    = []byte("du")
	burialKeys  = []byte("dx")
	orphanKeys  = []byte("dy")
)

type fileRecord struct {
	Account   string    `cbor:"1,keyasint"`
	Container string    `cbor:"2,keyasint"`
	Name      string    `cbor:"3,keyasint"`
	Created   time.Time `cbor:"4,keyasint"`
	Changed   time.Time `cbor:"5,keyasint"`
	Newest    uint32    `cbor:"6,keyasint"`
	Sending   string    `cbor:"7,keyasint,omitempty"`
	replication.Unknown
}

type versionRecord struct {
	Root      []byte    `cbor:"1,keyasint"`
	Size      int64     `cbor:"2,keyasint"`
	MediaType string    `cbor:"3,keyasint,omitempty"`
	KeyEpoch  uint32    `cbor:"4,keyasint"`
	Key       []byte    `cbor:"5,keyasint"` // root key, wrapped under the content key of KeyEpoch
	Created   time.Time `cbor:"6,keyasint"`
	replication.Unknown
}

type burialRecord struct {
	Account  string    `cbor:"1,keyasint"`
	Name     string    `cbor:"2,keyasint"`
	At       time.Time `cbor:"3,keyasint"`
	By       string    `cbor:"4,keyasint"`
	Newest   uint32    `cbor:"5,keyasint"`           // versions the file had
	Next     uint32    `cbor:"6,keyasint,omitempty"` // the version to be cleared next; 0 when all are
	Versions uint32    `cbor:"7,keyasint,omitempty"` // cleared so far
	Created  time.Time `cbor:"8,keyasint,omitzero"`  // when the file was made
	replication.Unknown
}

type listRecord struct {
	Created time.Time `cbor:"1,keyasint"`
	replication.Unknown
}

func fileKey(id authz.FileID) []byte { return append(slices.Clone(fileKeys), id...) }

func versionKey(id authz.FileID, n uint32) []byte {
	k := append(slices.Clone(versionKeys), id...)
	return binary.BigEndian.AppendUint32(append(k, 0), n)
}

// versionFile is the file id in a version's key.
func versionFile(key []byte) authz.FileID {
	return authz.FileID(key[len(versionKeys) : len(key)-5])
}

func rootKey(id authz.FileID, root cid.Cid) []byte {
	k := append(slices.Clone(rootKeys), id...)
	return append(append(k, 0), root.Bytes()...)
}

func listPrefix(account authz.AccountID, container string) []byte {
	k := append(slices.Clone(listKeys), account...)
	k = append(append(k, 0), container...)
	return append(k, 0)
}

func listKey(account authz.AccountID, container, name string, id authz.FileID) []byte {
	k := append(listPrefix(account, container), name...)
	return append(append(k, 0), id...)
}

func contentKey(account authz.AccountID, container string, root cid.Cid, name string) []byte {
	k := append(slices.Clone(contentKeys), account...)
	k = append(append(k, 0), container...)
	k = append(append(k, 0), root.Bytes()...)
	return append(k, name...)
}

func userPrefix(root cid.Cid) []byte { return append(slices.Clone(userKeys), root.Bytes()...) }

func userKey(root cid.Cid, id authz.FileID) []byte { return append(userPrefix(root), id...) }

func burialKey(id authz.FileID) []byte { return append(slices.Clone(burialKeys), id...) }

func orphanPrefix(id authz.FileID) []byte { return append(append(slices.Clone(orphanKeys), id...), 0) }

func numberValue(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }

func numberOf(value []byte) uint32 {
	if len(value) != 4 {
		return 0
	}
	return binary.BigEndian.Uint32(value)
}

func save(tx authz.Writer, key []byte, record any) {
	data, err := replication.Marshal(record)
	if err != nil {
		panic(fmt.Sprintf("drive: encode %T: %v", record, err)) // our own types always encode
	}
	tx.Put(key, data)
}

func loadFile(tx authz.Reader, id authz.FileID) (fileRecord, error) {
	data, ok := tx.Get(fileKey(id))
	if !ok {
		return fileRecord{}, fmt.Errorf("file %s: %w", id, ErrNoFile)
	}
	var f fileRecord
	if err := replication.Unmarshal(data, &f); err != nil {
		return fileRecord{}, fmt.Errorf("file %s: %w", id, err)
	}
	return f, nil
}

func (f fileRecord) file(id authz.FileID) File {
	return File{ID: id, Account: authz.AccountID(f.Account), Container: f.Container, Name: f.Name, Created: f.Created, Changed: f.Changed, Newest: f.Newest, Sending: authz.SendingID(f.Sending)}
}

func loadVersion(tx authz.Reader, id authz.FileID, n uint32) (Version, error) {
	key := versionKey(id, n)
	data, ok := tx.Get(key)
	if !ok {
		return Version{}, fmt.Errorf("file %s, version %d: %w", id, n, ErrNoVersion)
	}
	return decodeVersion(key, data)
}

func decodeVersion(key, data []byte) (Version, error) {
	var r versionRecord
	if err := replication.Unmarshal(data, &r); err != nil {
		return Version{}, fmt.Errorf("file %s: %w", versionFile(key), err)
	}
	root, err := cid.Cast(r.Root)
	if err != nil {
		return Version{}, fmt.Errorf("file %s: %w", versionFile(key), err)
	}
	return Version{
		Number: numberOf(key[len(key)-4:]), Root: root, Size: r.Size, MediaType: r.MediaType,
		Created: r.Created, keyEpoch: r.KeyEpoch, wrapped: r.Key,
	}, nil
}
