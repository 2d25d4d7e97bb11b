package message

import (
	"errors"
	"strings"
	"testing"
)

// TestM3_DecodersAreStrict holds what decodes, and what is left in place because programs would read it differently.
func TestM3_DecodersAreStrict(t *testing.T) {
	t.Parallel()
	const broken = "\x00broken"
	for _, c := range []struct{ encoding, in, want string }{
		{"base64", "QUJD", "ABC"},
		{"base64", "QU JD\r\n\r\n\tRA==\r\n \r\n", "ABCD"},
		{"base64", "", ""},
		{"base64", "QUI", broken},
		{"base64", "QUJDR", broken},
		{"base64", "QQ==QUJD", broken},
		{"base64", "Q=JD", broken},
		{"base64", "QUJ-", broken},
		{"base64", "QUJD====", broken},
		{"base64", strings.Repeat("QUJD", 9) + "QU\x00D", broken},
		{"quoted-printable", "a=3D=3d b\tc\r\n", "a== b\tc\r\n"},
		{"quoted-printable", "soft= \t\r\n line=\r\n", "soft line"},
		{"quoted-printable", "ends softly=", "ends softly"},
		{"quoted-printable", "a =3D", "a ="},
		{"quoted-printable", "a \r\nb", broken},
		{"quoted-printable", "a\t", broken},
		{"quoted-printable", "caf\xe9", broken},
		{"quoted-printable", "a \xe9", broken},
		{"quoted-printable", "a\x01", broken},
		{"quoted-printable", "=4", broken},
		{"quoted-printable", "=ZZ", broken},
		{"quoted-printable", "= x", broken},
		{"8bit", "a \xff\r\n", "a \xff\r\n"},
		{"binary", "a\x00b", broken},
	} {
		d, ok := newDecoder(c.encoding)
		if !ok {
			t.Fatalf("no decoder for %s", c.encoding)
		}
		out, err := d.decode(nil, []byte(c.in))
		if err == nil {
			out, err = d.finish(out)
		}
		if c.want == broken {
			if !errors.Is(err, ErrLeft) {
				t.Errorf("%s of %q: %q, %v, want %v", c.encoding, c.in, out, err, ErrLeft)
			}
		} else if string(out) != c.want || err != nil {
			t.Errorf("%s of %q: %q, %v, want %q", c.encoding, c.in, out, err, c.want)
		}
	}
	for _, name := range []string{"x-uuencode", "7-bit", "base64 (yes)"} {
		if _, ok := newDecoder(name); ok {
			t.Errorf("%s has a decoder", name)
		}
	}
}

// TestM6_SoftEnd holds a text that ends in a soft line break whose CRLF is the boundary's.
func TestM6_SoftEnd(t *testing.T) {
	t.Parallel()
	for _, end := range []string{"=", "=\r\n"} {
		in := mixed("Content-Type: text/plain\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nHello"+end, attached("Content-Type: application/pdf"))
		r := pass(t, str(in), Options{}, "en")
		if got := decoded(t, r.rewritten); len(r.taken) != 1 || !strings.HasPrefix(got, "Hello\r\n\r\nThe attachment of") {
			t.Errorf("%q: the reader sees %q", end, got)
		}
	}
}
