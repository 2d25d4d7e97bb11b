package dht

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"flag"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
)

var update = flag.Bool("update", false, "write the golden files anew; read them before committing")

// fixedOrg and fixedID grow from fixed seeds, for golden files.
func fixedOrg() ed25519.PrivateKey { return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, 32)) }

func fixedID(t testing.TB, n byte) peer.ID {
	key, err := KeyFromSeed([32]byte{n})
	if err != nil {
		t.Fatal(err)
	}
	id, err := peer.IDFromPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func addrs(s ...string) (out []multiaddr.Multiaddr) {
	for _, a := range s {
		out = append(out, multiaddr.StringCast(a))
	}
	return out
}

func fixedList(t testing.TB) List {
	l := List{Number: 42, ClusterID: ClusterID(fixedOrg().Public().(ed25519.PublicKey)), Peers: []Peer{
		{ID: fixedID(t, 1), Class: Member, Site: "Zürich", Bulk: addrs("/ip4/192.0.2.1/tcp/4101", "/dns4/node.example.org/udp/4101/quic-v1"), Ledger: addrs("/ip4/192.0.2.1/tcp/4102")},
		{ID: fixedID(t, 2), Class: BlocksOnly, Site: "北京", Bulk: addrs("/ip6/2001:db8::1/tcp/4101")},
		{ID: fixedID(t, 3), Class: Federated, Bulk: addrs("/dns/peer.example.net/tcp/4101")},
		{ID: fixedID(t, 4), Class: TicketHolder, Until: time.Date(2031, 2, 3, 4, 5, 6, 0, time.UTC)},
		{ID: fixedID(t, 5), Class: 1 << 6},
	}}
	slices.SortFunc(l.Peers, func(a, b Peer) int { return strings.Compare(string(a.ID), string(b.ID)) })
	return l
}

// golden compares with testdata/name, in lines of hexadecimal digits or as it is.
func golden(t *testing.T, name, got string) string {
	t.Helper()
	path := "testdata/" + name
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s has changed:\n%s", name, cmp.Diff(string(want), got))
	}
	return string(want)
}

func hexLines(data []byte) string {
	var b strings.Builder
	for part := range slices.Chunk(data, 32) {
		b.WriteString(hex.EncodeToString(part) + "\n")
	}
	return b.String()
}

