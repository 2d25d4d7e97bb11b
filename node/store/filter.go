package store

import (
	"encoding/binary"
	"hash/maphash"
)

// A filter remembers digests in little memory. It never forgets one, and takes about one in three
// hundred others for one it has: of what is garbage that much stays until the next collection, whose
// filter has another seed.
type filter struct {
	bits []uint64
	seed maphash.Seed
}

// filterBits is how many bits a digest gets, filterProbes how many are set for it.
const (
	filterBits   = 12
	filterProbes = 8
)

func newFilter(digests int) *filter {
	return &filter{bits: make([]uint64, max(1, digests*filterBits/64+1)), seed: maphash.MakeSeed()}
}

// probe calls fn with each of a digest's bits until it says false.
func (f *filter) probe(d digest, fn func(word int, bit uint64) bool) bool {
	h := maphash.Bytes(f.seed, d[:])
	step := binary.BigEndian.Uint64(d[:]) | 1
	n := uint64(len(f.bits)) * 64
	for range filterProbes {
		if at := h % n; !fn(int(at/64), 1<<(at%64)) {
			return false
		}
		h += step
	}
	return true
}

func (f *filter) add(d digest) {
	f.probe(d, func(word int, bit uint64) bool { f.bits[word] |= bit; return true })
}

func (f *filter) has(d digest) bool {
	return f.probe(d, func(word int, bit uint64) bool { return f.bits[word]&bit != 0 })
}
