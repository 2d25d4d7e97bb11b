package authz

import (
	"errors"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestParseAddress(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", 63)
	tests := map[string]struct{ in, want string }{
		"plain":                   {"alice@example.org", "alice@example.org"},
		"case":                    {"Alice.Smith@EXAMPLE.Org", "alice.smith@example.org"},
		"all of atext":            {"!#$%&'*+-/=?^_`{|}~9@example.org", "!#$%&'*+-/=?^_`{|}~9@example.org"},
		"one label":               {"root@localhost", "root@localhost"},
		"quoted without need":     {`"alice"@example.org`, "alice@example.org"},
		"quoted dot-string":       {`"Alice.\Smith"@example.org`, "alice.smith@example.org"},
		"quoted space":            {`"alice smith"@example.org`, `"alice smith"@example.org`},
		"quoted at":               {`"a@b"@example.org`, `"a@b"@example.org`},
		"quoted quote":            {`"a\"\\\b"@example.org`, `"a\"\\b"@example.org`},
		"quoted empty":            {`""@example.org`, `""@example.org`},
		"quoted two dots":         {`"a..b"@example.org`, `"a..b"@example.org`},
		"SMTPUTF8":                {"Дима@example.org", "Дима@example.org"},
		"SMTPUTF8 composed":       {"re\u0301ne@example.org", "r\u00e9ne@example.org"},
		"composes into a special": {"a\u037eb@example.org", `"a;b"@example.org`},
		"U-label":                 {"info@Bücher.example", "info@xn--bcher-kva.example"},
		"A-label":                 {"info@XN--BCHER-KVA.example", "info@xn--bcher-kva.example"},
		"Chinese":                 {"用户@例子。测试", "用户@xn--fsqu00a.xn--0zwm56d"},
		"IPv4 literal":            {"a@[192.0.2.1]", "a@[192.0.2.1]"},
		"IPv6 literal":            {"a@[IPv6:2001:DB8:0::1]", "a@[ipv6:2001:db8::1]"},
		"local of 64":             {long + "a@example.org", long + "a@example.org"},
		"254 octets": {
			"a@" + long + "." + long + "." + long + "." + long[:60],
			"a@" + long + "." + long + "." + long + "." + long[:60],
		},
	}
	for name, tt := range tests {
		got, err := ParseAddress(tt.in)
		if err != nil || string(got) != tt.want {
			t.Errorf("%s: got %q, %v, want %q", name, string(got), err, tt.want)
		}
	}
}

func TestParseAddressRefuses(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", 63)
	tests := map[string]string{
		"empty":                      "",
		"no at":                      "alice",
		"no local part":              "@example.org",
		"no domain":                  "alice@",
		"null path":                  "<>",
		"angle brackets":             "<alice@example.org>",
		"display name":               "Alice <alice@example.org>",
		"source route":               "@a.example,@b.example:alice@example.org",
		"two ats":                    "a@b@example.org",
		"percent route is a name":    "a%b@c@example.org",
		"comment":                    "alice(work)@example.org",
		"space":                      "alice smith@example.org",
		"leading space":              " alice@example.org",
		"trailing space":             "alice@example.org ",
		"trailing line end":          "alice@example.org\r\n",
		"NUL":                        "alice\x00@example.org",
		"NUL quoted":                 "\"alice\x00\"@example.org",
		"tab quoted":                 "\"alice\t\"@example.org",
		"line end quoted":            "\"a\r\nRCPT TO:<b>\"@example.org",
		"backslash before UTF-8":     `"\é"@example.org`,
		"backslash before the end":   `"a\`,
		"quoted, no end":             `"alice@example.org`,
		"quoted, then more":          `"alice"x@example.org`,
		"quoted inside a dot-atom":   `a."b"@example.org`,
		"leading dot":                ".alice@example.org",
		"trailing dot":               "alice.@example.org",
		"two dots":                   "alice..smith@example.org",
		"domain: two dots":           "a@example..org",
		"domain: trailing dot":       "a@example.org.",
		"domain: underscore":         "a@ex_ample.org",
		"domain: leading hyphen":     "a@-example.org",
		"domain: trailing hyphen":    "a@example-.org",
		"domain: space":              "a@exa mple.org",
		"domain: port":               "a@example.org:25",
		"domain: slash":              "a@example.org/x",
		"domain: not an A-label":     "a@xn--a.example",
		"domain: label of 64":        "a@" + long + "a.org",
		"domain: quotes":             `a@"example.org"`,
		"literal: no end":            "a@[192.0.2.1",
		"literal: rubbish":           "a@[example.org]",
		"literal: zone":              "a@[IPv6:fe80::1%eth0]",
		"literal: IPv6 without tag":  "a@[2001:db8::1]",
		"literal: IPv4 with tag":     "a@[IPv6:192.0.2.1]",
		"literal: then more":         "a@[192.0.2.1]x",
		"local of 65":                long + "aa@example.org",
		"255 octets":                 "a@" + long + "." + long + "." + long + "." + long[:61],
		"local of 65 with quotes":    `"` + long + `"@example.org`,
		"local grows over 64":        strings.Repeat("\u0958", 21) + "@example.org",
		"255 octets, 140 normalised": long + "a@" + strings.Repeat("ａ", 60) + ".abcdefghi",
		"139 octets, 264 normalised": long + "a@ü" + strings.Repeat(".ü", 24),
		"domain over 255 normalised": "a@ü" + strings.Repeat(".ü", 40),
		"bidi override":              "a\u202eb@example.org",
		"joiner":                     "a\u200db@example.org",
		"no-break space":             "a\u00a0b@example.org",
		"C1 control":                 "a\u0085b@example.org",
		"byte order mark":            "\ufeffa@example.org",
		"invalid UTF-8":              "a\xff@example.org",
		"replacement character":      "a\ufffd@example.org",
	}
	for name, in := range tests {
		if got, err := ParseAddress(in); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: got %q, %v, want ErrInvalid", name, string(got), err)
		}
	}
}

