package dht

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"
	"unicode"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
)

// A Ticket invites one node (R4). It is a secret: formatting, logging and
// marshalling it show "redacted"; only a call of String gives its text.
type Ticket struct {
	Seed      [32]byte // of the Ed25519 key under which the joiner dials
	ClusterID string   // always ClusterID(OrgKey); not part of the text
	OrgKey    ed25519.PublicKey
	Inviter   peer.ID
	Addrs     []multiaddr.Multiaddr // of the inviter's bulk lane, 1 to 16
	Site      string                // where the new node is to stand; at most 128 bytes
	Expires   time.Time             // to the second
}

var (
	// ErrBadTicket says that a text is no ticket, or was damaged on its way.
	ErrBadTicket = errors.New("not a ticket")
	// ErrNewerTicket says that the ticket was made by a newer version.
	ErrNewerTicket = errors.New("ticket has a newer format than this version understands")
	// ErrTicketExpired says that a ticket's time is over.
	ErrTicketExpired = errors.New("ticket has expired")
)

const (
	ticketPrefix  = "valise-ticket-1:"
	ticketFamily  = "valise-ticket-"
	ticketVersion = 1
	checksumSize  = 4
	maxTicket     = 16 << 10 // characters
)

type wireTicket struct {
	Version uint64   `cbor:"0,keyasint"`
	Seed    []byte   `cbor:"1,keyasint"`
	OrgKey  []byte   `cbor:"2,keyasint"`
	Inviter []byte   `cbor:"3,keyasint"`
	Addrs   [][]byte `cbor:"4,keyasint"`
	Site    string   `cbor:"5,keyasint,omitempty"`
	Expires int64    `cbor:"6,keyasint"` // Unix seconds
}

// base32 in lowercase is one word: a double click selects all of it, and it
// survives being read aloud or printed.
var ticketText = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// ParseTicket reads a ticket's text form. White space around and inside it is
// ignored, as is the case of its letters. The errors are ErrBadTicket and
// ErrNewerTicket; whether it has expired is Check's question.
func ParseTicket(s string) (Ticket, error) {
	bad := func(format string, a ...any) (Ticket, error) {
		return Ticket{}, hint(fmt.Errorf("%w: %s", ErrBadTicket, fmt.Sprintf(format, a...)),
			"copy the whole line that \"valise cluster invite\" printed; it begins with "+ticketPrefix)
	}
	if len(s) > maxTicket {
		return bad("%d characters are too many", len(s))
	}
	text := strings.ToLower(strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) {
			return -1
		}
		return r
	}, s))
	body, ok := strings.CutPrefix(text, ticketPrefix)
	if !ok {
		if version, _, newer := strings.Cut(strings.TrimPrefix(text, ticketFamily), ":"); newer && strings.HasPrefix(text, ticketFamily) {
			return Ticket{}, hint(fmt.Errorf("%w (version %q)", ErrNewerTicket, version), "bring this node to the version of the one that invited it")
		}
		return bad("it does not begin with %s", ticketPrefix)
	}
	raw, err := ticketText.DecodeString(body)
	if err != nil || len(raw) < checksumSize || ticketText.EncodeToString(raw) != body {
		return bad("its text is damaged")
	}
	data, sum := raw[:len(raw)-checksumSize], raw[len(raw)-checksumSize:]
	if !bytes.Equal(sum, ticketSum(data)) {
		return bad("its checksum is wrong: a part is missing or mistyped")
	}
	var w wireTicket
	if err := decode(data, &w); err != nil {
		return bad("%v", err)
	}
	if w.Version > ticketVersion {
		return Ticket{}, hint(fmt.Errorf("%w (version %d)", ErrNewerTicket, w.Version), "bring this node to the version of the one that invited it")
	}
	t, err := w.ticket()
	if err != nil {
		return bad("%v", err)
	}
	if t.String() != text {
		return bad("it is not in its one form")
	}
	return t, nil
}

func (w wireTicket) ticket() (Ticket, error) {
	if w.Version != ticketVersion || len(w.Seed) != 32 || len(w.OrgKey) != ed25519.PublicKeySize {
		return Ticket{}, errors.New("its fields have wrong sizes")
	}
	t := Ticket{Seed: [32]byte(w.Seed), ClusterID: ClusterID(w.OrgKey), OrgKey: w.OrgKey, Inviter: peer.ID(w.Inviter), Site: w.Site, Expires: time.Unix(w.Expires, 0).UTC()}
	var err error
	if t.Addrs, err = unpackAddrs(w.Addrs); err != nil {
		return Ticket{}, err
	}
	return t, t.Validate()
}

// Validate says what keeps a ticket from having a text form.
func (t Ticket) Validate() error {
	if len(t.OrgKey) != ed25519.PublicKeySize || t.ClusterID != ClusterID(t.OrgKey) {
		return errors.New("ticket: cluster id and organisation key do not belong together")
	}
	if len(t.Addrs) == 0 {
		return errors.New("ticket: no address of the inviter")
	}
	if t.Expires.Unix() <= 0 {
		return errors.New("ticket: no end")
	}
	return errors.Join(checkID(t.Inviter), checkAddrs(t.Addrs), checkSite(t.Site))
}

// String returns the text form, which is the secret itself, for the one line
// that the inviter prints. A ticket that Validate refuses has none: "".
func (t Ticket) String() string {
	if t.Validate() != nil {
		return ""
	}
	data, err := encode(wireTicket{Version: ticketVersion, Seed: t.Seed[:], OrgKey: t.OrgKey, Inviter: []byte(t.Inviter),
		Addrs: packAddrs(t.Addrs), Site: t.Site, Expires: t.Expires.Unix()})
	if err != nil {
		return ""
	}
	return ticketPrefix + ticketText.EncodeToString(append(data, ticketSum(data)...))
}

func ticketSum(data []byte) []byte {
	sum := sha256.Sum256(append([]byte(ticketPrefix), data...))
	return sum[:checksumSize]
}

// Check says whether the ticket can still be used, as far as the clock of this
// machine knows; the inviter has the last word. ErrTicketExpired has a hint.
func (t Ticket) Check(now time.Time) error {
	if now.After(t.Expires.Add(skew)) {
		return hint(fmt.Errorf("%w at %s", ErrTicketExpired, t.Expires.Format(time.RFC3339)),
			"ask for a new one with \"valise cluster invite\"; if it was made within the hour, this machine's clock is wrong")
	}
	return nil
}

// PeerID is the peer id of the ticket's key: what the list admits as TicketHolder.
func (t Ticket) PeerID() peer.ID {
	key, err := KeyFromSeed(t.Seed)
	if err != nil {
		return ""
	}
	id, err := peer.IDFromPrivateKey(key)
	if err != nil {
		return ""
	}
	return id
}

const redacted = "redacted"

// LogValue hides the ticket from logs.
func (t Ticket) LogValue() slog.Value { return slog.StringValue(redacted) }

// Format hides the ticket from every verb of package fmt.
func (t Ticket) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// MarshalText hides the ticket from encoders: JSON, TOML, XML.
func (t Ticket) MarshalText() ([]byte, error) { return []byte(redacted), nil }
