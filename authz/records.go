package authz

import (
	"crypto/ed25519"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/fxamacker/cbor/v2"
)

// Ids. Text ids are 1 to 128 octets of printable ASCII without a space; NewID makes one.
type (
	// AccountID names an account for ever.
	AccountID string
	// MailboxKey names a mailbox: its first address, normalised.
	MailboxKey string
	// SendingID names one message sent, or one other act of sharing.
	SendingID string
	// FileID names a file for ever, whatever its name, folder and versions.
	FileID string
	// KeyID names a signing key: its epoch, from 1.
	KeyID uint32
	// GrantID names a grant: 128 random bits.
	GrantID [16]byte
)

// String returns the id in hexadecimal.
func (id GrantID) String() string { return hex.EncodeToString(id[:]) }

// ParseGrantID reads what GrantID.String wrote.
func ParseGrantID(s string) (GrantID, error) {
	var id GrantID
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(id) {
		return GrantID{}, fmt.Errorf("grant id %q: want 32 hexadecimal digits: %w", s, ErrInvalid)
	}
	copy(id[:], b)
	return id, nil
}

// Status says whether an account may act. Never renumber: it stands in records.
type Status uint8

// The states of an account.
const (
	Active   Status = 1
	Disabled Status = 2
)

// String returns the state in a word.
func (s Status) String() string {
	switch s {
	case Active:
		return "active"
	case Disabled:
		return "disabled"
	}
	return fmt.Sprintf("status %d", uint8(s))
}

// Times in records have a resolution of one second and come back in UTC.

// An Account is a person or a service of the organisation.
type Account struct {
	Unknown
	ID      AccountID `cbor:"1,keyasint"`
	Name    string    `cbor:"2,keyasint,omitempty"` // for people; not unique
	Status  Status    `cbor:"3,keyasint"`
	Created time.Time `cbor:"4,keyasint,omitzero"`
}

// An AppPassword lets a mail program act as sender for one account (J6). The password itself is not kept.
type AppPassword struct {
	Unknown
	Hash    [32]byte  `cbor:"1,keyasint"` // of the secret: Secret.Hash
	Account AccountID `cbor:"2,keyasint"`
	Label   string    `cbor:"3,keyasint,omitempty"` // which program or device, in the owner's words
	Created time.Time `cbor:"4,keyasint,omitzero"`
}

// TLSMode says how the connection to a mailbox's own server is encrypted. Never renumber: it stands in records.
type TLSMode uint8

// The ways to encrypt.
const (
	StartTLS TLSMode = 1 // STARTTLS, required (RFC 3207)
	Implicit TLSMode = 2 // TLS from the first octet (RFC 8314)
	NoTLS    TLSMode = 3 // none: a server on this machine's loopback only
)

// String returns the mode as it is written in commands: starttls, implicit or none.
func (m TLSMode) String() string {
	switch m {
	case StartTLS:
		return "starttls"
	case Implicit:
		return "implicit"
	case NoTLS:
		return "none"
	}
	return fmt.Sprintf("tls mode %d", uint8(m))
}

// ParseTLSMode reads what TLSMode.String wrote.
func ParseTLSMode(s string) (TLSMode, error) {
	for _, m := range []TLSMode{StartTLS, Implicit, NoTLS} {
		if s == m.String() {
			return m, nil
		}
	}
	return 0, fmt.Errorf("tls mode %q: want starttls, implicit or none: %w", s, ErrInvalid)
}

// Sealed is a secret that only entitled nodes can open. This package never looks inside. Its form is closed: a change
// is another field of the record it stands in.
type Sealed struct {
	_     struct{} `cbor:",toarray"`
	Epoch uint32   // of the key it is sealed under
	Box   []byte   // nonce and ciphertext
}

// A Mailbox is an address of an account together with the way to its own server (A8).
type Mailbox struct {
	Unknown
	Address   Address   `cbor:"1,keyasint"`
	Account   AccountID `cbor:"2,keyasint"`
	Aliases   []Address `cbor:"3,keyasint,omitempty"`
	NextHop   string    `cbor:"4,keyasint,omitempty"` // host:port of its own submission server
	TLS       TLSMode   `cbor:"5,keyasint,omitempty"`
	User      string    `cbor:"6,keyasint,omitempty"` // to log in there
	Password  Sealed    `cbor:"7,keyasint,omitzero"`
	ProvenHow string    `cbor:"8,keyasint,omitempty"` // how it was shown that the address is the account's: "administrator", "server", "code"
	ProvenAt  time.Time `cbor:"9,keyasint,omitzero"`
}

