package testnet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/valise-mail/valise/node"
	"github.com/valise-mail/valise/node/api"
	"github.com/valise-mail/valise/replication"
)

// Promise 5, of whole nodes: the power is cut before any step that their disks take, from the first of
// "valise init" on. Each time what the disks then hold must start without an operator's help, or take the
// unfinished init or join again, and have what was acknowledged by then.
//
// Every test run looks at some of these moments, another selection each time; with VALISE_CHAOS set, at many more.
func TestE1_PowerIsCutBetweenAnySteps(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name         string
		houses       int
		short, long  int // steps looked at
		leastOfSteps int
	}{
		{"one node", 1, 10, 1000, 300},
		{"two nodes", 2, 3, 80, 500},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p, want := &powerCuts{t: t, houses: c.houses}, c.short
			if os.Getenv("VALISE_CHAOS") != "" {
				p.all, want = true, c.long
			}
			p.each(1 << 40) // the first life only counts
			p.live()
			steps := p.step
			if steps < c.leastOfSteps {
				t.Fatalf("only %d steps", steps)
			}
			p.each(max(1, (steps+want/2)/want))
			p.live()
			t.Logf("%s: %d steps, the power was cut %d times; %d times a folder was unfinished", c.name, p.step, len(p.moments), p.lookAtAll())
		})
	}
}

// powerCuts is a small village's life, with images of all disks taken at one instant, again and again.
type powerCuts struct {
	t      *testing.T
	houses int
	all    bool // both images at each moment
	every  int
	phase  int
	fates  *rand.Rand
	cfgs   []node.Config // of the last life, complete

	gate sync.RWMutex // held for reading by every operation on a disk, for writing while images are taken

	mu      sync.Mutex // guards the fields below
	step    int
	disks   []*vfs.MemFS
	so      progress
	moments []moment
}

// progress is what was acknowledged.
type progress struct {
	founded bool
	ticket  string
	joined  bool
	account bool
	kept    []Acknowledged
	revoked []string
}

// A moment is what the disks hold when the power is cut at a step, and what was acknowledged before.
type moment struct {
	when  string
	disks []*vfs.MemFS
	so    progress
}

func (p *powerCuts) each(n int) {
	p.every, p.phase, p.step, p.moments = n, rand.IntN(min(n, 1<<20)), 0, nil
	p.fates = rand.New(rand.NewPCG(uint64(n), uint64(p.phase)))
}

// before is asked before each step of any disk.
func (p *powerCuts) before(house int) Step {
	return func(op, name string) Fate {
		if op == "read" {
			return Fate{}
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		p.step++
		every := p.every
		if len(p.so.kept) > 0 { // now there is more to lose
			every = max(1, every/4)
		}
		if (p.step+p.phase)%every == 0 {
			p.image(fmt.Sprintf("before step %d, %s %s of node %d", p.step, op, name, house+1))
		}
		return Fate{Hold: p.gate.RLocker()}
	}
}

// image notes what was acknowledged first, and then takes the images while no disk moves: whatever one
// node told another by then is on the first one's disk, if it had to be.
func (p *powerCuts) image(when string) {
	// Of what was written and not synced, all is there (a kill -9) or nothing. Some of it, chosen at random, would
	// also take names of one folder in any order, which no journal does: Pebble's marker without its manifest.
	percents := []int{0, 100}
	if !p.all {
		percents = percents[len(p.moments)%2:][:1]
	}
	p.gate.Lock()
	defer p.gate.Unlock()
	for _, percent := range percents {
		m := moment{when: fmt.Sprintf("%s, %d%% of the unsynced there", when, percent), so: p.so}
		m.so.kept, m.so.revoked = slices.Clone(p.so.kept), slices.Clone(p.so.revoked)
		for _, d := range p.disks {
			m.disks = append(m.disks, d.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: p.fates}))
		}
		p.moments = append(p.moments, m)
	}
}

func (p *powerCuts) note(fn func(*progress)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fn(&p.so)
}

func (p *powerCuts) config() Config {
	return Config{Adjust: func(_ int, c *node.Config) {
		c.Mail.Threshold = 1 << 10
		c.Copies.Wanted, c.Copies.Ack = 2, 2
	}}
}

// empty makes a village without a house.
func (p *powerCuts) empty(ctx context.Context) *Village {
	v, err := Open(ctx, p.config())
	if err != nil {
		p.t.Fatal(err)
	}
	return v
}

