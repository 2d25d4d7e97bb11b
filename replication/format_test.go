package replication

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/hashicorp/raft"
	"github.com/libp2p/go-libp2p/core/peer"
)

var refresh = flag.Bool("refresh", false, "write the golden files anew; read them before committing")

// golden compares data with a file of hex lines.
func golden(t *testing.T, name string, data []byte) {
	t.Helper()
	var b strings.Builder
	for line := range slices.Chunk([]byte(hex.EncodeToString(data)), 64) {
		b.Write(line)
		b.WriteByte('\n')
	}
	text := b.String()
	path := filepath.Join("testdata", name)
	if *refresh {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), text); diff != "" {
		t.Errorf("%s: %s", name, diff)
	}
}

// sample has every kind of read and write.
func sample() []group {
	return []group{{
		node: "node-a", incarnation: 3, released: 7,
		proposals: []proposal{
			{seq: 8,
				keys:   []readKey{{[]byte("a/1"), 12}, {[]byte("a/absent"), 0}},
				ranges: []readRange{{[]byte("b/"), []byte("b0"), 2, 300}, {from: []byte("z"), count: 0}},
				writes: []write{
					{op: opPut, key: []byte("a/1"), value: []byte("value")},
					{op: opDelete, key: []byte("b/1")},
					{op: opAdd, key: []byte("n"), delta: -5},
				}},
			{seq: 9, writes: []write{{op: opPut, key: []byte("e"), value: []byte{}}}},
		},
	}, {node: "node-b", incarnation: 1, released: 1, proposals: []proposal{{seq: 1}}}}
}

func encodeSample(groups []group) []byte {
	b := entryHeader(len(groups))
	for i := range groups {
		g := &groups[i]
		var proposals [][]byte
		for j := range g.proposals {
			proposals = append(proposals, encodeProposal(&g.proposals[j]))
		}
		b = appendGroup(b, g.node, g.incarnation, g.released, proposals)
	}
	return b
}

var equalEntries = cmp.Options{cmp.AllowUnexported(group{}, proposal{}, readKey{}, readRange{}, write{}), cmpopts.EquateEmpty()}

func TestFormats(t *testing.T) {
	t.Parallel()
	entry := encodeSample(sample())
	golden(t, "entry-v1.hex", entry)
	groups, err := decodeEntry(entry, formatNow)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(sample(), groups, equalEntries); diff != "" {
		t.Error(diff)
	}
	golden(t, "entry-empty-v1.hex", entryHeader(0))

	log := &raft.Log{Index: 7, Term: 2, Type: raft.LogCommand, Data: entry, Extensions: []byte("x"), AppendedAt: time.Unix(1700000000, 5)}
	golden(t, "log-v1.hex", encodeLog(log))
	var back raft.Log
	if err := decodeLog(7, encodeLog(log), &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(*log, back); diff != "" {
		t.Error(diff)
	}

	pdb := samplePebble(t)
	var stream bytes.Buffer
	if err := writeStream(&stream, pdb); err != nil {
		t.Fatal(err)
	}
	golden(t, "snapshot-v1.hex", stream.Bytes())
	golden(t, "frame-read-index-v1.hex", sealFrame(append(frame(askReadIndex, 1), askLazy)))
	golden(t, "frame-propose-v1.hex", sealFrame(append(frame(askPropose, 0), entry[2:]...)))
	golden(t, "frame-answer-v1.hex", encodeAnswer(statusOK, 300))
	meta, err := encodeSnapshotMeta(&raft.SnapshotMeta{Index: 300, Term: 4, ConfigurationIndex: 2,
		Configuration: raft.Configuration{Servers: []raft.Server{{Suffrage: raft.Voter, ID: "a", Address: "a"}}}})
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "snapshot-record-v1.hex", meta)
	golden(t, "counter-v1.hex", counterBytes(-2))

	bounded := []group{{node: "node-a", incarnation: 3, released: 7, proposals: []proposal{
		{seq: 8, writes: []write{{op: opAddWithin, key: []byte("n"), delta: -5, low: 0, high: 1 << 40}}}}}}
	golden(t, "entry-bounded-v1.hex", encodeSample(bounded))
	groups, err = decodeEntry(encodeSample(bounded), formatBounded)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(bounded, groups, equalEntries); diff != "" {
		t.Error(diff)
	}
	golden(t, "entry-raise.hex", must(encodeRaise(2, "valise 0.1.0")))
	kin := lineage{2, "0123456789abcdef"}
	golden(t, "entry-recovered.hex", append([]byte{entryRecovered}, must(Marshal(kin.record()))...))
	golden(t, "recovered-record-v1.hex", must(Marshal(recoveredRecord{Number: 2, At: 302, Applied: 298, AppliedTerm: 4, Last: 300,
		LastTerm: 5, LastTime: 1700000000, Servers: []recoveredServer{{"a", true}, {"b", false}}})))
	hail := hello{Lowest: 1, Highest: 3, Active: 2, Program: "valise 0.1.0", Recovery: 2, Lineage: []byte(kin.id), Fresh: true}
	data := must(encodeHello(hail))
	golden(t, "hello-v1.hex", data)
	theirs, err := decodeHello(data[4:])
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(hail, theirs); diff != "" {
		t.Error(diff)
	}
}

