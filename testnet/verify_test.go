package testnet

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

// The verifier notices what it is there for. Each village is broken in one way.
func TestVerifyNotices(t *testing.T) {
	t.Parallel()
	left := make(chan struct{})
	t.Cleanup(func() { close(left) })
	for _, c := range []struct {
		name  string
		spoil func(ctx context.Context, v *Village, link string) error
		want  string
	}{
		{"other bytes", func(_ context.Context, v *Village, link string) error {
			v.Promise(link, []byte("something else"))
			return nil
		}, "not the ones sent"},
		{"a file that nobody holds any more", func(ctx context.Context, v *Village, _ string) error {
			return errors.Join(v.Stop(0), v.Wipe(0), v.Restart(ctx, 0), v.Settled(ctx))
		}, "503"},
		{"a node that is away", func(_ context.Context, v *Village, _ string) error { return v.Stop(0) }, "not running"},
		{"a goroutine left by a node", func(_ context.Context, v *Village, _ string) error {
			v.labelled(func() { go func() { <-left }() })
			return nil
		}, "TestVerifyNotices"},
		{"a goroutine left by what a test asked of a node", func(context.Context, *Village, string) error {
			go func() { <-left }()
			return nil
		}, "TestVerifyNotices"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			v, ctx := village(t, Config{Sites: []string{"berlin"}})
			link := sendFile(t, ctx, v, 0, person(t, ctx, v, "sender@example.org"), "a.bin", randomBytes(300_000))
			if err := c.spoil(ctx, v, link); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
			defer cancel()
			if err := v.Verify(ctx); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q in it", err, c.want)
			}
		})
	}
}

// Copies that differ at one index are told at once; copies at different indexes are waited for.
func TestVerifyEndsWithLedgersThatDiffer(t *testing.T) {
	t.Parallel()
	v := &Village{Houses: []*House{{Name: "berlin-1"}, {Name: "berlin-2"}, {Name: "paris-3"}}}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	asked := 0
	for _, last := range []byte{1, 2} { // equal in the end, or not
		err := v.compareLedgers(ctx, func(h *House) (uint64, [32]byte, error) {
			asked++
			switch {
			case h.Name != "paris-3":
				return 7, [32]byte{1}, nil
			case asked < 10:
				return 6, [32]byte{9}, nil
			}
			return 7, [32]byte{last}, nil
		})
		if (err != nil) != (last != 1) || err != nil && !strings.Contains(err.Error(), "ledgers of berlin-1 and paris-3 differ at index 7") {
			t.Errorf("last copy %d: got %v", last, err)
		}
		if ctx.Err() != nil {
			t.Fatal("it waited until its context ended")
		}
	}
}
