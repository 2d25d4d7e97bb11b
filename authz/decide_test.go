package authz

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestB3_ReceiverGetsTheFileOfTheGrant(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	got, err := Decide(w, w.keys, w.ask(), t0)
	check(t, err)
	want := Decision{
		Claims:    Claims{Grant: w.grant.ID, Role: Receiver, Key: 1},
		Grant:     w.grant,
		File:      w.grant.Files[0],
		MayNewest: true,
		Sender:    "alice@example.org",
		Sent:      t0,
	}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Error(diff)
	}
}

func TestJ4_PinnedFileDoesNotFollow(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	got, err := Decide(w, w.keys, Ask{Token: w.token, Root: rootTwo, Name: "报告.xlsx"}, t0)
	check(t, err)
	if got.MayNewest || got.File.File != "file2" {
		t.Errorf("got %+v, want file2 as sent only", got.File)
	}
}

// One case for each reason, in the order of G1. The world is spoilt at that step and, as a rule, at a later one, too, so
// that an answer from a wrong step shows.
func TestG1B5B6B7B8_EachStepRefuses(t *testing.T) {
	t.Parallel()
	wrongName := func(a *Ask) { a.Name = "other.pdf" }
	tests := []struct {
		name   string
		claims func(*Grant, *Claims)
		record func(*testing.T, *world)
		ask    func(*Ask)
		now    time.Time
		step   string
		answer error
		reason error
	}{
		{name: "no token", ask: func(a *Ask) { a.Token = "" }, step: "token", answer: ErrAccessDenied, reason: ErrBadToken},
		{name: "forged token", ask: func(a *Ask) { a.Token = a.Token[:len(a.Token)-2] + "AA" }, step: "token", answer: ErrAccessDenied, reason: ErrBadToken},
		{
			name: "token expired", claims: func(_ *Grant, c *Claims) { c.Expires = t0 }, now: t0.Add(61 * time.Second),
			ask: wrongName, step: "token", answer: ErrAccessDenied, reason: ErrExpired,
		},
		{
			name: "S301 no sender", record: func(t *testing.T, w *world) {
				w.change(t, func(g *Grant) { g.Sender = ""; g.RevokedAt = t0 })
			},
			ask: wrongName, step: "S301", answer: ErrAccessDenied, reason: ErrNoSender,
		},
		{
			name: "S302 sender not known", record: func(t *testing.T, w *world) {
				check(t, RemoveMailbox(w, "alice@example.org"))
				w.change(t, func(g *Grant) { g.RevokedAt = t0 })
			},
			ask: wrongName, step: "S302", answer: ErrAccessDenied, reason: ErrUnknownSender,
		},
		{
			name: "S302 sender's address went to another account", record: func(t *testing.T, w *world) {
				check(t, RemoveMailbox(w, "alice@example.org"))
				check(t, AddMailbox(w, Mailbox{Address: "alice@example.org", Account: "bob"}))
			},
			ask: wrongName, step: "S302", answer: ErrAccessDenied, reason: ErrUnknownSender,
		},
		{
			name: "S302 account gone", record: func(_ *testing.T, w *world) { w.Delete(AccountKey("alice")) },
			ask: wrongName, step: "S302", answer: ErrAccessDenied, reason: ErrUnknownSender,
		},
		{
			name: "S302 account disabled", record: func(t *testing.T, w *world) {
				check(t, PutAccount(w, Account{ID: "alice", Status: Disabled}))
				w.change(t, func(g *Grant) { g.RevokedAt = t0 })
			},
			ask: wrongName, step: "S302", answer: ErrAccessDenied, reason: ErrDisabled,
		},
		{
			name: "S303 member's token", claims: func(_ *Grant, c *Claims) { c.Role = Member },
			ask: wrongName, step: "S303", answer: ErrAccessDenied, reason: ErrNotReceiver,
		},
		{
			name: "S303 sender's token", claims: func(_ *Grant, c *Claims) { c.Role = Sender },
			ask: wrongName, step: "S303", answer: ErrAccessDenied, reason: ErrNotReceiver,
		},
		{
			name: "S303 revoked", record: func(t *testing.T, w *world) { check(t, RevokeGrant(w, w.grant.ID, t0, "mistake")) },
			ask: wrongName, step: "S303", answer: ErrAccessDenied, reason: ErrRevoked,
		},
		{
			name: "S303 grant expired", claims: func(g *Grant, _ *Claims) { g.Expires = t0 }, now: t0.Add(61 * time.Second),
			ask: wrongName, step: "S303", answer: ErrAccessDenied, reason: ErrExpired,
		},
		{
			name: "S303 recipient not proven", claims: func(g *Grant, _ *Claims) {
				g.Recipients = [][32]byte{RecipientHash(g.ID, "carol@example.net")}
			},
			ask:  func(a *Ask) { a.Name = "other.pdf"; a.Proven = []Address{"mallory@example.net"} },
			step: "S303", answer: ErrAccessDenied, reason: ErrNotProven,
		},
		{
			name: "S303 file revoked", record: func(t *testing.T, w *world) {
				n, err := RevokeFile(w, "file1", t0, "mistake")
				check(t, err)
				if n != 1 {
					t.Errorf("got %d grants, want 1", n)
				}
			},
			step: "S303", answer: ErrAccessDenied, reason: ErrRevoked,
		},
		{name: "S304 wrong name", ask: wrongName, step: "S304", answer: ErrInvalidAccess, reason: ErrNoSuchFile},
		{name: "S304 name in another case", ask: func(a *Ask) { a.Name = "Plan.pdf" }, step: "S304", answer: ErrInvalidAccess, reason: ErrNoSuchFile},
		{name: "S304 wrong CID", ask: func(a *Ask) { a.Root = []byte("other") }, step: "S304", answer: ErrInvalidAccess, reason: ErrNoSuchFile},
		{name: "S304 no CID", ask: func(a *Ask) { a.Root = nil }, step: "S304", answer: ErrInvalidAccess, reason: ErrNoSuchFile},
		{name: "S304 CID of one file, name of another", ask: func(a *Ask) { a.Root = rootTwo }, step: "S304", answer: ErrInvalidAccess, reason: ErrNoSuchFile},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var edits []func(*Grant, *Claims)
			if tt.claims != nil {
				edits = append(edits, tt.claims)
			}
			w := newWorld(t, edits...)
			if tt.record != nil {
				tt.record(t, w)
			}
			w.looked = nil
			ask := w.ask()
			if tt.ask != nil {
				tt.ask(&ask)
			}
			now := tt.now
			if now.IsZero() {
				now = t0
			}
			_, err := Decide(w, w.keys, ask, now)
			refusal, ok := errors.AsType[*Refusal](err)
			if !ok {
				t.Fatalf("got %v, want a refusal", err)
			}
			if refusal.Step != tt.step || !errors.Is(err, tt.answer) || !errors.Is(err, tt.reason) {
				t.Errorf("got %v, want %s: %v: %v", err, tt.step, tt.answer, tt.reason)
			}
			if errors.Is(err, ErrAccessDenied) && errors.Is(err, ErrInvalidAccess) {
				t.Errorf("%v gives two answers", err)
			}
			if tt.step == "token" && len(w.looked) > 0 {
				t.Errorf("looked up %q before the token was found good", w.looked)
			}
			if tt.step == "S301" && slices.ContainsFunc(w.looked, func(k string) bool { return k != grantPrefix }) {
				t.Errorf("looked up %q, want the grant only", w.looked)
			}
		})
	}
}

