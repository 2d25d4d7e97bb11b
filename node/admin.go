package node

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/valise-mail/valise/authz"
	"github.com/valise-mail/valise/dht"
	"github.com/valise-mail/valise/node/api"
	"github.com/valise-mail/valise/node/drive"
	"github.com/valise-mail/valise/replication"
	"github.com/valise-mail/valise/replication/copies"
)

const (
	ticketLife    = time.Hour
	maxTicketLife = 24 * time.Hour
)

// admin answers the operator.
type admin struct{ n *Node }

var _ api.Admin = admin{}

// Admin returns what the operator's socket serves, for programs that hold the Node itself.
func (n *Node) Admin() api.Admin { return admin{n} }

// Invite implements api.Admin: it admits a fresh ticket's peer id to the gate.
func (a admin) Invite(ctx context.Context, r api.InviteRequest) (api.Invited, error) {
	n := a.n
	out := api.Invited{}
	var replaces peer.ID
	if r.Replace != "" {
		m, err := n.memberNamed(ctx, r.Replace)
		if err != nil {
			return out, err
		}
		plan, err := n.planReplacement(ctx, m, r.Force)
		if err != nil {
			return out, err
		}
		if r.Site == "" {
			r.Site = m.Site
		}
		replaces, out.Replaces = m.ID, &plan
	}
	if err := checkSite(r.Site); err != nil {
		return out, err
	}
	life := r.For
	if life <= 0 {
		life = ticketLife
	}
	now := n.cfg.now()
	t := dht.Ticket{
		ClusterID: n.cluster.Cluster, OrgKey: n.cluster.OrgKey, Inviter: n.id.id, Site: r.Site, Expires: now.Add(min(life, maxTicketLife)),
	}
	rand.Read(t.Seed[:])
	raw, err := n.cfg.advertised(n.road.Bulk().Addrs())
	if err != nil {
		return api.Invited{}, err
	}
	if t.Addrs, err = multiaddrs(raw); err != nil {
		return api.Invited{}, err
	}
	if err := t.Validate(); err != nil {
		return api.Invited{}, err
	}
	err = n.ledger.Update(ctx, func(tx *replication.Tx) error {
		if err := dropOldTickets(tx, now); err != nil {
			return err
		}
		put(tx, ticketKey(t.PeerID()), ticketRecord{Site: t.Site, Created: now, Expires: t.Expires, By: []byte(n.id.id), Replaces: []byte(replaces)})
		bumpMembers(tx)
		return nil
	})
	if err != nil {
		return api.Invited{}, ledgerHint(err)
	}
	if err := n.follow(); err != nil { // the gate knows the ticket before it is printed
		return api.Invited{}, err
	}
	out.Ticket, out.Expires = t.String(), t.Expires
	return out, nil
}

// dropOldTickets removes records of tickets that ended long ago, some at a time.
func dropOldTickets(tx *replication.Tx, now time.Time) error {
	seen := 0
	for k, v := range tx.Scan(ticketKeys, replication.PrefixEnd(ticketKeys)) {
		if seen++; seen > 500 {
			break
		}
		var t ticketRecord
		if err := replication.Unmarshal(v, &t); err != nil {
			return fmt.Errorf("ticket: %w", err)
		}
		if now.Sub(t.Expires) > oldTicket {
			tx.Delete(k)
		}
	}
	return nil
}

// CancelTicket implements api.Admin.
func (a admin) CancelTicket(ctx context.Context, r api.CancelRequest) error {
	t, err := dht.ParseTicket(r.Ticket)
	if err != nil {
		return fmt.Errorf("ticket: %w", err)
	}
	now := a.n.cfg.now()
	err = a.n.ledger.Update(ctx, func(tx *replication.Tx) error {
		var known ticketRecord
		ok, err := get(tx, ticketKey(t.PeerID()), &known)
		switch {
		case err != nil:
			return err
		case !ok || now.After(known.Expires):
			return nil
		case known.JoinedAs != nil:
			return hint(errors.New("the ticket was used already"), `"valise status" shows who joined`)
		}
		tx.Delete(ticketKey(t.PeerID()))
		bumpMembers(tx)
		return nil
	})
	if err != nil {
		return ledgerHint(err)
	}
	return a.n.follow()
}

