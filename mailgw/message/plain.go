package message

import (
	"bytes"
	"strings"
)

// plainScan is what is known of a plain text while it is read.
type plainScan struct {
	line []byte // the current one, at most 200 octets
	from int    // lines since one that began with From:
}

// plainOctet collects lines.
func (t *textScan) plainOctet(c byte) {
	p := &t.plain
	if c == '\n' {
		t.plainLine()
		return
	}
	if len(p.line) < 200 {
		p.line = append(p.line, c)
	}
}

// Words that begin the header lines which mail programs put above what they quote.
var (
	fromWords = []string{"from:", "von:", "de :", "de:", "da:", "发件人:", "发件人：", "寄件者:", "差出人:", "from："}
	sentWords = []string{"sent:", "date:", "to:", "gesendet:", "envoyé :", "inviato:", "enviado:", "发送时间:", "发送时间：", "日期:", "日期：", "收件人:", "收件人：", "寄件日期:", "送信日時:", "date：", "to："}
)

// plainLine decides whether a line begins a quotation.
func (t *textScan) plainLine() {
	p := &t.plain
	raw := bytes.TrimSpace(p.line)
	p.line = p.line[:0]
	if p.from > 0 {
		p.from++
	}
	if t.quotes || len(raw) == 0 {
		return
	}
	line := strings.ToLower(t.cs.decode(raw))
	switch {
	case raw[0] == '>' && !bytes.HasPrefix(raw, []byte(">From ")):
		t.quotes = true
	case ruled(line):
		t.quotes = true
	case strings.HasPrefix(line, "begin forwarded message"):
		t.quotes = true
	case hasAnyPrefix(strings.Trim(line, "*"), fromWords):
		p.from = 1
	case p.from > 0 && p.from < 5 && hasAnyPrefix(strings.Trim(line, "*"), sentWords):
		t.quotes = true
	}
}

// ruled says whether line is words between two rules, such as "-----Original Message-----", in any language.
func ruled(line string) bool {
	inner := strings.Trim(line, "-")
	left := len(line) - len(strings.TrimLeft(line, "-"))
	right := len(line) - len(strings.TrimRight(line, "-"))
	inner = strings.TrimSpace(inner)
	return left >= 4 && right >= 4 && inner != "" && len(inner) < 60 && !strings.HasPrefix(inner, "begin pgp") && !strings.HasPrefix(inner, "end pgp")
}

func hasAnyPrefix(s string, prefixes []string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(s, p) {
			return true
		}
	}
	return false
}