func TestG1_OrderOfLookUps(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, err := Decide(w, w.keys, w.ask(), t0)
	check(t, err)
	if got, want := strings.Join(w.looked, " "), "ag ad am aa"; got != want {
		t.Errorf("looked up %s, want %s: grant, address, mailbox, account", got, want)
	}
}

func TestR6_ExpiryToleratesAMinute(t *testing.T) {
	t.Parallel()
	for _, where := range []string{"token", "grant"} {
		w := newWorld(t, func(g *Grant, c *Claims) {
			if where == "token" {
				c.Expires = t0
			} else {
				g.Expires = t0
			}
		})
		for after, want := range map[time.Duration]bool{-time.Hour: true, 60 * time.Second: true, 61 * time.Second: false} {
			if _, err := Decide(w, w.keys, w.ask(), t0.Add(after)); (err == nil) != want {
				t.Errorf("%s %v after expiry: got %v, want yes %v", where, after, err, want)
			}
		}
	}
}

func TestG4_UnknownGrantIsNotARefusal(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, err := Decide(newMemory(), w.keys, w.ask(), t0)
	if !errors.Is(err, ErrUnknownGrant) || errors.Is(err, ErrAccessDenied) {
		t.Errorf("got %v, want only ErrUnknownGrant", err)
	}
}

