package copies

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"io"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	carv2 "github.com/ipld/go-car/v2"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	mh "github.com/multiformats/go-multihash"
)

func carOf(t testing.TB, list []blocks.Block) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := bufio.NewWriter(&buf)
	_, _ = w.WriteString(carHeader)
	for _, b := range list {
		if err := writeSection(w, b); err != nil {
			t.Fatal(err)
		}
	}
	_ = w.Flush()
	return buf.Bytes()
}

// What goes over the wire between the marks is a CAR file as others read it.
func TestP4_StreamIsACAR(t *testing.T) {
	t.Parallel()
	f := newFile(3, 1000)
	r, err := carv2.NewBlockReader(bytes.NewReader(append(carOf(t, f.blocks), 0)), carv2.ZeroLengthSectionAsEOF(true))
	if err != nil {
		t.Fatal(err)
	}
	var got []cid.Cid
	for {
		b, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, b.Cid())
	}
	if r.Version != 1 || !slices.Equal(got, f.cids()) {
		t.Errorf("version %d, blocks %v", r.Version, got)
	}
}

func TestP4_WireFormat(t *testing.T) {
	t.Parallel()
	var buf bytes.Buffer
	w := bufio.NewWriter(&buf)
	b := blockOf([]byte("a block"), cid.Raw)
	if err := writeWants(w, []cid.Cid{b.Cid(), testRoot(1)}); err != nil {
		t.Fatal(err)
	}
	_, _ = w.WriteString(carHeader)
	_ = writeSection(w, b)
	_ = w.WriteByte(0)
	if err := writeStatus(w, status{code: codeNotFound, store: [16]byte{1, 2}, reason: "gone"}); err != nil {
		t.Fatal(err)
	}
	golden(t, "fetch.v1", buf.Bytes())
	r := bufio.NewReader(&buf)
	want, err := readWants(r)
	if err != nil || !slices.Equal(want, []cid.Cid{b.Cid(), testRoot(1)}) {
		t.Fatal(want, err)
	}
	if err := readHeader(r); err != nil {
		t.Fatal(err)
	}
	if id, data, err := readSection(r, unreserved); err != nil || id != b.Cid() || string(data) != "a block" {
		t.Fatal(id, data, err)
	}
	if _, _, err := readSection(r, unreserved); !errors.Is(err, errEnd) {
		t.Fatal(err)
	}
	s, err := readStatus(r)
	if err != nil || s.reason != "gone" || !errors.Is(s.err(), ErrNotFound) || errors.Is(s.err(), ErrNoSpace) {
		t.Fatal(s, err)
	}
}

