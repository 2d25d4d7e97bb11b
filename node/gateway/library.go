package gateway

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/valise-mail/valise/authz"
)

// What a Library answers beside authz.ErrAccessDenied (the token, S301, S302,
// S303) and authz.ErrInvalidAccess (S304). All of them are passing: the same
// request may succeed later, and refuses nobody for good.
var (
	// ErrNotYet means that the token is genuine and its grant still unknown
	// here after the wait of G4: this copy of the ledger is behind.
	ErrNotYet = errors.New("this copy of the ledger does not know the grant yet")
	// ErrUnavailable means that the bytes exist and no holder of them can be reached now.
	ErrUnavailable = errors.New("no holder of the file can be reached now")
	// ErrStale means that this copy of the ledger is older than max-staleness allows.
	ErrStale = errors.New("this copy of the ledger is too old to decide")
	// ErrRestoring means that the cluster was restored from a backup, and does not know yet which links
	// were revoked since: it opens none.
	ErrRestoring = errors.New("links are closed until the restore is ended")
)

// A Library is what the door needs of the law and the drive. Its methods are
// called concurrently. Errors wrap authz's answers or those above; anything
// else is taken for a fault of this node. What an error says is logged and
// never shown, so it must not hold a token.
type Library interface {
	// Open decides (G1) and resolves the version in the same view of the
	// ledger, waiting for an unknown grant as G4 says. It looks for no bytes:
	// those are looked for by Opened.Content.
	Open(ctx context.Context, r Request) (*Opened, error)
	// Landing decides about the list of a message's files and returns it.
	Landing(ctx context.Context, token authz.Token) (*Landing, error)
	// Still decides about the same request again, from this node's own copy,
	// without waiting: it is asked every half second while bytes stream, and
	// any error ends the transfer (G5).
	Still(ctx context.Context, r Request) error
}

// A Version chooses between what a file is and what it was.
type Version uint8

// The two versions a link can open.
const (
	Newest Version = iota // for a pinned grant the Library opens AsSent instead
	AsSent
)

// A Request is what a receiver presents. Nothing in it was checked.
type Request struct {
	Token   authz.Token
	CID     string // as it stands in the link, unescaped once; never opened (G2)
	Name    string // as it stands in the link, unescaped once; compared exactly by authz
	Version Version
}

// Opened is a file that may be read, in one version.
type Opened struct {
	Name      string // as the sender chose it, clean
	MediaType string // as the message said it, or ""; believed only if harmless
	Size      int64  // bytes
	Root      string // CID of the version served, which makes its ETag
	AsSent    bool   // what is served is what was sent
	Newest    bool   // what is served is the newest version; both may be true
	Pinned    bool   // the grant opens nothing but what was sent
	Sender    string // mail address
	Sent      time.Time
	Modified  time.Time // when the version served was made; zero if not known

	// Content opens the bytes. It is called at most once, and only when bytes
	// go out: not for HEAD, 304 or a page. The reader's Read must end when
	// ctx does; it is closed by the door. Seek must be cheap.
	Content func(ctx context.Context) (io.ReadSeekCloser, error)
}

// A Landing is what one message brought.
type Landing struct {
	Sender string // mail address
	Sent   time.Time
	Files  []LandingFile // in the message's order; those withdrawn are left out
}

// A LandingFile is one line of a landing page. The same token opens it.
type LandingFile struct {
	CID  string // as-sent root, for the link
	Name string
	Size int64 // bytes, of the version a plain link opens
}
