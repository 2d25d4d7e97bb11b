package message

import (
	"bytes"
	"hash/maphash"
	"html"
	"net/url"
	"strings"
)

const (
	maxRefs     = 20_000
	maxOwnLinks = 100
)

// references are what the HTML texts of a message refer to, as hashes, so that they take no more than a constant.
type references struct {
	seed  maphash.Seed
	set   map[uint64]struct{}
	blind bool // there is HTML that cannot be read: everything may be referred to
}

// kinds of references, mixed into the hash
const (
	refID       = 'i'
	refLocation = 'l'
)

// to says whether a part is referred to, or may be.
func (r *references) to(n *node) bool {
	if n.contentID == "" && n.location == "" {
		return false
	}
	return r.blind || n.contentID != "" && r.has(refID, n.contentID) ||
		n.location != "" && r.has(refLocation, normalLocation(n.location))
}

func (r *references) has(kind byte, key string) bool {
	_, ok := r.set[r.hash(kind, key)]
	return ok
}

func (r *references) hash(kind byte, key string) uint64 {
	return maphash.String(r.seed, string(kind)+key)
}

func (r *references) add(kind byte, key string) {
	if key == "" || r.blind {
		return
	}
	if r.set == nil {
		r.set = make(map[uint64]struct{})
	}
	if r.set[r.hash(kind, key)] = struct{}{}; len(r.set) > maxRefs {
		r.blind = true
	}
}

// attribute adds what the value of an HTML attribute refers to, in lower case or not.
func (r *references) attribute(value []byte) {
	v := html.UnescapeString(string(bytes.TrimSpace(value)))
	low := strings.ToLower(v)
	switch {
	case strings.HasPrefix(low, "cid:"):
		r.add(refID, normalID(v[4:]))
	case strings.HasPrefix(low, "mid:"):
		r.add(refID, normalID(v[strings.LastIndexByte(v, '/')+1:]))
	default:
		r.add(refLocation, normalLocation(v))
	}
}

// normalID makes Content-ID fields and cid: URLs comparable. Case is ignored: too many referred to are better than too few.
func normalID(s string) string {
	if u, err := url.PathUnescape(s); err == nil {
		s = u
	}
	return strings.ToLower(strings.Trim(s, "<> \t"))
}

// normalLocation makes Content-Location fields and URLs comparable, whatever they are relative to: by their last part.
func normalLocation(s string) string {
	s = strings.Trim(s, "<>\" \t")
	if i := strings.LastIndexAny(s, `/\`); i >= 0 && i < len(s)-1 {
		s = s[i+1:]
	}
	if u, err := url.PathUnescape(s); err == nil {
		s = u
	}
	return strings.ToLower(s)
}
