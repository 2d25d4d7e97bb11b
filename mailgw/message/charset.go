package message

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/encoding"
	"golang.org/x/text/encoding/charmap"
	"golang.org/x/text/encoding/japanese"
	"golang.org/x/text/encoding/korean"
	"golang.org/x/text/encoding/simplifiedchinese"
	"golang.org/x/text/encoding/traditionalchinese"
)

// A charset is one in which text can be added to a body: everything it writes in ASCII is ASCII, outside its escape
// sequences. UTF-7, UTF-16, UTF-32, HZ, EBCDIC and whatever is not listed are none.
type charset struct {
	enc   encoding.Encoding // nil: the octets are UTF-8
	ascii bool              // nothing but ASCII can be written
	shift bool              // ISO 2022: escape sequences switch away from ASCII
}

// charsetOf returns the charset of a name as it stands in mail, where "" means US-ASCII.
func charsetOf(name string) (charset, bool) {
	name = strings.ToLower(strings.TrimSpace(name))
	switch name {
	case "", "us-ascii", "ascii", "ansi_x3.4-1968", "iso646-us", "us":
		return charset{ascii: true}, true
	case "utf-8", "utf8", "unicode-1-1-utf-8":
		return charset{}, true
	case "iso-2022-jp":
		return charset{enc: japanese.ISO2022JP, shift: true}, true
	}
	if enc := superset(name); enc != nil {
		return charset{enc: enc}, true
	}
	return charset{}, false
}

// superset returns the encoding of a name whose octets below 0x80 are ASCII wherever a character begins.
func superset(name string) encoding.Encoding {
	switch name {
	case "gb18030":
		return simplifiedchinese.GB18030
	case "gb2312", "gbk", "cp936", "ms936", "windows-936", "gb_2312-80", "euc-cn", "csgb2312", "x-gbk":
		return simplifiedchinese.GBK
	case "big5", "big5-hkscs", "cp950", "csbig5", "x-x-big5", "big-5":
		return traditionalchinese.Big5
	case "shift_jis", "shift-jis", "sjis", "x-sjis", "ms_kanji", "windows-31j", "cp932", "csshiftjis":
		return japanese.ShiftJIS
	case "euc-jp", "x-euc-jp", "cseucpkdfmtjapanese":
		return japanese.EUCJP
	case "euc-kr", "ks_c_5601-1987", "ks_c_5601", "cp949", "windows-949", "ksc5601":
		return korean.EUCKR
	case "iso-8859-1", "iso8859-1", "iso_8859-1", "latin1", "l1", "cp819":
		return charmap.ISO8859_1
	case "windows-874", "tis-620", "iso-8859-11", "cp874":
		return charmap.Windows874
	case "koi8-r":
		return charmap.KOI8R
	case "koi8-u":
		return charmap.KOI8U
	case "macintosh", "mac", "x-mac-roman":
		return charmap.Macintosh
	}
	name = strings.Replace(name, "iso8859-", "iso-8859-", 1)
	name = strings.Replace(name, "cp125", "windows-125", 1)
	switch name {
	case "iso-8859-2", "latin2":
		return charmap.ISO8859_2
	case "iso-8859-3":
		return charmap.ISO8859_3
	case "iso-8859-4":
		return charmap.ISO8859_4
	case "iso-8859-5":
		return charmap.ISO8859_5
	case "iso-8859-6":
		return charmap.ISO8859_6
	case "iso-8859-7":
		return charmap.ISO8859_7
	case "iso-8859-8", "iso-8859-8-i":
		return charmap.ISO8859_8
	case "iso-8859-9":
		return charmap.ISO8859_9
	case "iso-8859-10":
		return charmap.ISO8859_10
	case "iso-8859-13":
		return charmap.ISO8859_13
	case "iso-8859-14":
		return charmap.ISO8859_14
	case "iso-8859-15", "latin9", "latin-9":
		return charmap.ISO8859_15
	case "iso-8859-16":
		return charmap.ISO8859_16
	case "windows-1250":
		return charmap.Windows1250
	case "windows-1251":
		return charmap.Windows1251
	case "windows-1252":
		return charmap.Windows1252
	case "windows-1253":
		return charmap.Windows1253
	case "windows-1254":
		return charmap.Windows1254
	case "windows-1255":
		return charmap.Windows1255
	case "windows-1256":
		return charmap.Windows1256
	case "windows-1257":
		return charmap.Windows1257
	case "windows-1258":
		return charmap.Windows1258
	}
	return nil
}

// encode returns s in the charset, or false if it cannot hold it. What it returns begins and ends in ASCII.
func (c charset) encode(s string) ([]byte, bool) {
	if isASCII(s) {
		return []byte(s), true
	}
	if c.ascii {
		return nil, false
	}
	if c.enc == nil {
		return []byte(s), utf8.ValidString(s)
	}
	b, err := c.enc.NewEncoder().Bytes([]byte(s))
	if err != nil {
		return nil, false
	}
	// The other side must read the same: encoders know more than labels promise (GBK under the name of GB2312).
	if i := bytes.LastIndexByte(b, 0x1b); c.shift && i >= 0 && !bytes.HasPrefix(b[i:], []byte("\x1b(B")) {
		b = append(b, "\x1b(B"...)
	}
	back, err := c.enc.NewDecoder().Bytes(b)
	return b, err == nil && string(back) == s
}

// decode returns octets of the charset as text; what is not valid becomes U+FFFD.
func (c charset) decode(b []byte) string {
	if c.enc == nil {
		return strings.ToValidUTF8(string(b), "\ufffd")
	}
	d, err := c.enc.NewDecoder().Bytes(b)
	if err != nil {
		return strings.ToValidUTF8(string(b), "\ufffd")
	}
	return string(d)
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// charsetReader serves mime.WordDecoder.
func charsetReader(name string, r io.Reader) (io.Reader, error) {
	c, ok := charsetOf(name)
	if !ok {
		return nil, errors.New("unknown charset " + name)
	}
	if c.enc == nil {
		return r, nil
	}
	return c.enc.NewDecoder().Reader(r), nil
}

// guess reads raw octets of a header: UTF-8 if they are, else the charset hint, else GB 18030 if they look like it, else
// windows-1252.
func guess(s string, hint charset) string {
	if utf8.ValidString(s) {
		return s
	}
	for _, c := range []charset{hint, {enc: simplifiedchinese.GB18030}} {
		if c.enc == nil || c.enc == simplifiedchinese.GB18030 && !pairs(s) {
			continue
		}
		if out := c.decode([]byte(s)); !strings.ContainsRune(out, utf8.RuneError) {
			return out
		}
	}
	return charset{enc: charmap.Windows1252}.decode([]byte(s))
}

// pairs says whether all octets above ASCII come in twos, as those of the usual Chinese characters do and those of words
// with an accent here and there do not.
func pairs(s string) bool {
	run := 0
	for i := range len(s) {
		if s[i] >= 0xa1 {
			run++
		} else if s[i] >= 0x80 || run%2 == 1 {
			return false
		}
	}
	return run%2 == 0
}
