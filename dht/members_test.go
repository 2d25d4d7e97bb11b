package dht

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/google/go-cmp/cmp"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
)

func number(r *Road) func() uint64 { return func() uint64 { return r.Peers().Number } }

// A node that missed news learns it as soon as it has a connection, whichever
// side opens it, on either side of the news.
func TestR3_NewsTravelsOnConnect(t *testing.T) {
	t.Parallel()
	for name, dialler := range map[string]int{"the one behind dials": 0, "the one ahead dials": 1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOrg(t)
			roads := o.members(2)
			o.publish(roads[1])
			from, to := roads[dialler], roads[1-dialler]
			s, err := from.Bulk().Dial(within(t), to.Self(), membersProtocol)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Reset()
			until(t, "both have list 2", func() bool { return number(roads[0])() == 2 && number(roads[1])() == 2 })
		})
	}
}

// News that was missed on an open connection is found now and then.
func TestR3_MissedNewsIsAskedFor(t *testing.T) {
	t.Parallel()
	o := newOrg(t)
	roads := o.members(2)
	s, err := roads[0].Bulk().Dial(within(t), roads[1].Self(), membersProtocol)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Reset()
	for _, r := range roads { // the exchanges that come with a new connection are over
		until(t, "nobody is asked", func() bool {
			r.askingMu.Lock()
			defer r.askingMu.Unlock()
			return len(r.listMates()) == 1 && len(r.asking) == 0
		})
	}
	signed := o.sign()
	roads[1].force.Store(&inForce{list: o.list, signed: signed, stored: true}) // and nobody is told
	roads[0].working.Go(func() { roads[0].housekeeping(time.Hour, 10*time.Millisecond) })
	until(t, "it has list 2", func() bool { return number(roads[0])() == 2 })
}

// A blocks-only node that claims ever newer lists, and never hands one over,
// has one exchange at a time: news of the others comes through beside it.
func TestR3_NewsComesPastAPeerThatHangs(t *testing.T) {
	t.Parallel()
	o := newOrg(t)
	roads := o.members(2)
	hangs := o.open()
	o.add(peerOf(hangs, BlocksOnly, ""))
	o.publish(append(roads, hangs)...)
	var held atomic.Int64
	hangs.Bulk().Handle(membersProtocol, listReaders, func(s network.Stream) {
		held.Add(1)
		defer held.Add(-1)
		io.Copy(io.Discard, s)
	})
	roads[0].exchangeWithin = patience
	claims := make(chan struct{})
	go func() {
		defer close(claims)
		for range 4 * pullWorkers {
			s, err := hangs.Bulk().Dial(within(t), roads[0].Self(), membersProtocol)
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := askMembers(s, 1<<40); err != nil {
				t.Error(err)
			}
			s.Close()
		}
	}()
	<-claims
	until(t, "it is asked", func() bool { return held.Load() > 0 })
	o.publish(roads[1])
	if err := roads[1].exchange(within(t), roads[0].Self()); err != nil {
		t.Fatal(err)
	}
	until(t, "the news is there", func() bool { return number(roads[0])() == o.list.Number })
	if got := held.Load(); got > 1 {
		t.Errorf("%d exchanges with it at a time", got)
	}
}

// News that comes while an exchange with a peer is under way is not lost on it.
func TestR3_NewsDuringAnExchangeIsTold(t *testing.T) {
	t.Parallel()
	r := &Road{asks: make(chan peer.ID, 1), asking: make(map[peer.ID]bool)}
	r.ask("a")
	r.ask("b") // no room: the periodic exchange makes up for it
	if got := <-r.asks; got != "a" {
		t.Fatal(got)
	}
	r.ask("a") // while the first is under way
	r.ask("a")
	if len(r.asks) != 0 {
		t.Error("a second exchange is queued beside the first")
	}
	r.asked("a")
	if len(r.asks) != 1 || <-r.asks != "a" {
		t.Error("the news is lost")
	}
	r.asked("a")
	if len(r.asks) != 0 || len(r.asking) != 0 {
		t.Errorf("left over: %d queued, %v", len(r.asks), r.asking)
	}
}

