package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/valise-mail/valise/authz"
	"github.com/valise-mail/valise/dht"
	"github.com/valise-mail/valise/node/drive"
	"github.com/valise-mail/valise/node/gateway"
	"github.com/valise-mail/valise/node/store"
	"github.com/valise-mail/valise/replication"
	"github.com/valise-mail/valise/replication/copies"
)

func (n *Node) openCopies(context.Context) (err error) {
	n.copies, err = copies.Open(copies.Config{
		Ledger: n.ledger, Lane: n.road.Bulk().For(dht.Member), Self: n.id.id, Disk: n.store,
		NewBatch: func(cache bool) copies.Batch {
			if cache {
				return n.store.NewBatch(store.Cached)
			}
			return n.store.NewBatch(store.Kept)
		},
		Links: store.Links, Nodes: n.roster.holders,
		Wanted: func() int { return n.cfg.Copies.Wanted }, Ack: n.cfg.Copies.Ack,
		Away: n.silence(time.Now()), Patience: time.Duration(n.cfg.Copies.Patience),
		Leading:  func() bool { return n.ledger.Status().Leader == n.id.id },
		Announce: n.road.Announce, Find: n.road.Holders,
		NoSpace: func(err error) bool { return errors.Is(err, store.ErrNoSpace) || errors.Is(err, copies.ErrNoSpace) },
		Logger:  n.log,
	})
	if err != nil {
		return err
	}
	n.opened("copies", n.copies)
	n.cleaner = newCleaner(n)
	n.start("collect", n.cleaner.run)
	n.start("deletions", n.cleaner.followBurials)
	n.start("scrub", n.scrub)
	n.start("copies", func(ctx context.Context) error {
		if err := n.copies.Run(ctx); ctx.Err() == nil {
			return err
		}
		return nil
	})
	return nil
}

// silence says for how long a member was not heard of, since was at most.
func (n *Node) silence(since time.Time) func(peer.ID) time.Duration {
	return func(id peer.ID) time.Duration {
		n.alive.mu.Lock()
		defer n.alive.mu.Unlock()
		if last, ok := n.alive.last[id]; ok {
			return time.Since(last)
		}
		return time.Since(since)
	}
}

// An upload is content whose bytes are durable on enough nodes and which
// nothing refers to yet: bytes first, permission second.
type upload struct {
	content drive.Content
	placed  copies.Placed
}

// upload stores what r yields, sealed for the account. When it returns nil
// error, as many copies as the policy asks for are on disk (S2, P3).
func (n *Node) upload(ctx context.Context, account authz.AccountID, mediaType string, r io.Reader) (upload, error) {
	scope, err := n.keys.ScopeKey(string(account))
	if err != nil {
		return upload{}, err
	}
	up, err := n.copies.Begin(ctx)
	if err != nil {
		return upload{}, err
	}
	defer up.Abort()
	sealed, err := store.Seal(ctx, r, scope, up.Add)
	if err != nil {
		return upload{}, err
	}
	placed, err := up.Commit(ctx, sealed.Root)
	if err != nil {
		return upload{}, err
	}
	content, err := drive.NewContent(n.keys, sealed, mediaType)
	if err != nil {
		return upload{}, err
	}
	return upload{content: content, placed: placed}, nil
}

// A sharing is what one message, or one other act of sharing, gives to whoever gets its token.
type sharing struct {
	sending authz.Sending
	files   []sharedFile
	mode    authz.Mode
}

type sharedFile struct {
	name string
	upload
}

// A shared file's links, as they go into a message.
type sharedLinks struct {
	landing  string
	files    []string
	ids      []authz.FileID
	versions []uint32 // newest of each file
	token    authz.Token
}

// share makes files, versions, copies' records, the sending and its one grant
// visible in one transaction. The links are valid from its commit on; nobody
// holds them before this returns.
func (n *Node) share(ctx context.Context, s sharing) (links sharedLinks, err error) {
	return links, n.underNewestKeys(func() error {
		links, err = n.shareOnce(ctx, s)
		return err
	})
}

