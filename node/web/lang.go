package web

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"

	"golang.org/x/text/language"
)

// A Lang is a language pages are written in, as a BCP 47 tag.
type Lang string

// The languages there are.
const (
	English Lang = "en"
	Chinese Lang = "zh-CN"
)

// ParseLang reads a language from a config; "" is English.
func ParseLang(s string) (Lang, error) {
	switch l := Lang(s); l {
	case "":
		return English, nil
	case English, Chinese:
		return l, nil
	}
	return "", fmt.Errorf("language %q: want %s or %s", s, English, Chinese)
}

// maxAcceptLanguage bounds what a stranger makes us parse, in bytes. Browsers send under 100.
const maxAcceptLanguage = 512

// ChooseLang picks the language for an Accept-Language header; fallback is
// for those who ask for none we have.
func ChooseLang(accept string, fallback Lang) Lang {
	if accept == "" || len(accept) > maxAcceptLanguage {
		return fallback
	}
	tags, _, err := language.ParseAcceptLanguage(accept) // sorted by weight
	if err != nil {
		return fallback
	}
	for _, t := range tags {
		switch base, _ := t.Base(); base.String() {
		case "en":
			return English
		case "zh":
			return Chinese
		}
	}
	return fallback
}

// Pick returns the text in l.
func (l Lang) Pick(en, zh string) string {
	if l == Chinese {
		return zh
	}
	return en
}

// Size writes n bytes for people: "4.2 MB".
func (l Lang) Size(n int64) string {
	if n < 1000 {
		return strconv.FormatInt(n, 10) + " " + l.unit(n)
	}
	const units = "kMGTPE"
	f, unit := float64(n)/1000, 0
	for f >= 999.5 && unit < len(units)-1 {
		f, unit = f/1000, unit+1
	}
	digits := 0
	if f < 9.95 {
		digits = 1
	}
	return strconv.FormatFloat(f, 'f', digits, 64) + " " + units[unit:unit+1] + "B"
}

// Bytes writes n exactly: "4,194,304 bytes".
func (l Lang) Bytes(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s + " " + l.unit(n)
}

func (l Lang) unit(n int64) string {
	if n == 1 {
		return l.Pick("byte", "字节")
	}
	return l.Pick("bytes", "字节")
}

// Time writes t to the minute, in UTC: nobody asked where the reader is.
func (l Lang) Time(t time.Time) string {
	return t.UTC().Format(l.Pick("2 January 2006, 15:04 UTC", "2006年1月2日 15:04 UTC"))
}

// Printable is s without the characters that steer a terminal or a line of
// text instead of being seen: control characters and bidi marks.
func Printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.In(r, unicode.Bidi_Control, unicode.Zl, unicode.Zp) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
}
