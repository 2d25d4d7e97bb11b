package message

import (
	"strings"
)

// A param is one parameter as written: its name in lower case, its value without quotes and backslashes.
type param struct{ name, value string }

// parseParams splits the body of a Content-Type or Content-Disposition field into its value and parameters. It is as
// lenient as mail programs are (8-bit octets, blanks and "=" in unquoted values, empty parameters); ok is false where
// they would disagree: an open quote or comment, text that belongs nowhere.
func parseParams(s string) (value string, params []param, ok bool) {
	value, s, ok = paramToken(s, ";")
	value = strings.ToLower(strings.Trim(value, " \t"))
	for ok && s != "" {
		s = s[1:] // the ";"
		var p param
		p.name, s, ok = paramToken(s, ";=")
		p.name = strings.ToLower(strings.Trim(p.name, " \t"))
		if !ok || p.name == "" && (s == "" || s[0] == ';') {
			continue
		}
		if s == "" || s[0] == ';' || p.name == "" || strings.ContainsAny(p.name, " \t\"") {
			return value, params, false
		}
		p.value, s, ok = paramToken(s[1:], ";")
		p.value = strings.Trim(p.value, " \t")
		if q, quoted := unquote(p.value); quoted {
			p.value = q
		} else if strings.HasPrefix(p.value, `"`) {
			return value, params, false
		}
		params = append(params, p)
	}
	return value, params, ok
}

// paramToken returns s up to the first octet of stop outside quotes, without comments, and the rest from there on.
func paramToken(s, stop string) (token, rest string, ok bool) {
	var b strings.Builder
	quoted, depth := false, 0
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '\\' && (quoted || depth > 0) && i+1 < len(s):
			if quoted {
				b.WriteString(s[i : i+2])
			}
			i++
			continue
		case depth > 0:
			depth += map[byte]int{'(': 1, ')': -1}[c]
			continue
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '(' && isComment(b.String(), s[i:], stop):
			depth = 1
			continue
		case strings.IndexByte(stop, c) >= 0:
			return b.String(), s[i:], true
		}
		b.WriteByte(c)
	}
	return b.String(), "", !quoted && depth == 0
}

// isComment says whether the parenthesis at the start of rest opens a comment: in front of a token or behind it, not in
// name=a(1).pdf or name=the file (1).pdf.
func isComment(before, rest, stop string) bool {
	if t := strings.TrimRight(before, " \t"); t == before && t != "" {
		return false
	}
	_, after, closed := strings.Cut(rest, ")")
	after = strings.TrimLeft(after, " \t")
	return !closed || strings.Contains(stop, "=") || after == "" || strings.IndexByte(stop+"(", after[0]) >= 0
}

// unquote returns what stands in one pair of quotes around all of s.
func unquote(s string) (string, bool) {
	if len(s) < 2 || s[0] != '"' || s[len(s)-1] != '"' {
		return "", false
	}
	var b strings.Builder
	for i := 1; i < len(s)-1; i++ {
		if s[i] == '"' {
			return "", false
		}
		if s[i] == '\\' && i+1 < len(s)-1 && strings.IndexByte("\\\"", s[i+1]) >= 0 {
			i++ // other backslashes stand for themselves: C:\dir\name, and Shift_JIS octets
		}
		b.WriteByte(s[i])
	}
	return b.String(), true
}

// single returns the value of the only parameter of that name; ok is false when there are several, or one in the
// extended form of RFC 2231, which is not expected where this is used.
func single(params []param, name string) (value string, ok bool) {
	n := 0
	for _, p := range params {
		if p.name == name {
			value = p.value
			n++
		} else if strings.HasPrefix(p.name, name+"*") {
			return "", false
		}
	}
	return value, n <= 1
}
