package mailgw

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/valise-mail/valise/mailgw/message"
)

// maxReceived is how many Received lines a message may have (M8).
const maxReceived = 50

// A transaction is one message, from MAIL to its answer.
type transaction struct {
	c        *Config
	ctx      context.Context // of the session; go-smtp has none to give
	log      *slog.Logger
	vigil    *vigil
	trace    func() []byte
	sending  Sending
	stored   map[int]Stored // by message.Part.Index
	linked   int            // files that went out as links; some of those stored may have been put back
	granted  bool           // Grant was called: Undo must be, unless
	maybeOut bool           // the final dot was written, and no refusal was read
}

// begin asks for the next hop and opens it. It returns the next hop's answer to MAIL.
func (s *session) begin(from string, body8Bit bool) (*transaction, reply, error) {
	c := &s.h.g.c
	asking, stop := context.WithTimeout(s.h.ctx, c.Timeouts.Command)
	defer stop()
	nh, err := c.Directory.Upstream(asking, s.sender, from)
	if err != nil {
		return nil, reply{}, fmt.Errorf("next hop of <%s>: %w", from, err)
	}
	t := &transaction{c: c, ctx: s.h.ctx, stored: make(map[int]Stored)}
	t.sending = Sending{ID: newSendingID(), Sender: s.sender, From: from, Date: c.Clock()}
	t.log = s.log.With("sending", string(t.sending.ID))
	t.trace = func() []byte {
		return received(s.c.Hostname(), s.w.RemoteAddr(), c.Hostname, s.w.isTLS, t.sending.ID, c.Clock())
	}
	var rep reply
	if t.vigil, rep, err = openVigil(t.ctx, c, t.log, s.h.wg.Go, nh, from, body8Bit); err != nil {
		return nil, reply{}, err
	}
	return t, rep, nil
}

// newSendingID makes 128 random bits.
func newSendingID() SendingID {
	var id [16]byte
	rand.Read(id[:])
	return SendingID(hex.EncodeToString(id[:]))
}

// rcpt passes a recipient on.
func (t *transaction) rcpt(to string) (reply, error) {
	rep, err := t.vigil.rcpt(to)
	if err == nil {
		t.sending.Recipients = append(t.sending.Recipients, to)
	}
	return rep, err
}

// deliver takes the message from b, and submits it. The order is the safety argument: bytes first, permission second,
// mail last; what was granted is taken back unless the message may be out (S1).
func (t *transaction) deliver(b *body) (reply, error) {
	p := newPatience(t.vigil.ctx, &t.c.Timeouts)
	defer p.stop()
	defer func() {
		if t.granted && !t.maybeOut {
			t.undo()
		}
	}()
	m, err := t.read(p, b)
	if err != nil {
		return reply{}, err
	}
	defer m.Close()
	write, err := t.grant(p.ctx, m)
	if err != nil {
		return reply{}, p.because(err)
	}
	if err := p.stop(); err != nil {
		return reply{}, err
	}
	return t.submit(p.dot, write)
}

// read takes the message apart while it arrives. Its header is judged before any attachment is stored.
func (t *transaction) read(p *patience, b *body) (*message.Message, error) {
	o := message.Options{Threshold: t.c.Threshold, SpoolDir: t.c.SpoolDir, Header: t.judge}
	m, err := message.Read(p.ctx, arrival{b, p}, o, t.take)
	switch {
	case err == nil:
		return m, nil
	case b.err != nil && b.err != io.EOF:
		return nil, &clientError{b.err}
	}
	return nil, p.because(err)
}

// take stores one attachment.
func (t *transaction) take(ctx context.Context, p message.Part, content io.Reader) error {
	r := &remembering{r: content}
	st, err := t.c.Publisher.Put(ctx, Meta{Sender: t.sending.Sender, Sending: t.sending.ID, Name: p.Name, MediaType: p.MediaType}, r)
	switch {
	case errors.Is(r.err, message.ErrLeft): // whatever Put made of it
		return r.err
	case err != nil:
		return fmt.Errorf("store attachment: %w", err)
	}
	t.stored[p.Index] = st
	return nil
}

