package authz

import (
	"bytes"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func ids(t *testing.T, grants []Grant, err error) []byte {
	t.Helper()
	check(t, err)
	var first []byte
	for _, g := range grants {
		first = append(first, g.ID[0])
	}
	return first
}

func TestJ5_AnAddressBelongsToOneAccount(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		mailbox Mailbox
		want    error
	}{
		"another's address":        {Mailbox{Address: "alice@example.org", Account: "bob"}, ErrAddressTaken},
		"another's alias":          {Mailbox{Address: "a.smith@example.org", Account: "bob"}, ErrAddressTaken},
		"as an alias":              {Mailbox{Address: "b@example.org", Account: "bob", Aliases: []Address{"alice@example.org"}}, ErrAddressTaken},
		"own address twice":        {Mailbox{Address: "bob@example.org", Account: "bob"}, ErrAddressTaken},
		"own other mailbox's":      {Mailbox{Address: "b@example.org", Account: "bob", Aliases: []Address{"bob@example.org"}}, ErrAddressTaken},
		"tag of another's":         {Mailbox{Address: "alice+x@example.org", Account: "bob"}, ErrAddressTaken},
		"quoted tag of another's":  {Mailbox{Address: `"alice+x y"@example.org`, Account: "bob"}, ErrAddressTaken},
		"tag of another's alias":   {Mailbox{Address: "b@example.org", Account: "bob", Aliases: []Address{"a.smith+x@example.org"}}, ErrAddressTaken},
		"base of another's tag":    {Mailbox{Address: "carol@example.org", Account: "bob"}, ErrAddressTaken},
		"base of a quoted tag":     {Mailbox{Address: "dave@example.org", Account: "bob"}, ErrAddressTaken},
		"own tag":                  {Mailbox{Address: "bob+x@example.org", Account: "bob"}, nil},
		"same name elsewhere":      {Mailbox{Address: "alice@example.net", Account: "bob"}, nil},
		"tag of a stranger's name": {Mailbox{Address: "alice+x@example.net", Account: "bob"}, nil},
		"longer name":              {Mailbox{Address: "alices@example.org", Account: "bob"}, nil},
		"no account":               {Mailbox{Address: "x@example.org", Account: "nobody"}, ErrNotFound},
		"not normalised":           {Mailbox{Address: "X@example.org", Account: "bob"}, ErrInvalid},
		"alias not normalised":     {Mailbox{Address: "x@example.org", Account: "bob", Aliases: []Address{"Y@example.org"}}, ErrInvalid},
		"no address":               {Mailbox{Account: "bob"}, ErrInvalid},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			check(t, AddMailbox(w, Mailbox{Address: "carol+list@example.org", Account: "alice"}))
			check(t, AddMailbox(w, Mailbox{Address: `"dave+a b"@example.org`, Account: "alice"}))
			if err := AddMailbox(w, tt.mailbox); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
}

func TestMailboxNextHop(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		hop  string
		mode TLSMode
		want error
	}{
		"starttls":            {"smtp.example.org:587", StartTLS, nil},
		"implicit":            {"[2001:db8::1]:465", Implicit, nil},
		"none on loopback":    {"127.0.0.1:2500", NoTLS, nil},
		"none on loopback 6":  {"[::1]:2500", NoTLS, nil},
		"none on localhost":   {"localhost:2500", NoTLS, nil},
		"none elsewhere":      {"192.0.2.1:25", NoTLS, ErrInvalid},
		"none, disguised":     {"localhost.example.org:25", NoTLS, ErrInvalid},
		"no mode":             {"smtp.example.org:587", 0, ErrInvalid},
		"unknown mode":        {"smtp.example.org:587", 9, ErrInvalid},
		"no port":             {"smtp.example.org", StartTLS, ErrInvalid},
		"empty port":          {"smtp.example.org:", StartTLS, ErrInvalid},
		"no host":             {":587", StartTLS, ErrInvalid},
		"no next hop for now": {"", 0, nil},
	}
	for name, tt := range tests {
		w := newWorld(t)
		err := AddMailbox(w, Mailbox{Address: "x@example.org", Account: "bob", NextHop: tt.hop, TLS: tt.mode})
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v, want %v", name, err, tt.want)
		}
	}
}

