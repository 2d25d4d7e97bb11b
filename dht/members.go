package dht

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

// The protocol members/1 tells two nodes which of them has the newer list, and
// hands it over. The asker sends its number (8 bytes, big-endian); the answer
// is the other's number, a length (4 bytes) and that many bytes: its signed
// list if that is newer than the asker's, else nothing. Who is asked with a
// higher number than its own asks back. So one exchange brings both up to date,
// and costs 28 bytes where nothing is new.
const (
	membersProtocol = "members/1"
	membersTimeout  = 10 * time.Second
	// listReaders may have the whole list: they dial by it.
	listReaders = Member | BlocksOnly

	pullEvery   = time.Minute // a random connected peer is asked, in case news was missed
	pullWorkers = 4
	pullQueue   = 256
	// pullGrace is how long Pull waits for further answers after the first.
	pullGrace = time.Second
)

// serveMembers answers one exchange.
func (r *Road) serveMembers(s network.Stream) {
	defer Deadline(r.ctx, s, r.exchangeWithin)()
	var theirs uint64
	err := binary.Read(s, binary.BigEndian, &theirs)
	if err == nil {
		f := r.force.Load()
		answer := binary.BigEndian.AppendUint64(nil, f.number())
		if f.number() <= theirs {
			f = &inForce{}
		}
		answer = binary.BigEndian.AppendUint32(answer, uint32(len(f.signed)))
		_, err = s.Write(append(answer, f.signed...))
	}
	if err != nil {
		s.Reset()
		return
	}
	s.Close()
	if theirs > r.force.Load().number() {
		r.ask(s.Conn().RemotePeer())
	}
}

// exchange asks one peer and puts its list in force if that is newer.
func (r *Road) exchange(ctx context.Context, id peer.ID) error {
	ctx, cancel := context.WithTimeout(ctx, r.exchangeWithin)
	defer cancel()
	s, err := r.bulk.Dial(ctx, id, membersProtocol)
	if err != nil {
		return err
	}
	defer s.Close()
	defer Deadline(ctx, s, r.exchangeWithin)()
	signed, err := askMembers(s, r.force.Load().number())
	if err != nil {
		s.Reset()
		return fmt.Errorf("ask %s for the member list: %w", id, err)
	}
	if signed == nil {
		return nil
	}
	return r.Publish(signed)
}

// askMembers is the asker's side; nil means that nothing newer is there.
func askMembers(s io.ReadWriter, have uint64) ([]byte, error) {
	if _, err := s.Write(binary.BigEndian.AppendUint64(nil, have)); err != nil {
		return nil, err
	}
	var head struct {
		Number uint64
		Length uint32
	}
	if err := binary.Read(s, binary.BigEndian, &head); err != nil {
		return nil, err
	}
	if head.Length == 0 {
		return nil, nil
	}
	if head.Length > maxList {
		return nil, fmt.Errorf("%w: %d bytes", ErrBadList, head.Length)
	}
	signed := make([]byte, head.Length)
	_, err := io.ReadFull(s, signed)
	return signed, err
}

// ask queues an exchange with a peer, one at a time, so that no peer keeps all
// workers waiting; while one is under way, it is noted that another is wanted.
// A full queue drops it: the periodic one makes up for that.
func (r *Road) ask(id peer.ID) {
	r.askingMu.Lock()
	defer r.askingMu.Unlock()
	if _, under := r.asking[id]; under {
		r.asking[id] = true
		return
	}
	select {
	case r.asks <- id:
		r.asking[id] = false
	default:
	}
}

// asked ends an exchange that ask began.
func (r *Road) asked(id peer.ID) {
	r.askingMu.Lock()
	again := r.asking[id]
	delete(r.asking, id)
	r.askingMu.Unlock()
	if again {
		r.ask(id)
	}
}

// askAround is one worker that runs the queued exchanges.
func (r *Road) askAround() {
	for {
		select {
		case <-r.ctx.Done():
			return
		case id := <-r.asks:
			err := r.exchange(r.ctx, id)
			r.asked(id)
			if err != nil && r.ctx.Err() == nil {
				level := slog.LevelDebug // the peer is gone, or has no use for us
				for _, bad := range []error{ErrForeign, ErrBadList, ErrNewerList, errNotStored} {
					if errors.Is(err, bad) {
						level = slog.LevelError
					}
				}
				r.log.LogAttrs(r.ctx, level, "exchange of member lists", slog.String("peer", id.String()), slog.Any("error", err))
			}
		}
	}
}

// listMates are the connected peers with which lists are exchanged.
func (r *Road) listMates() []peer.ID {
	var ids []peer.ID
	for _, id := range r.bulk.host.net.Peers() {
		if r.gate.class(id)&listReaders != 0 {
			ids = append(ids, id)
		}
	}
	return ids
}

// housekeeping closes what is over, and asks around now and then.
func (r *Road) housekeeping(sweepEvery, pullEvery time.Duration) {
	sweep, pull := time.NewTicker(sweepEvery), time.NewTicker(pullEvery)
	defer sweep.Stop()
	defer pull.Stop()
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-sweep.C:
			r.bulk.sweep()
			r.ledger.sweep()
		case <-pull.C:
			if mates := r.listMates(); len(mates) > 0 {
				r.ask(mates[rand.IntN(len(mates))])
			}
		}
	}
}

// ErrNobody says that no member answered. Trying again is safe.
var ErrNobody = errors.New("no member answered")

// Pull asks all other members of the list in force for a newer one, and
// returns when all have answered, or a second after the first answer; the
// newest is in force then. Without any other member it does nothing. When
// nobody answers, the error is ErrNobody with each one's reason.
func (r *Road) Pull(ctx context.Context) error {
	t := r.gate.table.Load()
	var ids []peer.ID
	for id, p := range t.peers {
		if p.Class == Member && id != r.self {
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	var asking sync.WaitGroup
	defer asking.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	answers := make(chan error, len(ids))
	places := make(chan struct{}, 16)
	for _, id := range ids {
		asking.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			answers <- r.exchange(ctx, id)
		})
	}
	var errs []error
	var grace <-chan time.Time
	for range ids {
		// When ctx ends, so do the exchanges: each one's answer comes soon.
		select {
		case err := <-answers:
			if err != nil {
				errs = append(errs, err)
			} else if grace == nil {
				grace = time.After(pullGrace)
			}
		case <-grace:
			return nil
		}
	}
	if grace != nil {
		return nil
	}
	errs = append(errs, ctx.Err())
	return hint(fmt.Errorf("pull the member list: %w: %w", ErrNobody, errors.Join(errs...)),
		"the other nodes may be down, or unreachable from here; if all of them refuse this node, it was removed from the cluster")
}