// judge decides by its header whether a message may go out at all.
func (t *transaction) judge(ctx context.Context, h *message.Header) error {
	if h.Count("Received") > maxReceived {
		return errTooManyHops
	}
	if id, ok := h.First("Message-ID"); ok && len(id.Raw) < 1000 {
		t.sending.MessageID = strings.Trim(id.Value(), "<>")
	}
	if h.Count("From") > 1 || h.Count("Sender") > 1 {
		return errTwoSenders
	}
	f, ok := h.Responsible()
	if !ok {
		return nil
	}
	all, unread := []string{f.Value()}, error(nil)
	if list, err := f.Addresses(); err != nil {
		// The whole of it is asked about, as an address that nobody has: a directory whose senders answer to
		// their own server lets it pass.
		unread = fmt.Errorf("%s: %w: %w", f.Name, errNoSender, err)
	} else {
		all = nil
		for _, l := range list {
			all = append(all, l.Address)
		}
	}
	for _, a := range all {
		err := t.c.Directory.Owns(ctx, t.sending.Sender, a)
		if errors.Is(err, ErrNotYours) {
			return cmp.Or(unread, fmt.Errorf("%s: %q: %w", f.Name, a, errNotYourHeader))
		}
		if err != nil {
			return fmt.Errorf("whose address is %q: %w", a, err)
		}
		if t.sending.HeaderFrom == "" {
			t.sending.HeaderFrom = a
		}
	}
	return nil
}

// grant lets the recipients read what was taken, and returns what writes the message that goes out.
func (t *transaction) grant(ctx context.Context, m *message.Message) (func(io.Writer) error, error) {
	taken := m.Taken()
	if len(taken) == 0 {
		return func(w io.Writer) error { return m.WriteOriginal(w, t.trace()) }, nil
	}
	var files []Stored
	for _, p := range taken {
		st, ok := t.stored[p.Index]
		if !ok {
			return nil, fmt.Errorf("part %d was taken and not stored", p.Index)
		}
		files = append(files, st)
	}
	t.granted, t.linked = true, len(files)
	links, err := t.c.Publisher.Grant(ctx, t.sending, files)
	if err != nil {
		return nil, fmt.Errorf("grant: %w", err)
	}
	if len(links.Files) != len(files) || len(files) > 1 && links.Landing == "" {
		return nil, fmt.Errorf("grant gave %d links for %d files", len(links.Files), len(files))
	}
	b := message.Block{Lang: links.Lang, Landing: links.Landing}
	for i, f := range files {
		b.Files = append(b.Files, message.File{Name: f.Name, Size: f.Size, URL: links.Files[i]})
	}
	return func(w io.Writer) error { return m.WriteRewritten(w, t.trace(), b) }, nil
}

// check8Bit refuses a message that a next hop could not take as it is.
func check8Bit(h *hop, write func(io.Writer) error) error {
	if h.has8Bit() {
		return nil
	}
	var needed eightBit
	if err := write(&needed); err != nil {
		return err
	}
	if needed {
		return errNeeds8Bit
	}
	return nil
}

// submit gives the message to the next hop, whose answer is the answer.
func (t *transaction) submit(dot time.Time, write func(io.Writer) error) (reply, error) {
	fits := func(h *hop) error { return check8Bit(h, write) }
	rep, err := t.vigil.submit(dot.Add(t.c.Timeouts.Answer), fits, write, func() { t.maybeOut = true })
	if err == nil {
		t.log.InfoContext(t.ctx, "mail sent", "recipients", len(t.sending.Recipients), "files", t.linked, "answer", rep.code)
		return rep, nil
	}
	if at, ok := errors.AsType[*stageError](err); ok && at.rep.code/100 >= 4 {
		t.maybeOut = false // it said no
	}
	if t.maybeOut {
		t.log.WarnContext(t.ctx, "mail outcome unknown: links stay valid", "recipients", len(t.sending.Recipients), "files", t.linked, "err", err)
		return reply{}, errOutcomeUnknown
	}
	return reply{}, err
}

// undo takes back what Grant did or may have done.
func (t *transaction) undo() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.ctx), t.c.Timeouts.Undo)
	defer cancel()
	if err := t.c.Publisher.Undo(ctx, t.sending.ID); err != nil {
		t.log.ErrorContext(ctx, "a mail was not sent, but what it granted could not be taken back: revoke it", "err", err)
	}
}