func TestMailboxComesAndGoes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	before := w.clone()
	m := Mailbox{
		Address: "x@example.org", Account: "bob", Aliases: []Address{"y@example.org", "x@example.org"}, NextHop: "smtp.example.org:465",
		TLS: Implicit, User: "x", Password: Sealed{Epoch: 1, Box: []byte("sealed")}, ProvenHow: "administrator", ProvenAt: t0,
	}
	check(t, AddMailbox(w, m))
	for _, a := range []Address{"x@example.org", "y@example.org", "y+tag@example.org"} {
		got, err := MailboxOf(w, "bob", a)
		check(t, err)
		if diff := cmp.Diff(got, m); diff != "" {
			t.Errorf("%s: %s", a, diff)
		}
	}
	all := must(collect(Mailboxes(w, "bob")))
	if len(all) != 2 || all[0].Address != "bob@example.org" || all[1].Address != "x@example.org" {
		t.Errorf("got %v", all)
	}

	m.Aliases = []Address{"z@example.org"}
	check(t, ReplaceMailbox(w, m))
	if _, err := MailboxOf(w, "bob", "y@example.org"); !errors.Is(err, ErrNotYours) {
		t.Errorf("got %v, want ErrNotYours: the alias is gone", err)
	}
	for _, a := range []Address{"x@example.org", "z@example.org"} {
		check(t, second(MailboxOf(w, "bob", a)))
	}
	m.Account = "alice"
	if err := ReplaceMailbox(w, m); !errors.Is(err, ErrAddressTaken) {
		t.Errorf("got %v, want ErrAddressTaken: a mailbox does not change hands", err)
	}
	if err := ReplaceMailbox(w, Mailbox{Address: "none@example.org", Account: "bob"}); !errors.Is(err, ErrNotFound) {
		t.Errorf("got %v, want ErrNotFound", err)
	}

	for range 2 {
		check(t, RemoveMailbox(w, "x@example.org"))
		if diff := cmp.Diff(w.values, before); diff != "" {
			t.Error(diff)
		}
	}
}

func TestM2_MailboxOf(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for a, want := range map[Address]error{
		"alice@example.org": nil, "a.smith@example.org": nil, "alice+x@example.org": nil, "bob@example.org": ErrNotYours,
		"bob+x@example.org": ErrNotYours, "nobody@example.org": ErrNotYours, "": ErrNotYours,
	} {
		if _, err := MailboxOf(w, "alice", a); !errors.Is(err, want) {
			t.Errorf("%s: got %v, want %v", a, err, want)
		}
	}
}

func TestAccounts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	all := must(collect(Accounts(w)))
	want := []Account{{ID: "alice", Name: "Alice", Status: Active, Created: t0}, {ID: "bob", Name: "Bob", Status: Active, Created: t0}}
	if diff := cmp.Diff(all, want); diff != "" {
		t.Error(diff)
	}
	for name, a := range map[string]Account{
		"no id": {Status: Active}, "zero octet": {ID: "a\x00b", Status: Active}, "space": {ID: "a b", Status: Active},
		"long": {ID: AccountID(strings.Repeat("a", 129)), Status: Active}, "no status": {ID: "x"}, "odd status": {ID: "x", Status: 3},
	} {
		if err := PutAccount(w, a); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: got %v, want ErrInvalid", name, err)
		}
	}
}

