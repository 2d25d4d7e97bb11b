package mailgw

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/emersion/go-smtp"
)

// Bounds of what a next hop may say. RFC 5321, 4.5.3.1.5 allows 512 octets a line; some say more.
const (
	maxReplyLine  = 2048
	maxReplyLines = 128
)

// errBadReply says that a next hop does not speak SMTP.
var errBadReply = errors.New("not an SMTP reply")

// A reply is an answer, a next hop's or ours. As an error it is why a next hop is lost: it said that it closes.
type reply struct {
	code  int
	enh   smtp.EnhancedCode // zero when there is none
	lines []string          // text without the code, with the enhanced code where there is one
}

// newReply makes an answer of our own.
func newReply(code int, enh smtp.EnhancedCode, text string) reply {
	return reply{code, enh, []string{fmt.Sprintf("%d.%d.%d %s", enh[0], enh[1], enh[2], text)}}
}

// readReply reads one reply of one or more lines.
func readReply(r *bufio.Reader) (reply, error) {
	var rep reply
	for {
		line, err := replyLine(r)
		if err != nil {
			return reply{}, err
		}
		code, more, text, ok := splitReply(line)
		if !ok || rep.code != 0 && code != rep.code || len(rep.lines) == maxReplyLines {
			return reply{}, errBadReply
		}
		rep.code = code
		rep.lines = append(rep.lines, text)
		if !more {
			rep.enh = enhancedCode(code, rep.lines[0])
			return rep, nil
		}
	}
}

// replyLine reads one line, without its end.
func replyLine(r *bufio.Reader) (string, error) {
	var line []byte
	for {
		c, err := r.ReadByte()
		switch {
		case err == io.EOF:
			return "", io.ErrUnexpectedEOF
		case err != nil:
			return "", err
		case c == '\n':
			return strings.TrimSuffix(string(line), "\r"), nil
		case len(line) == maxReplyLine:
			return "", errBadReply
		}
		line = append(line, c)
	}
}

// splitReply takes a line apart. Its text is made safe to be shown to a client.
func splitReply(line string) (code int, more bool, text string, ok bool) {
	if len(line) < 3 || line[0] < '2' || line[0] > '5' {
		return 0, false, "", false
	}
	for i := range 3 {
		if line[i] < '0' || line[i] > '9' {
			return 0, false, "", false
		}
		code = code*10 + int(line[i]-'0')
	}
	if len(line) == 3 {
		return code, false, "", true
	}
	if line[3] != ' ' && line[3] != '-' {
		return 0, false, "", false
	}
	clean := []byte(line[4:])
	for i, c := range clean {
		if c < ' ' && c != '\t' || c == 0x7f {
			clean[i] = '?'
		}
	}
	return code, line[3] == '-', string(clean), true
}

// enhancedCode finds an enhanced code (RFC 2034) of the right class at the start of text.
func enhancedCode(code int, text string) smtp.EnhancedCode {
	first, _, _ := strings.Cut(text, " ")
	var e smtp.EnhancedCode
	parts := strings.Split(first, ".")
	if len(parts) != 3 {
		return smtp.EnhancedCode{}
	}
	for i, p := range parts {
		if len(p) == 0 || len(p) > 3 {
			return smtp.EnhancedCode{}
		}
		for _, c := range []byte(p) {
			if c < '0' || c > '9' {
				return smtp.EnhancedCode{}
			}
			e[i] = e[i]*10 + int(c-'0')
		}
	}
	if e[0] != code/100 {
		return smtp.EnhancedCode{}
	}
	return e
}

// ok reports whether the reply is a yes.
func (r reply) ok() bool { return r.code/100 == 2 }

// Error implements error.
func (r reply) Error() string { return fmt.Sprintf("%d %s", r.code, strings.Join(r.lines, " / ")) }

// text returns the reply's text in one line, without its enhanced code, not longer than a line may be.
func (r reply) text() string {
	all := strings.Join(r.lines, " ")
	if r.enh != (smtp.EnhancedCode{}) {
		_, all, _ = strings.Cut(all, " ")
	}
	return all[:min(len(all), 300)]
}

// wire returns the reply as it is sent to a client. We offer ENHANCEDSTATUSCODES, so an answer that has none gets the
// one without meaning, X.0.0; nothing else is changed.
func (r reply) wire() []byte {
	var b strings.Builder
	for i, line := range r.lines {
		sep := "-"
		if i == len(r.lines)-1 {
			sep = " "
		}
		if r.enh == (smtp.EnhancedCode{}) {
			line = fmt.Sprintf("%d.0.0 %s", r.code/100, line)
		}
		fmt.Fprintf(&b, "%d%s%s\r\n", r.code, sep, line)
	}
	return []byte(b.String())
}