func TestM2_Tagged(t *testing.T) {
	t.Parallel()
	tests := []struct {
		in, base Address
		tagged   bool
	}{
		{"alice@example.org", "alice@example.org", false},
		{"alice+news@example.org", "alice@example.org", true},
		{"alice+a+b@example.org", "alice@example.org", true},
		{"alice+@example.org", "alice@example.org", true},
		{"+news@example.org", "+news@example.org", false},
		{`"a b+c"@example.org`, `"a b"@example.org`, true},
		{`"alice+a b"@example.org`, "alice@example.org", true},
		{`"alice+a@b"@example.org`, "alice@example.org", true},
	}
	for _, tt := range tests {
		if base, tagged := tt.in.Tagged(); base != tt.base || tagged != tt.tagged {
			t.Errorf("%s: got %s, %v, want %s, %v", tt.in, base, tagged, tt.base, tt.tagged)
		}
	}
}

func TestAddressParts(t *testing.T) {
	t.Parallel()
	a := Address(`"a@\"b"@example.org`)
	if a.Local() != `a@"b` || a.Domain() != "example.org" {
		t.Errorf("got %q at %q", a.Local(), a.Domain())
	}
	if Address("").Local() != "" || Address("").Domain() != "" {
		t.Error("want nothing of nothing")
	}
}

func FuzzParseAddress(f *testing.F) {
	for _, s := range []string{
		"alice@example.org", `"a b\"+c"@EXAMPLE.org`, "re\u0301ne+x@Bücher.example", "a@[IPv6:2001:db8::1]", "a@[192.0.2.1]",
		"a\u037eb@example.org", "ＡＢ@ｅｘａｍｐｌｅ。org", "a@xn--bcher-kva.example", "<a@b>", "K@example.org",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseAddress(s)
		if err != nil {
			if !errors.Is(err, ErrInvalid) || a != "" {
				t.Errorf("got %q, %v", string(a), err)
			}
			return
		}
		if again, err := ParseAddress(string(a)); again != a || err != nil {
			t.Errorf("%q becomes %q, which becomes %q, %v", s, string(a), string(again), err)
		}
		if len(a) > 254 || !utf8.ValidString(string(a)) || strings.ContainsAny(string(a), "\x00\r\n\t\x7f") {
			t.Errorf("%q becomes %q", s, string(a))
		}
		if quoteLocal(a.Local())+"@"+a.Domain() != string(a) || a.Domain() == "" {
			t.Errorf("%q falls into %q and %q", string(a), a.Local(), a.Domain())
		}
		base, tagged := a.Tagged()
		if again, err := ParseAddress(string(base)); again != base || err != nil {
			t.Errorf("base of %q is %q, which becomes %q, %v", string(a), string(base), string(again), err)
		}
		if more, again := base.Tagged(); tagged && again {
			t.Errorf("base of %q is %q, base of that %q", string(a), string(base), string(more))
		}
	})
}
