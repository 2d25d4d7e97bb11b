package testnet

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
	"time"
)

// heal ends every fault and waits until the cluster is whole again, as far as it can be.
func (c *chaos) heal(ctx context.Context) bool {
	for i := range c.v.Houses {
		c.revive(ctx, i)
	}
	if len(c.wrongs) > 0 { // among them, perhaps, a node that does not start
		return false
	}
	if err := c.v.Settled(ctx); err != nil {
		c.wrong("it does not settle: %v", err)
		return false
	}
	enough, cancel := context.WithTimeout(ctx, time.Minute) // and then the rest is looked at all the same
	defer cancel()
	if err := c.v.Wait(enough, "all copies to be made", func() (bool, error) {
		s, err := c.v.Houses[0].Node().Admin().Status(ctx)
		if err == nil && s.Copies.Missing > 0 {
			err = fmt.Errorf("%d are missing", s.Copies.Missing)
		}
		return err == nil, err
	}); err != nil {
		c.wrong("%v", err)
	}
	return true
}

// judge looks at everything that was promised, through every node.
func (c *chaos) judge(ctx context.Context) {
	if err := c.v.verifyLedgers(ctx); err != nil {
		c.wrong("%v", err)
		return
	}
	for _, a := range c.persons {
		for _, s := range a.all() {
			if s.mail {
				c.judgeMail(s)
			}
			if s.now().link != "" {
				c.judgeLink(ctx, s)
			}
		}
	}
}

// judgeMail: a message that was acknowledged is out, once; one that was refused is not.
func (c *chaos) judgeMail(s *stored) {
	link, times := c.inbox.find(s.name)
	s.set(func() { s.link = link })
	switch {
	case times > 1, s.sent == yes && times == 0, s.sent == no && times > 0:
		c.wrong("%s: sent: %v, delivered %d times", s.name, s.sent, times)
	}
}

// judgeLink: every node gives the same answer, and the right one.
func (c *chaos) judgeLink(ctx context.Context, s *stored) {
	st := s.now()
	var first string
	for i, h := range c.v.Houses {
		resp, data, err := c.v.Fetch(ctx, i, st.link, nil)
		if err != nil {
			c.wrong("%s through %s: %v", s.name, h.Name, err)
			continue
		}
		var is string
		switch sum := sha256.Sum256(data); {
		case resp.StatusCode == http.StatusOK && slices.Contains(st.may, sum):
			is = fmt.Sprintf("bytes %x", sum[:4])
		case resp.StatusCode == http.StatusOK:
			is = fmt.Sprintf("other bytes (%d; earlier ones: %v)", len(data), slices.Contains(st.ever, sum))
		default:
			is = resp.Status
		}
		denied, served := resp.StatusCode == http.StatusForbidden, strings.HasPrefix(is, "bytes")
		ended := max(st.revoked, st.deleted)
		if !denied && !served || denied && ended == no || served && ended == yes {
			c.wrong("%s (mail %v, sent %v, revoked %v, deleted %v) through %s: %s", s.name, s.mail, s.sent, st.revoked, st.deleted, h.Name, is)
		}
		if first == "" {
			first = is
		}
		if is != first {
			c.wrong("%s: %s gives %s, %s gives %s", s.name, c.v.Houses[0].Name, first, h.Name, is)
		}
		c.counted("looked at in the end")
	}
}

// The inbox knows which link came with which attachment, and how often.
type inbox struct {
	v *Village

	mu    sync.Mutex // guards the fields below
	seen  int
	link  map[string]string
	times map[string]int
}

func (b *inbox) find(name string) (link string, times int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := b.v.Mail.Messages()
	for _, m := range all[b.seen:] {
		for _, link := range Links(m.Data) {
			b.link[path.Base(link)] = link
			b.times[path.Base(link)]++
		}
	}
	b.seen = len(all)
	return b.link[name], b.times[name]
}
