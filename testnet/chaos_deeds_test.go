package testnet

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/valise-mail/valise/node/api"
)

func (c *chaos) send(ctx context.Context, a *actor, d deed) string {
	content := bytesOf(d.Content, d.Size)
	sum := sha256.Sum256(content)
	s := &stored{name: fmt.Sprintf("p%d-%d.bin", a.n, a.done), person: a.Address, mail: true, sent: perhaps, may: [][32]byte{sum}, ever: [][32]byte{sum}}
	a.keep(s)
	message := bytes.Replace(letter(s.name, content), []byte("From: sender@example.org"), []byte("From: "+a.Address), 1)
	err := c.v.Send(ctx, d.House, a.Person, to, message)
	a.bytes = append(a.bytes, d)
	if dial, ok := errors.AsType[*net.OpError](err); ok && dial.Op == "dial" {
		s.set(func() { s.sent = no })
		return "refused"
	}
	if err != nil {
		if code(err) != 0 && code(err)/100 != 4 {
			c.wrong("send %s through %s: %v", s.name, c.v.Houses[d.House].Name, err)
		}
		if code(err) == 451 && strings.Contains(err.Error(), "4.4.2") || code(err) == 0 {
			return "unknown"
		}
		s.set(func() { s.sent = no })
		return "refused"
	}
	link, times := c.inbox.find(s.name)
	if times != 1 {
		c.wrong("%s was acknowledged and delivered %d times", s.name, times)
	}
	s.set(func() { s.sent, s.link = yes, link })
	return "done"
}

func (c *chaos) put(ctx context.Context, a *actor, d deed) string {
	content := bytesOf(d.Content, d.Size)
	sum := sha256.Sum256(content)
	s := &stored{name: fmt.Sprintf("p%d-%d.bin", a.n, a.done), person: a.Address, sent: yes, may: [][32]byte{sum}, ever: [][32]byte{sum}}
	var done api.PutDone
	err := c.v.Ask(ctx, d.House, func(ctx context.Context, admin api.Admin) (err error) {
		done, err = admin.Put(ctx, api.PutRequest{Account: a.Address, Name: s.name}, bytes.NewReader(content))
		return err
	})
	a.bytes = append(a.bytes, d)
	if err == nil {
		s.link = done.Link
		a.keep(s)
	}
	return said(err).outcome()
}

func (c *chaos) replace(ctx context.Context, a *actor, d deed) string {
	s := pick(a.open(), d.Pick)
	if s == nil {
		return ""
	}
	content := bytesOf(d.Content, d.Size)
	sum := sha256.Sum256(content)
	before := s.now()
	s.set(func() { s.may, s.ever = append(s.may, sum), append(s.ever, sum) })
	err := c.v.Ask(ctx, d.House, func(ctx context.Context, admin api.Admin) (err error) {
		_, err = admin.Put(ctx, api.PutRequest{Account: a.Address, Replace: before.link}, bytes.NewReader(content))
		return err
	})
	a.bytes = append(a.bytes, d)
	switch said(err) {
	case yes:
		s.set(func() { s.may = [][32]byte{sum} })
	case no:
		s.set(func() { s.may, s.ever = before.may, before.ever })
	}
	return said(err).outcome()
}

func (c *chaos) revoke(ctx context.Context, a *actor, d deed) string {
	s := pick(a.open(), d.Pick)
	if s == nil {
		return ""
	}
	s.set(func() { s.revoked = perhaps })
	err := c.v.Ask(ctx, d.House, func(ctx context.Context, admin api.Admin) error {
		_, err := admin.Revoke(ctx, api.RevokeRequest{Link: s.link})
		return err
	})
	s.set(func() { s.revoked, s.revokedAt = said(err), time.Now() })
	return said(err).outcome()
}

func (c *chaos) delete(ctx context.Context, a *actor, d deed) string {
	s := pick(a.undeleted(), d.Pick)
	if s == nil {
		return ""
	}
	s.set(func() { s.deleted = perhaps })
	err := c.v.Ask(ctx, d.House, func(ctx context.Context, admin api.Admin) error {
		_, err := admin.Delete(ctx, api.DeleteRequest{Account: a.Address, File: s.link})
		return err
	})
	was := said(err)
	if was == no && !errors.Is(err, ErrAway) {
		was = perhaps // it goes in steps, and the first may have been taken: whoever leads finishes it
	}
	s.set(func() { s.deleted = was })
	return was.outcome()
}

// fetch gets anybody's link. Whether it is to be had is not promised while things fail; what it gives is.
func (c *chaos) fetch(ctx context.Context, d deed) string {
	var all []*stored
	for _, a := range c.persons {
		for _, s := range a.all() {
			if s.now().link != "" {
				all = append(all, s)
			}
		}
	}
	s := pick(all, d.Pick)
	if s == nil {
		return ""
	}
	before := s.now()
	fresh := c.knownUntil(ctx, d.House)
	resp, data, err := c.v.Fetch(ctx, d.House, before.link, nil)
	after, where := s.now(), c.v.Houses[d.House].Name
	switch {
	case err != nil:
		return "broken off"
	case resp.StatusCode == http.StatusOK:
		if !slices.Contains(after.ever, sha256.Sum256(data)) {
			c.wrong("%s through %s: %d bytes that it never had", s.name, where, len(data))
		}
		// Promise 2: a copy that is as new as the revocation obeys it.
		if before.revoked == yes && fresh.After(before.revokedAt) {
			c.wrong("%s through %s: served, though its link was revoked %s before this copy was confirmed", s.name, where, fresh.Sub(before.revokedAt))
		}
		return "done"
	case resp.StatusCode >= 500:
		return "not now"
	}
	if after.revoked == no && after.deleted == no {
		c.wrong("%s through %s: %s, and nobody ended it", s.name, where, resp.Status)
	}
	return "denied"
}

// knownUntil is up to when a node surely knows what the cluster knows; the zero time where it does not say.
func (c *chaos) knownUntil(ctx context.Context, i int) (until time.Time) {
	asked := time.Now()
	_ = c.v.Ask(ctx, i, func(ctx context.Context, admin api.Admin) error {
		s, err := admin.Status(ctx)
		if err == nil && s.Ledger.Age >= 0 {
			until = asked.Add(-time.Duration(s.Ledger.Age * float64(time.Second)))
		}
		return err
	})
	return until
}
