package testnet

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"math/rand/v2"
	"mime"
	"mime/multipart"
	"net/textproto"
	"strings"
	"time"
)

// SampleMessage is the demonstration's own message: text in plain and HTML
// form, and two attachments that open in the usual programs.
func SampleMessage(from, to string, now time.Time) []byte {
	var b bytes.Buffer
	outer, inner := multipart.NewWriter(&b), "alternative-of-the-sample"
	fmt.Fprintf(&b, "From: %s\r\nTo: %s\r\nSubject: Site plan and photograph\r\nDate: %s\r\nMessage-ID: <sample.%d@%s>\r\n",
		from, to, now.Format(time.RFC1123Z), now.UnixNano(), from[strings.LastIndexByte(from, '@')+1:])
	fmt.Fprintf(&b, "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=\"%s\"\r\n\r\n", outer.Boundary())

	text, _ := outer.CreatePart(textproto.MIMEHeader{"Content-Type": {`multipart/alternative; boundary="` + inner + `"`}})
	fmt.Fprintf(text, "--%s\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\nHello,\r\n\r\nhere are the site plan and a photograph.\r\n\r\n", inner)
	fmt.Fprintf(text, "--%s\r\nContent-Type: text/html; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n<html><body><p>Hello,</p><p>here are the <b>site plan</b> and a photograph.</p></body></html>\r\n--%s--\r\n", inner, inner)

	attach(outer, "application/pdf", "site plan.pdf", samplePDF())
	attach(outer, "image/png", "Foto 照片.png", samplePNG())
	outer.Close()
	return b.Bytes()
}

func attach(w *multipart.Writer, mediaType, name string, content []byte) {
	part, _ := w.CreatePart(textproto.MIMEHeader{
		"Content-Type":              {mediaType},
		"Content-Disposition":       {mime.FormatMediaType("attachment", map[string]string{"filename": name})},
		"Content-Transfer-Encoding": {"base64"},
	})
	encoded := base64.StdEncoding.EncodeToString(content)
	for len(encoded) > 76 {
		fmt.Fprintf(part, "%s\r\n", encoded[:76])
		encoded = encoded[76:]
	}
	fmt.Fprintf(part, "%s\r\n", encoded)
}

// samplePDF is one page with a line of text, and 3 MiB of drawing noise that no viewer shows.
func samplePDF() []byte {
	var b bytes.Buffer
	var offsets []int
	object := func(body string) {
		offsets = append(offsets, b.Len())
		fmt.Fprintf(&b, "%d 0 obj\n%s\nendobj\n", len(offsets), body)
	}
	stream := func(data []byte) string {
		return fmt.Sprintf("<< /Length %d >>\nstream\n%s\nendstream", len(data), data)
	}
	noise := make([]byte, 3<<20)
	fillNoise(noise, 1)
	b.WriteString("%PDF-1.4\n")
	object("<< /Type /Catalog /Pages 2 0 R >>")
	object("<< /Type /Pages /Kids [3 0 R] /Count 1 >>")
	object("<< /Type /Page /Parent 2 0 R /MediaBox [0 0 420 300] /Contents 4 0 R /Resources << /Font << /F1 5 0 R >> >> >>")
	object(stream([]byte("BT /F1 28 Tf 60 180 Td (Site plan) Tj ET 40 40 340 220 re S")))
	object("<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>")
	object(stream(noise))
	table := b.Len()
	fmt.Fprintf(&b, "xref\n0 %d\n0000000000 65535 f \n", len(offsets)+1)
	for _, o := range offsets {
		fmt.Fprintf(&b, "%010d 00000 n \n", o)
	}
	fmt.Fprintf(&b, "trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n", len(offsets)+1, table)
	return b.Bytes()
}

// samplePNG is a picture with enough grain to be large.
func samplePNG() []byte {
	img := image.NewRGBA(image.Rect(0, 0, 640, 400))
	r := rand.New(rand.NewPCG(2, 3))
	for y := range 400 {
		for x := range 640 {
			grain := uint8(r.UintN(64))
			img.Set(x, y, color.RGBA{R: uint8(x*150/640) + grain, G: uint8(y*150/400) + grain, B: 160 - grain, A: 255})
		}
	}
	var b bytes.Buffer
	_ = png.Encode(&b, img) // a buffer takes everything
	return b.Bytes()
}

// fillNoise fills b with bytes that depend only on seed.
func fillNoise(b []byte, seed byte) {
	r := rand.NewChaCha8([32]byte{seed})
	_, _ = r.Read(b)
}