func TestT7_Verify(t *testing.T) {
	t.Parallel()
	data := []byte("some bytes")
	good := blockOf(data, cid.Raw).Cid()
	sum := sha512.Sum512(data)
	long, err := mh.Encode(sum[:], mh.SHA2_512)
	if err != nil {
		t.Fatal(err)
	}
	short, err := mh.Encode(good.Hash()[2:22], mh.SHA2_256)
	if err != nil {
		t.Fatal(err)
	}
	identity, err := mh.Encode(data, mh.IDENTITY)
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		id   cid.Cid
		data []byte
		ok   bool
	}{
		"right":              {good, data, true},
		"one bit":            {good, []byte("some bytez"), false},
		"nothing":            {good, nil, false},
		"undefined":          {cid.Undef, data, false},
		"version 0":          {cid.NewCidV0(good.Hash()), data, false},
		"another hash":       {cid.NewCidV1(cid.Raw, long), data, false},
		"a truncated digest": {cid.NewCidV1(cid.Raw, short), data, false},
		"the bytes as hash":  {cid.NewCidV1(cid.Raw, identity), data, false},
	} {
		b, err := verify(tc.id, tc.data)
		if (err == nil) != tc.ok || tc.ok && b.Cid() != good || !tc.ok && !errors.Is(err, errHash) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestP4_SectionsAreBounded(t *testing.T) {
	t.Parallel()
	for name, data := range map[string][]byte{
		"longer than a block may be": binary.AppendUvarint(nil, maxSection+1),
		"longer than anything":       bytes.Repeat([]byte{0xff}, 12),
		"cut in its length":          {0x80},
		"cut in its CID":             {40, 1, 0x55},
		"no CID":                     append([]byte{5}, "block"...),
	} {
		if _, _, err := readSection(bufio.NewReader(bytes.NewReader(data)), unreserved); err == nil || errors.Is(err, errEnd) {
			t.Errorf("%s: %v", name, err)
		}
	}
	big := blockOf(make([]byte, maxBlock+1), cid.Raw)
	if err := writeSection(bufio.NewWriter(io.Discard), big); err == nil {
		t.Error("a block over the limit was written")
	}
	for name, data := range map[string][]byte{
		"no blocks":   {wireVersion, 0},
		"too many":    {wireVersion, maxWant + 1},
		"later":       {wireVersion + 1, 1},
		"cut":         {wireVersion},
		"a short CID": {wireVersion, 1, 2, 1, 0x55},
	} {
		if _, err := readWants(bufio.NewReader(bytes.NewReader(data))); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func FuzzWants(f *testing.F) {
	var buf bytes.Buffer
	_ = writeWants(bufio.NewWriter(&buf), newFile(3, 1).cids())
	f.Add(buf.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		want, err := readWants(bufio.NewReader(bytes.NewReader(data)))
		if err != nil {
			return
		}
		var again bytes.Buffer
		if err := writeWants(bufio.NewWriter(&again), want); err != nil || len(want) > maxWant {
			t.Fatal(len(want), err)
		}
		back, err := readWants(bufio.NewReader(&again))
		if err != nil || !slices.Equal(want, back) {
			t.Fatal(want, back, err)
		}
	})
}

// FuzzSections reads what a peer may send: blocks, the end, a status.
func FuzzSections(f *testing.F) {
	file := newFile(2, 40)
	var end bytes.Buffer
	w := bufio.NewWriter(&end)
	_ = w.WriteByte(0)
	_ = writeStatus(w, status{code: codeRefused, reason: "no"})
	f.Add(append(carOf(f, file.blocks), end.Bytes()...))
	f.Add([]byte(carHeader + "\xff\xff\xff\xff\x0f"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bufio.NewReader(bytes.NewReader(data))
		if readHeader(r) != nil {
			return
		}
		for {
			id, data, err := readSection(r, unreserved)
			if errors.Is(err, errEnd) {
				_, _ = readStatus(r)
				return
			}
			if err != nil {
				return
			}
			if b, err := verify(id, data); err == nil {
				if prefix := b.Cid().Prefix(); prefix.MhType != mh.SHA2_256 {
					t.Fatal(prefix)
				}
				if sum, err := b.Cid().Prefix().Sum(data); err != nil || sum != id {
					t.Fatal("a block that does not agree with its CID passed")
				}
			}
		}
	})
}

// rawPush opens the dialogue by hand.
func (p *testPeer) rawPush(t *testing.T, to *testPeer) *wire {
	t.Helper()
	s, err := p.lane.Dial(t.Context(), to.id(), pushProtocol)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Reset() })
	w := newWire(s, 30*time.Second, wordBuffer, wordBuffer)
	_ = w.w.WriteByte(wireVersion)
	_ = w.w.Flush()
	if st, err := readStatus(w.r); err != nil || st.code != codeOK || st.store != to.disk.ID() {
		t.Fatal(st, err)
	}
	return w
}

func lastWord(t *testing.T, w *wire) status {
	t.Helper()
	for {
		s, err := readStatus(w.r)
		if err != nil {
			t.Fatal(err)
		}
		if s.code != codeWorking {
			return s
		}
	}
}

