package gateway

import (
	"path"
	"strings"
	"unicode"

	"golang.org/x/text/unicode/norm"

	"github.com/valise-mail/valise/node/web"
)

// disposition is the Content-Disposition that saves a file under name
// (RFC 6266): in ASCII for old clients and curl -J, and exactly. Most read only one of the two.
func disposition(name string) string {
	name = strings.NewReplacer("/", "_", `\`, "_").Replace(web.Printable(name))
	return `attachment; filename="` + asciiName(name) + `"; filename*=UTF-8''` + escapeExt(name)
}

// asciiName is the nearest name that every client reads alike. Accents fall
// off their letters; a run of anything else foreign becomes one "_". Quotes
// are quoted differently everywhere, and some clients undo %XX, so neither
// stays.
func asciiName(name string) string {
	var b strings.Builder
	last := rune(0)
	for _, r := range norm.NFD.String(name) {
		if unicode.Is(unicode.Mn, r) {
			continue
		}
		if r < ' ' || r > '~' || strings.ContainsRune(`"\%`, r) {
			r = '_'
			if last == '_' {
				continue
			}
		}
		b.WriteRune(r)
		last = r
	}
	s := strings.TrimSpace(b.String())
	ext := path.Ext(s)
	if strings.Trim(strings.TrimSuffix(s, ext), "_ .-") == "" {
		return "attachment" + ext // nothing of the stem is left
	}
	return s
}

// escapeExt writes s as an ext-value of RFC 8187, 3.2.1 after its charset:
// attr-chars stay, all other bytes are escaped.
func escapeExt(s string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("!#$&+-.^_`|~", c) >= 0:
			b.WriteByte(c)
		default:
			b.WriteByte('%')
			b.WriteByte(hex[c>>4])
			b.WriteByte(hex[c&15])
		}
	}
	return b.String()
}