func unhex(t testing.TB, s string) []byte {
	data, err := hex.DecodeString(strings.ReplaceAll(s, "\n", ""))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestR3_ListGolden(t *testing.T) {
	t.Parallel()
	l := fixedList(t)
	signed, err := SignList(fixedOrg(), l)
	if err != nil {
		t.Fatal(err)
	}
	stored := unhex(t, golden(t, "list-v1.hex", hexLines(signed)))
	got, err := OpenList(fixedOrg().Public().(ed25519.PublicKey), stored)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(l, got, cmp.Comparer(multiaddr.Multiaddr.Equal)); diff != "" {
		t.Error(diff)
	}
	slices.Reverse(l.Peers)
	again, err := SignList(fixedOrg(), l)
	if err != nil || !bytes.Equal(again, signed) {
		t.Errorf("the order of the peers changes the bytes (%v)", err)
	}
}

func TestR3_ClusterIDGolden(t *testing.T) {
	t.Parallel()
	if got, want := ClusterID(fixedOrg().Public().(ed25519.PublicKey)), golden(t, "cluster-id.txt", ClusterID(fixedOrg().Public().(ed25519.PublicKey))); got != want || len(got) != 26 {
		t.Errorf("got %q, want %q, 26 characters", got, want)
	}
}

// resign puts a changed body or version under a good signature.
func resign(t *testing.T, org ed25519.PrivateKey, version uint64, body any) []byte {
	t.Helper()
	b, err := encode(body)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := encode(signedList{Version: version, Body: b, Sig: ed25519.Sign(org, append([]byte(listContext), b...))})
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

func TestR3_OpenListRefuses(t *testing.T) {
	t.Parallel()
	org := fixedOrg()
	public := org.Public().(ed25519.PublicKey)
	good, err := SignList(org, fixedList(t))
	if err != nil {
		t.Fatal(err)
	}
	_, foreign, _ := ed25519.GenerateKey(nil)
	theirs, err := SignList(foreign, List{Number: 1, ClusterID: ClusterID(foreign.Public().(ed25519.PublicKey))})
	if err != nil {
		t.Fatal(err)
	}
	cluster := ClusterID(public)
	id := func(n byte) []byte { return []byte(fixedID(t, n)) }
	sorted := [][]byte{id(1), id(2)}
	slices.SortFunc(sorted, bytes.Compare)
	body := func(peers ...wirePeer) wireList { return wireList{Number: 1, Cluster: cluster, Peers: peers} }
	for name, row := range map[string]struct {
		signed []byte
		want   error
	}{
		"empty":                {nil, ErrBadList},
		"not CBOR":             {[]byte("hello"), ErrBadList},
		"cut short":            {good[:len(good)-1], ErrBadList},
		"one byte more":        {append(bytes.Clone(good), 0), ErrBadList},
		"not its one form":     {append([]byte{good[0], 0x18, good[1]}, good[2:]...), ErrBadList}, // version in two bytes
		"too large":            {make([]byte, maxList+1), ErrBadList},
		"another cluster":      {theirs, ErrForeign},
		"unsigned":             {mustEncode(t, signedList{Version: 1, Body: mustEncode(t, body()), Sig: make([]byte, 64)}), ErrBadList},
		"no signature":         {mustEncode(t, signedList{Version: 1, Body: mustEncode(t, body())}), ErrBadList},
		"a stranger's key":     {resign(t, foreign, 1, body()), ErrBadList},
		"newer version":        {resign(t, org, 2, body()), ErrNewerList},
		"version 0":            {resign(t, org, 0, body()), ErrBadList},
		"number 0":             {resign(t, org, 1, wireList{Cluster: cluster, Peers: []wirePeer{}}), ErrBadList},
		"foreign, our key":     {resign(t, org, 1, wireList{Number: 1, Cluster: "other"}), ErrForeign},
		"no id":                {resign(t, org, 1, body(wirePeer{Class: 1})), ErrBadList},
		"odd id":               {resign(t, org, 1, body(wirePeer{ID: []byte("x"), Class: 1})), ErrBadList},
		"hashed id":            {resign(t, org, 1, body(wirePeer{ID: append([]byte{0x12, 0x20}, make([]byte, 32)...), Class: 1})), ErrBadList},
		"no class":             {resign(t, org, 1, body(wirePeer{ID: id(1)})), ErrBadList},
		"two classes":          {resign(t, org, 1, body(wirePeer{ID: id(1), Class: 3})), ErrBadList},
		"ticket without end":   {resign(t, org, 1, body(wirePeer{ID: id(1), Class: uint8(TicketHolder)})), ErrBadList},
		"negative end":         {resign(t, org, 1, body(wirePeer{ID: id(1), Class: 1, Until: -5})), ErrBadList},
		"long site":            {resign(t, org, 1, body(wirePeer{ID: id(1), Class: 1, Site: strings.Repeat("x", 129)})), ErrBadList},
		"bad address":          {resign(t, org, 1, body(wirePeer{ID: id(1), Class: 1, Bulk: [][]byte{{0xff}}})), ErrBadList},
		"empty address":        {resign(t, org, 1, body(wirePeer{ID: id(1), Class: 1, Ledger: [][]byte{{}}})), ErrBadList},
		"too many addresses":   {resign(t, org, 1, body(wirePeer{ID: id(1), Class: 1, Bulk: slices.Repeat([][]byte{addrs("/ip4/1.2.3.4/tcp/1")[0].Bytes()}, 17)})), ErrBadList},
		"unsorted":             {resign(t, org, 1, body(wirePeer{ID: sorted[1], Class: 1}, wirePeer{ID: sorted[0], Class: 1})), ErrBadList},
		"twice":                {resign(t, org, 1, body(wirePeer{ID: id(1), Class: 1}, wirePeer{ID: id(1), Class: 2})), ErrBadList},
		"body of another kind": {resign(t, org, 1, []string{"x"}), ErrBadList},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, err := OpenList(public, row.signed)
			if !errors.Is(err, row.want) {
				t.Errorf("got %+v, %v, want %v", l, err, row.want)
			}
		})
	}
	for i := range good { // no single byte may differ
		broken := bytes.Clone(good)
		broken[i] ^= 1
		if _, err := OpenList(public, broken); err == nil {
			t.Fatalf("a list with byte %d changed was opened", i)
		}
	}
	if _, err := OpenList(public[:5], good); err == nil {
		t.Error("a short key opened a list")
	}
}

