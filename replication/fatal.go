package replication

import (
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
)

// fatal is where local failures of the ledger go (L11): the first is told to
// whoever waits on failed, and a goroutine that cannot go on parks until Close.
type fatal struct {
	log     *slog.Logger
	failed  chan error    // holds the one error, then is closed
	down    chan struct{} // closed by the first failure
	broken  atomic.Bool   // something could not be written: goroutines may be parked
	release chan struct{} // closed by Close: parked goroutines end
	once    sync.Once
	unpark  sync.Once
}

func newFatal(log *slog.Logger) *fatal {
	return &fatal{log: log, failed: make(chan error, 1), down: make(chan struct{}), release: make(chan struct{})}
}

// report tells of a failing disk and returns at once.
func (f *fatal) report(err error) {
	f.broken.Store(true)
	f.end(err)
}

// end tells that this copy cannot go on, though its disk may be sound.
func (f *fatal) end(err error) {
	f.once.Do(func() {
		f.log.Error("this copy of the ledger cannot go on, the node must stop", "err", err)
		f.failed <- err
		close(f.failed)
		close(f.down)
	})
}

// park reports err and never returns: the goroutine waits for Close, then ends. A
// write that fails here must not become an answer of the state machine.
func (f *fatal) park(err error) {
	f.report(err)
	<-f.release
	runtime.Goexit()
}

func (f *fatal) isBroken() bool { return f.broken.Load() }

// background hears of a flush or compaction that failed: a write of the ledger like
// any other. Pebble holds its lock here and will try again at once, for ever; once
// nobody reads this database any more, that ends.
func (f *fatal) background(err error) {
	f.report(fmt.Errorf("ledger storage: %w", err))
	select {
	case <-f.release:
		runtime.Goexit()
	default:
	}
}

func (f *fatal) unparkAll() { f.unpark.Do(func() { close(f.release) }) }

// pebbleLogger is Pebble's logger: quiet, and parking where Pebble would exit.
type pebbleLogger struct{ f *fatal }

var _ pebble.Logger = pebbleLogger{}

func (l pebbleLogger) Infof(string, ...any) {}
func (l pebbleLogger) Errorf(format string, args ...any) {
	l.f.log.Warn("ledger storage", "err", fmt.Sprintf(format, args...))
}
func (l pebbleLogger) Fatalf(format string, args ...any) {
	l.f.park(fmt.Errorf("ledger storage: "+format, args...))
}
