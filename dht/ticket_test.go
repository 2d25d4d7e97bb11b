package dht

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/multiformats/go-multiaddr"
)

func fixedTicket(t testing.TB) Ticket {
	public := fixedOrg().Public().(ed25519.PublicKey)
	return Ticket{Seed: [32]byte(bytes.Repeat([]byte{9}, 32)), ClusterID: ClusterID(public), OrgKey: public, Inviter: fixedID(t, 1),
		Addrs: addrs("/ip4/192.0.2.1/tcp/4101", "/dns4/node.example.org/tcp/4101"), Site: "北京", Expires: time.Date(2031, 2, 3, 4, 5, 6, 0, time.UTC)}
}

// hintOf is how a program finds an error's hint.
func hintOf(err error) string {
	if h, ok := errors.AsType[interface {
		error
		Hint() string
	}](err); ok {
		return h.Hint()
	}
	return ""
}

func TestR4_TicketGolden(t *testing.T) {
	t.Parallel()
	want := fixedTicket(t)
	text := golden(t, "ticket-v1.txt", want.String())
	for _, form := range []string{text, " " + text + "\r\n", strings.ToUpper(text), text[:50] + "\n  " + text[50:]} {
		got, err := ParseTicket(form)
		if err != nil {
			t.Fatalf("%q: %v", form, err)
		}
		if diff := cmp.Diff(fmt.Sprintf("%#v", plain(want)), fmt.Sprintf("%#v", plain(got))); diff != "" {
			t.Error(diff)
		}
		if got.String() != text || got.PeerID() != want.PeerID() {
			t.Errorf("got %q, want %q", got.String(), text)
		}
	}
}

// plain is a ticket that shows itself, for comparisons.
func plain(t Ticket) any {
	type shown Ticket
	return shown(t)
}

func TestR4_ParseTicketRefuses(t *testing.T) {
	t.Parallel()
	good := fixedTicket(t).String()
	body := strings.TrimPrefix(good, ticketPrefix)
	raw := func(w any) string {
		data := mustEncode(t, w)
		return ticketPrefix + ticketText.EncodeToString(append(data, ticketSum(data)...))
	}
	fixed := fixedTicket(t)
	wire := func(change func(*wireTicket)) string {
		w := wireTicket{Version: 1, Seed: fixed.Seed[:], OrgKey: fixed.OrgKey, Inviter: []byte(fixed.Inviter), Addrs: packAddrs(fixed.Addrs), Site: fixed.Site, Expires: fixed.Expires.Unix()}
		change(&w)
		return raw(w)
	}
	if got := wire(func(*wireTicket) {}); got != good {
		t.Fatal("this test makes other tickets than the code")
	}
	for name, row := range map[string]struct {
		text string
		want error
	}{
		"empty":            {"", ErrBadTicket},
		"a password":       {"correct horse battery staple", ErrBadTicket},
		"prefix only":      {ticketPrefix, ErrBadTicket},
		"cut short":        {good[:len(good)-3], ErrBadTicket},
		"one letter wrong": {ticketPrefix + strings.Map(rot, body[:5]) + body[5:], ErrBadTicket},
		"a letter more":    {good + "a", ErrBadTicket},
		"too long":         {ticketPrefix + strings.Repeat("a", maxTicket), ErrBadTicket},
		"newer text form":  {"valise-ticket-2:" + body, ErrNewerTicket},
		"newer content":    {wire(func(w *wireTicket) { w.Version = 2 }), ErrNewerTicket},
		"version 0":        {wire(func(w *wireTicket) { w.Version = 0 }), ErrBadTicket},
		"short seed":       {wire(func(w *wireTicket) { w.Seed = w.Seed[1:] }), ErrBadTicket},
		"short key":        {wire(func(w *wireTicket) { w.OrgKey = w.OrgKey[1:] }), ErrBadTicket},
		"odd inviter":      {wire(func(w *wireTicket) { w.Inviter = []byte("x") }), ErrBadTicket},
		"no address":       {wire(func(w *wireTicket) { w.Addrs = nil }), ErrBadTicket},
		"odd address":      {wire(func(w *wireTicket) { w.Addrs = [][]byte{{0xff}} }), ErrBadTicket},
		"no end":           {wire(func(w *wireTicket) { w.Expires = 0 }), ErrBadTicket},
		"long site":        {wire(func(w *wireTicket) { w.Site = strings.Repeat("x", 129) }), ErrBadTicket},
		"unknown field": {raw(map[int]any{0: 1, 1: fixed.Seed[:], 2: []byte(fixed.OrgKey), 3: []byte(fixed.Inviter),
			4: packAddrs(fixed.Addrs), 6: fixed.Expires.Unix(), 9: 1}), ErrBadTicket},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := ParseTicket(row.text)
			if !errors.Is(err, row.want) || hintOf(err) == "" {
				t.Errorf("got %v, %v, hint %q, want %v and a hint", plain(got), err, hintOf(err), row.want)
			}
			if seed := body[20:60]; err != nil && strings.Contains(err.Error(), seed) {
				t.Errorf("the error shows the ticket: %v", err)
			}
		})
	}
}