func TestJ6_CheckAppPassword(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	before := w.clone()
	alice, bob := NewAppPassword(), NewAppPassword()
	check(t, PutAppPassword(w, AppPassword{Hash: alice.Hash(), Account: "alice", Label: "phone", Created: t0}))
	check(t, PutAppPassword(w, AppPassword{Hash: bob.Hash(), Account: "bob"}))
	for key, value := range w.values {
		for _, s := range []Secret{alice, bob} {
			if strings.Contains(key+string(value), s.text) {
				t.Errorf("the ledger holds a password under %q", key)
			}
		}
	}

	for _, login := range []Address{"alice@example.org", "a.smith@example.org", "alice+x@example.org"} {
		a, m, err := CheckAppPassword(w, login, ParseSecret(strings.ToUpper(alice.Reveal())))
		check(t, err)
		if a.ID != "alice" || m.Address != "alice@example.org" {
			t.Errorf("%s: got %v, %v", login, a, m)
		}
	}
	refuse := func(name string, login Address, s Secret, reason error) {
		t.Helper()
		a, m, err := CheckAppPassword(w, login, s)
		if !errors.Is(err, ErrBadCredentials) || !errors.Is(err, reason) || a.ID != "" || m.Address != "" {
			t.Errorf("%s: got %v, %v, %v", name, a, m, err)
		}
	}
	refuse("another's password", "alice@example.org", bob, ErrWrongSecret)
	refuse("another's address", "bob@example.org", alice, ErrWrongSecret)
	refuse("no such password", "alice@example.org", NewAppPassword(), ErrWrongSecret)
	refuse("no password", "alice@example.org", Secret{}, ErrWrongSecret)
	refuse("no such address", "nobody@example.org", alice, ErrWrongSecret)
	check(t, PutAccount(w, Account{ID: "bob", Status: Disabled}))
	refuse("disabled", "bob@example.org", bob, ErrDisabled)
	check(t, PutAccount(w, Account{ID: "bob", Name: "Bob", Status: Active, Created: t0}))

	if err := PutAppPassword(w, AppPassword{Hash: alice.Hash(), Account: "bob"}); !errors.Is(err, ErrExists) {
		t.Errorf("got %v, want ErrExists", err)
	}
	if err := PutAppPassword(w, AppPassword{Hash: [32]byte{1}, Account: "nobody"}); !errors.Is(err, ErrNotFound) {
		t.Errorf("got %v, want ErrNotFound", err)
	}
	if err := PutAppPassword(w, AppPassword{Account: "bob"}); !errors.Is(err, ErrInvalid) {
		t.Errorf("got %v, want ErrInvalid", err)
	}
	all := must(collect(AppPasswords(w, "alice")))
	want := []AppPassword{{Hash: alice.Hash(), Account: "alice", Label: "phone", Created: t0}}
	if diff := cmp.Diff(all, want); diff != "" {
		t.Error(diff)
	}
	for _, s := range []Secret{alice, bob, alice} {
		check(t, RemoveAppPassword(w, s.Hash()))
	}
	refuse("removed", "alice@example.org", alice, ErrWrongSecret)
	if diff := cmp.Diff(w.values, before); diff != "" {
		t.Error(diff)
	}
}

func TestSigningKeys(t *testing.T) {
	t.Parallel()
	w := newMemory()
	_, one := testKey(1, 7)
	_, two := testKey(300, 8)
	check(t, PutSigningKey(w, two))
	check(t, PutSigningKey(w, one))
	one.DistrustedAfter = t0.Add(time.Hour)
	check(t, PutSigningKey(w, one))
	if diff := cmp.Diff(must(SigningKeys(w)), []SigningKey{one, two}); diff != "" {
		t.Error(diff)
	}
	_, other := testKey(1, 9)
	if err := PutSigningKey(w, other); !errors.Is(err, ErrExists) {
		t.Errorf("got %v, want ErrExists: a key never changes under its id", err)
	}
	for _, bad := range []SigningKey{{}, {ID: 5}, {ID: 5, Public: []byte{1}}, {Public: one.Public}} {
		if err := PutSigningKey(w, bad); !errors.Is(err, ErrInvalid) {
			t.Errorf("got %v, want ErrInvalid", err)
		}
	}
}