// AddPassword implements api.Admin.
func (a admin) AddPassword(ctx context.Context, r api.PasswordRequest) (api.AccountAdded, error) {
	account, err := a.account(ctx, r.Account)
	if err != nil {
		return api.AccountAdded{}, err
	}
	address, err := a.firstAddress(account, r.Account)
	if err != nil {
		return api.AccountAdded{}, err
	}
	secret, now := authz.NewAppPassword(), a.n.cfg.now()
	err = a.n.ledger.Update(ctx, func(tx *replication.Tx) error {
		return authz.PutAppPassword(tx, authz.AppPassword{Hash: secret.Hash(), Account: account, Label: r.Label, Created: now})
	})
	if err != nil {
		return api.AccountAdded{}, ledgerHint(err)
	}
	return api.AccountAdded{Account: string(account), Address: string(address), AppPassword: secret.Reveal()}, nil
}

// AddAccount implements api.Admin.
func (a admin) AddAccount(ctx context.Context, r api.AccountRequest) (api.AccountAdded, error) {
	address, err := authz.ParseAddress(r.Address)
	if err != nil {
		return api.AccountAdded{}, hint(err, `"valise account add" takes a mail address, such as user@example.org`)
	}
	now := a.n.cfg.now()
	account := authz.Account{ID: authz.AccountID(authz.NewID()), Name: r.Name, Status: authz.Active, Created: now}
	secret := authz.NewAppPassword()
	err = a.n.ledger.Update(ctx, func(tx *replication.Tx) error {
		if err := authz.PutAccount(tx, account); err != nil {
			return err
		}
		if err := authz.AddMailbox(tx, authz.Mailbox{Address: address, Account: account.ID, ProvenHow: "administrator", ProvenAt: now}); err != nil {
			return err
		}
		return authz.PutAppPassword(tx, authz.AppPassword{Hash: secret.Hash(), Account: account.ID, Label: "first", Created: now})
	})
	if errors.Is(err, authz.ErrAddressTaken) {
		return api.AccountAdded{}, hint(err, `the address belongs to an account already; "valise account password" gives that one another app password`)
	}
	if err != nil {
		return api.AccountAdded{}, ledgerHint(err)
	}
	return api.AccountAdded{Account: string(account.ID), Address: string(address), AppPassword: secret.Reveal()}, nil
}

// AddMailbox implements api.Admin: it adds the mailbox, or sets the way to its server anew.
func (a admin) AddMailbox(ctx context.Context, r api.MailboxRequest) error {
	address, err := authz.ParseAddress(r.Address)
	if err != nil {
		return err
	}
	mode, err := authz.ParseTLSMode(r.TLS)
	if err != nil {
		return hint(err, "use --tls starttls (port 587), implicit (port 465), or none for a server on this machine")
	}
	if err := checkListen(r.NextHop); err != nil || strings.HasPrefix(r.NextHop, ":") {
		return hint(fmt.Errorf("next hop %q is no host:port", r.NextHop), `use the mailbox's own submission server, such as "smtp.example.org:587"`)
	}
	if mode == authz.NoTLS && !loopback(r.NextHop) {
		return hint(fmt.Errorf("next hop %s without TLS", r.NextHop), "only a server on this machine's loopback may go without TLS")
	}
	if (r.User == "") != (r.Password == "") {
		return hint(errors.New("user and password go together"), "give --user and the password on the terminal or stdin, or neither")
	}
	account, err := a.account(ctx, r.Account)
	if err != nil {
		return err
	}
	box := authz.Mailbox{Address: address, Account: account, NextHop: r.NextHop, TLS: mode, User: r.User, ProvenHow: "administrator", ProvenAt: a.n.cfg.now()}
	err = a.n.underNewestKeys(func() error { return a.n.putMailbox(ctx, box, r.Password) })
	if errors.Is(err, authz.ErrAddressTaken) {
		return hint(err, "the address belongs to another account: name that one with --account, or leave --account away")
	}
	return ledgerHint(err)
}

