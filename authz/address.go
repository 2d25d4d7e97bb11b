package authz

import (
	"fmt"
	"net/netip"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/net/idna"
	"golang.org/x/text/unicode/norm"
)

// An Address is a mail address in the one form under which we look it up; ParseAddress makes it, so holding one means
// that it is clean. The domain is in lower-case A-labels (RFC 5890) or an address literal. The local part is NFC with
// ASCII letters in lower case, quoted only where it must be. RFC 5321, 2.4 leaves the case of a local part to its own
// server: what goes out on the wire is what the client sent, never this form.
type Address string

// RFC 5321, 4.5.3.1: limits in octets. A path of 256 holds the angle brackets too, so that the limit of 255 for a
// domain cannot be reached.
const (
	maxLocal   = 64
	maxAddress = 254
)

// ParseAddress reads a Mailbox (RFC 5321, 4.1.2; with RFC 6531, 3.3 for UTF-8): a dot-string or a quoted string, then
// a domain or an address literal. It takes no source route, comment, display name or angle bracket, and refuses
// control, format and space characters (beyond the plain space in a quoted string) and invalid UTF-8. The limits of
// RFC 5321, 4.5.3.1 hold for what is read and for what is returned. Errors are ErrInvalid.
func ParseAddress(s string) (Address, error) {
	a, err := parseAddress(s)
	if err != nil {
		return "", fmt.Errorf("address: %w: %w", err, ErrInvalid)
	}
	return a, nil
}

func parseAddress(s string) (Address, error) {
	if len(s) > maxAddress {
		return "", addressError("longer than 254 octets")
	}
	if !utf8.ValidString(s) {
		return "", addressError("not UTF-8")
	}
	for _, r := range s {
		if !printable(r) {
			return "", addressError("a control, format or space character")
		}
	}
	raw, rest, err := cutLocal(s)
	if err != nil {
		return "", err
	}
	if rest == "" || rest[0] != '@' {
		return "", addressError("no @ after the local part")
	}
	if len(s)-len(rest) > maxLocal {
		return "", addressError("local part longer than 64 octets")
	}
	local := quoteLocal(lowerASCII(norm.NFC.String(raw)))
	if len(local) > maxLocal {
		return "", addressError("local part longer than 64 octets")
	}
	domain, err := parseDomain(rest[1:])
	if err != nil {
		return "", err
	}
	if len(local)+1+len(domain) > maxAddress {
		return "", addressError("longer than 254 octets")
	}
	return Address(local + "@" + domain), nil
}

// addressError never repeats the address: it may be anything.
type addressError string

func (e addressError) Error() string { return string(e) }

// printable says whether r may stand in an address at all: RFC 5321 allows no control character, not even quoted;
// format characters (joiners, bidi controls) are refused because two addresses must not look alike.
func printable(r rune) bool {
	return r == ' ' || r != utf8.RuneError && unicode.IsGraphic(r) && !unicode.IsSpace(r)
}

// cutLocal takes the local part off the front of s, unquoted.
func cutLocal(s string) (local, rest string, err error) {
	if strings.HasPrefix(s, `"`) {
		return cutQuoted(s)
	}
	end := strings.IndexByte(s, '@')
	if end < 0 {
		end = len(s)
	}
	if !isDotString(s[:end]) {
		return "", "", addressError("the local part is neither a dot-string nor a quoted string")
	}
	return s[:end], s[end:], nil
}

// cutQuoted reads RFC 5321, 4.1.2: Quoted-string = DQUOTE *QcontentSMTP DQUOTE.
func cutQuoted(s string) (local, rest string, err error) {
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch c := s[i]; c {
		case '"':
			return b.String(), s[i+1:], nil
		case '\\': // quoted-pairSMTP: a backslash, then %d32-126
			i++
			if i == len(s) || s[i] < ' ' || s[i] > '~' {
				return "", "", addressError("a backslash before nothing that can be quoted")
			}
			b.WriteByte(s[i])
		default:
			b.WriteByte(c)
		}
	}
	return "", "", addressError("the quoted string has no end")
}

// isDotString reads RFC 5321, 4.1.2: Dot-string = Atom *("." Atom), with RFC 6531, 3.3: atext includes UTF8-non-ascii.
func isDotString(s string) bool {
	for atom := range strings.SplitSeq(s, ".") {
		if atom == "" || strings.ContainsFunc(atom, func(r rune) bool { return !isAtext(r) }) {
			return false
		}
	}
	return true
}

// isAtext is RFC 5322, 3.2.3.
func isAtext(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r >= utf8.RuneSelf ||
		strings.ContainsRune("!#$%&'*+-/=?^_`{|}~", r)
}

// quoteLocal writes a local part, quoted only where it must be: RFC 5321, 4.1.2 makes the two forms one address.
func quoteLocal(local string) string {
	if isDotString(local) {
		return local
	}
	return `"` + escapeLocal(local) + `"`
}

func escapeLocal(local string) string {
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(local)
}

func lowerASCII(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}

func parseDomain(s string) (string, error) {
	if strings.HasPrefix(s, "[") {
		return parseLiteral(s)
	}
	domain, err := idna.Lookup.ToASCII(s)
	if err != nil {
		return "", addressError("not a domain name")
	}
	if !isDomain(domain) {
		return "", addressError("not a domain name")
	}
	return domain, nil
}

// isDomain reads RFC 5321, 4.1.2: Domain = sub-domain *("." sub-domain), each letters, digits and inner hyphens, of
// at most 63 octets (RFC 1035, 2.3.4).
func isDomain(s string) bool {
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, c := range []byte(label) {
			if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-') {
				return false
			}
		}
	}
	return true
}

// parseLiteral reads RFC 5321, 4.1.3: [192.0.2.1] or [IPv6:2001:db8::1], without a zone.
func parseLiteral(s string) (string, error) {
	inner, ok := strings.CutSuffix(s[1:], "]")
	if !ok {
		return "", addressError("the address literal has no end")
	}
	six := len(inner) >= 5 && strings.EqualFold(inner[:5], "IPv6:")
	if six {
		inner = inner[5:]
	}
	ip, err := netip.ParseAddr(inner)
	if err != nil || ip.Is6() != six || ip.Zone() != "" {
		return "", addressError("not an address literal")
	}
	if six {
		return "[ipv6:" + ip.String() + "]", nil
	}
	return "[" + ip.String() + "]", nil
}

// Domain returns what follows the @.
func (a Address) Domain() string { return string(a[strings.LastIndexByte(string(a), '@')+1:]) }

// Local returns the local part, without quotes.
func (a Address) Local() string {
	local, _, err := cutLocal(string(a))
	if err != nil {
		return "" // not made by ParseAddress
	}
	return local
}

// Tagged takes the tag off: for user+tag@example.org it returns user@example.org and true, for an address without a
// tag the address itself and false. The first + counts; one at the very front is no tag.
func (a Address) Tagged() (base Address, tagged bool) {
	local, _, found := strings.Cut(a.Local(), "+")
	if !found || local == "" {
		return a, false
	}
	return Address(quoteLocal(local) + "@" + a.Domain()), true
}