// Key returns the mailbox's name.
func (m Mailbox) Key() MailboxKey { return MailboxKey(m.Address) }

// A Sending is one message on its way out, or one other act of sharing. Its subject is not kept.
type Sending struct {
	Unknown
	ID        SendingID `cbor:"1,keyasint"`
	Account   AccountID `cbor:"2,keyasint"`
	MessageID string    `cbor:"3,keyasint,omitempty"` // RFC 5322, 3.6.4; empty where no mail is sent
	From      Address   `cbor:"4,keyasint"`
	Created   time.Time `cbor:"5,keyasint,omitzero"`
}

// Mode says which version of a file a grant opens. Never renumber: it stands in records.
type Mode uint8

// The modes of a granted file (J4).
const (
	Following Mode = 1 // the newest, and the one sent beside it
	Pinned    Mode = 2 // only the one sent
)

// String returns the mode in a word.
func (m Mode) String() string {
	switch m {
	case Following:
		return "following"
	case Pinned:
		return "pinned"
	}
	return fmt.Sprintf("mode %d", uint8(m))
}

// A GrantFile is one file of a grant.
type GrantFile struct {
	Unknown
	File      FileID    `cbor:"1,keyasint"`
	Name      string    `cbor:"2,keyasint"` // as sent, as CleanName leaves it
	Root      []byte    `cbor:"3,keyasint"` // CID of the version sent, binary
	Mode      Mode      `cbor:"4,keyasint"`
	Size      int64     `cbor:"5,keyasint"`          // octets of the version sent
	RevokedAt time.Time `cbor:"6,keyasint,omitzero"` // this file only; the grant has its own
}

// MarshalCBOR keeps unknown fields; Grant.keepInside does so when reading.
func (f GrantFile) MarshalCBOR() ([]byte, error) { return marshalFields((*grantFileFields)(&f)) }

// grantFileFields is GrantFile without its method, so that the codec sees a plain struct.
type grantFileFields GrantFile

var _ cbor.Marshaler = GrantFile{}

// A Grant says that whoever holds its token may read certain files of one account.
type Grant struct {
	Unknown
	ID           GrantID     `cbor:"1,keyasint"`
	Account      AccountID   `cbor:"2,keyasint"`
	Sender       Address     `cbor:"3,keyasint"` // presented at S301
	Sending      SendingID   `cbor:"4,keyasint"`
	Files        []GrantFile `cbor:"5,keyasint"`
	Created      time.Time   `cbor:"6,keyasint,omitzero"`
	Expires      time.Time   `cbor:"7,keyasint,omitzero"`  // zero: never
	Recipients   [][32]byte  `cbor:"8,keyasint,omitempty"` // RecipientHash of each; empty: whoever holds the token
	MaxDownloads uint32      `cbor:"9,keyasint,omitempty"` // reserved; 0: no limit
	TokenHash    [32]byte    `cbor:"10,keyasint"`          // of the token issued: Token.Hash
	RevokedAt    time.Time   `cbor:"11,keyasint,omitzero"`
	RevokedWhy   string      `cbor:"12,keyasint,omitempty"`
}

// keepInside keeps the unknown fields of the files.
func (g *Grant) keepInside(fields map[int64]cbor.RawMessage) error {
	var files []cbor.RawMessage
	if err := modes().lax.Unmarshal(fields[5], &files); err != nil {
		return err
	}
	g.Files = make([]GrantFile, len(files))
	for i, data := range files {
		if err := unmarshalFields(data, (*grantFileFields)(&g.Files[i])); err != nil {
			return err
		}
	}
	return nil
}

// A SigningKey is the public half of a key that tokens are signed with. There is one per epoch; the private half is
// kept elsewhere, wrapped to each entitled node.
type SigningKey struct {
	Unknown
	ID      KeyID             `cbor:"1,keyasint"`
	Public  ed25519.PublicKey `cbor:"2,keyasint"`
	Created time.Time         `cbor:"3,keyasint,omitzero"`
	// DistrustedAfter, where set, is the cut-off: of tokens under this key only those count that a grant created
	// until then has recorded (J4).
	DistrustedAfter time.Time `cbor:"4,keyasint,omitzero"`
}

// utc keeps the zero time zero.
func utc(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return t.UTC()
}

func seconds(t time.Time) time.Time { return utc(t.Truncate(time.Second)) }
