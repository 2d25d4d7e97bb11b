package copies

import (
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"
)

// benchNet is a disk-less cluster: what is measured is the wire, hashing and this package.
func benchNet(b *testing.B, wanted int, sites ...string) *testCluster {
	cl := newCluster(b, wanted, sites...)
	for _, p := range cl.peers {
		p.log.out = io.Discard
	}
	return cl
}

// raw is a plain libp2p stream between the same hosts.
func raw(b *testing.B, cl *testCluster, bytes int) time.Duration {
	b.Helper()
	piece := make([]byte, 1<<20)
	cl.peers[0].host.SetStreamHandler(testProtocol("raw"), func(s network.Stream) {
		for range bytes >> 20 {
			_, _ = s.Write(piece)
		}
		_ = s.Close()
	})
	begun := time.Now()
	s, err := cl.peers[1].lane.Dial(b.Context(), cl.peers[0].id(), "raw")
	if err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, 128<<10)
	if n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, s, buf); err != nil || n != int64(bytes) {
		b.Fatal(n, err)
	}
	return time.Since(begun)
}

// Cold fetch of 256 MiB through a node that holds nothing, beside a raw stream in the same run.
func BenchmarkFetch(b *testing.B) {
	cl := benchNet(b, 1, "a", "b")
	cl.nodes[1].Weight = -1
	cl.start()
	f := newFile(256, 1<<20)
	cl.peers[0].store(b, f)
	b.SetBytes(256 << 20)
	var fetching, plain time.Duration
	for b.Loop() {
		plain += raw(b, cl, 256<<20)
		begun := time.Now()
		if err := cl.peers[1].read(b.Context(), f); err != nil {
			b.Fatal(err)
		}
		fetching += time.Since(begun)
	}
	mib := float64(256 * b.N)
	b.ReportMetric(plain.Seconds()/fetching.Seconds(), "of-raw")
	b.ReportMetric(mib/fetching.Seconds(), "fetch-MiB/s")
	b.ReportMetric(mib/plain.Seconds(), "raw-MiB/s")
}

// Objects of 100 KiB, one after another, and the time to the first block.
func BenchmarkFetchSmall(b *testing.B) {
	cl := benchNet(b, 1, "a", "b")
	cl.nodes[1].Weight = -1
	cl.start()
	var files []testFile
	for range 64 {
		f := newFile(1, 100<<10)
		cl.peers[0].store(b, f)
		files = append(files, f)
	}
	b.SetBytes(100 << 10)
	i := 0
	for b.Loop() {
		// As a file is opened: the manifest first, then the chunk it names.
		f := files[i%len(files)]
		i++
		for _, want := range []cid.Cid{f.root, f.blocks[0].Cid()} {
			for _, err := range cl.peers[1].Blocks(b.Context(), f.root, []cid.Cid{want}) {
				if err != nil {
					b.Fatal(err)
				}
			}
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "objects/s")
}

func BenchmarkFirstByte(b *testing.B) {
	cl := benchNet(b, 1, "a", "b")
	cl.nodes[1].Weight = -1
	cl.start()
	f := newFile(64, 1<<20)
	cl.peers[0].store(b, f)
	var first time.Duration
	for b.Loop() {
		begun := time.Now()
		for _, err := range cl.peers[1].Blocks(b.Context(), f.root, f.cids()) {
			if err != nil {
				b.Fatal(err)
			}
			first += time.Since(begun)
			break
		}
	}
	b.ReportMetric(float64(first.Microseconds())/float64(b.N), "first-us")
}

// What a holder reads of its own.
func BenchmarkLocal(b *testing.B) {
	cl := benchNet(b, 1, "a").start()
	f := newFile(256, 1<<20)
	cl.peers[0].store(b, f)
	b.SetBytes(256 << 20)
	for b.Loop() {
		for _, err := range cl.peers[0].Blocks(b.Context(), f.root, f.cids()) {
			if err != nil {
				b.Fatal(err)
			}
		}
	}
}

// 100 MiB to this node and two others, acknowledged by W of them.
func BenchmarkUpload(b *testing.B) {
	for _, size := range []int{100 << 10, 100 << 20} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			cl := benchNet(b, 3, "a", "b", "b").start()
			f := newFile(max(1, size>>20), min(size, 1<<20))
			b.SetBytes(int64(size))
			for b.Loop() {
				if _, err := cl.peers[0].upload(b.Context(), f); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
