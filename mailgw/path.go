package mailgw

import (
	"strings"
)

// maxPath bounds a forward or reverse path with its angle brackets (RFC 5321, 4.5.3.1.3).
const maxPath = 256

// parsePath reads the path of a MAIL or RCPT command, behind its colon, and returns it as it stands there, without its
// angle brackets and source route: go-smtp takes quotes away, and then "a b"@x and a@b@c cannot be told from others.
// A path that is returned may be written into a command.
func parsePath(s string) (string, error) {
	s = strings.TrimSpace(s)
	if s == "<>" || strings.HasPrefix(s, "<> ") {
		return "", nil
	}
	rest, bracket := strings.CutPrefix(s, "<")
	if strings.HasPrefix(rest, "@") { // a source route: accepted and ignored (RFC 5321, appendix C)
		_, after, ok := strings.Cut(rest, ":")
		if !ok {
			return "", errBadPath
		}
		rest = after
	}
	local, domain, err := cutPath(rest, bracket)
	if err != nil {
		return "", err
	}
	path := local + "@" + domain
	for i := range len(path) {
		if path[i] >= 0x80 {
			return "", errNeedsUTF8
		}
		if path[i] < ' ' || path[i] == 0x7f {
			return "", errBadPath
		}
	}
	if local == "" || !isAtoms(domain) || strings.ContainsAny(domain, `@"\`) || len(path)+2 > maxPath {
		return "", errBadPath
	}
	return path, nil
}

// cutPath splits the mailbox at the start of s, which ends with > if bracket, or else with a space or nothing.
func cutPath(s string, bracket bool) (local, domain string, err error) {
	i, quoted := 0, false
	for ; i < len(s); i++ {
		c := s[i]
		if c == '"' {
			quoted = !quoted
		}
		if quoted && c == '\\' {
			i++
		}
		if !quoted && (c == '@' || c == ' ' || c == '>' || c == '<') {
			break
		}
	}
	if quoted || i >= len(s) || s[i] != '@' || strings.Contains(s[1:max(i, 1)], `"`) && s[0] != '"' {
		return "", "", errBadPath
	}
	local, rest := s[:i], s[i+1:]
	end := strings.IndexAny(rest, " >")
	if !bracket {
		end = strings.IndexByte(rest+" ", ' ')
	}
	if end < 0 || bracket && rest[end] != '>' {
		return "", "", errBadPath
	}
	return local, rest[:end], nil
}
