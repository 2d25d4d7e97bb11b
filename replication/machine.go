package replication

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/hashicorp/raft"
)

// writeOncePrefix marks keys that are never overwritten or deleted (L8).
const writeOncePrefix = 'w'

// A changedKey is one key that an applied entry changed.
type changedKey struct {
	key   []byte
	index uint64
}

// A settled attempt of this node, with its outcome.
type settled struct {
	seq     uint64
	outcome outcome
}

// A machine is raft's state machine: it checks and applies write sets to the state
// and records outcomes. What it does depends on the log alone; a local failure
// parks it (L11).
type machine struct {
	self        string
	incarnation uint64
	known       uint64 // highest format this program reads
	fatal       *fatal
	states      *states
	// published is told what became visible, after it did.
	published func(index uint64, changed []changedKey, mine []settled)
	// installed is told that a snapshot replaced the state.
	installed func(index uint64, mine []settled)
	// takeInstalled returns the state a received snapshot was unpacked into, nil if
	// the present state covers it.
	takeInstalled func() (*stateDB, error)

	applied atomic.Uint64 // index that readers see
	term    atomic.Uint64 // its term
	entries atomic.Uint64 // entries applied since Open, those the disk had not counted
	format  atomic.Pointer[raiseRecord]
	shown   atomic.Pointer[lineage] // the recovery this state comes from

	// owned by raft's state machine goroutine
	nodes map[string]*nodeOutcomes
}

var (
	_ raft.FSM         = (*machine)(nil)
	_ raft.BatchingFSM = (*machine)(nil)
)

// load reads what the machine keeps in memory from the current state.
func (m *machine) load() error {
	st, err := m.states.acquire()
	if err != nil {
		return err
	}
	defer m.states.release(st)
	index, term, err := readApplied(st.pdb)
	if err != nil {
		return err
	}
	format, err := readFormat(st.pdb)
	if err == nil {
		err = format.check(m.known)
	}
	if err != nil {
		return err
	}
	var shown lineageRecord
	if err := readRecord(st.pdb, keyLineage, &shown); err != nil {
		return err
	}
	if m.nodes, err = loadOutcomes(st.pdb); err != nil {
		return err
	}
	m.format.Store(&format)
	from := shown.lineage()
	m.shown.Store(&from)
	m.applied.Store(index)
	m.term.Store(term)
	return nil
}

// active is the format of what may be proposed, as far as this copy shows it.
func (m *machine) active() raiseRecord { return *m.format.Load() }

// Apply implements raft.FSM; raft calls ApplyBatch instead.
func (m *machine) Apply(log *raft.Log) any { return m.ApplyBatch([]*raft.Log{log})[0] }

// ApplyBatch applies committed entries and makes them visible together. It answers
// nothing: outcomes are read from the state.
func (m *machine) ApplyBatch(logs []*raft.Log) []any {
	st, err := m.states.acquire()
	if err != nil {
		return make([]any, len(logs)) // closing: raft is told, nobody reads it
	}
	defer m.states.release(st)
	b := &batch{m: m, b: st.pdb.NewIndexedBatch(), seen: m.applied.Load(), term: m.term.Load(), format: m.active()}
	defer b.b.Close()
	for _, log := range logs {
		if log.Index <= b.seen {
			continue // the disk had it
		}
		if err := b.entry(log); err != nil {
			m.fatal.park(fmt.Errorf("apply ledger entry %d: %w", log.Index, err))
		}
	}
	if b.seen == m.applied.Load() {
		return make([]any, len(logs))
	}
	if err := b.b.Set(keyApplied, encodeApplied(b.seen, b.term), nil); err != nil {
		m.fatal.park(fmt.Errorf("apply ledger entry %d: %w", b.seen, err))
	}
	// Unsynced: the log is the durable copy (L6).
	if err := b.b.Commit(pebble.NoSync); err != nil {
		m.fatal.park(fmt.Errorf("apply ledger entry %d: %w", b.seen, err))
	}
	m.term.Store(b.term)
	m.format.Store(&b.format)
	m.applied.Store(b.seen)
	m.entries.Add(b.entries)
	m.published(b.seen, b.changed, b.mine)
	return make([]any, len(logs))
}