// A list that comes into force at one node reaches those connected to it.
func TestR3_NewsTravelsOverOpenConnections(t *testing.T) {
	t.Parallel()
	o := newOrg(t)
	roads := o.members(3)
	blocks := o.open()
	o.add(peerOf(blocks, BlocksOnly, ""))
	o.publish(append(roads, blocks)...)
	for _, r := range append(roads[1:], blocks) {
		if err := r.exchange(within(t), roads[0].Self()); err != nil {
			t.Fatal(err)
		}
	}
	o.publish(roads[0])
	for _, r := range append(roads[1:], blocks) {
		until(t, "the newest list is everywhere", func() bool { return number(r)() == o.list.Number })
	}
}

func TestR3_PullNewestFromAnyMember(t *testing.T) {
	t.Parallel()
	o := newOrg(t)
	roads := o.members(4)
	behind, ahead, down := roads[0], roads[2], roads[3]
	if err := down.Close(); err != nil {
		t.Fatal(err)
	}
	o.publish(ahead)
	if err := behind.Pull(within(t)); err != nil {
		t.Fatal(err)
	}
	if got, want := behind.Peers().Number, ahead.Peers().Number; got != want {
		t.Errorf("got list %d, want %d", got, want)
	}
	if err := behind.Pull(within(t)); err != nil {
		t.Errorf("nothing newer: %v", err)
	}
}

func TestR3_PullWithNobody(t *testing.T) {
	t.Parallel()
	o := newOrg(t)
	roads := o.members(2)
	alone := newOrg(t).members(1)[0]
	if err := alone.Pull(within(t)); err != nil {
		t.Errorf("a cluster of one: %v", err)
	}
	if err := roads[1].Close(); err != nil {
		t.Fatal(err)
	}
	err := roads[0].Pull(within(t))
	if !errors.Is(err, ErrNobody) || hintOf(err) == "" {
		t.Errorf("got %v, want ErrNobody and a hint", err)
	}
	// Whoever waits no longer learns what is known by then, too.
	away := newOrg(t)
	cut := away.open(func(c *Config) { c.Reach = func(peer.ID) bool { return false } })
	away.add(peerOf(cut, Member, ""), Peer{ID: fixedID(t, 1), Class: Member})
	away.publish(cut)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err = cut.Pull(ctx)
	for _, want := range []error{ErrNobody, ErrNotAdmitted, context.Canceled} {
		if !errors.Is(err, want) || hintOf(err) == "" {
			t.Errorf("got %v, want %v and a hint", err, want)
		}
	}
}

// Pull ends with its context, whatever a member that never answers does.
func TestR3_PullEndsWithItsContext(t *testing.T) {
	t.Parallel()
	o := newOrg(t)
	roads := o.members(2)
	ctx, cancel := context.WithCancel(t.Context())
	roads[1].Bulk().Handle(membersProtocol, Member, func(s network.Stream) {
		cancel()
		io.Copy(io.Discard, s)
	})
	start := time.Now()
	if err := roads[0].Pull(ctx); !errors.Is(err, ErrNobody) || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want ErrNobody and context.Canceled", err)
	}
	if took := time.Since(start); took > membersTimeout {
		t.Errorf("took %v", took)
	}
}

// Once one has answered, the others get a second more and no longer.
func TestR3_PullDoesNotWaitForTheSlowest(t *testing.T) {
	t.Parallel()
	o := newOrg(t)
	roads := o.members(3)
	roads[0].exchangeWithin = patience
	roads[2].Bulk().Handle(membersProtocol, Member, func(s network.Stream) { io.Copy(io.Discard, s) })
	o.publish(roads[1])
	start := time.Now()
	if err := roads[0].Pull(within(t)); err != nil {
		t.Error(err)
	}
	if took := time.Since(start); took > patience/2 || number(roads[0])() != 2 {
		t.Errorf("list %d after %v", number(roads[0])(), took)
	}
}

// Who asks for the list and does not say which it has is let go.
func TestR3_SilentAskerIsLetGo(t *testing.T) {
	t.Parallel()
	roads := newOrg(t).members(2)
	roads[1].exchangeWithin = 100 * time.Millisecond
	s, err := roads[0].Bulk().Dial(within(t), roads[1].Self(), membersProtocol)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Reset()
	s.SetDeadline(time.Now().Add(patience))
	if _, err := io.Copy(io.Discard, s); err == nil || isTimeout(err) {
		t.Errorf("got %v, want the stream reset", err)
	}
}