// T7: only whole blocks that agree with their CIDs reach the disk, and nothing is acknowledged that
// breaks the protocol.
func TestT7_PushIsChecked(t *testing.T) {
	t.Parallel()
	good := newFile(2, 1000)
	bad, err := blocks.NewBlockWithCid([]byte("other bytes"), good.blocks[0].Cid())
	if err != nil {
		t.Fatal(err)
	}
	noManifest := blockOf([]byte("no manifest"), cid.DagCBOR)
	for name, tc := range map[string]struct {
		send func(w *bufio.Writer)
		want code
	}{
		"right": {func(w *bufio.Writer) {
			for _, b := range good.blocks {
				_ = writeSection(w, b)
			}
			_ = w.WriteByte(0)
			_ = writeCID(w, good.root)
		}, codeOK},
		"a corrupt block": {func(w *bufio.Writer) {
			_ = writeSection(w, bad)
			for _, b := range good.blocks {
				_ = writeSection(w, b)
			}
		}, codeRefused},
		"a root that was not sent": {func(w *bufio.Writer) {
			_ = writeSection(w, good.blocks[0])
			_ = w.WriteByte(0)
			_ = writeCID(w, good.root)
		}, codeRefused},
		"a root without a block under it": {func(w *bufio.Writer) {
			for _, b := range good.blocks[1:] {
				_ = writeSection(w, b)
			}
			_ = w.WriteByte(0)
			_ = writeCID(w, good.root)
		}, codeRefused},
		"a root that is no manifest": {func(w *bufio.Writer) {
			_ = writeSection(w, noManifest)
			_ = w.WriteByte(0)
			_ = writeCID(w, noManifest.Cid())
		}, codeRefused},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cl := newCluster(t, 2, "a", "b").start()
			w := cl.peers[0].rawPush(t, cl.peers[1])
			_, _ = w.w.WriteString(carHeader)
			tc.send(w.w)
			_ = w.w.Flush()
			got := lastWord(t, w)
			if got.code != tc.want || got.store != cl.peers[1].disk.ID() {
				t.Errorf("got %+v, want %d", got, tc.want)
			}
			if holds := cl.peers[1].disk.holds(good); holds != (tc.want == codeOK) {
				t.Errorf("kept: %t", holds)
			}
			if known := cl.peers[1].acked.has(good.root); known != (tc.want == codeOK) {
				t.Errorf("the keeper takes it for held: %t", known)
			}
		})
	}
	t.Run("half a block", func(t *testing.T) {
		t.Parallel()
		cl := newCluster(t, 2, "a", "b").start()
		added := make(chan cid.Cid, 10)
		cl.peers[1].disk.set(func(d *memDisk) { d.onAdd = func(b blocks.Block) { added <- b.Cid() } })
		w := cl.peers[0].rawPush(t, cl.peers[1])
		data := carOf(t, good.blocks[:2])
		_, _ = w.w.Write(data[:len(data)-10])
		_ = w.w.Flush()
		_ = w.s.CloseWrite()
		if _, err := readStatus(w.r); err == nil {
			t.Error("an answer to half a push")
		}
		eventually(t, "the push ends", func() bool { return cl.peers[1].pushes.Load() == 0 })
		if len(added) > 1 {
			t.Errorf("%d blocks added of one whole one", len(added))
		}
	})
}

// A peer says that it syncs, so that a slow disk is not taken for a dead node.
func TestP4_SlowSyncIsNoSilence(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, 2, "a", "b")
	cl.timing.beat, cl.timing.progress = 20*time.Millisecond, 2*time.Second
	cl.start()
	hang := make(chan struct{})
	cl.peers[1].disk.set(func(d *memDisk) { d.hang = hang })
	w := cl.peers[0].rawPush(t, cl.peers[1])
	f := newFile(1, 10)
	_, _ = w.w.Write(carOf(t, f.blocks))
	_ = w.w.WriteByte(0)
	_ = writeCID(w.w, f.root)
	_ = w.w.Flush()
	for range 3 {
		if s, err := readStatus(w.r); err != nil || s.code != codeWorking {
			t.Fatal(s, err)
		}
	}
	close(hang)
	if s := lastWord(t, w); s.code != codeOK {
		t.Error(s)
	}
}