func (n *Node) shareOnce(ctx context.Context, s sharing) (sharedLinks, error) {
	key, epoch, err := n.keys.signingKey()
	if err != nil {
		return sharedLinks{}, err
	}
	grant := authz.Grant{ID: authz.NewGrantID(), Created: s.sending.Created}
	token, err := authz.Issue(authz.Signer{ID: authz.KeyID(epoch), Key: key}, authz.Claims{Grant: grant.ID, Role: authz.Receiver})
	if err != nil {
		return sharedLinks{}, fmt.Errorf("issue token: %w", err)
	}
	grant.TokenHash = token.Hash()
	fresh := make([]authz.FileID, len(s.files))
	for i := range fresh {
		fresh[i] = drive.NewFileID()
	}
	out := sharedLinks{token: token, ids: make([]authz.FileID, len(s.files)), versions: make([]uint32, len(s.files))}
	err = n.ledger.Update(ctx, func(tx *replication.Tx) error {
		if _, undone := tx.Get(undoneKey(s.sending.ID)); undone {
			return fmt.Errorf("sending %s: %w", s.sending.ID, errUndone)
		}
		if err := checkEpoch(tx, kindSigning, epoch); err != nil {
			return err
		}
		g := grant
		g.Files = nil
		for i, f := range s.files {
			id, err := drive.Attach(tx, fresh[i], s.sending, f.name, f.content)
			if err != nil {
				return err
			}
			file, _, err := drive.Newest(tx, id)
			if err != nil {
				return err
			}
			out.versions[i] = file.Newest
			if err := n.copies.Record(tx, f.placed); err != nil {
				return err
			}
			out.ids[i] = id
			g.Files = append(g.Files, authz.GrantFile{File: id, Name: f.name, Root: f.content.Root.Bytes(), Mode: s.mode, Size: f.content.Size})
		}
		return authz.IssueGrants(tx, s.sending, g)
	})
	if err != nil {
		return sharedLinks{}, err
	}
	origin := n.filesOrigin()
	out.landing = gateway.LandingURL(origin, token)
	for _, f := range s.files {
		out.files = append(out.files, gateway.FileURL(origin, f.content.Root.String(), token, f.name))
	}
	return out, nil
}

// errUndone says that the sending was taken back before it came to be.
var errUndone = errors.New("it was taken back")

// undo takes back what share did for a message that was not sent. A file that
// was there before, or that another grant names, stays. Doing it again does nothing (S1).
//
// A share whose outcome was not learned may still be on its way into the log,
// where no read sees it: the mark left here is what it will meet.
func (n *Node) undo(ctx context.Context, id authz.SendingID) error {
	now := n.cfg.now()
	return n.ledger.Update(ctx, func(tx *replication.Tx) error {
		_, err := authz.LoadSending(tx, id)
		if errors.Is(err, authz.ErrNotFound) {
			put(tx, undoneKey(id), undoneRecord{At: now})
			return nil
		}
		if err != nil {
			return err
		}
		orphans, err := authz.Undo(tx, id)
		if err != nil {
			return err
		}
		for _, file := range orphans {
			f, _, err := drive.Newest(tx, file)
			if errors.Is(err, drive.ErrNoFile) {
				continue
			}
			if err != nil {
				return err
			}
			if f.Sending == "" || f.Newest != 1 {
				continue // it did not come with a message, or has been worked on since
			}
			roots, err := drive.Remove(tx, file)
			if err != nil {
				return err
			}
			for _, root := range roots {
				if err := n.copies.Forget(tx, root); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// replace makes what r yields the newest version of a file of the account (A4).
func (n *Node) replace(ctx context.Context, account authz.AccountID, id authz.FileID, mediaType string, r io.Reader) (drive.File, upload, error) {
	if err := n.viewFresh(ctx, drive.ErrNoFile, func(tx *replication.Tx) error {
		f, _, err := drive.Newest(tx, id)
		if err == nil && f.Account != account {
			err = fmt.Errorf("file %s: %w", id, drive.ErrNoFile)
		}
		return err
	}); err != nil {
		return drive.File{}, upload{}, err // refused before a byte is read
	}
	up, err := n.upload(ctx, account, mediaType, r)
	if err != nil {
		return drive.File{}, upload{}, err
	}
	now := n.cfg.now()
	var f drive.File
	err = n.ledger.Update(ctx, func(tx *replication.Tx) (err error) {
		if f, err = drive.Replace(tx, account, id, up.content, now); err != nil {
			return err
		}
		return n.copies.Record(tx, up.placed)
	})
	return f, up, err
}

// filesOrigin is the public origin that links carry.
func (n *Node) filesOrigin() *url.URL {
	return originOf(n.cfg.Public.Files, n.faces.files, n.faces.tls != nil)
}

func originOf(public, listen string, secure bool) *url.URL {
	if public != "" {
		if u, err := url.Parse(public); err == nil {
			return u
		}
	}
	scheme := "http"
	if secure {
		scheme = "https"
	}
	return &url.URL{Scheme: scheme, Host: listen}
}
