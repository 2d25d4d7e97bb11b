package testnet

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/valise-mail/valise/node"
)

// Chaos: several persons send, store, change, fetch, revoke and delete through any node while faults come
// and go. In the end everything is healed and every promise that was made meanwhile is looked at.
//
// VALISE_CHAOS=30m runs as long, in rounds with a village each; VALISE_CHAOS_SEED=N starts with that seed.

const (
	chaosRound = time.Minute // a long run's village is replaced that often
	chaosShort = 10 * time.Second
	deedTime   = 60 * time.Second // longer than any answer of ours takes
	keptFiles  = 10               // a person who has more deletes one
)

func TestChaos(t *testing.T) {
	t.Parallel()
	seed, long := rand.Uint64()>>1, time.Duration(0)
	if text := os.Getenv("VALISE_CHAOS"); text != "" {
		var err error
		if long, err = time.ParseDuration(text); err != nil {
			t.Fatalf("VALISE_CHAOS: %v", err)
		}
	}
	seeded := os.Getenv("VALISE_CHAOS_SEED")
	if seeded != "" {
		var err error
		if seed, err = strconv.ParseUint(seeded, 10, 64); err != nil {
			t.Fatalf("VALISE_CHAOS_SEED: %v", err)
		}
	}
	if long == 0 {
		seeds := []uint64{1, 2, seed}
		if seeded != "" {
			seeds = seeds[2:]
		}
		for _, seed := range seeds {
			t.Run(fmt.Sprint(seed), func(t *testing.T) {
				t.Parallel()
				chaosVillage(t, seed, chaosShort)
			})
		}
		return
	}
	if os.Getenv(chaosChild) != "" {
		chaosVillage(t, seed, long)
		return
	}
	for end := time.Now().Add(long); time.Until(end) > 0 && !t.Failed(); seed++ {
		chaosProcess(t, seed, min(chaosRound, time.Until(end)))
	}
}

// chaosChild is set in a round's own process.
const chaosChild = "VALISE_CHAOS_CHILD"

var chaosLine = regexp.MustCompile(`chaos: seed .*`)

// chaosProcess runs one round of a long run in a process of its own: what failed disks leave parked ends with it.
func chaosProcess(t *testing.T, seed uint64, lasts time.Duration) {
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestChaos$", "-test.v", "-test.timeout=10m")
	cmd.Env = append(os.Environ(), chaosChild+"=1", "VALISE_CHAOS="+lasts.String(), fmt.Sprintf("VALISE_CHAOS_SEED=%d", seed))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("seed %d: %v\n%s", seed, err, out)
	}
	t.Logf("%s", chaosLine.Find(out))
}

// chaosVillage lives through one seed's faults for a while and looks at what is left.
func chaosVillage(t *testing.T, seed uint64, lasts time.Duration) {
	v, ctx := village(t, Config{Sites: threeAtTwo, Wires: true, Adjust: func(_ int, c *node.Config) {
		c.Copies.Ack, c.Store.Reserve = 2, 1<<20
		c.Store.CollectEvery = node.Duration(3 * time.Second)
		if seed%2 == 0 {
			c.Copies.Wanted = 2
		}
	}})
	c := newChaos(t, v, seed)
	for i := range 4 {
		c.persons = append(c.persons, &actor{Person: person(t, ctx, v, fmt.Sprintf("person%d@example.org", i)), n: i, next: deeds(seed, uint64(i), len(v.Houses))})
	}
	c.live(ctx, lasts)
	if c.heal(ctx) {
		c.judge(ctx)
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		if err := v.Verify(ctx); err != nil {
			c.wrong("in the end: %v", err)
		}
	}
	c.report(lasts)
}

type chaos struct {
	t       *testing.T
	v       *Village
	seed    uint64
	persons []*actor
	inbox   inbox
	busy    []sync.Mutex // one a house: held while a fault is at work on it

	mu     sync.Mutex // guards the fields below
	count  map[string]int
	wrongs []string
	cuts   map[int][]int // houses cut off together, by fault
}

func newChaos(t *testing.T, v *Village, seed uint64) *chaos {
	return &chaos{t: t, v: v, seed: seed, inbox: inbox{v: v, link: map[string]string{}, times: map[string]int{}}, busy: make([]sync.Mutex, len(v.Houses)), count: map[string]int{}, cuts: map[int][]int{}}
}

func (c *chaos) counted(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.count[what]++
}

// wrong notes a broken promise.
func (c *chaos) wrong(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.wrongs = append(c.wrongs, text); len(c.wrongs) < 20 {
		c.t.Errorf("seed %d: %s", c.seed, text)
	}
}

func (c *chaos) report(lasts time.Duration) {
	var all []string
	for _, k := range slices.Sorted(maps.Keys(c.count)) {
		all = append(all, fmt.Sprintf("%s %d", k, c.count[k]))
	}
	c.t.Logf("chaos: seed %d, %s: %s", c.seed, lasts.Round(time.Second), strings.Join(all, ", "))
}

// live has the persons and the faults do their worst, and returns when all have ended.
func (c *chaos) live(ctx context.Context, lasts time.Duration) {
	until, cancel := context.WithTimeout(ctx, lasts)
	defer cancel()
	var all sync.WaitGroup
	for _, a := range c.persons {
		all.Go(func() {
			for until.Err() == nil {
				c.act(ctx, a, a.next())
			}
		})
	}
	all.Go(func() { c.trouble(ctx, until) })
	all.Wait()
}

// pause waits, or says that ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}
