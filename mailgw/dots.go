package mailgw

import (
	"bytes"
	"io"
)

// A dotWriter writes the octets of a message as DATA carries them: a dot at the start of a line is doubled
// (RFC 5321, 4.5.2), and nothing else is changed. It is given lines that end with CRLF and holds no bare CR or LF for
// lines, since message.Normalise leaves none.
type dotWriter struct {
	w   io.Writer
	mid bool // the last octet written was not LF
}

// Write implements io.Writer.
func (d *dotWriter) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		if !d.mid && p[done] == '.' {
			if _, err := d.w.Write([]byte{'.'}); err != nil {
				return done, err
			}
		}
		end := len(p)
		if i := bytes.Index(p[done:], []byte("\n.")); i >= 0 {
			end = done + i + 1
		}
		n, err := d.w.Write(p[done:end])
		done += n
		if err != nil {
			return done, err
		}
		d.mid = p[end-1] != '\n'
	}
	return done, nil
}

// An eightBit watches whether anything written to it needs 8BITMIME.
type eightBit bool

// Write implements io.Writer.
func (e *eightBit) Write(p []byte) (int, error) {
	for _, c := range p {
		*e = *e || c >= 0x80
	}
	return len(p), nil
}
