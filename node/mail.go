package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"github.com/valise-mail/valise/authz"
	"github.com/valise-mail/valise/mailgw"
	"github.com/valise-mail/valise/node/store"
	"github.com/valise-mail/valise/replication"
	"github.com/valise-mail/valise/replication/copies"
)

// spoolDir is the folder for messages in flight; empty is the system's.
func (c *Config) spoolDir() string {
	if c.Mail.SpoolDir == "" {
		return ""
	}
	return c.path(c.Mail.SpoolDir)
}

// checkSpool says now what the first long message would find out otherwise:
// that its folder is not there, or that this user may not write to it.
func (c *Config) checkSpool() error {
	dir := c.spoolDir()
	if dir == "" {
		dir = os.TempDir()
	}
	f, err := os.CreateTemp(dir, "valise-spool-check-*")
	if err == nil {
		err = errors.Join(f.Close(), os.Remove(f.Name()))
	}
	if err != nil {
		return hint(fmt.Errorf("mail.spool-dir %s cannot be used: %w", dir, err),
			"messages in flight wait there: make the folder, let the user that runs the node write to it, or name another as mail.spool-dir; empty means the system's temporary folder")
	}
	return nil
}

// serveMail runs the submission port until the node closes.
func (n *Node) serveMail(l net.Listener) error {
	secure := n.faces.tls
	if secure != nil {
		secure = secure.Clone()
		secure.NextProtos = nil // those are HTTP's
	}
	gate, err := mailgw.New(mailgw.Config{
		Hostname: n.cfg.mailHostname(), Publisher: publisher{n}, Directory: directory{n}, TLS: secure,
		MaxMessageBytes: int64(n.cfg.Mail.MaxMessage), Threshold: int64(n.cfg.Mail.Threshold), SpoolDir: n.cfg.spoolDir(),
		Dial: n.cfg.dial, Clock: n.cfg.clock(), Logger: n.log,
	})
	if err != nil {
		return err
	}
	ctx, end := context.WithCancel(context.WithoutCancel(n.ctx))
	ended := make(chan struct{})
	n.faces.endMail = func() {
		end()
		<-ended // messages under way are finished, or cut after the drain time
	}
	n.start("mail face", func(context.Context) error {
		defer close(ended)
		return gate.Serve(ctx, l)
	})
	return nil
}

// publisher gives the mail slot the store and the law.
type publisher struct{ n *Node }

var _ mailgw.Publisher = publisher{}

// Put implements mailgw.Publisher.
func (p publisher) Put(ctx context.Context, m mailgw.Meta, r io.Reader) (mailgw.Stored, error) {
	up, err := p.n.upload(ctx, authz.AccountID(m.Sender.Account), m.MediaType, r)
	if err != nil {
		return mailgw.Stored{}, mailError(err)
	}
	return mailgw.Stored{Name: authz.CleanName(m.Name), Size: up.content.Size, ID: up}, nil
}

// Grant implements mailgw.Publisher.
func (p publisher) Grant(ctx context.Context, s mailgw.Sending, files []mailgw.Stored) (mailgw.Links, error) {
	from := s.From
	if from == "" {
		from = s.HeaderFrom
	}
	if from == "" {
		from = s.Sender.Mailbox
	}
	sender, err := authz.ParseAddress(from)
	if err != nil {
		return mailgw.Links{}, fmt.Errorf("sender %q: %w", from, err)
	}
	sh := sharing{mode: authz.Following, sending: authz.Sending{
		ID: s.ID, Account: authz.AccountID(s.Sender.Account), MessageID: s.MessageID, From: sender, Created: p.n.cfg.now(),
	}}
	for _, f := range files {
		up, ok := f.ID.(upload)
		if !ok {
			return mailgw.Links{}, fmt.Errorf("stored file of type %T", f.ID)
		}
		sh.files = append(sh.files, sharedFile{name: f.Name, upload: up})
	}
	links, err := p.n.share(ctx, sh)
	if err != nil {
		return mailgw.Links{}, mailError(err)
	}
	return mailgw.Links{Landing: links.landing, Files: links.files, Lang: p.n.cfg.Language}, nil
}

// Undo implements mailgw.Publisher.
func (p publisher) Undo(ctx context.Context, id mailgw.SendingID) error {
	return mailError(p.n.undo(ctx, id))
}

