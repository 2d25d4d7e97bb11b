package message

import (
	"bytes"
	"context"
	"encoding/base64"
	"io"
	"math/rand/v2"
	"testing"
)

// base64Lines is n random bytes as a mail program writes them.
func base64Lines(n int) []byte {
	data := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(data)
	enc := base64.StdEncoding.EncodeToString(data)
	var out bytes.Buffer
	for len(enc) > 0 {
		k := min(76, len(enc))
		out.WriteString(enc[:k])
		out.WriteString("\r\n")
		enc = enc[k:]
	}
	return out.Bytes()
}

func withAttachment(encoding string, body []byte) []byte {
	return []byte("From: a@example.org\r\nTo: b@example.net\r\nSubject: files\r\nMIME-Version: 1.0\r\n" +
		"Content-Type: multipart/mixed; boundary=\"=_b1\"\r\n\r\n--=_b1\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nHello.\r\n" +
		"--=_b1\r\nContent-Type: application/octet-stream; name=big.bin\r\nContent-Transfer-Encoding: " + encoding + "\r\n\r\n" +
		string(body) + "--=_b1--\r\n")
}

func discard(_ context.Context, _ Part, content io.Reader) error {
	_, err := io.Copy(io.Discard, content)
	return err
}

func BenchmarkRead25MiBBase64(b *testing.B) {
	in := withAttachment("base64", base64Lines(25<<20))
	b.SetBytes(int64(len(in)))
	b.ReportAllocs()
	for b.Loop() {
		m, err := Read(b.Context(), bytes.NewReader(in), Options{Threshold: 256 << 10}, discard)
		if err != nil {
			b.Fatal(err)
		}
		if len(m.Taken()) != 1 {
			b.Fatal("not taken")
		}
		m.Close()
	}
}

// BenchmarkReadThrough is a message of which nothing is taken.
func BenchmarkReadThrough(b *testing.B) {
	in := withAttachment("base64", base64Lines(25<<20))
	b.SetBytes(int64(len(in)))
	b.ReportAllocs()
	for b.Loop() {
		m, err := Read(b.Context(), bytes.NewReader(in), Options{Threshold: -1}, discard)
		if err != nil {
			b.Fatal(err)
		}
		m.Close()
	}
}

func BenchmarkReadSmall(b *testing.B) {
	in := withAttachment("base64", base64Lines(3000))
	b.SetBytes(int64(len(in)))
	b.ReportAllocs()
	for b.Loop() {
		m, err := Read(b.Context(), bytes.NewReader(in), Options{Threshold: 256 << 10}, discard)
		if err != nil {
			b.Fatal(err)
		}
		m.Close()
	}
}

func BenchmarkWriteRewritten(b *testing.B) {
	in := withAttachment("base64", base64Lines(25<<20))
	b.SetBytes(int64(len(in)))
	m, err := Read(b.Context(), bytes.NewReader(in), Options{Threshold: -1}, discard)
	if err != nil {
		b.Fatal(err)
	}
	defer m.Close()
	for b.Loop() {
		if err := m.WriteOriginal(io.Discard, nil); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkNormalise(b *testing.B) {
	in := base64Lines(8 << 20)
	b.SetBytes(int64(len(in)))
	for b.Loop() {
		if _, err := io.Copy(io.Discard, struct{ io.Reader }{Normalise(bytes.NewReader(in))}); err != nil {
			b.Fatal(err)
		}
	}
}
