package message

import (
	"path"
	"slices"
	"strings"
)

// What is longer in a part's header makes it misread.
const (
	maxMedia    = 200
	maxID       = 1000
	maxLocation = 2000
)

// An entity is what a part's header says.
type entity struct {
	media       string // type/subtype in lower case, text/plain where nothing is said, "" where it is not understood
	boundary    string // of a container
	container   bool   // a multipart that is understood
	encoding    string // Content-Transfer-Encoding in lower case
	charset     string
	flowed      bool // format=flowed
	name        string
	file        bool // has a file name
	attachment  bool // Content-Disposition: attachment
	contentID   string
	location    string
	digest      bool // has a Content-MD5, so that its text cannot be changed
	misread     bool // the header is not surely understood
	mimeVersion bool
}

// entityOf reads a part's header. hint is the charset of the message's text, where one is known.
func entityOf(h *Header, parent *node, hint charset) entity {
	var e entity
	kind, ok1 := h.value("Content-Type")
	encoding, ok2 := h.value("Content-Transfer-Encoding")
	disposition, ok3 := h.value("Content-Disposition")
	id, ok4 := h.value("Content-ID")
	location, ok5 := h.value("Content-Location")
	e.misread = h.malformed || !ok1 || !ok2 || !ok3 || !ok4 || !ok5
	e.digest = h.Count("Content-MD5") > 0
	e.mimeVersion = h.Count("MIME-Version") > 0

	media, params, ok := parseParams(kind)
	e.misread = e.misread || !ok || kind != "" && !isMediaType(media)
	e.media = media
	if kind == "" {
		e.media = "text/plain"
		if parent != nil && parent.media == "multipart/digest" {
			e.media = "message/rfc822"
		}
	}
	place, placeParams, ok := parseParams(disposition)
	e.misread = e.misread || !ok || len(id) > maxID || len(location) > maxLocation || len(e.media) > maxMedia
	e.attachment = place == "attachment"

	// "base64 (comment)" and the like are not understood, and so not touched.
	e.encoding = strings.ToLower(encoding)
	e.charset, ok = single(params, "charset")
	if !ok || len(e.charset) > 100 {
		e.charset = "x-unknown"
	}
	format, _ := single(params, "format")
	e.flowed = strings.EqualFold(format, "flowed")
	if own, ok := charsetOf(e.charset); ok && own.enc != nil {
		hint = own
	}
	e.name = fileName(placeParams, params, hint)
	e.file = e.name != ""
	e.contentID = normalID(id)
	e.location = location
	e.boundary, ok = single(params, "boundary")
	if strings.HasPrefix(e.media, "multipart/") {
		e.container = ok && isBoundary(e.boundary) && !e.misread && isIdentity(e.encoding)
		e.misread = !e.container
	}
	e.bound()
	return e
}

// bound drops what is too long to be of use, and copies the rest: a message has a thousand parts, and a short string would
// keep the long header that it was cut from.
func (e *entity) bound() {
	if len(e.encoding) > 100 {
		e.encoding = "x-unknown"
	}
	if !e.container {
		e.boundary = ""
	}
	for _, b := range []struct {
		s     *string
		limit int
	}{
		// An identifier in lower case can be three times as long as it was written.
		{&e.media, maxMedia}, {&e.contentID, 3 * maxID}, {&e.location, maxLocation},
		{&e.boundary, maxBoundary}, {&e.encoding, 100}, {&e.charset, 100}, {&e.name, 255},
	} {
		if len(*b.s) > b.limit { // the part is misread
			*b.s = ""
		}
		*b.s = strings.Clone(*b.s)
	}
}

// isMediaType wants two tokens of RFC 2045.
func isMediaType(s string) bool {
	kind, sub, ok := strings.Cut(s, "/")
	token := func(s string) bool {
		return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
			return r <= ' ' || r >= 0x7f || strings.ContainsRune(`()<>@,;:\"/[]?=`, r)
		})
	}
	return ok && token(kind) && token(sub)
}

func isBoundary(s string) bool {
	return s != "" && len(s) <= maxBoundary && !strings.HasSuffix(s, " ") &&
		!strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r >= 0x7f })
}

func isIdentity(encoding string) bool {
	return encoding == "" || encoding == "7bit" || encoding == "8bit" || encoding == "binary"
}

// wholeMessage says why a message with that header is left alone, or nothing.
func wholeMessage(h *Header, root *node) string {
	for _, name := range []string{"DKIM-Signature", "DomainKey-Signature", "ARC-Message-Signature"} {
		if h.Count(name) > 0 {
			return "signed by a domain"
		}
	}
	if root.misread {
		return "a header that is not understood"
	}
	return ""
}

// wholePart says why a message with such a part is left alone, or nothing.
func wholePart(n *node) string {
	switch n.media {
	case "multipart/signed":
		return "signed"
	case "multipart/encrypted", "application/pgp-encrypted":
		return "encrypted"
	case "application/pkcs7-mime", "application/x-pkcs7-mime":
		return "signed or encrypted"
	case "multipart/report":
		return "a report"
	}
	if strings.EqualFold(path.Ext(n.name), ".p7m") {
		return "signed or encrypted"
	}
	return ""
}

// Parts that stay, by their type, their name and the end of their name: calendars, forwarded messages, TNEF,
// signatures, keys and certificates, business cards.
var (
	keptTypes = []string{
		"text/calendar", "text/x-vcalendar", "application/ics", "application/calendar+json", "application/calendar+xml",
		"application/ms-tnef", "application/vnd.ms-tnef",
		"application/pgp-signature", "application/pgp-keys",
		"application/pkcs7-signature", "application/x-pkcs7-signature",
		"application/pkix-cert", "application/x-x509-ca-cert", "application/x-x509-user-cert",
		"application/pkcs10", "application/pkcs12", "application/x-pkcs12", "application/x-pem-file",
		"text/vcard", "text/x-vcard", "text/directory", "text/rfc822-headers",
	}
	keptExtensions = []string{".ics", ".ical", ".ifb", ".vcs", ".asc", ".sig", ".p7s", ".p7c", ".p7b", ".p12", ".pfx", ".pem", ".cer", ".crt", ".vcf"}
)

// mayTake says whether n may be taken, as far as its header and its place tell.
func mayTake(n *node) bool {
	if n.misread || n.container || n.bodyless || strings.HasPrefix(n.media, "multipart/") ||
		strings.HasPrefix(n.media, "message/") || slices.Contains(keptTypes, n.media) ||
		slices.Contains(keptExtensions, strings.ToLower(path.Ext(n.name))) || strings.EqualFold(n.name, "winmail.dat") {
		return false
	}
	if _, ok := newDecoder(n.encoding); !ok {
		return false
	}
	if strings.HasPrefix(n.media, "text/") && !n.file {
		return false
	}
	if n.parent == nil {
		return true
	}
	for up := n.parent.parent; up != nil; up = up.parent {
		if up.media != "multipart/mixed" && up.media != "multipart/alternative" {
			return false
		}
	}
	return n.parent.media == "multipart/mixed"
}