// A member that answers nonsense, or never, does no harm.
func TestR3_PullFromABadMember(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]func(network.Stream){
		"garbage": func(s network.Stream) { s.Write(bytes.Repeat([]byte{0xff}, 100)); s.Close() },
		"too long": func(s network.Stream) {
			s.Write(binary.BigEndian.AppendUint32(make([]byte, 8), maxList+1))
			s.Close()
		},
		"unsigned": func(s network.Stream) {
			s.Write(append(binary.BigEndian.AppendUint32(make([]byte, 8), 3), "abc"...))
			s.Close()
		},
		"ends":  func(s network.Stream) { s.Close() },
		"never": func(s network.Stream) { io.Copy(io.Discard, s) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOrg(t)
			roads := o.members(2)
			roads[0].exchangeWithin = time.Second
			roads[1].Bulk().Handle(membersProtocol, Member, answer)
			if err := roads[0].Pull(within(t)); !errors.Is(err, ErrNobody) {
				t.Errorf("got %v, want ErrNobody", err)
			}
			if got := roads[0].Peers().Number; got != 1 {
				t.Errorf("list %d is in force", got)
			}
		})
	}
}

// A list that this version cannot read is no passing trouble: the operator
// hears of it, or this node admits by an old list for good.
func TestR3_NewerFormatIsSaid(t *testing.T) {
	t.Parallel()
	o := newOrg(t)
	var errs atomic.Int64
	loud := slog.New(atLevel{slog.LevelError, func(r slog.Record) { errs.Add(1) }})
	behind, ahead := o.open(func(c *Config) { c.Logger = loud }), o.open()
	o.add(peerOf(behind, Member, ""), peerOf(ahead, Member, ""))
	o.publish(behind, ahead)
	newer := resign(t, o.key, listVersion+1, map[int]any{})
	ahead.force.Store(&inForce{list: List{Number: 2}, signed: newer, stored: true})
	behind.ask(ahead.Self())
	until(t, "it is logged as an error", func() bool { return errs.Load() > 0 })
}

// atLevel hands on what is logged at a level and above.
type atLevel struct {
	slog.Level
	tell func(slog.Record)
}

func (h atLevel) Enabled(_ context.Context, l slog.Level) bool  { return l >= h.Level }
func (h atLevel) Handle(_ context.Context, r slog.Record) error { h.tell(r); return nil }
func (h atLevel) WithAttrs([]slog.Attr) slog.Handler            { return h }
func (h atLevel) WithGroup(string) slog.Handler                 { return h }

// What a peer says of the length is not believed before it is checked.
func TestR3_AnswerIsBounded(t *testing.T) {
	t.Parallel()
	for length, want := range map[uint32]error{maxList + 1: ErrBadList, 1<<32 - 1: ErrBadList, 9: io.ErrUnexpectedEOF} {
		answer := append(binary.BigEndian.AppendUint32(make([]byte, 8), length), "abc"...)
		_, err := askMembers(struct {
			io.Reader
			io.Writer
		}{bytes.NewReader(answer), io.Discard}, 7)
		if !errors.Is(err, want) {
			t.Errorf("length %d: got %v, want %v", length, err, want)
		}
	}
}

func FuzzAskMembers(f *testing.F) {
	f.Add(binary.BigEndian.AppendUint32(make([]byte, 8), 0))
	f.Add(append(binary.BigEndian.AppendUint32(make([]byte, 8), 3), "abc"...))
	f.Fuzz(func(t *testing.T, answer []byte) {
		signed, err := askMembers(struct {
			io.Reader
			io.Writer
		}{bytes.NewReader(answer), io.Discard}, 7)
		if err == nil && len(signed)+12 > max(len(answer), 12) {
			t.Errorf("%d bytes out of %d", len(signed), len(answer))
		}
	})
}