// A batch collects entries that become visible together.
type batch struct {
	m       *machine
	b       *pebble.Batch
	seen    uint64
	term    uint64
	entries uint64
	format  raiseRecord
	changed []changedKey
	mine    []settled
}

func (b *batch) entry(log *raft.Log) error {
	if log.Type == raft.LogConfiguration {
		conf, err := encodeSnapshotMeta(&raft.SnapshotMeta{Index: log.Index, Term: log.Term,
			Configuration: raft.DecodeConfiguration(log.Data), ConfigurationIndex: log.Index})
		if err != nil {
			return err
		}
		if err := b.b.Set(keyConfig, conf, nil); err != nil {
			return err
		}
	}
	if log.Type == raft.LogCommand {
		if err := b.command(log); err != nil {
			return err
		}
	}
	b.seen, b.term = log.Index, log.Term
	b.entries++
	return nil
}

func (b *batch) command(log *raft.Log) error {
	if len(log.Data) > 0 {
		switch log.Data[0] {
		case entryRaise:
			return b.raise(log.Data[1:])
		case entryRecovered:
			return b.recovered(log.Data[1:])
		}
	}
	groups, err := decodeEntry(log.Data, b.m.known)
	if err != nil {
		return err
	}
	for i := range groups {
		if err := b.group(log.Index, &groups[i]); err != nil {
			return err
		}
	}
	return nil
}

// recovered applies entryRecovered. All that is of this history says so from here on.
func (b *batch) recovered(content []byte) error {
	var rec lineageRecord
	if err := Unmarshal(content, &rec); err != nil {
		return err
	}
	from := rec.lineage()
	b.m.shown.Store(&from)
	return b.b.Set(keyLineage, content, nil)
}

func (b *batch) group(index uint64, g *group) error {
	node := b.m.nodes[g.node]
	if node == nil {
		node = &nodeOutcomes{outcomes: make(map[uint64]outcome)}
		b.m.nodes[g.node] = node
	}
	if current, err := node.begin(b.b, g); err != nil || !current {
		return err
	}
	mine := g.node == b.m.self && g.incarnation == b.m.incarnation
	for i := range g.proposals {
		p := &g.proposals[i]
		if p.seq < node.released {
			continue // given up by its node: never applied
		}
		o, known := node.outcomes[p.seq]
		if !known {
			var err error
			if o, err = b.propose(index, p); err != nil {
				return err
			}
			if err := node.record(b.b, g.node, p.seq, o); err != nil {
				return err
			}
		}
		if mine {
			b.mine = append(b.mine, settled{p.seq, o})
		}
	}
	return nil
}

// propose checks and applies one attempt; on any verdict but applied it changes nothing.
func (b *batch) propose(index uint64, p *proposal) (outcome, error) {
	changed, at, err := readsChanged(b.b, p.keys, p.ranges)
	if err != nil {
		return outcome{}, err
	}
	if changed {
		return outcome{conflicted, at}, nil
	}
	sums, verdict, err := b.checkWrites(p.writes)
	if err != nil || verdict != applied {
		return outcome{verdict, index}, err
	}
	for i := range p.writes {
		if err := b.write(index, &p.writes[i], sums); err != nil {
			return outcome{}, err
		}
	}
	return outcome{applied, index}, nil
}

// readsChanged reports whether r shows something else than what was read (L1), and
// the index of the change, as far as it can be seen.
func readsChanged(r pebble.Reader, keys []readKey, ranges []readRange) (changed bool, at uint64, err error) {
	for i := range keys {
		now := uint64(0)
		err := getUser(r, keys[i].key, func(index uint64, _ []byte) { now = index })
		if err != nil || now != keys[i].index {
			return true, max(now, keys[i].index), err
		}
	}
	for i := range ranges {
		count, highest, err := rangeState(r, &ranges[i])
		if err != nil || count != ranges[i].count || highest != ranges[i].highest {
			return true, max(highest, ranges[i].highest), err
		}
	}
	return false, 0, nil
}

