package backup

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/ipfs/go-cid"
)

// list returns the numbers of the files in a folder that a name is read by, ascending.
func list(fs vfs.FS, dir string, number func(string) (uint64, bool)) (out []uint64, err error) {
	names, err := fs.List(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	for _, name := range names {
		if n, ok := number(name); ok {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out, err
}

func syncDir(fs vfs.FS, dir string) error {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// contents is what a whole state names. Its visitor's functions may be nil.
type visitor struct {
	header func(h Header, raw []byte) error
	ledger func(piece []byte, last bool) error
	car    func(number uint64, size int64) error
	block  func(p place, c cid.Cid) error
}

// visit reads a ledger file from its beginning to its end, checking it on the way. What the visitor hears
// before visit returns nil is not yet known to be what was written.
func visit(fs vfs.FS, dir string, number uint64, v visitor) (err error) {
	s, err := openState(fs, dir, stateName(number))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.f.Close()) }()
	h, raw, err := s.header()
	if err != nil {
		return err
	}
	if h.State != number {
		return s.damaged("it is another state's")
	}
	if v.header != nil {
		if err := v.header(h, raw); err != nil {
			return err
		}
	}
	var held []byte // a piece is known to be the last when another record follows
	var car uint64
	for {
		kind, body, err := s.next()
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if held != nil && v.ledger != nil {
			if err := v.ledger(held, kind != recLedger); err != nil {
				return err
			}
		}
		held = nil
		if err != nil {
			return nil
		}
		switch kind {
		case recLedger:
			held = body
		case recCAR, recBlock:
			if err := v.placed(s, kind, body, &car); err != nil {
				return err
			}
		default:
			return s.damaged(fmt.Sprintf("a record of type %q", kind))
		}
	}
}

func (v visitor) placed(s *stateReader, kind byte, body []byte, car *uint64) error {
	a, b, rest, ok := two(body)
	switch {
	case !ok:
		return s.damaged("a record that says nothing")
	case kind == recCAR:
		*car = a
		if v.car == nil {
			return nil
		}
		return v.car(a, int64(b))
	}
	c, err := cid.Cast(rest)
	if err != nil || b > maxBlock {
		return s.damaged("a block without a name")
	}
	if v.block == nil {
		return nil
	}
	return v.block(place{car: *car, offset: int64(a), length: int(b)}, c)
}

// newest finds the newest state of a folder and reads it once, so that it is known to be whole. ErrNone
// where there is none.
func newest(fs vfs.FS, dir string) (h Header, raw []byte, err error) {
	states, err := list(fs, dir, stateNumber)
	if err != nil {
		return h, nil, err
	}
	if len(states) == 0 {
		return h, nil, fmt.Errorf("%s: %w", dir, ErrNone)
	}
	err = visit(fs, dir, states[len(states)-1], visitor{header: func(got Header, r []byte) error { h, raw = got, r; return nil }})
	return h, raw, err
}

// Newest returns the header of a folder's newest state, which is whole. ErrNone where there is none.
func Newest(fs vfs.FS, dir string) (Header, error) {
	h, _, err := newest(fs, dir)
	return h, err
}

// removeOther removes the states but one, then the CAR files that it does not name, and what a run that
// was cut short left unfinished.
func removeOther(fs vfs.FS, dir string, keep uint64, cars map[uint64]int64) (bytes int64, err error) {
	states, err := list(fs, dir, stateNumber)
	if err != nil {
		return 0, err
	}
	for _, n := range states {
		if n != keep {
			if err := fs.Remove(fs.PathJoin(dir, stateName(n))); err != nil {
				return 0, err
			}
		}
	}
	if err := syncDir(fs, dir); err != nil { // the blocks go only when no state refers to them
		return 0, err
	}
	numbers, err := list(fs, fs.PathJoin(dir, blocksDir), carNumber)
	if err != nil {
		return 0, err
	}
	for _, n := range numbers {
		if _, ok := cars[n]; ok {
			continue
		}
		path := fs.PathJoin(dir, blocksDir, carName(n))
		if info, err := fs.Stat(path); err == nil {
			bytes += info.Size()
		}
		if err := fs.Remove(path); err != nil {
			return bytes, err
		}
	}
	return bytes, syncDir(fs, fs.PathJoin(dir, blocksDir))
}

// removeUnfinished removes ledger files that were never given their name.
func removeUnfinished(fs vfs.FS, dir string) error {
	names, err := fs.List(dir)
	for _, name := range names {
		if strings.HasPrefix(name, "state-") && strings.HasSuffix(name, ".new") {
			err = errors.Join(err, fs.Remove(fs.PathJoin(dir, name)))
		}
	}
	return err
}

// cars keeps CAR files open for reading, a few of them.
type cars struct {
	fs   vfs.FS
	dir  string
	open []openCAR // the one used last is the last
}

type openCAR struct {
	number uint64
	f      vfs.File
}

const maxOpenCARs = 16

func (c *cars) file(number uint64) (vfs.File, error) {
	if i := slices.IndexFunc(c.open, func(o openCAR) bool { return o.number == number }); i >= 0 {
		o := c.open[i]
		c.open = append(slices.Delete(c.open, i, i+1), o)
		return o.f, nil
	}
	f, err := c.fs.Open(c.fs.PathJoin(c.dir, blocksDir, carName(number)))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, ErrDamaged)
	}
	if len(c.open) == maxOpenCARs {
		c.open[0].f.Close()
		c.open = slices.Delete(c.open, 0, 1)
	}
	c.open = append(c.open, openCAR{number, f})
	return f, nil
}

func (c *cars) close() {
	for _, o := range c.open {
		o.f.Close()
	}
	c.open = nil
}

func compareChecks(a, b SecretCheck) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Epoch, b.Epoch))
}
