package store

import (
	"bufio"
	"bytes"
	"io"
	"slices"
	"testing"

	chunkers "github.com/PlakarKorp/go-cdc-chunkers"
)

// reference cuts data with the library whose algorithm this is. The library's loop ends with a
// pointer one byte behind its data, which the pointer checks of the race detector refuse where that
// is behind the buffer, too: hence a buffer with room to spare, which the library then takes for its own.
func reference(t *testing.T, data []byte, key [32]byte) (sizes []int) {
	t.Helper()
	r := bufio.NewReaderSize(bytes.NewReader(data), 2*chunkMax+100)
	c, err := chunkers.NewChunker("fastcdc-v1.0.0", r, &chunkers.ChunkerOpts{
		MinSize: chunkMin, NormalSize: chunkNormal, MaxSize: chunkMax, Key: key[:],
	})
	if err != nil {
		t.Fatal(err)
	}
	for {
		chunk, err := c.Next()
		if len(chunk) > 0 {
			sizes = append(sizes, len(chunk))
		}
		if err == io.EOF {
			return sizes
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestT1_CutsAsTheLibraryDoes(t *testing.T) {
	t.Parallel()
	k := scopeKey("a")
	for name, data := range map[string][]byte{
		"random":          random(40<<20+12345, 1),
		"repeated":        bytes.Repeat(random(70_001, 2), 200),
		"zeros":           make([]byte, 6<<20),
		"least":           random(chunkMin, 3),
		"one more":        random(chunkMin+1, 4),
		"between":         random(chunkNormal-1, 5),
		"two and a half":  random(5*chunkNormal/2, 6),
		"largest":         make([]byte, chunkMax),
		"largest and one": make([]byte, chunkMax+1),
	} {
		c, single, err := newCutter(bytes.NewReader(data), &k)
		if err != nil || single {
			t.Fatal(single, err)
		}
		var sizes []int
		var joined []byte
		for {
			chunk, err := c.next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			sizes = append(sizes, len(chunk))
			joined = append(joined, chunk...)
			putBuffer(chunk)
		}
		c.close()
		if want := reference(t, data, k.subkey(forCutting)); !slices.Equal(sizes, want) {
			t.Errorf("%s: cut into %v, want %v", name, sizes, want)
		}
		if !bytes.Equal(joined, data) {
			t.Errorf("%s: chunks do not make up the content", name)
		}
	}
}

func BenchmarkCut(b *testing.B) {
	k := scopeKey("a")
	g := newGear(k.subkey(forCutting))
	data := random(64<<20, 1)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		for rest := data; len(rest) > 0; {
			rest = rest[g.cut(rest):]
		}
	}
}