// rangeState counts the keys of a range, up to one more than was seen.
func rangeState(r pebble.Reader, seen *readRange) (count, highest uint64, err error) {
	it, err := r.NewIter(userBounds(seen.from, seen.to))
	if err != nil {
		return 0, 0, fmt.Errorf("read ledger state: %w", err)
	}
	for ok := it.First(); ok && count <= seen.count; ok = it.Next() {
		index, _, err := splitValue(it.Value())
		if err != nil {
			return 0, 0, errors.Join(err, it.Close())
		}
		count++
		highest = max(highest, index)
	}
	return count, highest, it.Close()
}

// checkWrites decides what only the present state can: write-once keys, and what
// each Add adds to.
func (b *batch) checkWrites(writes []write) (sums map[string]int64, v verdict, err error) {
	for i := range writes {
		w := &writes[i]
		once := len(w.key) > 0 && w.key[0] == writeOncePrefix
		adds := w.adds()
		if !adds && !once {
			continue
		}
		found, counter, base := false, true, int64(0)
		err := getUser(b.b, w.key, func(_ uint64, value []byte) {
			found = true
			base, counter = counterValue(value)
		})
		switch {
		case err != nil:
			return nil, 0, err
		case once && found:
			return nil, writeOnceHit, nil
		case adds && !counter:
			return nil, notCounter, nil
		case w.op == opAddWithin && !w.allows(base):
			return nil, outOfBounds, nil
		case adds:
			if sums == nil {
				sums = make(map[string]int64)
			}
			if _, again := sums[string(w.key)]; !again {
				sums[string(w.key)] = base
			}
		}
	}
	return sums, applied, nil
}

func (b *batch) write(index uint64, w *write, sums map[string]int64) error {
	b.changed = append(b.changed, changedKey{w.key, index})
	key := userKey(w.key)
	switch w.op {
	case opDelete:
		return b.b.Delete(key, nil)
	case opAdd, opAddWithin:
		sum := sums[string(w.key)] + w.delta
		sums[string(w.key)] = sum
		return b.setVersioned(key, index, counterBytes(sum))
	default:
		return b.setVersioned(key, index, w.value)
	}
}

func (b *batch) setVersioned(key []byte, index uint64, value []byte) error {
	op := b.b.SetDeferred(len(key), versionSize+len(value))
	copy(op.Key, key)
	binary.BigEndian.PutUint64(op.Value, index)
	copy(op.Value[versionSize:], value)
	return op.Finish()
}

func counterValue(value []byte) (int64, bool) {
	if len(value) != 8 {
		return 0, false
	}
	return int64(binary.BigEndian.Uint64(value)), true
}

func counterBytes(v int64) []byte { return binary.BigEndian.AppendUint64(nil, uint64(v)) }

// Snapshot implements raft.FSM. The state on disk is the snapshot; Persist only
// says that the sink belongs to this state.
func (m *machine) Snapshot() (raft.FSMSnapshot, error) {
	st, err := m.states.acquire()
	if err != nil {
		return nil, err
	}
	return &machineSnapshot{m.states, st}, nil
}

type machineSnapshot struct {
	states *states
	st     *stateDB
}

func (s *machineSnapshot) Persist(sink raft.SnapshotSink) error {
	local, ok := sink.(*snapshotSink)
	if !ok {
		return fmt.Errorf("foreign snapshot sink %T", sink)
	}
	local.covered = s.st
	return nil
}

func (s *machineSnapshot) Release() { s.states.release(s.st) }

// Restore implements raft.FSM: the snapshot store has unpacked and switched, so
// only readers remain to be moved.
func (m *machine) Restore(r io.ReadCloser) error {
	defer r.Close()
	next, err := m.takeInstalled()
	if err != nil {
		return err
	}
	if next != nil {
		m.states.swap(next)
		if err := m.load(); err != nil {
			m.fatal.park(fmt.Errorf("load installed ledger state: %w", err))
		}
	}
	var mine []settled
	if node := m.nodes[m.self]; node != nil && node.incarnation == m.incarnation {
		for seq, o := range node.outcomes {
			mine = append(mine, settled{seq, o})
		}
	}
	m.installed(m.applied.Load(), mine)
	return nil
}