func TestR3_PublishRefusesAndIgnores(t *testing.T) {
	t.Parallel()
	o := newOrg(t)
	r := o.members(1)[0]
	old := r.Signed()
	o.publish(r)
	now := r.Peers()
	foreign := newOrg(t)
	foreign.add(peerOf(r, Member, ""))
	forged := newOrg(t)
	forged.list = o.list
	forgedList := bytes.Replace(foreign.sign(), []byte(foreign.list.ClusterID), []byte(o.list.ClusterID), 1)
	for name, row := range map[string]struct {
		signed []byte
		want   error
	}{
		"older":           {old, nil},
		"equal":           {r.Signed(), nil},
		"another cluster": {foreign.sign(), ErrForeign},
		"forged":          {forgedList, ErrBadList},
		"empty":           {nil, ErrBadList},
	} {
		if err := r.Publish(row.signed); !errors.Is(err, row.want) {
			t.Errorf("%s: got %v, want %v", name, err, row.want)
		}
		if diff := cmp.Diff(now, r.Peers(), cmp.Comparer(multiaddr.Multiaddr.Equal)); diff != "" {
			t.Errorf("%s: the list in force has changed: %s", name, diff)
		}
	}
}

// Two lists under one number: the first stays, and somebody must look into it.
func TestR3_TwoListsWithOneNumber(t *testing.T) {
	t.Parallel()
	o := newOrg(t)
	var errs atomic.Int64
	r := o.open(func(c *Config) { c.Logger = slog.New(atLevel{slog.LevelError, func(slog.Record) { errs.Add(1) }}) })
	o.add(peerOf(r, Member, ""))
	o.publish(r)
	first := r.Signed()
	if err := r.Publish(first); err != nil || errs.Load() != 0 {
		t.Errorf("the same list again: %v, %d errors logged", err, errs.Load())
	}
	o.add(Peer{ID: fixedID(t, 1), Class: Member})
	o.list.Number--
	if err := r.Publish(o.sign()); err != nil || errs.Load() != 1 {
		t.Errorf("another list: %v, %d errors logged, want 1", err, errs.Load())
	}
	if !bytes.Equal(r.Signed(), first) || r.gate.class(fixedID(t, 1)) != 0 {
		t.Error("the second list is in force")
	}
}

// After Publish has returned, a crash that drops unsynced writes leaves the
// new list; one at any moment before leaves the old one or the new one, whole.
func TestR3_StoredListSurvivesACrash(t *testing.T) {
	t.Parallel()
	o := newOrg(t)
	fs := vfs.NewCrashableMem()
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	r := o.open(func(c *Config) { c.FS, c.Dir, c.Key = fs, "var/lib/road", key })
	o.add(peerOf(r, Member, ""))
	o.publish(r)
	for range 5 {
		o.publish(r)
		image := fs.CrashClone(vfs.CrashCloneCfg{})
		again := o.open(func(c *Config) { c.FS, c.Dir, c.Key = image, "var/lib/road", key })
		if diff := cmp.Diff(r.Peers(), again.Peers(), cmp.Comparer(multiaddr.Multiaddr.Equal)); diff != "" {
			t.Fatal(diff)
		}
		if got := again.Status(); !got.Stored || got.Removed {
			t.Errorf("status %+v", got)
		}
	}
}

func TestR3_CrashAtEveryStepOfStoring(t *testing.T) {
	t.Parallel()
	o := newOrg(t)
	first, second := o.sign(), o.sign()
	for step := range 20 {
		mem := vfs.NewCrashableMem()
		if err := errors.Join(makeDir(mem, "d"), writeList(mem, "d", first)); err != nil {
			t.Fatal(err)
		}
		var n atomic.Int64
		var image *vfs.MemFS
		hook := errorfs.InjectorFunc(func(errorfs.Op) error {
			if n.Add(1) == int64(step+1) {
				image = mem.CrashClone(vfs.CrashCloneCfg{})
			}
			return nil
		})
		if err := writeList(errorfs.Wrap(mem, hook), "d", second); err != nil {
			t.Fatal(err)
		}
		if image == nil {
			if step < 5 {
				t.Fatalf("only %d steps were seen", step)
			}
			return
		}
		got, err := readList(image, "d")
		if err != nil || !bytes.Equal(got, first) && !bytes.Equal(got, second) {
			t.Errorf("crash at step %d: %d bytes, %v", step, len(got), err)
		}
	}
	t.Error("storing takes more steps than expected")
}

