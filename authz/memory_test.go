package authz

import (
	"bytes"
	"crypto/ed25519"
	"iter"
	"maps"
	"slices"
	"testing"
	"time"
)

// memory is a ledger in a map. It records what is looked up.
type memory struct {
	values map[string][]byte
	looked []string
}

var _ ReadWriter = (*memory)(nil)

func newMemory() *memory { return &memory{values: map[string][]byte{}} }

func (m *memory) Get(key []byte) ([]byte, bool) {
	m.looked = append(m.looked, string(key[:min(2, len(key))]))
	v, ok := m.values[string(key)]
	return v, ok
}

func (m *memory) Scan(from, to []byte) iter.Seq2[[]byte, []byte] {
	m.looked = append(m.looked, "scan "+string(from[:min(2, len(from))]))
	return func(yield func([]byte, []byte) bool) {
		buffer := []byte{} // reused, as an iterator of a real database does
		for _, k := range slices.Sorted(maps.Keys(m.values)) {
			if k < string(from) || k >= string(to) {
				continue
			}
			buffer = append(buffer[:0], k...)
			if !yield(buffer, m.values[k]) {
				return
			}
		}
	}
}

func (m *memory) Put(key, value []byte)   { m.values[string(key)] = bytes.Clone(value) }
func (m *memory) Delete(key []byte)       { delete(m.values, string(key)) }
func (m *memory) Add(key []byte, _ int64) { panic("authz counts nothing yet: " + string(key)) }

// clone is a copy to compare with later.
func (m *memory) clone() map[string][]byte { return maps.Clone(m.values) }

var (
	t0      = time.Date(2026, 3, 1, 9, 30, 0, 0, time.UTC)
	rootOne = []byte{0x01, 0x71, 0x12, 0x20, 1}
	rootTwo = []byte{0x01, 0x71, 0x12, 0x20, 2}
)

// testKey is a signing key made from one octet.
func testKey(id KeyID, seed byte) (Signer, SigningKey) {
	private := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
	return Signer{ID: id, Key: private}, SigningKey{ID: id, Public: private.Public().(ed25519.PublicKey), Created: t0}
}

// world is one organisation with an account, a mailbox with an alias, and a grant of two files.
type world struct {
	*memory
	signer Signer
	keys   *Keyring
	grant  Grant
	token  Token
}

func newWorld(t testing.TB, edit ...func(*Grant, *Claims)) *world {
	t.Helper()
	signer, key := testKey(1, 7)
	w := &world{memory: newMemory(), signer: signer, keys: NewKeyring(key)}
	check(t, PutSigningKey(w, key))
	check(t, PutAccount(w, Account{ID: "alice", Name: "Alice", Status: Active, Created: t0}))
	check(t, PutAccount(w, Account{ID: "bob", Name: "Bob", Status: Active, Created: t0}))
	check(t, AddMailbox(w, Mailbox{Address: "alice@example.org", Account: "alice", Aliases: []Address{"a.smith@example.org"}}))
	check(t, AddMailbox(w, Mailbox{Address: "bob@example.org", Account: "bob"}))
	w.grant = Grant{
		ID: GrantID{1, 2, 3},
		Files: []GrantFile{
			{File: "file1", Name: "plan.pdf", Root: rootOne, Mode: Following, Size: 1000},
			{File: "file2", Name: "报告.xlsx", Root: rootTwo, Mode: Pinned, Size: 2000},
		},
	}
	claims := Claims{Grant: w.grant.ID, Role: Receiver}
	for _, e := range edit {
		e(&w.grant, &claims)
	}
	w.token = must(Issue(signer, claims))
	w.grant.TokenHash = w.token.Hash()
	s := Sending{ID: "sending1", Account: "alice", MessageID: "<1@example.org>", From: "alice@example.org", Created: t0}
	check(t, IssueGrants(w, s, w.grant))
	w.grant = must(LoadGrant(w, w.grant.ID))
	w.looked = nil
	return w
}

func (w *world) ask() Ask { return Ask{Token: w.token, Root: rootOne, Name: "plan.pdf"} }

// change edits the grant's record as it lies in the ledger.
func (w *world) change(t testing.TB, edit func(*Grant)) {
	t.Helper()
	g := must(LoadGrant(w, w.grant.ID))
	edit(&g)
	check(t, save(w, GrantKey(g.ID), &g))
	w.looked = nil
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