func mustEncode(t *testing.T, v any) []byte {
	t.Helper()
	b, err := encode(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Fields that a later version adds without need to understand them are passed
// over; the signed bytes are handed on as they are.
func TestR3_UnknownFieldsArePassedOver(t *testing.T) {
	t.Parallel()
	org := fixedOrg()
	cluster := ClusterID(org.Public().(ed25519.PublicKey))
	signed := resign(t, org, 1, map[int]any{1: 5, 2: cluster, 9: "later", 3: []any{map[int]any{1: []byte(fixedID(t, 1)), 2: 1, 77: []int{1}}}})
	l, err := OpenList(org.Public().(ed25519.PublicKey), signed)
	if err != nil || l.Number != 5 || len(l.Peers) != 1 {
		t.Errorf("got %+v, %v", l, err)
	}
}

func TestR3_SignListRefuses(t *testing.T) {
	t.Parallel()
	org := fixedOrg()
	cluster := ClusterID(org.Public().(ed25519.PublicKey))
	for name, l := range map[string]List{
		"another cluster":    {Number: 1, ClusterID: "x"},
		"number 0":           {ClusterID: cluster},
		"no class":           {Number: 1, ClusterID: cluster, Peers: []Peer{{ID: fixedID(t, 1)}}},
		"twice":              {Number: 1, ClusterID: cluster, Peers: []Peer{{ID: fixedID(t, 1), Class: Member}, {ID: fixedID(t, 1), Class: Member}}},
		"ticket without end": {Number: 1, ClusterID: cluster, Peers: []Peer{{ID: fixedID(t, 1), Class: TicketHolder}}},
		"empty id":           {Number: 1, ClusterID: cluster, Peers: []Peer{{Class: Member}}},
		"nil address":        {Number: 1, ClusterID: cluster, Peers: []Peer{{ID: fixedID(t, 1), Class: Member, Bulk: []multiaddr.Multiaddr{nil}}}},
		"too many peers":     {Number: 1, ClusterID: cluster, Peers: make([]Peer, maxPeers+1)},
	} {
		if signed, err := SignList(org, l); err == nil {
			t.Errorf("%s: signed (%d bytes)", name, len(signed))
		}
	}
}

func FuzzOpenList(f *testing.F) {
	org := fixedOrg()
	good, err := SignList(org, fixedList(f))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good, false)
	f.Add([]byte{0x83, 1, 0x40, 0x40}, false)
	var s signedList
	if err := decode(good, &s); err != nil {
		f.Fatal(err)
	}
	f.Add(s.Body, true)
	f.Fuzz(func(t *testing.T, data []byte, sign bool) {
		if sign { // the body's parser, behind the signature
			signed, err := encode(signedList{Version: 1, Body: data, Sig: ed25519.Sign(org, append([]byte(listContext), data...))})
			if err != nil {
				t.Fatal(err)
			}
			data = signed
		}
		l, err := OpenList(org.Public().(ed25519.PublicKey), data)
		if err != nil {
			return
		}
		again, err := SignList(org, l)
		if err != nil {
			t.Fatalf("an opened list cannot be signed: %v", err)
		}
		if l2, err := OpenList(org.Public().(ed25519.PublicKey), again); err != nil || !cmp.Equal(l, l2, cmp.Comparer(multiaddr.Multiaddr.Equal)) {
			t.Fatalf("got %+v, %v, want %+v", l2, err, l)
		}
	})
}
