package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/valise-mail/valise/authz"
	"github.com/valise-mail/valise/node/drive"
	"github.com/valise-mail/valise/node/gateway"
	"github.com/valise-mail/valise/node/store"
	"github.com/valise-mail/valise/replication"
	"github.com/valise-mail/valise/replication/copies"
)

// grantWait is how long a genuine token whose grant is not known here may wait
// for a fresh read index (G4).
const grantWait = 2 * time.Second

// library answers the receiver's door from this node's own copy of the ledger.
type library struct{ n *Node }

var _ gateway.Library = library{}

// Open implements gateway.Library.
func (l library) Open(ctx context.Context, r gateway.Request) (*gateway.Opened, error) {
	var o *gateway.Opened
	err := l.decided(ctx, func(tx *replication.Tx) (err error) {
		o, err = l.resolve(tx, r)
		return err
	})
	return o, err
}

// Landing implements gateway.Library.
func (l library) Landing(ctx context.Context, token authz.Token) (*gateway.Landing, error) {
	var out *gateway.Landing
	err := l.decided(ctx, func(tx *replication.Tx) error {
		if err := linksClosed(tx); err != nil {
			return err
		}
		d, err := authz.DecideLanding(tx, l.n.law, token, nil, l.n.cfg.clock()())
		if err != nil {
			return err
		}
		out = &gateway.Landing{Sender: string(d.Sender), Sent: d.Sent}
		for _, f := range d.Files {
			root, err := cid.Cast(f.Root)
			if err != nil {
				return fmt.Errorf("grant %s: %w", d.Grant.ID, err)
			}
			_, newest, err := drive.Newest(tx, f.File)
			if errors.Is(err, drive.ErrNoFile) {
				continue // deleted by its owner: its link is denied, whatever the mode
			}
			if err != nil {
				return err
			}
			size := f.Size
			if f.Mode == authz.Following {
				size = newest.Size
			}
			out.Files = append(out.Files, gateway.LandingFile{CID: root.String(), Name: f.Name, Size: size})
		}
		return nil
	})
	return out, err
}

// Still implements gateway.Library.
func (l library) Still(ctx context.Context, r gateway.Request) error {
	if err := l.fresh(); err != nil {
		return err
	}
	return l.n.ledger.View(func(tx *replication.Tx) error {
		_, err := l.decide(tx, r)
		return err
	})
}

// decided runs fn in a View. A genuine token whose grant is not known here is
// not refused before this copy was seen to be fresh (G4).
func (l library) decided(ctx context.Context, fn func(tx *replication.Tx) error) error {
	if err := l.fresh(); err != nil {
		return err
	}
	err := l.n.ledger.View(fn)
	if !errors.Is(err, authz.ErrUnknownGrant) {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, grantWait)
	defer cancel()
	if err := l.n.ledger.ReadIndex(wait); err != nil {
		return fmt.Errorf("%w: %w", gateway.ErrNotYet, err)
	}
	err = l.n.ledger.View(fn)
	if errors.Is(err, authz.ErrUnknownGrant) {
		return fmt.Errorf("%w: %w", authz.ErrAccessDenied, err) // it was undone or deleted
	}
	return err
}

// fresh refuses to decide before this node has a first copy of the ledger, and
// when the organisation chose a greatest age and this copy is older.
func (l library) fresh() error {
	if !l.n.settled() {
		return fmt.Errorf("%w: no copy of the ledger yet", gateway.ErrNotYet)
	}
	limit := time.Duration(l.n.cfg.Ledger.MaxStaleness)
	if limit == 0 {
		return nil
	}
	if s := l.n.ledger.Status(); !s.Confirmed || s.Age > limit {
		return fmt.Errorf("%w: %s", gateway.ErrStale, s.Age.Round(time.Second))
	}
	return nil
}

func (l library) decide(tx *replication.Tx, r gateway.Request) (authz.Decision, error) {
	if err := linksClosed(tx); err != nil {
		return authz.Decision{}, err
	}
	return authz.Decide(tx, l.n.law, authz.Ask{Token: r.Token, Root: rootOf(r.CID), Name: r.Name}, l.n.cfg.clock()())
}

// maxCID is the longest CID looked at, in octets: ours take 59. A stranger may
// write 60,000 in base 36, which takes half a second to decode.
const maxCID = 100

// rootOf is the CID of a link in binary, nil for what no link of ours holds.
func rootOf(s string) []byte {
	if len(s) > maxCID {
		return nil
	}
	c, err := cid.Decode(s)
	if err != nil || c.String() != s {
		return nil
	}
	return c.Bytes()
}

// resolve decides and picks the version inside one view of the ledger (G2).
func (l library) resolve(tx *replication.Tx, r gateway.Request) (*gateway.Opened, error) {
	d, err := l.decide(tx, r)
	if err != nil {
		return nil, err
	}
	sent, err := cid.Cast(d.File.Root)
	if err != nil {
		return nil, fmt.Errorf("grant %s: %w", d.Grant.ID, err)
	}
	file, newest, err := drive.Newest(tx, d.File.File)
	if errors.Is(err, drive.ErrNoFile) {
		return nil, fmt.Errorf("%w: %w", authz.ErrAccessDenied, err) // deleted by its owner
	}
	if err != nil {
		return nil, err
	}
	v := newest
	if r.Version == gateway.AsSent || !d.MayNewest {
		if _, v, err = drive.WithRoot(tx, file.ID, sent); err != nil {
			return nil, err
		}
	}
	key, err := v.RootKey(l.n.keys)
	if errors.Is(err, errNoKey) {
		return nil, fmt.Errorf("%w: %w", gateway.ErrUnavailable, err) // nodes that hold the key can serve it
	}
	if err != nil {
		return nil, err
	}
	return &gateway.Opened{
		Name: d.File.Name, MediaType: v.MediaType, Size: v.Size, Root: v.Root.String(),
		AsSent: v.Root.Equals(sent), Newest: v.Number == newest.Number, Pinned: !d.MayNewest,
		Sender: string(d.Sender), Sent: d.Sent, Modified: v.Created,
		Content: func(ctx context.Context) (io.ReadSeekCloser, error) { return l.n.openContent(ctx, v.Root, key) },
	}, nil
}

// openContent opens a file from local blocks, or from the nearest holder.
func (n *Node) openContent(ctx context.Context, root cid.Cid, key [32]byte) (io.ReadSeekCloser, error) {
	f, err := store.OpenFile(ctx, root, key, source{n.store, n.copies, root})
	if errors.Is(err, copies.ErrNotFound) || errors.Is(err, copies.ErrNotRecorded) {
		return nil, fmt.Errorf("%w: %w", gateway.ErrUnavailable, err)
	}
	return f, err
}
