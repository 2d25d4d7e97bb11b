package testnet

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"runtime/pprof"
	"slices"
	"strings"
)

// Acknowledged is something the cluster promised: a link and the bytes behind it.
type Acknowledged struct {
	Link   string
	SHA256 [32]byte
}

// Promise notes that the cluster acknowledged the content behind link.
func (v *Village) Promise(link string, content []byte) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.acks = append(v.acks, Acknowledged{Link: link, SHA256: sha256.Sum256(content)})
}

// Verify is how every village test ends: all nodes must be running and in
// reach of each other. It checks that every acknowledged byte is readable
// through every node and that all copies of the ledger are equal. Then it
// closes the village and checks that nothing of it is left running.
func (v *Village) Verify(ctx context.Context) error {
	for _, h := range v.Houses {
		if !h.Running() {
			return errors.Join(fmt.Errorf("%s is not running", h.Name), v.Close())
		}
	}
	err := errors.Join(v.verifyFiles(ctx), v.verifyLedgers(ctx))
	return errors.Join(err, v.Close(), v.verifyGone(ctx))
}

func (v *Village) verifyFiles(ctx context.Context) error {
	for _, a := range v.acks {
		for i, h := range v.Houses {
			resp, data, err := v.Fetch(ctx, i, a.Link, nil)
			if err != nil {
				return fmt.Errorf("fetch acknowledged file through %s: %w", h.Name, err)
			}
			if resp.StatusCode != http.StatusOK {
				return fmt.Errorf("acknowledged file through %s: %s: %s", h.Name, resp.Status, bytes.TrimSpace(data))
			}
			if sha256.Sum256(data) != a.SHA256 {
				return fmt.Errorf("acknowledged file through %s: %d bytes that are not the ones sent", h.Name, len(data))
			}
		}
	}
	return nil
}

func (v *Village) verifyLedgers(ctx context.Context) error {
	return v.compareLedgers(ctx, func(h *House) (uint64, [32]byte, error) { return h.node.Digest(ctx) })
}

// compareLedgers compares the copies at one index. Other loops may write
// meanwhile, so it tries until all stand still at the same one. Copies that
// differ there never become equal again: that is said at once.
func (v *Village) compareLedgers(ctx context.Context, digest func(*House) (index uint64, sum [32]byte, err error)) error {
	var differ error
	err := v.Wait(ctx, "equal ledgers", func() (bool, error) {
		var first uint64
		var sum [32]byte
		for i, h := range v.Houses {
			index, s, err := digest(h)
			if err != nil {
				return false, fmt.Errorf("digest of %s: %w", h.Name, err)
			}
			if i == 0 {
				first, sum = index, s
				continue
			}
			if index != first {
				return false, fmt.Errorf("%s is at %d, %s at %d", v.Houses[0].Name, first, h.Name, index)
			}
			if s != sum {
				differ = fmt.Errorf("ledgers of %s and %s differ at index %d", v.Houses[0].Name, h.Name, index)
				return true, nil
			}
		}
		return true, nil
	})
	return errors.Join(err, differ)
}

var goroutineStart = regexp.MustCompile(`(?m)^\d+ @ `)

// verifyGone looks for goroutines with this village's label, other than the
// one that asks: it puts the label off.
func (v *Village) verifyGone(ctx context.Context) (err error) {
	pprof.Do(context.Background(), pprof.Labels(), func(context.Context) { err = v.waitGone(ctx) })
	return err
}

func (v *Village) waitGone(ctx context.Context) error {
	return v.Wait(ctx, "goroutines to end", func() (bool, error) {
		var buf bytes.Buffer
		if err := pprof.Lookup("goroutine").WriteTo(&buf, 1); err != nil {
			return false, err
		}
		for _, g := range goroutineStart.Split(buf.String(), -1) {
			if strings.Contains(g, `"village":"`+v.label+`"`) && !v.isExcused(g) {
				return false, fmt.Errorf("still running:\n%s", g)
			}
		}
		return true, nil
	})
}

// isExcused says whether a goroutine is of a life that a failing disk ended.
func (v *Village) isExcused(g string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.ContainsFunc(v.excused, func(life string) bool { return strings.Contains(g, `"life":"`+life+`"`) })
}
