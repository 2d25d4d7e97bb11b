package message

import (
	"mime"
	"net/url"
	"path"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// fileName returns the name that a part's sender gave it, from the parameters of its Content-Disposition and
// Content-Type. It reads RFC 2231, with and without continuations, the encoded words of RFC 2047 that are not allowed in
// parameters and common there, and raw octets, for which hint is the charset of the text around.
func fileName(disposition, contentType []param, hint charset) string {
	for _, try := range []struct {
		params []param
		name   string
	}{{disposition, "filename"}, {contentType, "name"}} {
		if name := extended(try.params, try.name); name != "" {
			return cleanName(name)
		}
		for _, p := range try.params {
			if p.name == try.name && p.value != "" {
				if name := cleanName(words(guess(p.value, hint))); name != "" {
					return name
				}
			}
		}
	}
	return ""
}

// extended joins the parts of a parameter in the form of RFC 2231: name*, or name*0, name*1*, ...
func extended(params []param, name string) string {
	if v, ok := lookup(params, name+"*"); ok {
		label, octets := extendedValue(v)
		return decodeLabelled(label, octets)
	}
	var label string
	var octets strings.Builder
	for i := range 200 {
		n := name + "*" + strconv.Itoa(i)
		v, encoded := lookup(params, n+"*")
		if encoded && i == 0 {
			label, v = extendedValue(v)
		} else if encoded {
			v = unescape(v)
		} else if v, encoded = lookup(params, n); !encoded {
			break
		}
		octets.WriteString(v)
	}
	if label == "" { // continuations of something else
		return words(decodeLabelled("", octets.String()))
	}
	return decodeLabelled(label, octets.String())
}

func lookup(params []param, name string) (string, bool) {
	for _, p := range params {
		if p.name == name {
			return p.value, true
		}
	}
	return "", false
}

// extendedValue splits charset'language'octets.
func extendedValue(v string) (label, octets string) {
	if parts := strings.SplitN(v, "'", 3); len(parts) == 3 {
		return parts[0], unescape(parts[2])
	}
	return "", unescape(v)
}

func unescape(s string) string {
	if u, err := url.PathUnescape(s); err == nil {
		return u
	}
	return s
}

func decodeLabelled(label, octets string) string {
	c, ok := charsetOf(label)
	if !ok {
		c = charset{ascii: true}
	}
	if c.enc != nil {
		return c.decode([]byte(octets))
	}
	return guess(octets, c)
}

// words decodes encoded words wherever they stand, also next to each other, split within a character, and without the
// blanks that RFC 2047 wants around them.
func words(s string) string {
	var out strings.Builder
	var pending []byte // octets of adjacent words of one charset
	var label string
	flush := func() {
		if len(pending) > 0 {
			out.WriteString(decodeLabelled(label, string(pending)))
			pending = nil
		}
	}
	for s != "" {
		start := strings.Index(s, "=?")
		if start < 0 {
			break
		}
		l, octets, rest, ok := word(s[start:])
		if !ok {
			flush()
			out.WriteString(s[:start+2])
			s = s[start+2:]
			continue
		}
		if between := s[:start]; strings.Trim(between, " \t") != "" || len(pending) == 0 {
			flush()
			out.WriteString(between)
		}
		if !strings.EqualFold(l, label) {
			flush()
		}
		label = l
		pending = append(pending, octets...)
		s = rest
	}
	flush()
	out.WriteString(s)
	return out.String()
}

// word reads the encoded word at the start of s.
func word(s string) (label string, octets []byte, rest string, ok bool) {
	parts := strings.SplitN(s, "?", 5)
	if len(parts) < 5 || !strings.HasPrefix(parts[4], "=") || len(parts[2]) != 1 {
		return "", nil, "", false
	}
	label, _, _ = strings.Cut(parts[1], "*")
	// The octets are collected as windows-1252 characters 0-255 would be: a decoder that knows no charset.
	d := mime.WordDecoder{}
	text := strings.ReplaceAll(parts[3], " ", "_")
	latin, err := d.Decode("=?iso-8859-1?" + parts[2] + "?" + text + "?=")
	if err != nil {
		return "", nil, "", false
	}
	for _, r := range latin {
		octets = append(octets, byte(r))
	}
	return label, octets, parts[4][1:], true
}

// cleanName strips the path, control, format and bidi characters, blanks around, and all but the first 255 bytes, of
// which the last are the extension. Names that mean a folder become empty.
func cleanName(s string) string {
	s = norm.NFC.String(strings.ToValidUTF8(s, "\ufffd"))
	if i := strings.LastIndexAny(s, `/\`); i >= 0 {
		s = s[i+1:]
	}
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '\t' || r == '\n' || r == '\r':
			return ' '
		case unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || r == '\u2028' || r == '\u2029' || r == '\ufeff':
			return -1
		}
		return r
	}, s)
	s = strings.TrimSpace(s)
	if s == "." || s == ".." {
		return ""
	}
	return shorten(s, 255)
}

// shorten cuts s to limit bytes at a character, before its extension if that is short.
func shorten(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	ext := path.Ext(s)
	if len(ext) > 32 {
		ext = ""
	}
	s = s[:limit-len(ext)]
	for !utf8.ValidString(s) {
		s = s[:len(s)-1]
	}
	return strings.TrimSpace(s) + ext
}