// issue records a sending of one grant with these files.
func issue(t *testing.T, w *world, id SendingID, n byte, at time.Time, files ...FileID) {
	t.Helper()
	g := Grant{ID: GrantID{n}, TokenHash: [32]byte{n}}
	for _, f := range files {
		g.Files = append(g.Files, GrantFile{File: f, Name: string(f), Root: rootOne, Mode: Following})
	}
	check(t, IssueGrants(w, Sending{ID: id, Account: "alice", From: "alice@example.org", Created: at}, g))
}

func TestE3_GrantsAreFoundEveryWay(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	issue(t, w, "s2", 5, t0.Add(2*time.Hour), "file1", "file3")
	issue(t, w, "s3", 4, t0.Add(time.Hour), "file3", "file3")
	g := must(LoadGrant(w, GrantID{5}))
	if g.Account != "alice" || g.Sender != "alice@example.org" || g.Sending != "s2" || !g.Created.Equal(t0.Add(2*time.Hour)) {
		t.Errorf("got %+v, want it filled from its sending", g)
	}
	list := func(name string, want []byte, got []Grant, err error) {
		t.Helper()
		if ids := ids(t, got, err); !bytes.Equal(ids, want) {
			t.Errorf("%s: got %v, want %v", name, ids, want)
		}
	}
	all, err := collect(ListGrants(w, "alice"))
	list("newest first", []byte{5, 4, 1}, all, err)
	all, err = collect(ListGrants(w, "bob"))
	list("bob's", nil, all, err)
	all, err = collect(GrantsOfFile(w, "file1"))
	list("file1", []byte{1, 5}, all, err)
	all, err = collect(GrantsOfFile(w, "file3"))
	list("file3", []byte{4, 5}, all, err)
	all, err = collect(GrantsOfSending(w, "s2"))
	list("s2", []byte{5}, all, err)
	all, err = collect(GrantsOfSending(w, "s"))
	list("the beginning of an id", nil, all, err)
	s := must(LoadSending(w, "s2"))
	if diff := cmp.Diff(s, Sending{ID: "s2", Account: "alice", From: "alice@example.org", Created: t0.Add(2 * time.Hour)}); diff != "" {
		t.Error(diff)
	}
	for g, err := range ListGrants(w, "alice") { // may be broken off
		check(t, err)
		if g.ID[0] != 5 {
			t.Errorf("got %v first", g.ID)
		}
		break
	}
}

