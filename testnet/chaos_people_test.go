package testnet

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/valise-mail/valise/replication"
	"github.com/valise-mail/valise/replication/copies"
)

// A tri says whether something happened.
type tri int

const (
	no tri = iota
	perhaps
	yes
)

func (a tri) String() string { return [...]string{"no", "perhaps", "yes"}[a] }

// A stored file, as far as its person knows.
type stored struct {
	name   string
	person string

	mu        sync.Mutex // guards the fields below
	link      string
	sent      tri // in a message; yes for what was put
	mail      bool
	may       [][32]byte // what the link gives: one of these
	ever      [][32]byte // what it gave at any time, or may have
	revoked   tri
	revokedAt time.Time
	deleted   tri
}

// state is what a stored file may be like at one moment.
type state struct {
	link             string
	may, ever        [][32]byte
	revoked, deleted tri
	revokedAt        time.Time
}

func (s *stored) now() state {
	s.mu.Lock()
	defer s.mu.Unlock()
	return state{s.link, slices.Clone(s.may), slices.Clone(s.ever), s.revoked, s.deleted, s.revokedAt}
}

func (s *stored) set(fn func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fn()
}

// An actor is one person, who does one thing at a time.
type actor struct {
	Person
	n     int
	next  func() deed
	done  int
	bytes []deed // whose bytes were stored

	mu    sync.Mutex // guards the field below
	files []*stored
}

func (a *actor) all() []*stored {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.files)
}

func (a *actor) keep(s *stored) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.files = append(a.files, s)
}

// open are the files that can be changed: their links are known, and they were not ended.
func (a *actor) open() (out []*stored) {
	for _, s := range a.all() {
		if st := s.now(); st.link != "" && st.deleted == no && st.revoked == no {
			out = append(out, s)
		}
	}
	return out
}

// undeleted are those that still take room.
func (a *actor) undeleted() (out []*stored) {
	for _, s := range a.all() {
		if st := s.now(); st.link != "" && st.deleted == no {
			out = append(out, s)
		}
	}
	return out
}

func pick(from []*stored, n uint64) *stored {
	if len(from) == 0 {
		return nil
	}
	return from[n%uint64(len(from))]
}

func (c *chaos) act(ctx context.Context, a *actor, d deed) {
	ctx, cancel := context.WithTimeout(ctx, deedTime)
	defer cancel()
	a.done++
	if d.Again && len(a.bytes) > 0 {
		old := a.bytes[d.Pick%uint64(len(a.bytes))]
		d.Content, d.Size = old.Content, old.Size
	}
	kind := d.Kind
	if (kind == "send" || kind == "put") && len(a.undeleted()) >= keptFiles {
		kind = "delete"
	}
	var outcome string
	switch kind {
	case "send":
		outcome = c.send(ctx, a, d)
	case "put":
		outcome = c.put(ctx, a, d)
	case "replace":
		outcome = c.replace(ctx, a, d)
	case "fetch":
		outcome = c.fetch(ctx, d)
	case "revoke":
		outcome = c.revoke(ctx, a, d)
	case "delete":
		outcome = c.delete(ctx, a, d)
	}
	if outcome != "" {
		c.counted(kind + ": " + outcome)
	}
	if outcome != "done" && !c.v.Houses[d.House].up() { // its person waits a moment before trying again
		pause(ctx, 50*time.Millisecond)
	}
}

// up says whether the house's node answers, by what is known from outside.
func (h *House) up() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.node != nil
}

// said turns an error of the operator's line into what is known of the deed.
func said(err error) tri {
	switch {
	case err == nil:
		return yes
	case errors.Is(err, ErrAway):
		return no
	case errors.Is(err, ErrCut), errors.Is(err, replication.ErrUnknown):
		return perhaps
	case errors.Is(err, replication.ErrNoQuorum), errors.Is(err, copies.ErrNotDurable), errors.Is(err, copies.ErrNoSpace):
		return no
	}
	return perhaps
}

func (a tri) outcome() string { return [...]string{"refused", "unknown", "done"}[a] }