// The state of a ledger that was recovered and raised travels with both.
func TestFormats_RaisedSnapshot(t *testing.T) {
	t.Parallel()
	pdb := samplePebble(t)
	m := &machine{known: formatNow, states: newStates(&stateDB{pdb: pdb}, func(*stateDB) {}), fatal: newFatal(testLogger(t)),
		published: func(uint64, []changedKey, []settled) {}}
	if err := m.load(); err != nil {
		t.Fatal(err)
	}
	kin := lineage{2, "0123456789abcdef"}
	m.ApplyBatch([]*raft.Log{
		{Index: 301, Term: 5, Type: raft.LogCommand, Data: must(encodeRaise(formatBounded, "valise 0.1.0"))},
		{Index: 302, Term: 5, Type: raft.LogCommand, Data: append([]byte{entryRecovered}, must(Marshal(kin.record()))...)},
		{Index: 303, Term: 5, Type: raft.LogCommand, Data: must(encodeRaise(formatFirst, "it never goes back"))},
	})
	var stream bytes.Buffer
	if err := writeStream(&stream, pdb); err != nil {
		t.Fatal(err)
	}
	golden(t, "snapshot-raised-v1.hex", stream.Bytes())
	to := must(openPebble("/t", &pebble.Options{FS: vfs.NewMem(), Logger: pebbleLogger{m.fatal}}))
	defer to.Close()
	if _, err := unpackStream(&stream, to); err != nil {
		t.Fatal(err)
	}
	other := &machine{known: formatNow, states: newStates(&stateDB{pdb: to}, func(*stateDB) {})}
	if err := other.load(); err != nil {
		t.Fatal(err)
	}
	if other.active().Format != formatBounded || *other.shown.Load() != kin {
		t.Errorf("format %v, lineage %v", other.active(), *other.shown.Load())
	}
	other.known = formatFirst
	if err := other.load(); !errors.Is(err, ErrNewerVersion) {
		t.Errorf("an older program took it: %v", err)
	}
}

// samplePebble is a state with every kind of key.
func samplePebble(tb testing.TB) *pebble.DB {
	tb.Helper()
	pdb := must(openPebble("/s", &pebble.Options{FS: vfs.NewMem(), Logger: pebbleLogger{newFatal(testLogger(tb))}}))
	tb.Cleanup(func() { pdb.Close() })
	m := &machine{known: formatNow, states: newStates(&stateDB{pdb: pdb}, func(*stateDB) {}), fatal: newFatal(testLogger(tb)),
		nodes: make(map[string]*nodeOutcomes), published: func(uint64, []changedKey, []settled) {}}
	m.format.Store(&raiseRecord{Format: formatFirst})
	entry := encodeSample([]group{{node: "node-a", incarnation: 3, released: 7, proposals: []proposal{
		{seq: 7, writes: []write{{op: opPut, key: []byte("k"), value: []byte("v")}, {op: opAdd, key: []byte("n"), delta: 2}}},
		{seq: 8, keys: []readKey{{[]byte("k"), 99}}},
	}}})
	m.ApplyBatch([]*raft.Log{{Index: 300, Term: 4, Type: raft.LogCommand, Data: entry}})
	return pdb
}

func TestDecodeEntry(t *testing.T) {
	t.Parallel()
	good := encodeSample(sample())
	for name, c := range map[string]struct {
		data []byte
		want error
	}{
		"empty":              {nil, errMalformed},
		"next version":       {append([]byte{2}, good[1:]...), ErrNewerVersion},
		"raise of a format":  {must(encodeRaise(2, "")), ErrNewerVersion},
		"unknown operation":  {encodeSample([]group{{proposals: []proposal{{writes: []write{{op: 5}}}}}}), ErrNewerVersion},
		"cut":                {good[:len(good)-1], errMalformed},
		"longer":             {append(bytes.Clone(good), 0), errMalformed},
		"promises too much":  {[]byte{1, 0xff, 0xff, 0xff, 0xff, 0x0f}, errMalformed},
		"too large":          {make([]byte, maxEntry+1), errMalformed},
		"strange upper end":  {bytes.Replace(good, []byte("\x02b/\x01"), []byte("\x02b/\x02"), 1), errMalformed},
		"a number too large": {[]byte{1, 1, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f}, errMalformed},
	} {
		if _, err := decodeEntry(c.data, formatNow); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
	}
}