// live is one life from init to the end, with a few mails.
func (p *powerCuts) live() {
	t := p.t
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	v := p.empty(ctx)
	defer v.Close()
	p.mu.Lock()
	p.disks, p.so, p.cfgs = nil, progress{}, nil
	p.mu.Unlock()
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	add := func(i int) *House {
		h, err := v.house(i, []string{"berlin", "paris"}[i])
		ok(err)
		p.mu.Lock()
		p.disks = append(p.disks, h.disk)
		p.mu.Unlock()
		h.trouble.set(p.before(i))
		v.Houses = append(v.Houses, h)
		return h
	}
	h := add(0)
	ok(node.Init(ctx, h.cfg))
	p.note(func(so *progress) { so.founded = true })
	ok(v.start(ctx, h))
	if p.houses > 1 {
		ticket, err := v.Houses[0].node.Admin().Invite(ctx, api.InviteRequest{Site: "paris"})
		ok(err)
		p.note(func(so *progress) { so.ticket = ticket.Ticket })
		h := add(1)
		h.cfg, err = node.Join(ctx, h.cfg, ticket.Ticket)
		ok(err)
		p.note(func(so *progress) { so.joined = true })
		ok(v.start(ctx, h))
	}
	ok(v.Settled(ctx))
	person := person(t, ctx, v, "sender@example.org")
	p.note(func(so *progress) { so.account = true })
	for n := range 10 {
		content := randomBytes(5000 + n)
		link := sendFile(t, ctx, v, n%p.houses, person, fmt.Sprintf("%d.bin", n), content)
		p.note(func(so *progress) { so.kept = append(so.kept, v.acks[len(v.acks)-1]) })
		if n == 1 { // this one is revoked again
			p.note(func(so *progress) { so.kept = so.kept[:1] })
			_, err := v.Houses[0].node.Admin().Revoke(ctx, api.RevokeRequest{Link: link})
			ok(err)
			p.note(func(so *progress) { so.revoked = append(so.revoked, link) })
		}
	}
	for i, h := range v.Houses {
		p.cfgs = append(p.cfgs, h.cfg)
		ok(v.Stop(i)) // its steps count, too
	}
}

// lookAtAll looks at all moments, some at a time: a start is mostly waiting. It says how often a folder was unfinished.
func (p *powerCuts) lookAtAll() int {
	together := 8
	if p.houses > 1 {
		together = 1 // those have to listen where the other node knows them
	}
	room := make(chan struct{}, together)
	var all sync.WaitGroup
	var unfinished atomic.Int64
	for i := range p.moments {
		room <- struct{}{}
		all.Go(func() {
			defer func() { <-room }()
			if p.look(p.moments[i]) {
				unfinished.Add(1)
			}
			p.moments[i] = moment{} // the disks are garbage now
		})
	}
	all.Wait()
	return int(unfinished.Load())
}

// look starts what the disks held at a moment. It says whether a folder was unfinished.
func (p *powerCuts) look(m moment) (unfinished bool) {
	t := p.t
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	v := p.empty(ctx)
	defer v.Close()
	for i, disk := range m.disks {
		h, err := v.house(i, p.cfgs[i].Site)
		if err != nil {
			t.Fatal(err)
		}
		if c := p.cfgs[i]; len(m.disks) > 1 {
			c.Seams = h.cfg.Seams
			h.cfg = c
		} else {
			h.cfg.Public = c.Public
		}
		h.disk = disk
		h.cfg.Seams.FS = &troubledFS{FS: disk, t: &h.trouble}
		v.Houses = append(v.Houses, h)
	}
	unfinished, err := p.start(ctx, v, m)
	if err == nil {
		err = p.check(ctx, v, m)
	}
	if err != nil {
		t.Errorf("the power is cut %s: %v", m.when, err)
	}
	return unfinished
}

func finished(h *House) bool {
	_, err := h.disk.Stat(path.Join(h.cfg.Dir, "cluster.json"))
	return err == nil
}

func (p *powerCuts) start(ctx context.Context, v *Village, m moment) (unfinished bool, err error) {
	first := v.Houses[0]
	if !finished(first) {
		if m.so.founded {
			return true, errors.New("init was done, and its folder is not finished")
		}
		err := node.Init(ctx, first.cfg)
		if errors.Is(err, replication.ErrNoQuorum) || errors.Is(err, replication.ErrUnknown) {
			err = node.Init(ctx, first.cfg) // a busy machine: it says so in time, and may be run again
		}
		if err != nil {
			return true, fmt.Errorf("init again: %w", err)
		}
		unfinished = true
	}
	if len(v.Houses) == 1 {
		return unfinished, v.start(ctx, first)
	}
	second := v.Houses[1]
	if finished(second) { // together: neither has a majority alone
		var wg sync.WaitGroup
		var errs [2]error
		for i, h := range v.Houses {
			wg.Go(func() { errs[i] = v.start(ctx, h) })
		}
		wg.Wait()
		return false, errors.Join(errs[:]...)
	}
	if m.so.joined {
		return true, errors.New("the join was done, and its folder is not finished")
	}
	if err := v.start(ctx, first); err != nil {
		return true, err
	}
	if second.cfg, err = node.Join(ctx, second.cfg, m.so.ticket); err != nil {
		return true, fmt.Errorf("join again: %w", err)
	}
	return true, v.start(ctx, second)
}

func (p *powerCuts) check(ctx context.Context, v *Village, m moment) error {
	if err := v.Settled(ctx); err != nil {
		return err
	}
	if m.so.account {
		if _, err := v.Houses[0].node.Admin().Files(ctx, api.FilesRequest{Account: "sender@example.org"}); err != nil {
			return err
		}
	}
	v.acks = m.so.kept
	if err := v.verifyLedgers(ctx); err != nil {
		return err
	}
	if err := v.verifyFiles(ctx); err != nil {
		return err
	}
	for _, link := range m.so.revoked {
		for i, h := range v.Houses {
			resp, data, err := v.Fetch(ctx, i, link, nil)
			if err != nil || resp.StatusCode != http.StatusForbidden {
				return fmt.Errorf("a revoked link through %s: %v, %v, %d bytes", h.Name, resp, err, len(bytes.TrimSpace(data)))
			}
		}
	}
	return nil
}
