package replication

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/raft"
)

// A mirror follows a Watch.
type mirror struct {
	mu     sync.Mutex
	state  map[string]string
	synced uint64 // last change or mark
	resets int
	bad    []string
	err    error
	done   chan struct{}
}

func follow(ctx context.Context, db *DB, prefix string, slow func(Change)) *mirror {
	m := &mirror{state: make(map[string]string), done: make(chan struct{})}
	go func() {
		defer close(m.done)
		marked := false
		for c, err := range db.Watch(ctx, []byte(prefix)) {
			if err != nil {
				m.mu.Lock()
				m.err = err
				m.mu.Unlock()
				return
			}
			if slow != nil {
				slow(c)
			}
			m.mu.Lock()
			switch c.Kind {
			case Put:
				m.state[string(c.Key)] = string(c.Value)
			case Delete:
				delete(m.state, string(c.Key))
				if !marked {
					m.bad = append(m.bad, "Delete before Synced")
				}
			case Reset:
				clear(m.state)
				m.resets++
				marked = false
			case Synced:
				if marked {
					m.bad = append(m.bad, "Synced twice")
				}
				marked = true
				m.synced = c.Index
			}
			if c.Kind <= Delete && (!strings.HasPrefix(string(c.Key), prefix) || c.Index == 0) {
				m.bad = append(m.bad, fmt.Sprintf("%+v", c))
			}
			m.mu.Unlock()
		}
	}()
	return m
}

func (m *mirror) equals(db *DB, prefix string) bool {
	want := make(map[string]string)
	db.View(func(tx *Tx) error {
		for k, v := range tx.Scan([]byte(prefix), PrefixEnd([]byte(prefix))) {
			want[string(k)] = string(v)
		}
		return nil
	})
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.synced > 0 && cmp.Equal(want, m.state)
}

func (m *mirror) check(t *testing.T) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.bad) > 0 {
		t.Error(m.bad)
	}
}

// Whatever is written, what a Watch says adds up to what a View shows.
func TestL5_WatchEqualsView(t *testing.T) {
	t.Parallel()
	v := newVillage(t, nil, "berlin", "paris", "rome")
	for i := range 600 { // several chunks of present state
		if i%100 == 0 {
			v.ok(v.members[0].db.Update(v.ctx(), func(tx *Tx) error {
				for j := range 100 {
					tx.Put(fmt.Appendf(nil, "a/%03d", i+j), []byte("old"))
				}
				return nil
			}))
		}
	}
	prefixes := []string{"", "a", "a/", "a/1", "b/", "nothing/"}
	var mirrors []*mirror
	for _, m := range v.members {
		for _, p := range prefixes {
			mirrors = append(mirrors, follow(t.Context(), m.db, p, nil))
		}
	}
	var wg sync.WaitGroup
	for i, m := range v.members {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(uint64(i), 2))
			for range 100 {
				err := m.db.Update(v.ctx(), func(tx *Tx) error {
					for range 1 + random.IntN(5) {
						key := fmt.Appendf(nil, "%c/%03d", 'a'+rune(random.IntN(3)), random.IntN(600))
						if random.IntN(3) == 0 {
							tx.Delete(key)
						} else {
							tx.Put(key, fmt.Append(nil, random.Int()))
						}
					}
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for i, m := range mirrors {
		db, prefix := v.members[i/len(prefixes)].db, prefixes[i%len(prefixes)]
		v.ok(db.ReadIndex(v.ctx()))
		v.until(fmt.Sprintf("the Watch of %q to show what a View shows", prefix), func() bool { return m.equals(db, prefix) })
		m.check(t)
	}
}

// A receiver that does not keep up starts over; nobody waits for it, and its state
// is right in the end.
func TestL5_SlowWatchIsReset(t *testing.T) {
	t.Parallel()
	v := newVillage(t, nil, "berlin")
	db := v.members[0].db
	v.put(0, "a/first", "x")
	stuck, free := make(chan struct{}), make(chan struct{})
	var once sync.Once
	m := follow(t.Context(), db, "a/", func(Change) { once.Do(func() { close(stuck); <-free }) })
	<-stuck
	for i := range 5 {
		v.ok(db.Update(v.ctx(), func(tx *Tx) error {
			for j := range 1000 {
				tx.Put(fmt.Appendf(nil, "a/%d/%d", i, j), nil)
			}
			tx.Delete([]byte("a/first"))
			return nil
		}))
	}
	close(free)
	v.until("the Watch to be right again", func() bool { return m.equals(db, "a/") })
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.resets == 0 {
		t.Error("5,000 pending keys and no Reset")
	}
}

func TestL5_WatchStartsOverAfterInstall(t *testing.T) {
	t.Parallel()
	source := newVillage(t, nil, "berlin")
	for i := range 300 {
		source.put(0, fmt.Sprint("s", i), "x")
	}
	v := newVillage(t, nil, "berlin")
	v.put(0, "old", "x")
	db := v.members[0].db
	m := follow(t.Context(), db, "", nil)
	v.until("the first state", func() bool { return m.equals(db, "") })
	from := source.members[0].db
	receive(t, from, db, &raft.SnapshotMeta{
		Index: from.machine.applied.Load(), Term: from.machine.term.Load(),
		Configuration: db.raft.GetConfiguration().Configuration(), ConfigurationIndex: 1,
	})
	v.ok(db.machine.Restore(io.NopCloser(eofReader{})))
	v.until("the installed state", func() bool { return m.equals(db, "") && len(dump(db)) == 300 })
	m.check(t)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.resets != 1 {
		t.Errorf("%d resets", m.resets)
	}
}

func TestL5_WatchEnds(t *testing.T) {
	t.Parallel()
	v := newVillage(t, nil, "berlin")
	db := v.members[0].db
	ctx, cancel := context.WithCancel(t.Context())
	m := follow(ctx, db, "", nil)
	v.until("it to begin", func() bool { return m.equals(db, "") })
	cancel()
	<-m.done
	if !errors.Is(m.err, context.Canceled) {
		t.Errorf("got %v", m.err)
	}
	for range db.Watch(t.Context(), nil) {
		break // the receiver may leave at any time
	}
	v.stop(0)
	for _, err := range db.Watch(t.Context(), nil) {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	}
}

func BenchmarkWatchersUnconcerned(b *testing.B) {
	var ws watchers
	for i := range 64 {
		ws.add(&watcher{prefix: fmt.Appendf(nil, "d/%02d/", i), wake: make(chan struct{}, 1), pending: make(map[string]uint64)})
	}
	changes := []changedKey{{[]byte("c/123456"), 1}, {[]byte("d/99/xyz"), 1}}
	for b.Loop() {
		ws.changed(changes)
	}
}