func TestJ2_ProvenRecipient(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(g *Grant, _ *Claims) {
		g.Recipients = [][32]byte{RecipientHash(g.ID, "dave@example.net"), RecipientHash(g.ID, "carol@example.net")}
	})
	ask := w.ask()
	ask.Proven = []Address{"mallory@example.net", "carol@example.net"}
	_, err := Decide(w, w.keys, ask, t0)
	check(t, err)
}

func TestS302_SenderMayBeAnAliasOrATag(t *testing.T) {
	t.Parallel()
	for _, sender := range []Address{"a.smith@example.org", "alice+news@example.org", "a.smith+x@example.org"} {
		w := newWorld(t, func(g *Grant, _ *Claims) { g.Sender = sender })
		d, err := Decide(w, w.keys, w.ask(), t0)
		check(t, err)
		if d.Sender != sender {
			t.Errorf("got %s, want %s", d.Sender, sender)
		}
	}
}

func TestG6_Landing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	l, err := DecideLanding(w, w.keys, w.token, nil, t0)
	check(t, err)
	if diff := cmp.Diff(l.Files, w.grant.Files); diff != "" {
		t.Error(diff)
	}
	_, err = RevokeFile(w, "file1", t0, "mistake")
	check(t, err)
	l, err = DecideLanding(w, w.keys, w.token, nil, t0)
	check(t, err)
	if diff := cmp.Diff(l.Files, w.grant.Files[1:]); diff != "" {
		t.Error(diff)
	}
	_, err = RevokeFile(w, "file2", t0, "mistake")
	check(t, err)
	if _, err = DecideLanding(w, w.keys, w.token, nil, t0); !errors.Is(err, ErrRevoked) {
		t.Errorf("got %v, want ErrRevoked: no file is left", err)
	}
}

// After a key is distrusted, what a grant recorded before the cut-off still counts, and nothing else (J4).
func TestJ4_DistrustedKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	other := must(Issue(w.signer, Claims{Grant: w.grant.ID, Role: Receiver, Expires: t0.Add(time.Hour)}))
	unknown := must(Issue(w.signer, Claims{Grant: GrantID{9}, Role: Receiver}))
	distrust := func(after time.Time) {
		_, key := testKey(1, 7)
		key.DistrustedAfter = after
		w.keys.Set(key)
	}
	decide := func(token Token) error {
		ask := w.ask()
		ask.Token = token
		_, err := Decide(w, w.keys, ask, t0)
		return err
	}
	check(t, decide(other)) // and remembered as genuine

	distrust(t0.Add(time.Minute))
	check(t, decide(w.token))
	for name, token := range map[string]Token{"not the one recorded": other, "no grant": unknown} {
		if err := decide(token); !errors.Is(err, ErrDistrustedKey) || !errors.Is(err, ErrAccessDenied) {
			t.Errorf("%s: got %v, want ErrDistrustedKey", name, err)
		}
	}
	if _, err := Verify(w.token, w.keys, t0); !errors.Is(err, ErrDistrustedKey) {
		t.Errorf("got %v, want ErrDistrustedKey: offline nothing vouches for it", err)
	}
	distrust(t0.Add(-time.Minute))
	if err := decide(w.token); !errors.Is(err, ErrDistrustedKey) {
		t.Errorf("got %v, want ErrDistrustedKey: granted after the cut-off", err)
	}
}

func TestDecideReportsBrokenRecords(t *testing.T) {
	t.Parallel()
	for _, prefix := range []string{grantPrefix, mailboxPrefix, accountPrefix} {
		w := newWorld(t)
		for k := range w.values {
			if strings.HasPrefix(k, prefix) {
				w.values[k] = []byte{0xff}
			}
		}
		_, err := Decide(w, w.keys, w.ask(), t0)
		if err == nil || errors.Is(err, ErrAccessDenied) || errors.Is(err, ErrUnknownGrant) {
			t.Errorf("%s: got %v, want an error that is no refusal", prefix, err)
		}
	}
}