// When the disk fails, the gate follows the new list all the same, the error
// says so, and the same list can be stored later.
func TestR3_DiskFullStillShutsOut(t *testing.T) {
	t.Parallel()
	var broken atomic.Bool
	full := errors.New("disk full")
	mem := vfs.NewMem()
	fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if broken.Load() && op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
			return full
		}
		return nil
	}))
	o := newOrg(t)
	r := o.open(func(c *Config) { c.FS = fs })
	guest := o.open()
	o.add(peerOf(r, Member, ""), peerOf(guest, Member, ""))
	o.publish(r, guest)
	o.drop(guest.Self())
	broken.Store(true)
	signed := o.sign()
	if err := r.Publish(signed); !errors.Is(err, full) || !errors.Is(err, errNotStored) {
		t.Errorf("got %v, want disk full", err)
	}
	if r.gate.class(guest.Self()) != 0 || r.Peers().Number != 2 || r.Status().Stored {
		t.Error("the list is not in force, or counts as stored")
	}
	broken.Store(false)
	if err := r.Publish(signed); err != nil || !r.Status().Stored {
		t.Errorf("storing later: %v", err)
	}
	if got, err := readList(mem, "road"); err != nil || !bytes.Equal(got, signed) {
		t.Errorf("stored %d bytes, %v", len(got), err)
	}
}

func TestR3_OpenWithADamagedOrForeignList(t *testing.T) {
	t.Parallel()
	o, foreign := newOrg(t), newOrg(t)
	good := o.sign()
	for name, row := range map[string]struct {
		stored []byte
		want   error
	}{
		"damaged":   {append(bytes.Clone(good[:20]), 1, 2, 3), ErrBadList},
		"empty":     {[]byte{}, ErrBadList},
		"foreign":   {foreign.sign(), ErrForeign},
		"too large": {make([]byte, maxList+5), ErrBadList},
	} {
		fs := vfs.NewMem()
		if err := errors.Join(makeDir(fs, "d"), writeList(fs, "d", row.stored)); err != nil {
			t.Fatal(err)
		}
		key, err := NewKey()
		if err != nil {
			t.Fatal(err)
		}
		r, err := Open(t.Context(), Config{Key: key, OrgKey: o.public(), FS: fs, Dir: "d"})
		if !errors.Is(err, row.want) || hintOf(err) == "" {
			t.Errorf("%s: got %v, want %v and a hint", name, err, row.want)
		}
		if r != nil {
			r.Close()
		}
	}
}

// A node that was removed while it was down finds its gate closed.
func TestR3_RemovedNodeStartsClosed(t *testing.T) {
	t.Parallel()
	o := newOrg(t)
	fs := vfs.NewMem()
	o.add(Peer{ID: fixedID(t, 1), Class: Member})
	if err := errors.Join(makeDir(fs, "road"), writeList(fs, "road", o.sign())); err != nil {
		t.Fatal(err)
	}
	r := o.open(func(c *Config) { c.FS = fs })
	select {
	case <-r.Removed():
	default:
		t.Error("Removed is not closed")
	}
	if r.gate.class(fixedID(t, 1)) != 0 {
		t.Error("the gate is open")
	}
}

// Addresses follow the list: a member that moves is found at its new place,
// and the old addresses are forgotten.
func TestR3_AddressesFollowTheList(t *testing.T) {
	t.Parallel()
	o := newOrg(t)
	a, b := o.open(), o.open()
	stale := peerOf(b, Member, "")
	stale.Bulk, stale.Ledger = addrs("/ip4/127.0.0.1/tcp/1"), addrs("/ip4/127.0.0.1/tcp/1")
	o.add(peerOf(a, Member, ""), stale)
	o.publish(a, b)
	for _, l := range []*Lane{a.Bulk(), a.Ledger()} {
		if _, err := l.Dial(within(t), b.Self(), "echo/1"); err == nil {
			t.Fatal("dialled an address where nobody is")
		}
	}
	o.add(peerOf(b, Member, ""))
	o.publish(a, b)
	b.Bulk().Handle("echo/1", Member, echo)
	b.Ledger().Handle("echo/1", Member, echo)
	for l, want := range map[*Lane]*Lane{a.Bulk(): b.Bulk(), a.Ledger(): b.Ledger()} {
		s, err := l.Dial(within(t), b.Self(), "echo/1") // at once: the pause after the failure is lifted
		if err != nil {
			t.Error(err)
			continue
		}
		s.Reset()
		if diff := cmp.Diff(want.Addrs(), l.Host().Peerstore().Addrs(b.Self()), cmp.Comparer(multiaddr.Multiaddr.Equal)); diff != "" {
			t.Error(diff)
		}
	}
}

