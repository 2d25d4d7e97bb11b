package gateway

import (
	"net/url"
	"strings"

	"github.com/valise-mail/valise/authz"
)

// FileURL is the link to one file: ORIGIN/a/{cid}/{token}/{name}.
func FileURL(origin *url.URL, cid string, token authz.Token, name string) string {
	return root(origin) + filePath(cid, token, name)
}

// LandingURL is the link to all files of one message: ORIGIN/m/{token}.
func LandingURL(origin *url.URL, token authz.Token) string {
	return root(origin) + "/m/" + escape(string(token))
}

func root(origin *url.URL) string { return origin.Scheme + "://" + origin.Host }

func filePath(cid string, token authz.Token, name string) string {
	return "/a/" + escape(cid) + "/" + escape(string(token)) + "/" + escape(name)
}

// escape keeps letters, digits, "-", "_", "~" and inner dots, and escapes all
// else: mail programs that look for links in plain text stop at quotes,
// brackets and at a dot in the end.
func escape(s string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_', c == '~',
			c == '.' && i < len(s)-1:
			b.WriteByte(c)
		default:
			b.WriteByte('%')
			b.WriteByte(hex[c>>4])
			b.WriteByte(hex[c&15])
		}
	}
	return b.String()
}

// A link taken apart. Which of its fields are set depends on kind.
type link struct {
	kind  linkKind
	cid   string
	token authz.Token
	name  string
}

type linkKind uint8

const (
	noLink      linkKind = iota
	fileLink             // /a/{cid}/{token}/{name}
	landingLink          // /m/{token}
)

// splitPath takes an escaped path apart. Everything behind the token's slash
// is the name, further slashes included: no name holds one, so authz refuses
// it in its turn, after the token. A cut-off name is an empty one.
func splitPath(escaped string) link {
	switch {
	case strings.HasPrefix(escaped, "/a/"):
		rest := escaped[len("/a/"):]
		cid, rest, _ := strings.Cut(rest, "/")
		token, name, _ := strings.Cut(rest, "/")
		l := link{kind: fileLink}
		var ok [3]bool
		l.cid, ok[0] = unescape(cid)
		var t string
		t, ok[1] = unescape(token)
		l.token = authz.Token(t)
		l.name, ok[2] = unescape(name)
		if ok != [3]bool{true, true, true} || cid == "" || token == "" {
			return link{}
		}
		return l
	case strings.HasPrefix(escaped, "/m/"):
		token, ok := unescape(strings.TrimSuffix(escaped[len("/m/"):], "/"))
		if !ok || token == "" {
			return link{}
		}
		return link{kind: landingLink, token: authz.Token(token)}
	}
	return link{}
}

// unescape undoes one escaping.
func unescape(s string) (string, bool) {
	u, err := url.PathUnescape(s)
	return u, err == nil
}