// mailError names the kinds of failure that the mail slot has answers for.
func mailError(err error) error {
	for _, kind := range []struct{ ours, theirs error }{
		{store.ErrNoSpace, mailgw.ErrNoSpace},
		{copies.ErrNoSpace, mailgw.ErrNoSpace},
		{copies.ErrNotDurable, mailgw.ErrNotDurable},
		{replication.ErrNoQuorum, mailgw.ErrNoQuorum},
		{replication.ErrUnknown, mailgw.ErrNoQuorum},
		{authz.ErrNotYours, mailgw.ErrNotYours},
		{authz.ErrDisabled, mailgw.ErrDenied},
	} {
		if errors.Is(err, kind.ours) && !errors.Is(err, kind.theirs) {
			return fmt.Errorf("%w: %w", kind.theirs, err)
		}
	}
	return err
}

// directory tells the mail slot who people are and where their mail goes.
type directory struct{ n *Node }

var _ mailgw.Directory = directory{}

// Authenticate implements mailgw.Directory: a mailbox address and an app password of its account.
func (d directory) Authenticate(ctx context.Context, l mailgw.Login) (mailgw.Sender, error) {
	if !d.n.settled() {
		return mailgw.Sender{}, fmt.Errorf("%w: no copy of the ledger yet", mailgw.ErrTryLater)
	}
	address, err := authz.ParseAddress(l.User)
	if err != nil {
		return mailgw.Sender{}, mailgw.ErrBadCredentials
	}
	var s mailgw.Sender
	err = d.n.ledger.View(func(tx *replication.Tx) error {
		account, box, err := authz.CheckAppPassword(tx, address, authz.ParseSecret(l.Password))
		s = mailgw.Sender{Account: string(account.ID), Mailbox: string(box.Address)}
		return err
	})
	if errors.Is(err, authz.ErrBadCredentials) {
		return mailgw.Sender{}, fmt.Errorf("%w: %w", mailgw.ErrBadCredentials, err)
	}
	return s, err
}

// Upstream implements mailgw.Directory.
func (d directory) Upstream(ctx context.Context, s mailgw.Sender, from string) (mailgw.NextHop, error) {
	if from == "" {
		from = s.Mailbox
	}
	box, err := d.mailbox(s, from)
	if err != nil {
		return mailgw.NextHop{}, err
	}
	hop := mailgw.NextHop{Addr: box.NextHop, TLS: box.TLS, User: box.User}
	if hop.Addr == "" {
		return mailgw.NextHop{}, hint(fmt.Errorf("%w: mailbox %s has no next hop", mailgw.ErrTryLater, box.Address), `"valise mailbox add" sets one`)
	}
	if box.Password.Box != nil {
		password, err := d.n.keys.openUnder(kindMail, box.Password.Epoch, mailboxAAD(box), box.Password.Box)
		if err != nil {
			return mailgw.NextHop{}, fmt.Errorf("%w: password of %s: %w", mailgw.ErrTryLater, box.Address, err)
		}
		hop.Password = string(password)
	}
	return hop, nil
}

// Owns implements mailgw.Directory.
func (d directory) Owns(ctx context.Context, s mailgw.Sender, addr string) error {
	_, err := d.mailbox(s, addr)
	return err
}

func (d directory) mailbox(s mailgw.Sender, text string) (authz.Mailbox, error) {
	address, err := authz.ParseAddress(text)
	if err != nil {
		return authz.Mailbox{}, fmt.Errorf("%w: %w", mailgw.ErrNotYours, err)
	}
	var box authz.Mailbox
	err = d.n.ledger.View(func(tx *replication.Tx) (err error) {
		account, err := authz.LoadAccount(tx, authz.AccountID(s.Account))
		if err != nil {
			return err
		}
		if account.Status != authz.Active {
			return mailgw.ErrDenied
		}
		box, err = authz.MailboxOf(tx, account.ID, address)
		return err
	})
	return box, err
}

// mailboxAAD binds a sealed password to the mailbox it is for.
func mailboxAAD(m authz.Mailbox) []byte {
	return []byte("valise mailbox password 1\x00" + string(m.Account) + "\x00" + string(m.Address))
}
