package message

import (
	"fmt"
	"strings"
	"testing"
)

// mixed is a message of parts, each a header and a body.
func mixed(parts ...string) string {
	return mixedHead + "--b\r\n" + strings.Join(parts, "\r\n--b\r\n") + "\r\n--b--\r\n"
}

const hello = "Content-Type: text/plain\r\n\r\nHello.\r\n"

// attached is a part with 300 bytes of content.
func attached(header string) string {
	return header + "\r\nContent-Transfer-Encoding: base64\r\n\r\n" + strings.Repeat("QUJD", 100)
}

// TestM3_PartRules says of one part at threshold 0 whether it is taken.
func TestM3_PartRules(t *testing.T) {
	t.Parallel()
	for header, want := range map[string]bool{
		"Content-Type: application/pdf":                                                     true,
		"Content-Type: application/pdf\r\nContent-Disposition: inline":                      true,
		"Content-Type: image/png\r\nContent-ID: <unused@x>":                                 true,
		"Content-Type: text/plain; name=a.txt":                                              true,
		"Content-Disposition: attachment; filename=a.txt":                                   true,
		"Content-Type: text/html; name=a.html":                                              true,
		"Content-Type: application/x-unknown":                                               true,
		"CONTENT-TYPE: Application/PDF (yes); NAME=x":                                       true,
		"Content-Type: text/plain":                                                          false,
		"Content-Type: text/plain\r\nContent-Disposition: attachment":                       false,
		"Content-Type: text/calendar; name=a.ics":                                           false,
		"Content-Type: application/octet-stream; name=\"a.ICS\"":                            false,
		"Content-Type: message/rfc822; name=a.eml":                                          false,
		"Content-Type: message/external-body; access-type=x":                                false,
		"Content-Type: application/ms-tnef; name=x":                                         false,
		"Content-Type: application/octet-stream; name=WinMail.dat":                          false,
		"Content-Type: application/pgp-signature; name=s":                                   false,
		"Content-Type: application/pgp-keys; name=k":                                        false,
		"Content-Type: application/octet-stream; name=key.asc":                              false,
		"Content-Type: application/x-pkcs7-signature; name=smime.p7s":                       false,
		"Content-Type: text/vcard; name=a":                                                  false,
		"Content-Type: text/plain; name=a.vcf":                                              false,
		"Content-Type: pdf; name=a.pdf":                                                     false,
		"Content-Type: application/pdf; name=\"a.pdf":                                       false,
		"Content-Type: application/pdf\r\nContent-Type: application/pdf":                    false,
		"Content-Type: application/pdf\r\nContent-Disposition: x\r\nContent-Disposition: y": false,
		"Content-Type: application/pdf\r\nno colon here":                                    false,
		"Content-Type: application/pdf\r\n \r\n x":                                          false,
	} {
		r := pass(t, str(mixed(hello, attached(header))), Options{}, "en")
		if got := len(r.taken) == 1; got != want {
			t.Errorf("%q: taken %v, want %v (%s)", header, got, want, r.m.untouched)
		}
	}
}

// TestM3_Places says where a part must be to be taken.
func TestM3_Places(t *testing.T) {
	t.Parallel()
	pdf := attached("Content-Type: application/pdf; name=a.pdf")
	for kind, want := range map[string]bool{
		"mixed": true, "related": false, "alternative": false, "parallel": false, "digest": false, "appledouble": false, "x-unknown": false,
	} {
		in := "Content-Type: multipart/" + kind + "; boundary=b\r\n\r\n--b\r\n" + hello + "--b\r\n" + pdf + "\r\n--b--\r\n"
		if r := pass(t, str(in), Options{}, "en"); (len(r.taken) == 1) != want {
			t.Errorf("child of multipart/%s: %d taken, want %v", kind, len(r.taken), want)
		}
		inner := "Content-Type: multipart/mixed; boundary=c\r\n\r\n--c\r\n" + hello + "--c\r\n" + pdf + "\r\n--c--"
		in = "Content-Type: multipart/" + kind + "; boundary=b\r\n\r\n--b\r\n" + hello + "\r\n--b\r\n" + inner + "\r\n--b--\r\n"
		want = want || kind == "alternative"
		if r := pass(t, str(in), Options{}, "en"); (len(r.taken) == 1) != want {
			t.Errorf("mixed in multipart/%s: %d taken, want %v", kind, len(r.taken), want)
		}
	}
}

