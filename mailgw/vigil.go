package mailgw

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"time"
)

// errAnswerLate ends a submission whose time is over (S2).
var errAnswerLate = errors.New("the time for the next hop is over")

// noopPatience is how long a NOOP waits for its answer: the client may be waiting behind it.
const noopPatience = time.Minute

// farewell is what a next hop gets for the command it is at, and then for QUIT.
const farewell = 5 * time.Second

// A vigil watches over the next hop of one message (S2). From the first accepted recipient until the message is
// submitted the next hop hears NOOP each Timeouts.Awake, and when it is lost, MAIL and the recipients accepted so far are
// repeated on a new connection: at once if the loss is seen, else when it is needed. A connection that cannot be had is
// tried for again at the next NOOP, and at the latest for the submission. An answer that says no to what was accepted
// before ends ctx, with that answer as its cause: nothing is sent any more.
//
// Nothing is ever sent twice: only up to the 354 is a lost connection replaced.
type vigil struct {
	c        *Config
	log      *slog.Logger
	to       NextHop
	from     string
	body8Bit bool
	every    time.Duration
	beside   func(func())    // runs what goes on beside the session
	ctx      context.Context // of this message's dialogues, and of whatever is done for it meanwhile
	cancel   context.CancelCauseFunc
	keep     context.Context // ends with the submission: no more NOOP
	rest     context.CancelFunc

	// mu guards the fields below, and is held through each exchange with the next hop.
	mu        sync.Mutex
	hop       *hop
	accepted  []string // recipients, in order
	mayReopen bool     // once for each accepted recipient, NOOP and submission: a next hop that always goes is not besieged
	refused   error    // what it said to MAIL or RCPT the second time
}

// openVigil opens the next hop and sends MAIL. It returns the answer to that, if it is a yes.
func openVigil(ctx context.Context, c *Config, log *slog.Logger, beside func(func()), to NextHop, from string, body8Bit bool) (*vigil, reply, error) {
	v := &vigil{c: c, log: log, to: to, from: from, body8Bit: body8Bit, every: c.Timeouts.Awake, beside: beside}
	v.ctx, v.cancel = context.WithCancelCause(ctx)
	v.keep, v.rest = context.WithCancel(v.ctx)
	var err error
	if v.hop, err = openHop(v.ctx, v.c, v.to); err != nil {
		v.cancel(nil)
		return nil, reply{}, err
	}
	rep, err := v.hop.mail(v.from, v.body8Bit)
	if err != nil {
		v.end()
		return nil, reply{}, err
	}
	return v, rep, nil
}

// rcpt sends RCPT and returns the answer if it is a yes. The first yes begins the vigil.
func (v *vigil) rcpt(to string) (rep reply, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	err = v.exchange(func(h *hop) error {
		rep, err = h.rcpt(to)
		return err
	})
	if v.refused != nil { // that was said about another recipient
		return reply{}, &stageError{stage: stageRcpt, err: v.hop.lost}
	}
	if err != nil {
		return reply{}, err
	}
	if v.accepted = append(v.accepted, to); len(v.accepted) == 1 {
		v.beside(v.run)
	}
	v.mayReopen = true
	return rep, nil
}

// run keeps the next hop awake until the submission begins.
func (v *vigil) run() {
	tick := time.NewTicker(v.every)
	defer tick.Stop()
	for {
		select {
		case <-v.keep.Done():
			return
		case <-tick.C:
			v.wake()
		}
	}
}

// wake sends NOOP, and opens the next hop again if it is lost.
func (v *vigil) wake() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.keep.Err() != nil {
		return
	}
	v.mayReopen = true
	v.hop.noop(noopPatience)
	if v.ctx.Err() != nil {
		return
	}
	if err := v.reopen(); err != nil {
		v.log.WarnContext(v.ctx, "a next hop was lost during a message", "err", err)
	}
}

// submit ends the vigil and gives the message to the next hop. Fits says whether a connection can take it, dotting is
// called right before the final dot is written. At deadline the connection is closed, whatever it is at.
func (v *vigil) submit(deadline time.Time, fits func(*hop) error, write func(io.Writer) error, dotting func()) (reply, error) {
	v.rest()
	late := time.AfterFunc(time.Until(deadline), func() { v.cancel(errAnswerLate) })
	defer late.Stop()
	v.mu.Lock()
	defer v.mu.Unlock()
	v.mayReopen = true
	err := v.exchange(func(h *hop) error {
		if err := fits(h); err != nil {
			return err
		}
		return h.data()
	})
	if err != nil {
		return reply{}, err
	}
	return v.hop.message(deadline, write, dotting)
}

// exchange lets f speak to the next hop, and once more on a new connection if that is the way to an answer.
func (v *vigil) exchange(f func(*hop) error) error {
	for {
		if err := v.reopen(); err != nil {
			return err
		}
		if err := f(v.hop); !isLoss(err) || !v.mayReopen {
			return err
		}
	}
}

// reopen replaces a lost connection, if it may.
func (v *vigil) reopen() error {
	if v.refused != nil || v.hop.lost == nil || !v.mayReopen {
		return v.refused
	}
	v.mayReopen = false
	why := v.hop.lost
	v.hop.abandon()
	h, err := openHop(v.ctx, v.c, v.to)
	if err != nil {
		return v.judge(err)
	}
	if err := v.repeat(h); err != nil {
		h.quit()
		return v.judge(err)
	}
	v.hop = h
	v.log.InfoContext(v.ctx, "a next hop was lost and opened again", "recipients", len(v.accepted), "why", why)
	return nil
}

// repeat says on a new connection what was accepted on the one before.
func (v *vigil) repeat(h *hop) error {
	if _, err := h.mail(v.from, v.body8Bit); err != nil {
		return err
	}
	for _, to := range v.accepted {
		if _, err := h.rcpt(to); err != nil {
			return err
		}
	}
	return nil
}

// judge notes an answer that ends the message.
func (v *vigil) judge(err error) error {
	if !isLoss(err) {
		v.refused = err
		v.cancel(err)
	}
	return err
}

// end says goodbye to the next hop, or hangs up on one that does not listen. The client does not wait for it.
func (v *vigil) end() {
	v.rest()
	v.beside(func() {
		cut := time.AfterFunc(farewell, func() { v.cancel(nil) })
		defer cut.Stop()
		v.mu.Lock()
		defer v.mu.Unlock()
		v.hop.quit()
		v.cancel(nil)
	})
}

// isLoss reports whether err says that the next hop cannot be spoken to just now: not that it said no to a login, which
// would be counted against the mailbox if it were tried again and again, or to anything behind it.
func isLoss(err error) bool {
	at, ok := errors.AsType[*stageError](err)
	return ok && (at.err != nil || at.rep.code == 421 || at.stage < stageAuth)
}