func TestIssueGrantsRefuses(t *testing.T) {
	t.Parallel()
	file := GrantFile{File: "f", Name: "a", Root: rootOne, Mode: Following}
	good := Grant{ID: GrantID{9}, TokenHash: [32]byte{9}, Files: []GrantFile{file}}
	tests := map[string]struct {
		edit func(*Sending, *Grant, *world)
		want error
	}{
		"fine":             {func(*Sending, *Grant, *world) {}, nil},
		"sending again":    {func(s *Sending, _ *Grant, _ *world) { s.ID = "sending1" }, ErrExists},
		"grant again":      {func(_ *Sending, g *Grant, w *world) { g.ID = w.grant.ID }, ErrExists},
		"no sending id":    {func(s *Sending, _ *Grant, _ *world) { s.ID = "" }, ErrInvalid},
		"no account":       {func(s *Sending, _ *Grant, _ *world) { s.Account = "nobody" }, ErrNotFound},
		"not yours":        {func(s *Sending, _ *Grant, _ *world) { s.From = "bob@example.org" }, ErrNotYours},
		"grant not yours":  {func(_ *Sending, g *Grant, _ *world) { g.Sender = "bob@example.org" }, ErrNotYours},
		"disabled":         {func(_ *Sending, _ *Grant, w *world) { must(0, PutAccount(w, Account{ID: "alice", Status: Disabled})) }, ErrDisabled},
		"no grant id":      {func(_ *Sending, g *Grant, _ *world) { g.ID = GrantID{} }, ErrInvalid},
		"no token hash":    {func(_ *Sending, g *Grant, _ *world) { g.TokenHash = [32]byte{} }, ErrInvalid},
		"no file":          {func(_ *Sending, g *Grant, _ *world) { g.Files = nil }, ErrInvalid},
		"no file id":       {func(_ *Sending, g *Grant, _ *world) { g.Files[0].File = "" }, ErrInvalid},
		"no root":          {func(_ *Sending, g *Grant, _ *world) { g.Files[0].Root = nil }, ErrInvalid},
		"no mode":          {func(_ *Sending, g *Grant, _ *world) { g.Files[0].Mode = 0 }, ErrInvalid},
		"negative size":    {func(_ *Sending, g *Grant, _ *world) { g.Files[0].Size = -1 }, ErrInvalid},
		"zero in sending":  {func(s *Sending, _ *Grant, _ *world) { s.ID = "a\x00b" }, ErrInvalid},
		"zero in file id":  {func(_ *Sending, g *Grant, _ *world) { g.Files[0].File = "a\x00b" }, ErrInvalid},
		"name is made one": {func(_ *Sending, g *Grant, _ *world) { g.Files[0].Name = "../x" }, nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			s, g := Sending{ID: "s", Account: "alice", From: "alice@example.org", Created: t0}, good
			g.Files = slices.Clone(good.Files)
			tt.edit(&s, &g, w)
			given := slices.Clone(g.Files)
			if err := IssueGrants(w, s, g); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			if diff := cmp.Diff(g.Files, given); diff != "" {
				t.Errorf("the caller's grant was changed: %s", diff)
			}
			if tt.want == nil && must(LoadGrant(w, g.ID)).Files[0].Name != CleanName(g.Files[0].Name) {
				t.Error("the name is not clean")
			}
		})
	}
}

func TestRevoke(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	issue(t, w, "s2", 5, t0, "file1")
	issue(t, w, "s3", 6, t0, "file9")
	revoked := func() string {
		var out []string
		for _, g := range must(collect(ListGrants(w, "alice"))) {
			if !g.RevokedAt.IsZero() {
				out = append(out, string('0'+rune(g.ID[0]))+" "+g.RevokedWhy)
			}
		}
		slices.Sort(out)
		return strings.Join(out, ", ")
	}
	n, err := RevokeFile(w, "file1", t0, "leaked")
	check(t, err)
	if n != 2 || revoked() != "5 leaked" {
		t.Errorf("got %d, %q, want grant 5 revoked, and file1 taken out of grant 1", n, revoked())
	}
	if _, err := Decide(w, w.keys, Ask{Token: w.token, Root: rootTwo, Name: "报告.xlsx"}, t0); err != nil {
		t.Errorf("got %v, want the other file of the grant still given", err)
	}
	n, err = RevokeSending(w, "s3", t0, "wrong list")
	check(t, err)
	if n != 1 || revoked() != "5 leaked, 6 wrong list" {
		t.Errorf("got %d, %q", n, revoked())
	}
	check(t, RevokeGrant(w, GrantID{6}, t0.Add(time.Hour), "again"))
	if g := must(LoadGrant(w, GrantID{6})); g.RevokedWhy != "wrong list" || !g.RevokedAt.Equal(t0) {
		t.Errorf("got %+v, want the first revocation kept", g)
	}
	if err := RevokeGrant(w, GrantID{0xee}, t0, ""); !errors.Is(err, ErrNotFound) {
		t.Errorf("got %v, want ErrNotFound", err)
	}
	for name, f := range map[string]func() (int, error){
		"file":    func() (int, error) { return RevokeFile(w, "none", t0, "") },
		"sending": func() (int, error) { return RevokeSending(w, "none", t0, "") },
	} {
		if n, err := f(); n != 0 || err != nil {
			t.Errorf("%s: got %d, %v, want 0", name, n, err)
		}
	}
}