// putMailbox adds or changes a mailbox, its password sealed under the mail key in force.
func (n *Node) putMailbox(ctx context.Context, box authz.Mailbox, password string) (err error) {
	if password != "" {
		if box.Password.Epoch, box.Password.Box, err = n.keys.sealUnder(kindMail, mailboxAAD(box), []byte(password)); err != nil {
			return err
		}
	}
	return n.ledger.Update(ctx, func(tx *replication.Tx) error {
		box := box
		if password != "" {
			if err := checkEpoch(tx, kindMail, box.Password.Epoch); err != nil {
				return err
			}
		}
		known, err := authz.LoadMailbox(tx, box.Key())
		if errors.Is(err, authz.ErrNotFound) {
			return authz.AddMailbox(tx, box)
		}
		if err != nil {
			return err
		}
		if known.Account != box.Account {
			return authz.ErrAddressTaken
		}
		box.Aliases, box.Unknown = known.Aliases, known.Unknown
		return authz.ReplaceMailbox(tx, box)
	})
}

// account finds an account by one of its addresses or its id.
func (a admin) account(ctx context.Context, text string) (authz.AccountID, error) {
	var id authz.AccountID
	err := a.n.viewFresh(ctx, authz.ErrNotFound, func(tx *replication.Tx) error {
		if address, err := authz.ParseAddress(text); err == nil {
			box, err := authz.FindMailbox(tx, address)
			id = box.Account
			return err
		}
		account, err := authz.LoadAccount(tx, authz.AccountID(text))
		id = account.ID
		return err
	})
	if errors.Is(err, authz.ErrNotFound) {
		return "", hint(fmt.Errorf("account %q is not known", text), `name one of its addresses; "valise account add ADDRESS" makes an account`)
	}
	return id, err
}

// Files implements api.Admin.
func (a admin) Files(ctx context.Context, r api.FilesRequest) (api.FilesAnswer, error) {
	account, err := a.account(ctx, r.Account)
	if err != nil {
		return api.FilesAnswer{}, err
	}
	files, err := a.n.Files(string(account))
	out := api.FilesAnswer{Files: []api.FileStatus{}}
	for _, f := range files {
		out.Files = append(out.Files, api.FileStatus{File: string(f.ID), Name: f.Name, Version: f.Newest, Created: f.Created, Changed: f.Changed})
	}
	return out, err
}

// fileNamed finds the file to replace: by its id, or by a link to it.
func (a admin) fileNamed(ctx context.Context, text string) (authz.FileID, error) {
	if !strings.Contains(text, "/") {
		return authz.FileID(text), nil
	}
	token, err := tokenOf(text)
	if err != nil {
		return "", err
	}
	claims, err := authz.Genuine(token, a.n.law)
	if err != nil {
		return "", hint(fmt.Errorf("link: %w", err), "copy the whole link as it stands in the message")
	}
	var id authz.FileID
	err = a.n.viewFresh(ctx, authz.ErrNotFound, func(tx *replication.Tx) error {
		g, err := authz.LoadGrant(tx, claims.Grant)
		if err != nil {
			return err
		}
		for _, f := range g.Files {
			root, err := cid.Cast(f.Root)
			if err == nil && (len(g.Files) == 1 || strings.Contains(text, "/a/"+root.String()+"/")) {
				id = f.File
				return nil
			}
		}
		return hint(errors.New("the link names several files"), `use the link of the one file, from the page it opens, or its id: "valise files" lists them`)
	})
	return id, err
}

// Put implements api.Admin.
func (a admin) Put(ctx context.Context, r api.PutRequest, content io.Reader) (api.PutDone, error) {
	account, err := a.account(ctx, r.Account)
	if err != nil {
		return api.PutDone{}, err
	}
	mediaType := mime.TypeByExtension(filepath.Ext(r.Name))
	if r.Replace != "" {
		id, err := a.fileNamed(ctx, r.Replace)
		if err != nil {
			return api.PutDone{}, err
		}
		f, up, err := a.n.replace(ctx, account, id, mediaType, content)
		if errors.Is(err, drive.ErrNoFile) {
			return api.PutDone{}, hint(err, `"valise files" lists the account's files with their ids`)
		}
		if err != nil {
			return api.PutDone{}, a.n.putError(err)
		}
		return api.PutDone{File: string(f.ID), Version: f.Newest, CID: up.content.Root.String(), Size: up.content.Size}, nil
	}
	from, err := a.firstAddress(account, r.Account)
	if err != nil {
		return api.PutDone{}, err
	}
	up, err := a.n.upload(ctx, account, mediaType, content)
	if err != nil {
		return api.PutDone{}, a.n.putError(err)
	}
	links, err := a.n.share(ctx, sharing{
		mode:    authz.Following,
		sending: authz.Sending{ID: authz.SendingID(authz.NewID()), Account: account, From: from, Created: a.n.cfg.now()},
		files:   []sharedFile{{name: authz.CleanName(r.Name), upload: up}},
	})
	if err != nil {
		return api.PutDone{}, ledgerHint(err)
	}
	return api.PutDone{File: string(links.ids[0]), Version: links.versions[0], CID: up.content.Root.String(), Size: up.content.Size, Link: links.files[0]}, nil
}

