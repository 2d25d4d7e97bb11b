package authz

import (
	"regexp"
	"strings"
	"testing"
)

func TestJ6_AppPassword(t *testing.T) {
	t.Parallel()
	form := regexp.MustCompile(`^([0-9a-hjkmnp-tv-z]{4}-){6}[0-9a-hjkmnp-tv-z]{4}$`)
	seenBefore := map[string]bool{}
	for range 200 {
		s := NewAppPassword()
		if !form.MatchString(s.Reveal()) || seenBefore[s.Reveal()] {
			t.Fatalf("got %q", s.Reveal())
		}
		seenBefore[s.Reveal()] = true
	}
}

// At least 128 bits: every place takes every letter of the alphabet.
func TestJ6_AppPasswordUsesTheWholeAlphabet(t *testing.T) {
	t.Parallel()
	places := make([]map[byte]bool, groups*groupLength)
	for range 2000 {
		for i, c := range []byte(NewAppPassword().text) {
			if places[i] == nil {
				places[i] = map[byte]bool{}
			}
			places[i][c] = true
		}
	}
	for i, letters := range places {
		if len(letters) != len(alphabet) {
			t.Errorf("place %d took %d letters, want %d", i, len(letters), len(alphabet))
		}
	}
	if bits := 5 * len(places); bits < 128 {
		t.Errorf("got %d bits, want 128 or more", bits)
	}
}

func TestJ6_SecretAsTyped(t *testing.T) {
	t.Parallel()
	s := Secret{"0123456789abcdefghjkmnpqrst1"}
	for _, typed := range []string{
		s.Reveal(), s.text, strings.ToUpper(s.Reveal()), " " + strings.ReplaceAll(s.Reveal(), "-", " ") + "\n",
		"O123-4567-89ab-cdef-ghjk-mnpq-rstL", "o1-2345-6789abcdefghjkmnpqrstI",
	} {
		if !ParseSecret(typed).Matches(s.Hash()) {
			t.Errorf("%q does not match", typed)
		}
	}
	for _, typed := range []string{"", "-", "0123", "u" + s.text, s.text[:27] + "é", s.text + "0", s.text[1:], strings.Repeat(" ", 300) + s.text} {
		if ParseSecret(typed).Matches(s.Hash()) {
			t.Errorf("%q matches", typed)
		}
	}
	none := Secret{}
	if none.Matches(none.Hash()) {
		t.Error("no secret matches the hash of nothing")
	}
}

func FuzzParseSecret(f *testing.F) {
	f.Add("0123-4567-89AB-cdef-ghjk-mnpq-rstO")
	f.Add("\xff\u0130 il-")
	f.Fuzz(func(t *testing.T, typed string) {
		s := ParseSecret(typed)
		if again := ParseSecret(s.Reveal()); len(typed) < 100 && again != s {
			t.Errorf("%q becomes %q, which becomes %q", typed, s.text, again.text)
		}
	})
}

func TestIDsAreLinkSafe(t *testing.T) {
	t.Parallel()
	form := regexp.MustCompile(`^[0-9a-z]{26}$`)
	if a, b := NewID(), NewID(); a == b || !form.MatchString(a) || !form.MatchString(b) {
		t.Errorf("got %q and %q", a, b)
	}
	if a, b := NewGrantID(), NewGrantID(); a == b {
		t.Error("got the same grant id twice")
	}
}