func rot(r rune) rune {
	if r == 'z' {
		return 'a'
	}
	return r + 1
}

func TestR4_TicketIsNeverShown(t *testing.T) {
	t.Parallel()
	ticket := fixedTicket(t)
	secret := []string{ticket.String()[30:70], fmt.Sprint(ticket.Seed), fmt.Sprintf("%x", ticket.Seed), "CQkJ", `"Seed"`}
	var logs bytes.Buffer
	for _, h := range []slog.Handler{slog.NewTextHandler(&logs, nil), slog.NewJSONHandler(&logs, nil)} {
		l := slog.New(h)
		l.Info("a", "ticket", ticket)
		l.Info("b", "ticket", &ticket)
		l.Info("c", "list", []Ticket{ticket})
		l.Info("d", "in", struct{ T Ticket }{ticket})
	}
	shown := logs.String()
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		shown += fmt.Sprintf(verb+verb+verb, ticket, &ticket, struct{ T Ticket }{ticket})
	}
	j, err := json.Marshal(map[string]any{"t": ticket, "p": &ticket})
	if err != nil {
		t.Fatal(err)
	}
	shown += string(j) + fmt.Sprint(ticket) + fmt.Errorf("x %v", ticket).Error()
	for _, s := range secret {
		if strings.Contains(shown, s) {
			t.Errorf("a ticket was shown: %q in %s", s, shown)
		}
	}
	if !strings.Contains(shown, "redacted") {
		t.Error("nothing says redacted")
	}
}

func TestR4_TicketExpired(t *testing.T) {
	t.Parallel()
	ticket := fixedTicket(t)
	if err := ticket.Check(ticket.Expires.Add(60 * time.Second)); err != nil {
		t.Errorf("within the tolerance: %v", err)
	}
	if err := ticket.Check(ticket.Expires.Add(61 * time.Second)); !errors.Is(err, ErrTicketExpired) || hintOf(err) == "" {
		t.Errorf("got %v, want ErrTicketExpired and a hint", err)
	}
	ticket.Expires = time.Now().Add(-time.Hour)
	if _, _, err := DialTicket(within(t), ticket); !errors.Is(err, ErrTicketExpired) || hintOf(err) == "" {
		t.Errorf("got %v, want ErrTicketExpired and a hint", err)
	}
}

// The whole way in, with a stand-in for the ledger's part: the joiner proves
// the ticket's key by the connection and gets what the inviter sends.
func TestR4_DialTicket(t *testing.T) {
	t.Parallel()
	for _, transport := range []string{"/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"} {
		t.Run(strings.ReplaceAll(transport, "/", "_"), func(t *testing.T) {
			t.Parallel()
			o := newOrg(t)
			inviter := o.open(func(c *Config) { c.BulkListen = addrs(transport) })
			o.add(peerOf(inviter, Member, ""))
			ticket := o.ticket(inviter, time.Now().Add(time.Hour))
			o.publish(inviter)
			inviter.Bulk().Handle(JoinProtocol, TicketHolder, func(s network.Stream) {
				fmt.Fprintf(s, "welcome %s", s.Conn().RemotePeer())
				s.Close()
			})
			parsed, err := ParseTicket(ticket.String())
			if err != nil {
				t.Fatal(err)
			}
			s, closer, err := DialTicket(within(t), parsed)
			if err != nil {
				t.Fatal(err)
			}
			defer Deadline(within(t), s, patience)()
			got := new(bytes.Buffer)
			if _, err := got.ReadFrom(s); err != nil || got.String() != "welcome "+ticket.PeerID().String() {
				t.Errorf("got %q, %v", got, err)
			}
			if err := closer.Close(); err != nil {
				t.Error(err)
			}
			until(t, "the throw-away host is gone", func() bool { return !inviter.Bulk().Connected(ticket.PeerID()) })
		})
	}
}

