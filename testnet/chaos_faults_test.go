package testnet

import (
	"context"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// trouble lets one fault after the other begin; they end by themselves.
func (c *chaos) trouble(ctx, until context.Context) {
	next := faults(c.seed, len(c.v.Houses))
	var all sync.WaitGroup
	for n := 0; ; n++ {
		f := next()
		if !pause(until, f.Gap) {
			break
		}
		for _, i := range f.Houses {
			c.busy[i].Lock()
		}
		all.Go(func() {
			c.suffer(ctx, until, n, f)
			for _, i := range f.Houses {
				c.busy[i].Unlock()
			}
		})
	}
	all.Wait()
}

// suffer lets one fault happen, for as long as it lasts.
func (c *chaos) suffer(ctx, until context.Context, n int, f fault) {
	c.counted("fault: " + f.Kind)
	c.t.Logf("fault %d: %s of %v for %s", n, f.Kind, f.Houses, f.Lasts)
	v, i := c.v, f.Houses[0]
	h := v.Houses[i]
	end := func() {}
	switch f.Kind {
	case "kill":
		for _, i := range f.Houses {
			c.must(v.Kill(i))
		}
	case "stop":
		c.must(v.Stop(i))
	case "wipe":
		c.must(v.Stop(i))
		c.must(v.Wipe(i))
	case "cut":
		c.cut(n, f.Houses)
		end = func() { c.cut(n, nil) }
	case "slow":
		v.Line(i, Quality{Delay: time.Duration(10+f.Arg%150) * time.Millisecond, Rate: 1 << (18 + f.Arg>>32%5)})
		end = func() { v.Line(i, Quality{}) }
	case "silent":
		v.Line(i, Quality{Silent: true})
		end = func() { v.Line(i, Quality{}) }
	case "full":
		h.full.Store(true)
		end = func() { h.full.Store(false) }
	case "no space":
		v.Trouble(i, noSpace)
		end = func() { v.Trouble(i, nil) }
	case "failed", "happened":
		v.Trouble(i, someFail(f.Arg, f.Kind == "happened"))
		end = func() { v.Trouble(i, nil) }
	case "flip":
		c.flip(h, f.Arg)
	case "no answer": // of the next hop, to whoever sends
		v.Mail.Drop(true)
		end = func() { v.Mail.Drop(false) }
	case "clock":
		h.skew.Store(int64(time.Duration(f.Arg%20)*time.Minute) - int64(10*time.Minute))
		end = func() { h.skew.Store(0) }
	}
	pause(until, f.Lasts)
	end()
	var all sync.WaitGroup
	for _, i := range f.Houses { // all at once: one alone would wait for the others
		all.Go(func() { c.revive(ctx, i) })
	}
	all.Wait()
}

func (c *chaos) must(err error) {
	if err != nil {
		c.wrong("fault: %v", err)
	}
}

// revive starts a node that is away, or that ended itself since its disk failed. No operator is needed for that.
func (c *chaos) revive(ctx context.Context, i int) {
	h := c.v.Houses[i]
	if h.Running() {
		select {
		case <-h.Node().Done():
			c.counted("node: ended itself")
			c.must(c.v.Kill(i)) // as its process would: a database whose disk failed is left as it is
		default:
			return
		}
	}
	c.counted("node: restarted")
	begun := time.Now()
	if err := c.v.Restart(ctx, i); err != nil {
		c.wrong("%s does not start: %v", h.Name, err)
	}
	if time.Since(begun) > 15*time.Second {
		c.counted("node: restarted slowly")
	}
}

// cut cuts houses off together under a fault's number, or puts their cables back; what other faults cut stays so.
func (c *chaos) cut(n int, houses []int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cuts[n] = houses
	if houses != nil {
		c.v.Cut(houses...)
		return
	}
	delete(c.cuts, n)
	c.v.Heal()
	for _, others := range c.cuts {
		c.v.Cut(others...)
	}
}

func noSpace(op, _ string) Fate {
	if op == "create" || op == "write" {
		return Fate{Err: syscall.ENOSPC}
	}
	return Fate{}
}

// someFail lets a few operations fail, a while from now, in some part of a node's folder.
func someFail(arg uint64, happens bool) Step {
	part := []string{"/", "/ledger/", "/store/", "/store/packs/", "/road/"}[arg%5]
	first := int64(1 + arg>>8%60)
	last := first + int64(arg>>16%3)
	var n atomic.Int64
	return func(op, name string) Fate {
		if op == "read" || !strings.Contains(name, part) {
			return Fate{}
		}
		if k := n.Add(1); k < first || k > last {
			return Fate{}
		}
		return Fate{Err: syscall.EIO, Happens: happens}
	}
}

// flip turns one bit in a block pack, as a disk does that nobody has read for long.
func (c *chaos) flip(h *House, arg uint64) {
	dir := path.Join(h.cfg.Dir, "store", "packs")
	names, err := h.disk.List(dir)
	if err != nil || len(names) == 0 {
		return
	}
	name := path.Join(dir, names[arg%uint64(len(names))])
	f, err := h.disk.OpenReadWrite(name, "chaos")
	if err != nil {
		return // collected meanwhile
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || info.Size() == 0 {
		return
	}
	at := int64(arg >> 8 % uint64(info.Size()))
	var b [1]byte
	if _, err := f.ReadAt(b[:], at); err != nil {
		return
	}
	b[0] ^= 1 << (arg % 8)
	if _, err := f.WriteAt(b[:], at); err != nil {
		c.wrong("flip: %v", err)
	}
	c.must(f.Sync())
}