func TestS1_UndoLeavesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	before := w.clone()
	issue(t, w, "s2", 5, t0, "file1", "file3", "file4", "file3")
	files, err := Undo(w, "s2")
	check(t, err)
	if want := []FileID{"file3", "file4"}; !slices.Equal(files, want) {
		t.Errorf("got %v, want %v: file1 is granted by another message", files, want)
	}
	if diff := cmp.Diff(w.values, before); diff != "" {
		t.Error(diff)
	}
	files, err = Undo(w, "s2")
	check(t, err)
	if len(files) > 0 || !maps.EqualFunc(w.values, before, bytes.Equal) {
		t.Errorf("got %v the second time, want nothing", files)
	}
	issue(t, w, "s2", 5, t0, "file3") // the same message again, after the client's retry
}

// Two grants of one message (one a recipient) that name the same file do not keep each other's file alive.
func TestS1_UndoOfManyGrants(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	file := GrantFile{File: "file7", Name: "a", Root: rootOne, Mode: Pinned}
	var grants []Grant
	for n := range byte(3) {
		grants = append(grants, Grant{ID: GrantID{20 + n}, TokenHash: [32]byte{n + 1}, Files: []GrantFile{file}})
	}
	check(t, IssueGrants(w, Sending{ID: "s2", Account: "alice", From: "alice@example.org", Created: t0}, grants...))
	files, err := Undo(w, "s2")
	check(t, err)
	if !slices.Equal(files, []FileID{"file7"}) {
		t.Errorf("got %v, want file7", files)
	}
}

// Every key is this room's, and no two kinds share a prefix.
func TestKeyLayout(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	check(t, PutAppPassword(w, AppPassword{Hash: [32]byte{1}, Account: "alice"}))
	kinds := map[string]bool{}
	for k := range w.values {
		if k[0] != 'a' {
			t.Errorf("key %q is not ours", k)
		}
		kinds[k[:2]] = true
	}
	got := strings.Join(slices.Sorted(maps.Keys(kinds)), " ")
	if want := "aa ad af ag ak am ao ap aq as at au"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// Erasing goes in steps and leaves no trace of the file, nor of grants that were for it alone.
func TestEraseFile(t *testing.T) {
	t.Parallel()
	w := newWorld(t) // grant 1 names file1 and file2
	for i := range byte(5) {
		issue(t, w, SendingID('p'+rune(i)), 10+i, t0, "file1")
	}
	issue(t, w, "s9", 30, t0, "file9")
	var steps []int
	for {
		n, err := EraseFile(w, "file1", 2)
		check(t, err)
		steps = append(steps, n)
		if n < 2 {
			break
		}
	}
	if diff := cmp.Diff([]int{2, 2, 2, 0}, steps); diff != "" {
		t.Errorf("steps: %s", diff)
	}
	if got := must(collect(GrantsOfFile(w, "file1"))); len(got) > 0 {
		t.Errorf("grants still name it: %v", got)
	}
	for i := range byte(5) {
		if _, err := LoadGrant(w, GrantID{10 + i}); !errors.Is(err, ErrNotFound) {
			t.Errorf("grant %d: %v, want ErrNotFound", 10+i, err)
		}
	}
	var left []GrantID
	for _, g := range must(collect(ListGrants(w, "alice"))) {
		left = append(left, g.ID)
		if slices.ContainsFunc(g.Files, func(f GrantFile) bool { return f.File == "file1" }) {
			t.Errorf("grant %s names it", g.ID)
		}
	}
	if len(left) != 2 {
		t.Errorf("left: %v, want the two that name other files", left)
	}
	if _, err := Decide(w, w.keys, Ask{Token: w.token, Root: rootTwo, Name: "报告.xlsx"}, t0); err != nil {
		t.Errorf("the grant's other file: %v", err)
	}
	if _, err := Decide(w, w.keys, Ask{Token: w.token, Root: rootOne, Name: "report.pdf"}, t0); !errors.Is(err, ErrInvalidAccess) {
		t.Errorf("the file itself: %v, want ErrInvalidAccess", err)
	}
}
