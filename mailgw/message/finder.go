package message

import "slices"

// A finder looks for references and links anywhere in a text, whatever the markup around.
type finder struct {
	refs  *references
	own   func(string) bool
	links *[]string

	last  uint64 // the last eight octets, in lower case
	kind  byte   // what is being collected: 'c' a Content-ID, 'u' a CSS url(), 'h' a link
	value []byte
}

const maxFound = 4 << 10

// octet looks at the next octet.
func (f *finder) octet(c byte) {
	f.last = f.last<<8 | uint64(lower(c))
	if f.kind != 0 {
		f.collect(c)
	}
	switch {
	case f.last<<32>>32 == word64("cid:"):
		f.kind, f.value = 'c', f.value[:0]
	case f.last<<32>>32 == word64("url("):
		f.kind, f.value = 'u', f.value[:0]
	case f.own != nil && f.last<<8>>8 == word64("http://"):
		f.kind, f.value = 'h', append(f.value[:0], "http://"...)
	case f.own != nil && f.last == word64("https://"):
		f.kind, f.value = 'h', append(f.value[:0], "https://"...)
	}
}

func word64(s string) uint64 {
	var w uint64
	for i := range len(s) {
		w = w<<8 | uint64(s[i])
	}
	return w
}

// collect ends a value at what cannot belong to it.
func (f *finder) collect(c byte) {
	switch {
	case c <= ' ' || c == '"' || c == '\'' || c == '<' || c == '>' || c == ')' || c == '\\' || c >= 0x7f:
		if len(f.value) == 0 && f.kind == 'u' {
			return // the quote of url("...")
		}
		f.end()
	case len(f.value) == maxFound:
		if f.kind != 'h' {
			f.refs.blind = true
		}
		f.kind = 0
	default:
		f.value = append(f.value, c)
	}
}

func (f *finder) end() {
	kind := f.kind
	f.kind = 0
	switch {
	case kind == 'c':
		f.refs.attribute(append([]byte("cid:"), f.value...))
	case kind == 'u':
		f.refs.attribute(f.value)
	case len(*f.links) < maxOwnLinks && !slices.Contains(*f.links, string(f.value)) && f.own(string(f.value)):
		*f.links = append(*f.links, string(f.value))
	}
}
