package authz

import (
	"encoding/hex"
	"errors"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/google/go-cmp/cmp"
)

func goldenRecords() map[string]record {
	_, key := testKey(3, 7)
	key.DistrustedAfter = t0.Add(time.Hour)
	return map[string]record{
		"account.hex":     &Account{ID: "alice", Name: "Alice Müller", Status: Disabled, Created: t0},
		"apppassword.hex": &AppPassword{Hash: [32]byte{1, 31: 2}, Account: "alice", Label: "phone", Created: t0},
		"mailbox.hex": &Mailbox{
			Address: "alice@example.org", Account: "alice", Aliases: []Address{"a@example.org"}, NextHop: "smtp.example.org:587",
			TLS: StartTLS, User: "alice", Password: Sealed{Epoch: 2, Box: []byte{1, 2, 3}}, ProvenHow: "server", ProvenAt: t0,
		},
		"sending.hex": &Sending{ID: "s1", Account: "alice", MessageID: "<1@example.org>", From: "alice@example.org", Created: t0},
		"grant.hex": &Grant{
			ID: GrantID{1, 15: 2}, Account: "alice", Sender: "alice@example.org", Sending: "s1",
			Files: []GrantFile{
				{File: "f1", Name: "报告.pdf", Root: rootOne, Mode: Following, Size: 5000000000},
				{File: "f2", Name: "b.txt", Root: rootTwo, Mode: Pinned, RevokedAt: t0.Add(time.Minute)},
			},
			Created: t0, Expires: t0.Add(time.Hour), Recipients: [][32]byte{{3}}, MaxDownloads: 4, TokenHash: [32]byte{5},
			RevokedAt: t0.Add(2 * time.Minute), RevokedWhy: "mistake",
		},
		"signingkey.hex": &key,
	}
}

// blank returns an empty record of the same type, and a function that decodes into it as a load does.
func blank(r record) record {
	switch r.(type) {
	case *Account:
		return &Account{}
	case *AppPassword:
		return &AppPassword{}
	case *Mailbox:
		return &Mailbox{}
	case *Sending:
		return &Sending{}
	case *Grant:
		return &Grant{}
	case *SigningKey:
		return &SigningKey{}
	}
	panic("a record without a case")
}

// TestL9_GoldenRecords keeps what lies in ledgers readable: these files never change.
func TestL9_GoldenRecords(t *testing.T) {
	t.Parallel()
	for name, want := range goldenRecords() {
		data := must(marshal(want))
		stored := must(hex.DecodeString(string(golden(t, name, []byte(hex.EncodeToString(data))))))
		got := blank(want)
		check(t, unmarshal(stored, got))
		if diff := cmp.Diff(got, want); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if again := must(marshal(got)); hex.EncodeToString(again) != hex.EncodeToString(stored) {
			t.Errorf("%s: encodes to\n%x, want\n%x", name, again, stored)
		}
	}
}

func TestL9_VersionMustBeUnderstood(t *testing.T) {
	t.Parallel()
	for name, data := range map[string]string{
		"newer":                      "\xa3\x00\x02\x01\x61x\x03\x01",
		"newer, with another type":   "\xa3\x00\x02\x01\x83\x01\x02\x03\x03\x61x",
		"newer, with unknown fields": "\xa3\x00\x18\x64\x01\x61x\x19\x03\xe8\x01",
	} {
		var a Account
		if err := unmarshal([]byte(data), &a); !errors.Is(err, ErrNewer) {
			t.Errorf("%s: got %v, want ErrNewer", name, err)
		}
	}
	for name, data := range map[string]string{
		"no version":     "\xa2\x01\x61x\x03\x01",
		"broken":         "\xa2\x01",
		"empty":          "",
		"key twice":      "\xa3\x00\x01\x01\x61x\x01\x61y",
		"trailing octet": "\xa2\x00\x01\x01\x61x\x00",
	} {
		var a Account
		if err := unmarshal([]byte(data), &a); err == nil || errors.Is(err, ErrNewer) {
			t.Errorf("%s: got %v, want an error that is not ErrNewer", name, err)
		}
	}
}

// What a later version wrote beside our fields is still there after a change, in the grant and in its files.
func TestL9_UnknownFieldsSurvive(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var fields map[int64]any
	check(t, cbor.Unmarshal(w.values[string(GrantKey(w.grant.ID))], &fields))
	fields[50] = "later"
	fields[-3] = []any{uint64(1), "x"}
	fields[5].([]any)[0].(map[any]any)[uint64(60)] = "later too"
	w.Put(GrantKey(w.grant.ID), must(modes().enc.Marshal(fields)))

	g := must(LoadGrant(w, w.grant.ID))
	if g.Files[0].Name != "plan.pdf" || g.Sender != "alice@example.org" || len(g.Fields) != 2 || len(g.Files[0].Fields) != 1 {
		t.Errorf("got %+v", g)
	}
	check(t, RevokeGrant(w, w.grant.ID, t0, "mistake"))
	var after map[int64]any
	check(t, cbor.Unmarshal(w.values[string(GrantKey(w.grant.ID))], &after))
	fields[11], fields[12] = uint64(t0.Unix()), "mistake"
	if diff := cmp.Diff(after, fields); diff != "" {
		t.Error(diff)
	}
}

// FuzzRecords: whatever lies in a ledger, decoding does not panic, and what was decoded survives being written.
func FuzzRecords(f *testing.F) {
	for _, r := range goldenRecords() {
		f.Add(must(marshal(r)))
	}
	f.Add([]byte("\xa4\x00\x01\x01\x61x\x03\x01\x18\x63\x81\x01"))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, want := range goldenRecords() {
			a, b := blank(want), blank(want)
			if unmarshal(data, a) != nil {
				continue
			}
			again, err := marshal(a)
			if err != nil {
				continue // such as a year that CBOR times cannot hold
			}
			if err := unmarshal(again, b); err != nil {
				t.Errorf("%T %x is written as %x: %v", a, data, again, err)
			} else if third := must(marshal(b)); hex.EncodeToString(third) != hex.EncodeToString(again) {
				t.Errorf("%T %x is written as %x, then as %x", a, data, again, third)
			}
		}
	})
}

func TestGrantIDText(t *testing.T) {
	t.Parallel()
	id := NewGrantID()
	if got := must(ParseGrantID(id.String())); got != id {
		t.Errorf("got %v, want %v", got, id)
	}
	for _, s := range []string{"", "12", id.String() + "00", "x" + id.String()[1:]} {
		if _, err := ParseGrantID(s); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: got %v, want ErrInvalid", s, err)
		}
	}
}

func TestWords(t *testing.T) {
	t.Parallel()
	for _, m := range []TLSMode{StartTLS, Implicit, NoTLS} {
		if got := must(ParseTLSMode(m.String())); got != m {
			t.Errorf("got %v, want %v", got, m)
		}
	}
	if _, err := ParseTLSMode("tls mode 9"); !errors.Is(err, ErrInvalid) {
		t.Errorf("got %v, want ErrInvalid", err)
	}
	for got, want := range map[string]string{
		Active.String(): "active", Disabled.String(): "disabled", Status(7).String(): "status 7",
		Following.String(): "following", Pinned.String(): "pinned", Mode(7).String(): "mode 7", TLSMode(7).String(): "tls mode 7",
	} {
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}
