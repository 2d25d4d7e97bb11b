package store

import (
	"errors"
	"fmt"
	"math"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// diskFree asks the file system; one in memory has no end.
func (s *Store) diskFree() (int64, error) {
	u, err := s.fs.GetDiskUsage(s.dir)
	if errors.Is(err, vfs.ErrUnsupported) {
		return math.MaxInt64, nil
	}
	return int64(min(u.AvailBytes, math.MaxInt64)), err
}

// room refuses n more bytes when they would leave less than the reserve. What waits to be synced is
// counted as if it took space still: some file systems allocate late.
func (s *Store) room(n int) error {
	if s.reserve == 0 {
		return nil
	}
	free, err := s.free()
	if err != nil {
		return fmt.Errorf("free space of %s: %w", s.dir, err)
	}
	s.mu.Lock()
	waiting := s.unsynced
	s.mu.Unlock()
	if free-waiting-int64(n) < s.reserve {
		return fmt.Errorf("%w: %d bytes are free, %d of them not yet written out, %d are reserved", ErrNoSpace, free, waiting, s.reserve)
	}
	return nil
}

// spaceError marks an error that came from a full disk or quota.
func spaceError(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	return err
}
