package replication

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"

	"github.com/hashicorp/go-hclog"
)

// raftLogger gives raft's log to slog, one level quieter: what raft calls an error
// (a peer that is away) is mostly something it copes with.
type raftLogger struct {
	log     *slog.Logger
	name    string
	implied []any
}

var _ hclog.Logger = raftLogger{}

func slogLevel(l hclog.Level) slog.Level {
	switch l {
	case hclog.Error:
		return slog.LevelWarn
	case hclog.Warn:
		return slog.LevelInfo
	default:
		return slog.LevelDebug
	}
}

// chatter is what raft says many times a second while a peer is away or streams are cut. That a peer
// is away is said once, by "failed to contact".
var chatter = map[string]bool{
	"failed to accept connection":       true,
	"failed to decode incoming command": true,
	"failed to heartbeat to":            true,
	"failed to appendEntries to":        true,
	"failed to pipeline appendEntries":  true,
	"failed to make requestVote RPC":    true,
	"failed to make requestPreVote RPC": true,
	"failed to flush response":          true,
}

func (l raftLogger) Log(level hclog.Level, msg string, args ...any) {
	at := slogLevel(level)
	if chatter[msg] {
		at = slog.LevelDebug
	}
	if !l.log.Enabled(context.Background(), at) {
		return
	}
	shown := make([]any, len(args))
	for i, arg := range args {
		if f, ok := arg.(hclog.Format); ok && len(f) > 0 {
			arg = fmt.Sprintf(fmt.Sprint(f[0]), f[1:]...)
		}
		shown[i] = arg
	}
	l.log.Log(context.Background(), at, "raft: "+msg, shown...)
}

func (l raftLogger) Trace(msg string, args ...any) {}
func (l raftLogger) Debug(msg string, args ...any) { l.Log(hclog.Debug, msg, args...) }
func (l raftLogger) Info(msg string, args ...any)  { l.Log(hclog.Info, msg, args...) }
func (l raftLogger) Warn(msg string, args ...any)  { l.Log(hclog.Warn, msg, args...) }
func (l raftLogger) Error(msg string, args ...any) { l.Log(hclog.Error, msg, args...) }

func (l raftLogger) enabled(level hclog.Level) bool {
	return l.log.Enabled(context.Background(), slogLevel(level))
}
func (l raftLogger) IsTrace() bool { return false }
func (l raftLogger) IsDebug() bool { return l.enabled(hclog.Debug) }
func (l raftLogger) IsInfo() bool  { return l.enabled(hclog.Info) }
func (l raftLogger) IsWarn() bool  { return l.enabled(hclog.Warn) }
func (l raftLogger) IsError() bool { return l.enabled(hclog.Error) }

func (l raftLogger) ImpliedArgs() []any { return l.implied }
func (l raftLogger) With(args ...any) hclog.Logger {
	return raftLogger{l.log.With(args...), l.name, append(l.implied[:len(l.implied):len(l.implied)], args...)}
}
func (l raftLogger) Name() string                        { return l.name }
func (l raftLogger) Named(name string) hclog.Logger      { return raftLogger{l.log, name, l.implied} }
func (l raftLogger) ResetNamed(name string) hclog.Logger { return l.Named(name) }
func (l raftLogger) SetLevel(hclog.Level)                {}
func (l raftLogger) GetLevel() hclog.Level               { return hclog.Debug }

func (l raftLogger) StandardLogger(o *hclog.StandardLoggerOptions) *log.Logger {
	return log.New(l.StandardWriter(o), "", 0)
}

func (l raftLogger) StandardWriter(*hclog.StandardLoggerOptions) io.Writer { return lineWriter{l} }

type lineWriter struct{ l raftLogger }

func (w lineWriter) Write(p []byte) (int, error) {
	w.l.Debug(string(p))
	return len(p), nil
}
