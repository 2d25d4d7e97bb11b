package replication

import (
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// A contact is what the leader of a term knows about one other server.
type contact struct {
	term      uint64    // of the leader that asked
	confirmed time.Time // when the last question was sent that was answered with success
	answered  time.Time // when the last answer came
	synced    uint64    // last index known to be in its synced log
}

// contacts collects the answers of the other servers, as raft's transport hears them.
type contacts struct {
	now func() time.Time

	mu    sync.Mutex
	peers map[string]*contact
	// unreached has when the first of the dials failed that did so in a row.
	unreached map[string]time.Time
	term      uint64         // which this node leads, or led last
	since     time.Time      // when that began
	due       map[string]due // what is waited for in that term, by server
	// waits are looked at after each answer; those that are content are closed.
	waits []*contactWait
}

// A due is an index that a server is to have synced, and since when.
type due struct {
	index uint64
	since time.Time
}

type contactWait struct {
	content func() bool // called with mu held
	done    chan struct{}
}

func newContacts() *contacts {
	return &contacts{now: time.Now, peers: make(map[string]*contact), unreached: make(map[string]time.Time)}
}

func (c *contacts) appended(id string, sent time.Time, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) {
	synced := uint64(0)
	if !resp.Success || resp.Term > req.Term {
		c.alive(id)
		return
	}
	if n := len(req.Entries); n > 0 {
		synced = req.Entries[n-1].Index
	} else if req.PrevLogEntry > 0 {
		synced = req.PrevLogEntry
	}
	c.note(id, req.Term, sent, synced)
}

// alive notes an answer that confirms nothing.
func (c *contacts) alive(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.peer(id).answered = c.now()
	delete(c.unreached, id)
}

// unreachableAfter is how long dials must have failed, without one that worked, for a
// new leader to believe that nobody is there.
const unreachableAfter = 300 * time.Millisecond

// failed notes that a server could not be dialled.
func (c *contacts) failed(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.unreached[id]; !ok {
		c.unreached[id] = c.now()
	}
}

func (c *contacts) peer(id string) *contact {
	p := c.peers[id]
	if p == nil {
		p = &contact{}
		c.peers[id] = p
	}
	return p
}

// note records a success of a question sent then, in a term, up to an index.
func (c *contacts) note(id string, term uint64, sent time.Time, synced uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.peer(id)
	if term < p.term {
		return
	}
	if term > p.term {
		*p = contact{term: term}
	}
	if sent.After(p.confirmed) {
		p.confirmed = sent
	}
	p.answered = c.now()
	delete(c.unreached, id)
	p.synced = max(p.synced, synced)
	c.waits = slices.DeleteFunc(c.waits, func(w *contactWait) bool {
		if !w.content() {
			return false
		}
		close(w.done)
		return true
	})
}

// get returns what is known of a peer in a term; the zero contact if nothing.
func (c *contacts) get(id string, term uint64) contact {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lookup(id, term)
}

// lookup is get with mu held. An answer of an earlier term says only that the peer
// was alive.
func (c *contacts) lookup(id string, term uint64) contact {
	p := c.peers[id]
	switch {
	case p == nil:
		return contact{}
	case p.term != term:
		return contact{answered: p.answered}
	}
	return *p
}

// leads notes that this node leads a term, from the first call on.
func (c *contacts) leads(term uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if term > c.term {
		c.term, c.since, c.due = term, c.now(), make(map[string]due)
	}
}

// live says, with mu held, whether a server without index is worth waiting for (L3):
// it answered within the time given, or nobody could expect that yet of a leader so
// new, unless it cannot even be dialled since; and it does not owe an index for longer. One whose disk hangs, or that is still
// being sent the ledger, answers heartbeats all the same.
func (c *contacts) live(id string, term, index uint64, within time.Duration) bool {
	now, known := c.now(), c.lookup(id, term)
	since, unreached := c.unreached[id]
	if unreached && now.Sub(since) >= unreachableAfter && known.answered.Before(c.since) {
		return false
	}
	if now.Sub(known.answered) >= within && now.Sub(c.since) >= within {
		return false
	}
	owes, ok := c.due[id]
	if !ok || known.synced >= owes.index {
		c.due[id] = due{index, now}
		return true
	}
	return now.Sub(owes.since) < within
}

// wait returns a channel that is closed once content (called with mu held) is true,
// and a function that forgets the wait.
func (c *contacts) wait(content func() bool) (<-chan struct{}, func()) {
	w := &contactWait{content: content, done: make(chan struct{})}
	c.mu.Lock()
	defer c.mu.Unlock()
	if content() {
		close(w.done)
		return w.done, func() {}
	}
	c.waits = append(c.waits, w)
	return w.done, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.waits = slices.DeleteFunc(c.waits, func(o *contactWait) bool { return o == w })
	}
}
