package mailgw

import (
	"strings"
	"testing"
	"time"
)

// TestMemory sends 64 MiB and an endless header, and looks at the heap. It is not parallel to other tests: the heap is
// one for all.
func TestMemory(t *testing.T) {
	h := newHost(t, hostOptions{discard: true})
	v := newVillage(h)
	addr := start(t, v, func(c *Config) { c.Publisher = discardVillage{v} })
	for _, how := range []string{"DATA", "BDAT"} {
		c := dial(t, addr).login()
		var got string
		if used := heap(func() { got = sendLarge(c, 64<<20, how) }); used > largeMemory {
			t.Errorf("64 MiB by %s: %d MiB of heap", how, used>>20)
		}
		if !strings.HasPrefix(got, "250") {
			t.Errorf("answer %q", got)
		}
	}
	c := dial(t, addr).login().envelope()
	c.must("354", "DATA")
	line := "X-Endless: " + strings.Repeat("header ", 1<<16) + "\r\n"
	used := heap(func() {
		for range 1 << 30 / len(line) {
			c.send(line)
		}
	})
	c.send(".\r\n")
	if got := c.answer(); !strings.HasPrefix(got, "552 5.3.4") || used > largeMemory {
		t.Errorf("endless header: %q, %d MiB of heap", got, used>>20)
	}
}

// benchmarkLarge measures MiB/s of attachment, with a Publisher and a next hop that throw everything away.
func benchmarkLarge(b *testing.B, size int, how string) {
	h := newHost(b, hostOptions{discard: true})
	v := newVillage(h)
	c := dial(b, start(b, v, func(c *Config) { c.Publisher = discardVillage{v} })).login()
	c.SetDeadline(time.Time{})
	b.SetBytes(int64(size))
	var used uint64
	for b.Loop() {
		used = max(used, heap(func() {
			if got := sendLarge(c, size, how); !strings.HasPrefix(got, "250") {
				b.Fatalf("answer %q", got)
			}
		}))
	}
	b.ReportMetric(float64(used)/(1<<20), "MiB-heap")
}

func BenchmarkData25MiB(b *testing.B)  { benchmarkLarge(b, 25<<20, "DATA") }
func BenchmarkBDAT25MiB(b *testing.B)  { benchmarkLarge(b, 25<<20, "BDAT") }
func BenchmarkData500MiB(b *testing.B) { benchmarkLarge(b, 500<<20, "DATA") }
func BenchmarkBDAT500MiB(b *testing.B) { benchmarkLarge(b, 500<<20, "BDAT") }