// firstAddress is the address a link is shown to come from: the one the
// operator named, else the account's first.
func (a admin) firstAddress(id authz.AccountID, named string) (authz.Address, error) {
	if address, err := authz.ParseAddress(named); err == nil {
		return address, nil
	}
	var first authz.Address
	err := a.n.ledger.View(func(tx *replication.Tx) error {
		for m, err := range authz.Mailboxes(tx, id) {
			first = m.Address
			return err
		}
		return hint(fmt.Errorf("account %s has no mailbox", id), `"valise mailbox add" gives it one`)
	})
	return first, err
}

// Revoke implements api.Admin. The token in the link only names the grant: the
// operator may end what a bad or expired token names, too.
func (a admin) Revoke(ctx context.Context, r api.RevokeRequest) (api.Revoked, error) {
	token, err := tokenOf(r.Link)
	if err != nil {
		return api.Revoked{}, err
	}
	claims, err := authz.Genuine(token, a.n.law)
	if err != nil {
		return api.Revoked{}, hint(fmt.Errorf("link: %w", err), "copy the whole link as it stands in the message")
	}
	now := a.n.cfg.now()
	out := api.Revoked{Grant: claims.Grant.String()}
	err = a.n.ledger.Update(ctx, func(tx *replication.Tx) error {
		g, err := authz.LoadGrant(tx, claims.Grant)
		if err != nil {
			return err
		}
		out.Files = nil
		for _, f := range g.Files {
			out.Files = append(out.Files, f.Name)
		}
		return authz.RevokeGrant(tx, claims.Grant, now, "administrator")
	})
	return out, ledgerHint(err)
}

// tokenOf takes the token out of a link, /a/{cid}/{token}/{name} or /m/{token}.
func tokenOf(link string) (authz.Token, error) {
	u, err := url.Parse(strings.TrimSpace(link))
	if err == nil {
		parts := strings.Split(strings.TrimPrefix(u.EscapedPath(), "/"), "/")
		switch {
		case parts[0] == "m" && len(parts) == 2:
			return authz.Token(parts[1]), nil
		case parts[0] == "a" && len(parts) == 4:
			return authz.Token(parts[2]), nil
		}
	}
	return "", hint(errors.New("that is no link of ours"), "copy the whole link as it stands in the message: .../a/... or .../m/...")
}

// ledgerHint adds what an operator can do about a ledger that does not take writes.
func ledgerHint(err error) error {
	switch {
	case errors.Is(err, replication.ErrNoQuorum):
		return hint(err, `a majority of the nodes must be in reach to change anything; "valise status" shows which are missing`)
	case errors.Is(err, copies.ErrNoSpace):
		return hint(err, `a node's disk is full, or free space is at the reserve: "valise status" on each shows which`)
	case errors.Is(err, replication.ErrUnknown):
		return hint(err, "the change may have happened: look before you repeat it")
	}
	return err
}

// A saidError says in one sentence what happened; what happened to whom in
// detail stays inside it, for the program.
type saidError struct {
	text string
	err  error
}

func (e *saidError) Error() string { return e.text }
func (e *saidError) Unwrap() error { return e.err }

// putError puts an upload's failure into an operator's words. What each node
// said is in the log already.
func (n *Node) putError(err error) error {
	if !errors.Is(err, copies.ErrNotDurable) {
		return ledgerHint(err)
	}
	why := "nodes did not take them in time"
	switch away := n.away(); len(away) {
	case 0:
	case 1:
		why = away[0] + " is not in reach"
	default:
		why = strings.Join(away[:len(away)-1], ", ") + " and " + away[len(away)-1] + " are not in reach"
	}
	return hint(&saidError{fmt.Sprintf("too few copies could be made: %s; nothing was stored", why), err},
		`run the command again when more nodes are up: "valise status" shows which are missing, the log of this node what they said`)
}