// TestM3_WholeMessage holds what keeps a whole message as it is, though a file stands beside it.
func TestM3_WholeMessage(t *testing.T) {
	t.Parallel()
	pdf := attached("Content-Type: application/pdf; name=a.pdf")
	multi := func(kind string) string {
		return "Content-Type: multipart/" + kind + "; boundary=c\r\n\r\n--c\r\n" + hello + "--c\r\n" + hello + "\r\n--c--"
	}
	text := func(s string) string { return "Content-Type: text/plain\r\n\r\n" + s }
	for name, in := range map[string]string{
		"signed":               mixed(hello, pdf, multi("signed")),
		"encrypted":            mixed(multi("encrypted"), pdf),
		"report":               mixed(hello, pdf, multi("report")),
		"pkcs7-mime":           mixed(hello, pdf, attached("Content-Type: application/pkcs7-mime")),
		"x-pkcs7-mime":         mixed(hello, pdf, attached("Content-Type: application/x-pkcs7-mime")),
		"p7m":                  mixed(hello, pdf, attached("Content-Type: application/octet-stream; name=smime.p7m")),
		"pgp":                  mixed(text("x\r\n-----BEGIN PGP MESSAGE-----\r\n"), pdf),
		"pgp and a key":        mixed(text("-----BEGIN PGP MESSAGE-----\r\n-----BEGIN PGP PUBLIC KEY BLOCK-----\r\n"), pdf),
		"pgp after the file":   mixed(hello, pdf, text("-----BEGIN PGP SIGNED MESSAGE-----\r\n")),
		"pgp in HTML":          mixed("Content-Type: text/html\r\n\r\n<pre>-----BEGIN PGP MESSAGE-----\r\n", pdf),
		"dkim":                 "dkim-signature: v=1\r\n" + mixed(hello, pdf),
		"arc":                  "ARC-Message-Signature: i=1\r\n" + mixed(hello, pdf),
		"two types":            "Content-Type: text/plain\r\n" + mixed(hello, pdf),
		"no field":             "garbage\r\n" + mixed(hello, pdf),
		"continues nothing":    " x\r\n" + mixed(hello, pdf),
		"encoded as a whole":   "Content-Transfer-Encoding: base64\r\n" + mixed(hello, pdf),
		"two boundaries":       strings.Replace(mixed(hello, pdf), "boundary=b", "boundary=b; boundary=c", 1),
		"an extended boundary": strings.Replace(mixed(hello, pdf), "boundary=b", "boundary*=us-ascii''b", 1),
	} {
		r := pass(t, str(in), Options{}, "en")
		if len(r.taken) > 0 || r.m.untouched == "" || string(r.rewritten) != in {
			t.Errorf("%s: %d taken, untouched because of %q", name, len(r.taken), r.m.untouched)
		}
	}
	for name, in := range map[string]string{
		"a PGP key":          mixed(text("-----BEGIN PGP PUBLIC KEY BLOCK-----\r\n"), pdf),
		"PGP within a line":  mixed(text("the line -----BEGIN PGP MESSAGE----- is\r\n"), pdf),
		"autocrypt":          "Autocrypt: addr=a@example.org; keydata=AAAA\r\n" + mixed(hello, pdf),
		"an mbox separator":  "From a@example.org Mon Oct  5 10:00:00 2026\r\n" + mixed(hello, pdf),
		"signed in a letter": mixed(hello, "Content-Type: message/rfc822\r\n\r\n"+multi("signed"), pdf),
	} {
		if r := pass(t, str(in), Options{}, "en"); len(r.taken) != 1 {
			t.Errorf("%s: %d taken, want 1 (%s)", name, len(r.taken), r.m.untouched)
		}
	}
}

