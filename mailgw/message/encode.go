package message

import (
	"bytes"
	"encoding/base64"
)

const encodedLine = 76 // RFC 2045: the most that a line of base64 or quoted-printable holds

// encodeQP writes data, whose CRLFs are line breaks, in quoted-printable. No line of it looks like a boundary, a dot or an
// mbox separator.
func encodeQP(data []byte) []byte {
	var out []byte
	for len(data) > 0 {
		line, rest, broken := bytes.Cut(data, []byte("\r\n"))
		col := 0
		for i, c := range line {
			tok := []byte{c}
			if mustEscape(line, i, col) {
				tok = []byte{'=', "0123456789ABCDEF"[c>>4], "0123456789ABCDEF"[c&15]}
			}
			last := i == len(line)-1 && broken
			if col+len(tok) > encodedLine-1 && !(last && col+len(tok) <= encodedLine) {
				out = append(out, "=\r\n"...)
				col = 0
				if mustEscape(line, i, 0) {
					tok = []byte{'=', "0123456789ABCDEF"[c>>4], "0123456789ABCDEF"[c&15]}
				}
			}
			out = append(out, tok...)
			col += len(tok)
		}
		if broken {
			out = append(out, "\r\n"...)
		}
		data = rest
	}
	return out
}

// mustEscape says whether line[i], which comes to stand in column col, cannot stand for itself.
func mustEscape(line []byte, i, col int) bool {
	c := line[i]
	switch {
	case c == '=' || c > '~' || c < ' ' && c != '\t':
		return true
	case c == ' ' || c == '\t':
		return i == len(line)-1
	case col > 0:
		return false
	}
	return c == '.' || bytes.HasPrefix(line[i:], []byte("--")) || bytes.HasPrefix(line[i:], []byte("From "))
}

// encodeBase64 writes data in lines of base64, with CRLFs between them.
func encodeBase64(data []byte) []byte {
	var out []byte
	for len(data) > 0 {
		n := min(len(data), encodedLine/4*3)
		if len(out) > 0 {
			out = append(out, "\r\n"...)
		}
		out = base64.StdEncoding.AppendEncode(out, data[:n])
		data = data[n:]
	}
	return out
}