// A peer that did not answer is dialled again after a second at most, however
// long libp2p would leave it alone.
func TestDialForgives(t *testing.T) {
	t.Parallel()
	roads := newOrg(t).members(2)
	for _, lane := range []func(*Road) *Lane{(*Road).Bulk, (*Road).Ledger} {
		from, to := lane(roads[0]), lane(roads[1])
		to.Handle("echo/1", Member, echo)
		for range 10 {
			from.host.net.Backoff().AddBackoff(roads[1].Self(), to.Addrs()[0])
		}
		if _, err := from.Host().Network().DialPeer(within(t), roads[1].Self()); err == nil {
			t.Fatal("libp2p does not pause: this test shows nothing")
		}
		s, err := from.Dial(within(t), roads[1].Self(), "echo/1")
		if err != nil {
			t.Error(err)
			continue
		}
		s.Reset()
	}
}

func TestConfigValidate(t *testing.T) {
	t.Parallel()
	o := newOrg(t)
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Config){
		"no key":        func(c *Config) { c.Key = nil },
		"no org":        func(c *Config) { c.OrgKey = nil },
		"other cluster": func(c *Config) { c.ClusterID = "abc" },
		"no dir":        func(c *Config) { c.Dir = "" },
		"negative":      func(c *Config) { c.BulkMemory = -1 },
		"port taken": func(c *Config) {
			c.BulkListen = o.open().Bulk().Addrs()
		},
		"not an address of ours": func(c *Config) { c.LedgerListen = addrs("/ip4/192.0.2.77/tcp/0") },
	} {
		c := Config{Key: key, OrgKey: o.public(), Dir: t.TempDir(), FS: vfs.Default, Reach: func(peer.ID) bool { return true }}
		change(&c)
		if r, err := Open(t.Context(), c); err == nil {
			r.Close()
			t.Errorf("%s: opened", name)
		}
	}
	if _, err := os.Stat("testdata"); err != nil {
		t.Error(err)
	}
}

func TestDeadlineAndIdle(t *testing.T) {
	t.Parallel()
	o := newOrg(t)
	roads := o.members(2)
	silent := make(chan struct{})
	roads[1].Bulk().Handle("silent/1", Member, func(s network.Stream) { <-silent; s.Reset() })
	roads[1].Bulk().Handle("echo/1", Member, echo)
	defer close(silent)
	dial := func(name string) network.Stream {
		s, err := roads[0].Bulk().Dial(within(t), roads[1].Self(), name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Reset() })
		return s
	}
	read := func(s network.Stream) error { _, err := s.Read(make([]byte, 1)); return err }

	s := dial("silent/1")
	Deadline(t.Context(), s, 10*time.Millisecond)
	if err := read(s); !isTimeout(err) {
		t.Errorf("Deadline: got %v, want a time-out", err)
	}
	s = dial("silent/1")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	Deadline(ctx, s, time.Hour)
	if err := read(s); err == nil {
		t.Error("a stream outlived its context")
	}
	s = dial("silent/1")
	if err := read(Idle(s, 10*time.Millisecond)); !isTimeout(err) {
		t.Errorf("Idle: got %v, want a time-out", err)
	}
	s = dial("echo/1")
	ctx, cancel = context.WithCancel(t.Context())
	Deadline(ctx, s, time.Hour)()
	cancel()
	if err := ping(s); err != nil {
		t.Errorf("a stream whose deadline was taken back: %v", err)
	}
}

func isTimeout(err error) bool {
	ne, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](err)
	return ok && ne.Timeout()
}