func FuzzDecodeEntry(f *testing.F) {
	f.Add(encodeSample(sample()))
	f.Add(entryHeader(0))
	f.Add([]byte{1, 1, 0, 0, 0, 1, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		groups, err := decodeEntry(data, formatNow)
		if err != nil {
			return
		}
		again, err := decodeEntry(encodeSample(groups), formatNow)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(groups, again, equalEntries); diff != "" {
			t.Fatal(diff)
		}
	})
}

func FuzzReadStream(f *testing.F) {
	var stream bytes.Buffer
	if err := writeStream(&stream, samplePebble(f)); err != nil {
		f.Fatal(err)
	}
	f.Add(stream.Bytes())
	f.Add([]byte(streamMagic + "\x01"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var last []byte
		_, _, err := readStream(bytes.NewReader(data), func(key, value []byte) error {
			if !inStream(key) || last != nil && bytes.Compare(key, last) <= 0 {
				t.Fatalf("key %x after %x", key, last)
			}
			last = append([]byte{}, key...)
			return nil
		})
		if err == nil && !bytes.HasPrefix(data, []byte(streamMagic)) {
			t.Fatal("not a snapshot, and taken")
		}
	})
}

func FuzzLedgerFrames(f *testing.F) {
	f.Add(sealFrame(append(frame(askReadIndex, 1), askLazy)))
	f.Add(sealFrame(append(frame(askPropose, 0), encodeSample(sample())[2:]...)))
	f.Add(encodeAnswer(statusOK, 1<<40))
	// A leader that leads nothing: whatever comes, it answers and proposes nothing.
	l := &leader{machine: &machine{known: formatNow}}
	f.Fuzz(func(t *testing.T, data []byte) {
		body, err := readFrame(bytes.NewReader(data), maxFrame)
		if err != nil {
			return
		}
		if len(body) == 0 || len(body) > len(data) {
			t.Fatalf("%d bytes out of %d", len(body), len(data))
		}
		if status, index, err := decodeAnswer(body); err == nil {
			if s, i, err := decodeAnswer(encodeAnswer(status, index)[4:]); err != nil || s != status || i != index {
				t.Fatal(s, i, err)
			}
		}
		if body[0] != askReadIndex || len(body) != 2 || body[1] > askLazy {
			from := peer.ID("nobody")
			if status, _ := l.answer(context.Background(), from, body); status != statusRefused {
				t.Fatalf("status %d", status)
			}
		}
	})
}

func FuzzHello(f *testing.F) {
	f.Add(must(encodeHello(hello{Lowest: 1, Highest: 3, Active: 2, Program: "p", Recovery: 1, Lineage: []byte("id")}))[4:])
	f.Add([]byte{helloKind, 9, 0xa0})
	f.Fuzz(func(t *testing.T, data []byte) {
		h, err := decodeHello(data)
		if err != nil {
			return
		}
		again, err := decodeHello(must(encodeHello(h))[4:])
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(h, again, cmpopts.EquateEmpty()); diff != "" {
			t.Fatal(diff)
		}
	})
}

func FuzzDecodeLog(f *testing.F) {
	f.Add(encodeLog(&raft.Log{Index: 7, Term: 2, Data: []byte("data"), Extensions: []byte("x")}))
	f.Fuzz(func(t *testing.T, data []byte) {
		var l, again raft.Log
		if decodeLog(7, data, &l) != nil {
			return
		}
		if err := decodeLog(7, encodeLog(&l), &again); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(l, again, cmpopts.EquateEmpty()); diff != "" {
			t.Fatal(diff)
		}
	})
}

func TestReadFrameBounds(t *testing.T) {
	t.Parallel()
	for name, data := range map[string]string{
		"empty": "\x00\x00\x00\x00", "too large": "\x7f\xff\xff\xff", "cut": "\x00\x00\x00\x05ab", "nothing": "",
	} {
		if _, err := readFrame(strings.NewReader(data), 100); err == nil || err == io.EOF && name != "nothing" {
			t.Errorf("%s: got %v", name, err)
		}
	}
}