// A stream on which nothing moves ends by itself.
func TestP4_StreamsWithoutProgressEnd(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, 2, "a", "b")
	cl.timing.progress = 100 * time.Millisecond
	cl.start()
	for name, begin := range map[string]func() *wire{
		"in the middle of a block": func() *wire {
			w := cl.peers[0].rawPush(t, cl.peers[1])
			_, _ = w.w.WriteString(carHeader + "\x40\x01")
			_ = w.w.Flush()
			return w
		},
		"before the request": func() *wire {
			s, err := cl.peers[0].lane.Dial(t.Context(), cl.peers[1].id(), fetchProtocol)
			if err != nil {
				t.Fatal(err)
			}
			w := newWire(s, time.Minute, wordBuffer, wordBuffer)
			_ = w.w.WriteByte(wireVersion)
			_ = w.w.Flush()
			return w
		},
	} {
		w := begin()
		eventually(t, name+": it ends", func() bool {
			for {
				s, err := readStatus(w.r)
				if err != nil {
					return true
				}
				if s.code != codeWorking {
					return false
				}
			}
		})
	}
	// A receiver that does not read ends the sender's stream.
	quit := make(chan struct{})
	defer close(quit)
	cl.peers[1].host.SetStreamHandler(testProtocol("deaf"), func(s network.Stream) { <-quit })
	s, err := cl.peers[0].lane.Dial(t.Context(), cl.peers[1].id(), "deaf")
	if err != nil {
		t.Fatal(err)
	}
	w := newWire(s, 100*time.Millisecond, wordBuffer, wordBuffer)
	piece := make([]byte, 1<<20)
	for range 1000 {
		if _, err = w.w.Write(piece); err != nil {
			break
		}
	}
	if err == nil {
		t.Error("a gigabyte went to nobody")
	}
	_ = s.Reset()
}

// One peer may not open streams without end.
func TestP4_StreamsOfAPeerAreBounded(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, 2, "a", "b").start()
	asks, busy := cl.peers[0], cl.peers[1]
	for range maxStreams {
		asks.rawPush(t, busy)
	}
	// One too many is refused in words, and the node is not taken for dead.
	if _, err := asks.openPush(t.Context(), busy.id()); !isBusy(err) {
		t.Errorf("a push: %v", err)
	}
	if _, err := asks.fetchFrom(t.Context(), busy.id(), newFile(3, 100).cids(), forReader, nil); !isBusy(err) {
		t.Errorf("a fetch: %v", err)
	}
	if asks.ranks.down(busy.id()) {
		t.Error("taken for dead")
	}
	u := &Upload{c: asks.Copies, nodes: cl.members()}
	if !u.otherSiteLives(t.Context(), map[string]bool{"a": true}) {
		t.Error("its site is taken for dead")
	}
	_ = busy.Close() // ends them all
	if len(busy.open) != 0 {
		t.Error("streams after Close")
	}
}

func isBusy(err error) bool {
	said, ok := errors.AsType[*statusError](err)
	return ok && said.code == codeBusy
}

func (b *budget) usedBy(id peer.ID) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used[id]
}

