package authz

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

const (
	maxName      = 255 // octets: what common file systems take
	maxExtension = 32  // octets with the dot; a longer one is not an extension worth keeping
)

// CleanName turns a name as sent into the name that stands in the link and in the grant: in NFC, without slashes,
// backslashes, control and bidi characters, without space at its ends, at most 255 octets, cut before the extension.
// What is left empty, "." or ".." becomes "attachment". Cleaning a clean name changes nothing.
func CleanName(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	s = strings.Map(func(r rune) rune {
		if r == '/' || r == '\\' || unicode.IsControl(r) || unicode.In(r, unicode.Bidi_Control, unicode.Zl, unicode.Zp) {
			return -1
		}
		return r
	}, s)
	s = strings.TrimSpace(cutName(strings.TrimSpace(norm.NFC.String(s))))
	if s == "" || s == "." || s == ".." {
		return "attachment"
	}
	return s
}

// cutName cuts the stem so that all fits into maxName octets, between characters.
func cutName(s string) string {
	if len(s) <= maxName {
		return s
	}
	ext := ""
	if dot := strings.LastIndexByte(s, '.'); dot > 0 && len(s)-dot <= maxExtension {
		ext = s[dot:]
	}
	end := maxName - len(ext)
	for !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + ext
}