// TestM3_Threshold weighs siblings of 300 bytes together.
func TestM3_Threshold(t *testing.T) {
	t.Parallel()
	pdf := attached("Content-Type: application/pdf; name=a.pdf")
	ics := attached("Content-Type: text/calendar; name=a.ics")
	broken := "Content-Type: application/pdf\r\nContent-Transfer-Encoding: base64\r\n\r\n" + strings.Repeat("QUJD", 100) + "!"
	for _, c := range []struct {
		threshold int64
		in        string
		want      int
	}{
		{299, mixed(hello, pdf), 1},
		{300, mixed(hello, pdf), 0},
		{300, mixed(hello, pdf, pdf), 2},
		{599, mixed(hello, pdf, pdf), 2},
		{600, mixed(hello, pdf, pdf), 0},
		{600, mixed(pdf, pdf, hello, pdf, pdf), 4},
		{600, mixed(hello, pdf, pdf, ics), 0},
		{600, mixed(hello, pdf, pdf, broken), 2}, // what decodes before the break counts
		{-1, mixed(hello, pdf), 0},
		{0, mixed(hello, "Content-Type: application/pdf; name=empty\r\n\r\n"), 1},
	} {
		r := pass(t, str(c.in), Options{Threshold: c.threshold}, "en")
		if len(r.taken) != c.want {
			t.Errorf("threshold %d: %d taken, want %d", c.threshold, len(r.taken), c.want)
		}
	}
	// Files of another multipart/mixed are no siblings.
	nested := mixedHead + "--b\r\n" + hello + "--b\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n--c\r\n" + pdf + "\r\n--c--\r\n--b\r\n" + pdf + "\r\n--b--\r\n"
	if r := pass(t, str(nested), Options{Threshold: 400}, "en"); len(r.taken) != 0 {
		t.Errorf("nested: %d taken, want 0", len(r.taken))
	}
}

// TestM3_References holds how HTML refers to parts, before them and after.
func TestM3_References(t *testing.T) {
	t.Parallel()
	img := attached("Content-Type: image/png; name=a.png\r\nContent-ID: <A%b@x>\r\nContent-Location: http://example.org/img/pic%20one.png")
	for html, want := range map[string]int{
		`<img src="cid:A%25b@x">`:                               0,
		`<IMG SRC=cid:a%25b@x>`:                                 0,
		`<img src='cid:A%25b&#64;x'>`:                           0,
		`<p style="background:url(cid:A%25b@x)">`:               0,
		`<style>p { background: url( "cid:A%25b@x" ) }</style>`: 0,
		`<img src="pic%20one.png">`:                             0,
		`<img src="http://example.org/img/pic one.png">`:        0,
		`<body background=pic%20one.png>`:                       0,
		`<div style='background: url("pic%20one.png")'>`:        0,
		`<img src="mid:abc/A%25b@x">`:                           0,
		`<img src="cid:other@x"> cid A%b@x`:                     1,
		`pic one.png`:                                           1,
	} {
		body := "Content-Type: text/html\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n" + string(encodeQP([]byte(html)))
		for order, in := range []string{mixed(body, img), mixed(img, body)} {
			r := pass(t, str(in), Options{}, "en")
			if len(r.taken) != want {
				t.Errorf("%s, order %d: %d taken, want %d", html, order, len(r.taken), want)
			}
			if order == 0 && len(r.offered) != want {
				t.Errorf("%s: offered though the reference was known", html)
			}
		}
	}
	blind := mixed("Content-Type: text/html; charset=utf-16le\r\n\r\nx", img, attached("Content-Type: application/pdf"))
	if r := pass(t, str(blind), Options{}, "en"); len(r.taken) != 1 {
		t.Errorf("HTML that cannot be read: %d taken, want 1", len(r.taken))
	}
}

func TestRead_OwnLinks(t *testing.T) {
	t.Parallel()
	own := func(u string) bool { return strings.HasPrefix(u, "https://files.example.org/") }
	text := "Content-Type: text/plain\r\n\r\n> <https://files.example.org/m/abc>\r\n> https://other.example.net/x\r\n>https://files.example.org/m/abc and http://files.example.org/\r\n"
	html := "Content-Type: text/html\r\n\r\n<a href=\"https://files.example.org/a/def\">x</a>\r\n"
	r := pass(t, str(mixed(text, html, attached("Content-Type: application/pdf"))), Options{OwnLink: own}, "en")
	if got, want := fmt.Sprint(r.m.OwnLinks()), "[https://files.example.org/m/abc https://files.example.org/a/def]"; got != want {
		t.Errorf("own links %s, want %s", got, want)
	}
}
