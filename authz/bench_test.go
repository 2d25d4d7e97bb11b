package authz

import (
	"crypto"
	"crypto/ed25519"
	"testing"
	"time"
)

// The decision for one click, with the token never seen before: one signature check.
func BenchmarkDecideUnseen(b *testing.B) {
	w := newWorld(b)
	_, key := testKey(1, 7)
	keys := NewKeyring(key)
	ask := w.ask()
	b.SetBytes(int64(len(ask.Token)))
	b.ReportAllocs()
	for b.Loop() {
		keys.good.forget()
		w.looked = w.looked[:0]
		if _, err := Decide(w, keys, ask, t0); err != nil {
			b.Fatal(err)
		}
	}
}

// The decision for the next click on the same link.
func BenchmarkDecideSeen(b *testing.B) {
	w := newWorld(b)
	ask := w.ask()
	b.SetBytes(int64(len(ask.Token)))
	b.ReportAllocs()
	for b.Loop() {
		w.looked = w.looked[:0]
		if _, err := Decide(w, w.keys, ask, t0); err != nil {
			b.Fatal(err)
		}
	}
}

// What a stranger's rubbish costs: a token of the right form with a wrong signature.
func BenchmarkVerifyForged(b *testing.B) {
	w := newWorld(b)
	forged := w.token[:60] + "AAAAAAAAAA" + w.token[70:]
	b.SetBytes(int64(len(forged)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Verify(forged, w.keys, t0); err == nil {
			b.Fatal("accepted")
		}
	}
}

func BenchmarkIssue(b *testing.B) {
	signer, _ := testKey(1, 7)
	c := Claims{Grant: NewGrantID(), Role: Receiver, Expires: t0.Add(time.Hour)}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Issue(signer, c); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkIssueGrants(b *testing.B) {
	w := newWorld(b)
	g := Grant{TokenHash: [32]byte{1}, Files: w.grant.Files}
	b.ReportAllocs()
	for b.Loop() {
		g.ID = NewGrantID()
		w.looked = w.looked[:0]
		s := Sending{ID: SendingID(NewID()), Account: "alice", From: "alice@example.org", Created: t0}
		if err := IssueGrants(w, s, g); err != nil {
			b.Fatal(err)
		}
	}
}

// forget empties the cache.
func (s *seen) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.young, s.old = nil, nil
}

// The signature check alone, to compare with.
func BenchmarkBareEd25519(b *testing.B) {
	signer, key := testKey(1, 7)
	message := make([]byte, 64)
	signature := must(signer.Key.Sign(nil, message, crypto.Hash(0)))
	for b.Loop() {
		if !ed25519.Verify(key.Public, message, signature) {
			b.Fatal("refused")
		}
	}
}
