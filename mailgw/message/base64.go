package message

import (
	"encoding/base64"
	"encoding/binary"
	"slices"
)

// base64Decoder allows white space anywhere and wants the padding complete and at the end.
type base64Decoder struct {
	quantum [4]byte
	n       int  // octets in quantum
	ended   bool // padding was seen
}

func (d *base64Decoder) decode(dst, src []byte) ([]byte, error) {
	dst = slices.Grow(dst, len(src)+decoderSlack/2)
	for len(src) > 0 {
		if d.n == 0 && !d.ended {
			dst, src = bulk(dst, src)
			if len(src) == 0 {
				break
			}
		}
		c := src[0]
		src = src[1:]
		if c == '\n' || c == '\r' || c == ' ' || c == '\t' {
			continue
		}
		if d.ended {
			return dst, errUnclean
		}
		d.quantum[d.n] = c
		if d.n++; d.n < 4 {
			continue
		}
		d.n = 0
		var out [3]byte
		n, err := base64.StdEncoding.Decode(out[:], d.quantum[:])
		if err != nil {
			return dst, errUnclean
		}
		d.ended = d.quantum[3] == '='
		dst = append(dst, out[:n]...)
	}
	return dst, nil
}

func (d *base64Decoder) finish(dst []byte) ([]byte, error) {
	if d.n != 0 {
		return dst, errUnclean
	}
	return dst, nil
}

// bulk decodes as long as there is nothing but whole quanta, and lines that end behind one, and returns what is left.
// dst has room for it. encoding/base64 takes twice the time for lines, and does not say how far it came.
func bulk(dst, src []byte) (decoded, rest []byte) {
	at := len(dst)
	out := dst[:cap(dst)]
	for {
		for len(src) >= 8 && len(out)-at >= 8 {
			a := six[0][src[0]] | six[1][src[1]] | six[2][src[2]] | six[3][src[3]]
			b := six[0][src[4]] | six[1][src[5]] | six[2][src[6]] | six[3][src[7]]
			if (a|b)>>24 != 0 {
				break
			}
			binary.BigEndian.PutUint64(out[at:], uint64(a)<<40|uint64(b)<<16)
			at, src = at+6, src[8:]
		}
		for len(src) >= 4 && len(out)-at >= 3 {
			a := six[0][src[0]] | six[1][src[1]] | six[2][src[2]] | six[3][src[3]]
			if a>>24 != 0 {
				break
			}
			out[at], out[at+1], out[at+2] = byte(a>>16), byte(a>>8), byte(a)
			at, src = at+3, src[4:]
		}
		if len(src) < 2 || src[0] != '\r' || src[1] != '\n' {
			return dst[:at], src
		}
		src = src[2:]
	}
}

// six holds the six bits of every octet in each of the four places of a quantum, bit 24 for one that has none.
var six = func() (t [4][256]uint32) {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	for place := range t {
		for c := range t[place] {
			t[place][c] = 1 << 24
		}
		for v, c := range []byte(alphabet) {
			t[place][c] = uint32(v) << (18 - 6*place)
		}
	}
	return t
}()
