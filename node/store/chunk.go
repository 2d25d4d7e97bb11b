package store

import (
	"encoding/binary"
	"io"

	"github.com/PlakarKorp/go-cdc-chunkers/chunkers/fastcdc"
	"github.com/zeebo/blake3"
)

// The parameters of chunkerID 1, which cuts exactly where fastcdc-v1.0.0 of go-cdc-chunkers does. Other
// parameters, or another algorithm, are another id.
const (
	chunkerID   = 1
	chunkMin    = 256 << 10
	chunkNormal = 1 << 20
	chunkMax    = 2<<20 - 4<<10 // with tag and framing still under 2 MiB
)

// Cuts are rarer before chunkNormal (22 bits must be zero) than after (18 bits), which draws sizes
// together. The bits are spread over the hash, so that it sees a window of many bytes.
var (
	maskSmall = spacedMask(22)
	maskLarge = spacedMask(18)
)

func spacedMask(ones int) (mask uint64) {
	for i := range ones {
		mask |= 1 << (63 - i*(64/ones))
	}
	return mask
}

// gear gives each byte its part in the rolling hash. It depends on a key, so that somebody who knows
// a public file cannot recognise it by the sizes of its blocks.
type gear [256]uint64

func newGear(key [32]byte) *gear {
	h, err := blake3.NewKeyed(key[:])
	if err != nil {
		panic(err) // only a key of another length is refused
	}
	var table [8 * 256]byte
	for i, v := range fastcdc.G {
		binary.LittleEndian.PutUint64(table[8*i:], v)
	}
	h.Write(table[:])
	h.Digest().Read(table[:]) // never fails
	g := new(gear)
	for i := range g {
		g[i] = binary.LittleEndian.Uint64(table[8*i:])
	}
	return g
}

// cut returns how many of data's bytes are the next chunk. data has chunkMax bytes, or is all there
// is.
//
// It is arithmetic on memory its caller owns; watching every byte of it would make a node under the
// race detector many times slower.
//
//go:norace
func (g *gear) cut(data []byte) int {
	if len(data) <= chunkMin {
		return len(data)
	}
	data = data[:min(len(data), chunkMax)]
	normal := min(len(data), chunkNormal)
	i, hash := g.scan(data[chunkMin:normal], 0, maskSmall)
	if i >= 0 {
		return chunkMin + i
	}
	if i, _ = g.scan(data[normal:], hash, maskLarge); i >= 0 {
		return normal + i
	}
	return len(data)
}

// scan rolls hash over data and returns the first position where it has no bit of mask, else -1.
//
// Four bytes go at a time, so that each hash need not wait for the one before it:
// ((h<<1 + a)<<1 + b) is h<<2 + (a<<1 + b), and so on.
//
//go:norace
func (g *gear) scan(data []byte, hash, mask uint64) (int, uint64) {
	i := 0
	for ; i+4 <= len(data); i += 4 {
		four := data[i : i+4 : i+4]
		a := g[four[0]]
		b := a<<1 + g[four[1]]
		c := b<<1 + g[four[2]]
		d := c<<1 + g[four[3]]
		h1, h2, h3 := hash<<1+a, hash<<2+b, hash<<3+c
		hash = hash<<4 + d
		if h1&mask == 0 || h2&mask == 0 || h3&mask == 0 || hash&mask == 0 {
			switch {
			case h1&mask == 0:
				return i, h1
			case h2&mask == 0:
				return i + 1, h2
			case h3&mask == 0:
				return i + 2, h3
			}
			return i + 3, hash
		}
	}
	for ; i < len(data); i++ {
		hash = hash<<1 + g[data[i]]
		if hash&mask == 0 {
			return i, hash
		}
	}
	return -1, hash
}

// A cutter cuts a stream where its content says so (T1).
type cutter struct {
	r    io.Reader
	gear *gear
	buf  []byte // from getBuffer; the first n bytes are read and not cut yet
	n    int
	err  error // of r, io.EOF included
}

// newCutter reads up to chunkMin bytes. A stream that ends there is at most one chunk, and single
// says so.
func newCutter(r io.Reader, k *ScopeKey) (c *cutter, single bool, err error) {
	c = &cutter{r: r, buf: getBuffer(chunkMin)}
	c.n, c.err = fill(r, c.buf)
	if c.err == io.EOF {
		return c, true, nil
	}
	if c.err != nil {
		c.close()
		return nil, false, c.err
	}
	c.gear = newGear(k.subkey(forCutting))
	head := c.buf
	c.buf = getBuffer(chunkMax)
	copy(c.buf, head)
	putBuffer(head)
	return c, false, nil
}

// next returns the next chunk, from getBuffer and the caller's, and io.EOF after the last.
func (c *cutter) next() ([]byte, error) {
	if c.err == nil {
		var n int
		n, c.err = fill(c.r, c.buf[c.n:])
		c.n += n
	}
	if c.err != nil && c.err != io.EOF || c.n == 0 {
		return nil, c.err
	}
	data := c.buf[:c.n]
	chunk := data
	if c.gear != nil {
		chunk = data[:c.gear.cut(data)]
	}
	c.buf = nil
	if rest := data[len(chunk):]; len(rest) > 0 || c.err == nil {
		c.buf = getBuffer(chunkMax)
		c.n = copy(c.buf, rest)
	} else {
		c.n = 0
	}
	return chunk, nil
}

// close gives the memory back.
func (c *cutter) close() {
	putBuffer(c.buf)
	c.buf = nil
}

// fill reads until p is full or r ends, which is io.EOF. Unlike io.ReadFull it passes on a reader's
// own io.ErrUnexpectedEOF, which is how a broken upload looks.
func fill(r io.Reader, p []byte) (n int, err error) {
	for empty := 0; n < len(p) && err == nil; {
		var m int
		m, err = r.Read(p[n:])
		n += m
		if m > 0 {
			empty = 0
		} else if empty++; err == nil && empty == 100 {
			return n, io.ErrNoProgress
		}
	}
	if n == len(p) {
		return n, nil
	}
	return n, err
}