// A ticket opens join/1 and nothing else, on neither lane, also for a joiner
// that is no host of ours.
func TestR4_TicketOpensNothingElse(t *testing.T) {
	t.Parallel()
	o := newOrg(t)
	inviter := o.open()
	o.add(peerOf(inviter, Member, ""))
	ticket := o.ticket(inviter, time.Now().Add(time.Hour))
	o.publish(inviter)
	served(inviter, func(what string) {
		if what != JoinProtocol {
			t.Errorf("a ticket reached the handler of %s", what)
		}
	})
	key, err := KeyFromSeed(ticket.Seed)
	if err != nil {
		t.Fatal(err)
	}
	for _, lane := range []*Lane{inviter.Bulk(), inviter.Ledger()} {
		h := newStranger(t, identity(key))
		connect(t, h, inviter, lane.Addrs()[0])
		for _, id := range every(inviter) {
			want := lane == inviter.Bulk() && id == lane.protocol(JoinProtocol)
			s, err := h.NewStream(within(t), inviter.Self(), id)
			if err == nil { // basic hosts agree lazily
				s.SetDeadline(time.Now().Add(patience))
				_, err = io.ReadFull(s, make([]byte, 1))
				s.Reset()
			}
			if got := err == nil; got != want {
				t.Errorf("%s: opened %v, want %v (%v)", id, got, want, err)
			}
		}
		if got, _ := h.Peerstore().GetProtocols(inviter.Self()); len(got) > 1 {
			t.Errorf("the ticket holder knows protocols %v", got)
		}
		if got, err := h.Peerstore().Get(inviter.Self(), "AgentVersion"); err == nil {
			t.Errorf("the ticket holder knows the agent version %v", got)
		}
		h.Close()
	}
}

func TestR4_DialTicketSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	o := newOrg(t)
	inviter, other := o.open(), o.open()
	o.add(peerOf(inviter, Member, ""), peerOf(other, Member, ""))
	unlisted := o.ticket(inviter, time.Now().Add(time.Hour))
	o.drop(unlisted.PeerID()) // used or cancelled
	elsewhere := o.ticket(inviter, time.Now().Add(time.Hour))
	elsewhere.Addrs = other.Bulk().Addrs()
	early := o.ticket(other, time.Now().Add(time.Hour))
	nobody := o.ticket(inviter, time.Now().Add(time.Hour))
	nobody.Addrs = addrs("/ip4/127.0.0.1/tcp/1")
	o.publish(inviter, other)
	inviter.Bulk().Handle(JoinProtocol, TicketHolder, echo)
	for name, row := range map[string]struct {
		ticket Ticket
		want   error
	}{
		"used":          {unlisted, ErrRefused},
		"another node":  {elsewhere, ErrForeign},
		"not ready":     {early, nil},
		"nobody there":  {nobody, nil},
		"without an id": {Ticket{}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			s, c, err := DialTicket(within(t), row.ticket)
			if err == nil {
				s.Reset()
				c.Close()
				t.Fatal("dialled")
			}
			if row.want != nil && !errors.Is(err, row.want) {
				t.Errorf("got %v, want %v", err, row.want)
			}
			if hintOf(err) == "" && name != "without an id" {
				t.Errorf("no hint: %v", err)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := DialTicket(ctx, nobody); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
}

// An inviter that hangs has refused nothing: the ticket is good still.
func TestR4_SilentInviterIsNoRefusal(t *testing.T) {
	t.Parallel()
	o := newOrg(t)
	inviter := o.open()
	o.add(peerOf(inviter, Member, ""))
	ticket := o.ticket(inviter, time.Now().Add(time.Hour))
	o.publish(inviter)
	inviter.Bulk().host.net.SetStreamHandler(func(network.Stream) {})
	key, err := KeyFromSeed(ticket.Seed)
	if err != nil {
		t.Fatal(err)
	}
	h, err := ticketHost(ticket, netConfig{key: key, keepAlive: bulkKeepAlive})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	h.negotiateWithin = 100 * time.Millisecond
	_, err = openJoin(within(t), h, ticket)
	if err == nil || errors.Is(err, ErrRefused) || !isTimeout(err) || hintOf(err) == "" {
		t.Errorf("got %v, want a time-out and a hint", err)
	}
}

func FuzzParseTicket(f *testing.F) {
	good := fixedTicket(f).String()
	f.Add(good, false)
	f.Add(ticketPrefix+"aaaa", false)
	raw, err := ticketText.DecodeString(strings.TrimPrefix(good, ticketPrefix))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(raw[:len(raw)-checksumSize]), true)
	f.Fuzz(func(t *testing.T, text string, pack bool) {
		if pack { // the content's parser, behind the checksum
			text = ticketPrefix + ticketText.EncodeToString(append([]byte(text), ticketSum([]byte(text))...))
		}
		got, err := ParseTicket(text)
		if err != nil {
			return
		}
		again, err := ParseTicket(got.String())
		if err != nil || !cmp.Equal(plain(got), plain(again), cmp.Comparer(multiaddr.Multiaddr.Equal)) {
			t.Fatalf("got %#v, %v, want %#v", plain(again), err, plain(got))
		}
	})
}
