package testnet

import (
	"encoding/base64"
	"fmt"
	"io"
	"math/rand/v2"
)

// chacha is an endless stream of bytes.
type chacha struct {
	seed [32]byte
	r    *rand.ChaCha8
}

func (c *chacha) Read(p []byte) (int, error) {
	if c.r == nil {
		c.r = rand.NewChaCha8(c.seed)
	}
	return c.r.Read(p)
}

// largeLetter streams a message with one attachment of size bytes.
func largeLetter(size int64) io.Reader {
	r, w := io.Pipe()
	go func() {
		fmt.Fprintf(w, "From: sender@example.org\r\nTo: recipient@example.net\r\nSubject: large\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=XX\r\n\r\n--XX\r\nContent-Type: text/plain\r\n\r\nHello.\r\n")
		fmt.Fprintf(w, "--XX\r\nContent-Type: application/octet-stream\r\nContent-Disposition: attachment; filename=\"large.bin\"\r\nContent-Transfer-Encoding: base64\r\n\r\n")
		src := noise(size)
		raw := make([]byte, 57*1000)
		line := make([]byte, 0, 80*1000)
		for {
			n, err := io.ReadFull(src, raw)
			line = line[:0]
			for i := 0; i < n; i += 57 {
				line = base64.StdEncoding.AppendEncode(line, raw[i:min(i+57, n)])
				line = append(line, "\r\n"...)
			}
			if _, werr := w.Write(line); werr != nil {
				return
			}
			if err != nil {
				break
			}
		}
		fmt.Fprint(w, "--XX--\r\n")
		w.Close()
	}()
	return r
}