// What a peer's streams hold of blocks is bounded all together, and is given back.
func TestP4_BlocksServedToAPeerAreBounded(t *testing.T) {
	t.Parallel()
	t.Run("pushed", func(t *testing.T) {
		t.Parallel()
		cl := newCluster(t, 2, "a", "b").start()
		from, to := cl.peers[0], cl.peers[1]
		to.budget = newBudget(5 << 20)
		block := newFile(1, 2<<20-100).blocks[0]
		var all []*wire
		release := make(chan struct{})
		to.disk.set(func(d *memDisk) { d.onAdd = func(blocks.Block) { <-release } })
		var senders sync.WaitGroup
		for range 12 {
			w := from.rawPush(t, to)
			senders.Go(func() {
				_, _ = w.w.WriteString(carHeader)
				for range 4 {
					_ = writeSection(w.w, block)
				}
				_ = w.w.WriteByte(0)
				_ = writeCID(w.w, block.Cid())
				_ = w.w.Flush()
			})
			all = append(all, w)
		}
		eventually(t, "some are in memory", func() bool { return to.budget.usedBy(from.id()) > 3<<20 })
		for range 20 {
			runtime.Gosched()
			if n := to.budget.usedBy(from.id()); n > 5<<20 {
				t.Fatalf("%d bytes", n)
			}
		}
		close(release)
		senders.Wait()
		for _, w := range all {
			if s := lastWord(t, w); s.code != codeOK {
				t.Errorf("got %v", s)
			}
		}
		eventually(t, "all is given back", func() bool { return to.budget.usedBy(from.id()) == 0 })
	})
	t.Run("fetched", func(t *testing.T) {
		t.Parallel()
		cl := newCluster(t, 1, "a", "b").start()
		to, from := cl.peers[0], cl.peers[1]
		from.budget = newBudget(5 << 20)
		f := newFile(8, 1<<20)
		from.disk.set(func(d *memDisk) {
			for _, b := range f.blocks {
				d.kept[b.Cid()] = b
			}
		})
		for range 12 { // nobody reads what they ask for
			s, err := to.lane.Dial(t.Context(), from.id(), fetchProtocol)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = s.Reset() }()
			if err := writeWants(newWire(s, time.Minute, wordBuffer, wordBuffer).w, f.cids()); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, "all is taken", func() bool { return from.budget.usedBy(to.id()) > 3<<20 })
		if n := from.budget.usedBy(to.id()); n > 5<<20 {
			t.Errorf("%d bytes", n)
		}
	})
}

func TestBudget(t *testing.T) {
	t.Parallel()
	b := newBudget(10)
	one, two, other := b.open("a"), b.open("a"), b.open("b")
	soon, cancel := context.WithCancel(t.Context())
	cancel()
	for _, step := range []struct {
		s    *share
		n    int
		free bool
	}{{one, 6, true}, {two, 5, false}, {two, 4, true}, {one, 1, false}, {other, 15, true}, {other, 5, true}} {
		if err := step.s.take(soon, step.n); (err == nil) != step.free {
			t.Errorf("%v: %v", step, err)
		}
	}
	done := make(chan error)
	go func() { done <- two.take(t.Context(), 5) }()
	one.give(1)
	one.end()
	if err := <-done; err != nil {
		t.Error(err)
	}
	two.end()
	other.end()
	if len(b.used) != 0 {
		t.Errorf("left: %v", b.used)
	}
}

// Who acknowledges before it knows the root has not synced what it was sent.
func TestP2_EarlyAcknowledgementIsNone(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, 2, "a", "b").start()
	hasty, refused := cl.peers[1], make(chan struct{})
	hasty.lane.h.SetStreamHandler(testProtocol(pushProtocol), func(s network.Stream) {
		w := newWire(s, time.Minute, wordBuffer, wordBuffer)
		for range 2 { // ready, and done
			_ = writeStatus(w.w, status{store: hasty.disk.ID()})
		}
		_, _ = io.Copy(io.Discard, s)
		close(refused)
	})
	u, err := cl.peers[0].Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer u.Abort()
	<-refused
	f := newFile(2, 100)
	var placed Placed
	for _, b := range f.blocks {
		if err = u.Add(t.Context(), b); err != nil {
			break
		}
	}
	if err == nil {
		placed, err = u.Commit(t.Context(), f.root)
	}
	if !errors.Is(err, ErrNotDurable) {
		t.Errorf("got %v, %v", placed, err)
	}
}
