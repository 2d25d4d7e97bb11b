package replication

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// BenchmarkUpdate measures durable updates on three nodes at two sites, written on
// all of them, until the last is seen on every node; p99 is one Update's time, from
// its call until it is visible and durable where it was called.
func BenchmarkUpdate(b *testing.B) {
	for _, writers := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			v := newVillage(b, nil, "berlin", "berlin", "paris")
			value := make([]byte, 256)
			b.SetBytes(int64(len(value)))
			times := make([]time.Duration, b.N)
			var next atomic.Int64
			var wg sync.WaitGroup
			before := cpuTime()
			b.ResetTimer()
			for w := range writers {
				db := v.members[w%3].db
				wg.Go(func() {
					for i := next.Add(1) - 1; i < int64(b.N); i = next.Add(1) - 1 {
						key := fmt.Appendf(nil, "d/%08d", i)
						start := time.Now()
						err := db.Update(b.Context(), func(tx *Tx) error {
							if _, ok := tx.Get(key); ok {
								return fmt.Errorf("%s exists", key)
							}
							tx.Put(key, value)
							return nil
						})
						times[i] = time.Since(start)
						if err != nil {
							b.Error(err)
						}
					}
				})
			}
			wg.Wait()
			last := v.members[v.leader()].db.machine.applied.Load()
			for _, m := range v.members {
				m.db.applied.wait(b.Context(), min(last, m.db.leader.newest.Load()))
				v.ok(m.db.ReadIndex(b.Context()))
			}
			b.StopTimer()
			b.ReportMetric(float64((cpuTime()-before).Microseconds())/float64(b.N), "cpu-us/update")
			slices.Sort(times)
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "updates/s")
			b.ReportMetric(float64(times[len(times)*99/100])/1e6, "p99-ms")
			b.ReportMetric(float64(times[len(times)-1])/1e6, "max-ms")
		})
	}
}

// cpuTime is what this process has used of the processors: unlike time, it does not
// depend on what else the machine does.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// filled is a node with n keys.
func filled(b *testing.B, n int) *DB {
	v := newVillage(b, nil, "berlin")
	db := v.members[0].db
	for i := 0; i < n; i += 1000 {
		v.ok(db.Update(b.Context(), func(tx *Tx) error {
			for j := range 1000 {
				tx.Put(fmt.Appendf(nil, "d/%08d", i+j), make([]byte, 128))
			}
			return nil
		}))
	}
	return db
}

func BenchmarkViewGet(b *testing.B) {
	db := filled(b, 100_000)
	b.SetBytes(128)
	i, before := 0, cpuTime()
	for b.Loop() {
		i = (i + 7919) % 100_000
		key := fmt.Appendf(nil, "d/%08d", i)
		db.View(func(tx *Tx) error {
			if _, ok := tx.Get(key); !ok {
				b.Errorf("%s is gone", key)
			}
			return nil
		})
	}
	b.ReportMetric(float64((cpuTime()-before).Nanoseconds())/float64(b.N), "cpu-ns/op")
}

func BenchmarkViewScan(b *testing.B) {
	db := filled(b, 100_000)
	b.SetBytes(100 * 128)
	i, before := 0, cpuTime()
	for b.Loop() {
		i = (i + 7919) % 99_000
		from := fmt.Appendf(nil, "d/%08d", i)
		db.View(func(tx *Tx) error {
			n := 0
			for range tx.Scan(from, nil) {
				if n++; n == 100 {
					break
				}
			}
			return nil
		})
	}
	b.ReportMetric(float64((cpuTime()-before).Nanoseconds())/float64(b.N), "cpu-ns/op")
}
