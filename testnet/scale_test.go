package testnet

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multihash"

	"github.com/valise-mail/valise/authz"
	"github.com/valise-mail/valise/node/drive"
	"github.com/valise-mail/valise/node/store"
	"github.com/valise-mail/valise/replication"
	"github.com/valise-mail/valise/replication/copies"
)

// BenchmarkScale fills one node's ledger with the records of many files, each sent once, as the program
// itself writes them, and measures what depends on how many there are: the curve says what comes after.
// VALISE_SCALE names other numbers of files than 10,000 and 100,000, such as "1000000".
func BenchmarkScale(b *testing.B) {
	sizes := []int{10_000, 100_000}
	if n, err := strconv.Atoi(os.Getenv("VALISE_SCALE")); err == nil {
		sizes = []int{n}
	}
	for _, files := range sizes {
		b.Run(fmt.Sprintf("files=%d", files), func(b *testing.B) {
			for b.Loop() {
				scale(b, files)
			}
		})
	}
}

func scale(b *testing.B, files int) {
	s := newScaled(b)
	defer func() { s.db.Close() }()
	begun := time.Now()
	const batch = 10
	for i := 0; i < files; i += batch {
		s.add(b, min(batch, files-i))
	}
	b.ReportMetric(float64(files)/time.Since(begun).Seconds(), "files-filled/s")

	// Restart: the state is on disk, and nothing is replayed but the log's end.
	check(b, s.db.Close())
	b.ReportMetric(float64(folderSize(b, s.config.Dir))/float64(files), "disk-B/file")
	begun = time.Now()
	db, err := replication.Open(b.Context(), s.config)
	check(b, err)
	s.db = db
	check(b, s.db.View(func(tx *replication.Tx) error {
		if _, err := authz.LoadGrant(tx, s.last); err != nil {
			return err
		}
		return nil
	}))
	b.ReportMetric(float64(time.Since(begun).Milliseconds()), "restart-ms")
	check(b, s.db.ReadIndex(b.Context()))

	const looks = 2000
	begun = time.Now()
	for i := range looks {
		s.decide(b, i)
	}
	b.ReportMetric(float64(time.Since(begun).Microseconds())/looks, "decision-us")

	const updates = 200
	begun = time.Now()
	for range updates {
		s.add(b, 1)
	}
	b.ReportMetric(updates/time.Since(begun).Seconds(), "updates/s-one-writer")
	b.ReportMetric(resident(b), "MiB-resident")
}

// scaled is a ledger that is being filled.
type scaled struct {
	config replication.Config
	db     *replication.DB
	signer authz.Signer
	keys   *authz.Keyring
	tokens []scaledToken // some of those issued, spread over all
	last   authz.GrantID
	number uint64
}

type scaledToken struct {
	text authz.Token
	root []byte
}

// deafLane has nobody at its other end.
type deafLane struct{}

func (deafLane) Handle(string, func(network.Stream)) {}
func (deafLane) Dial(context.Context, peer.ID, string) (network.Stream, error) {
	return nil, errors.New("no other node")
}

func newScaled(b *testing.B) *scaled {
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	check(b, err)
	cache := pebble.NewCache(32 << 20)
	b.Cleanup(cache.Unref)
	id, err := multihash.Sum([]byte("one"), multihash.SHA2_256, -1)
	check(b, err)
	s := &scaled{signer: authz.Signer{ID: 1, Key: key}, keys: authz.NewKeyring()}
	s.keys.Set(authz.SigningKey{ID: 1, Public: pub})
	s.config = replication.Config{
		Dir: filepath.Join(b.TempDir(), "ledger"), Cache: cache, ID: peer.ID(id), Site: "berlin", Lane: deafLane{}, Logger: slog.New(slog.DiscardHandler),
	}
	check(b, replication.Create(s.config, true))
	s.db, err = replication.Open(b.Context(), s.config)
	check(b, err)
	s.db.SetServers([]replication.Server{{ID: s.config.ID, Site: "berlin"}})
	check(b, s.db.ReadIndex(b.Context()))
	check(b, s.db.Update(b.Context(), func(tx *replication.Tx) error {
		if err := authz.PutAccount(tx, authz.Account{ID: "account", Status: authz.Active, Created: scaleTime}); err != nil {
			return err
		}
		return authz.AddMailbox(tx, authz.Mailbox{Address: scaleAddress, Account: "account", ProvenHow: "administrator", ProvenAt: scaleTime})
	}))
	return s
}

var (
	scaleTime    = time.Date(2026, 11, 2, 12, 0, 0, 0, time.UTC)
	scaleAddress = authz.Address("sender@example.org")
)

// plainKeys stands for the keyring: as long as what that makes.
type plainKeys struct{}

func (plainKeys) Wrap(aad, plain []byte) (uint32, []byte, error) {
	return 1, make([]byte, 12+len(plain)+16), nil
}
func (plainKeys) Unwrap(uint32, []byte, []byte) ([]byte, error) { return make([]byte, 32), nil }

// add writes n files, each sent with a message of its own, in one transaction.
func (s *scaled) add(b *testing.B, n int) {
	type one struct {
		content drive.Content
		id      authz.FileID
		grant   authz.Grant
		sending authz.Sending
	}
	all := make([]one, n)
	for i := range all {
		s.number++
		sum := sha256.Sum256(binary.BigEndian.AppendUint64(nil, s.number))
		mh, err := multihash.Encode(sum[:], multihash.SHA2_256)
		check(b, err)
		root := cid.NewCidV1(cid.DagCBOR, mh)
		content, err := drive.NewContent(plainKeys{}, store.Sealed{Root: root, Size: 1 << 20}, "application/pdf")
		check(b, err)
		o := one{content: content, id: drive.NewFileID(), grant: authz.Grant{ID: authz.NewGrantID(), Created: scaleTime}}
		token, err := authz.Issue(s.signer, authz.Claims{Grant: o.grant.ID, Role: authz.Receiver})
		check(b, err)
		o.grant.TokenHash = token.Hash()
		o.grant.Files = []authz.GrantFile{{File: o.id, Name: "report.pdf", Root: root.Bytes(), Mode: authz.Following, Size: 1 << 20}}
		o.sending = authz.Sending{ID: authz.SendingID(authz.NewID()), Account: "account", From: scaleAddress, Created: scaleTime}
		all[i] = o
		if len(s.tokens) < 1000 || s.number%997 == 0 {
			s.tokens = append(s.tokens, scaledToken{token, root.Bytes()})
		}
		s.last = o.grant.ID
	}
	check(b, s.db.Update(b.Context(), func(tx *replication.Tx) error {
		for _, o := range all {
			if _, err := drive.Attach(tx, o.id, o.sending, "report.pdf", o.content); err != nil {
				return err
			}
			// What replication/copies keeps of a root: its record, and its place in the partition's index.
			root := o.content.Root.Bytes()
			tx.Put(append([]byte("cr"), root...), []byte{0xa1, 1, 0x19, root[4], root[5]})
			tx.Put(append(append([]byte("cp"), root[4:6]...), root...), []byte{1})
			if err := authz.IssueGrants(tx, o.sending, o.grant); err != nil {
				return err
			}
		}
		return nil
	}))
}

// decide is what a click costs: the signature, the grant, the sender, the file and its newest version.
func (s *scaled) decide(b *testing.B, i int) {
	token := s.tokens[(i*7919)%len(s.tokens)]
	check(b, s.db.View(func(tx *replication.Tx) error {
		d, err := authz.Decide(tx, s.keys, authz.Ask{Token: token.text, Root: token.root, Name: "report.pdf"}, scaleTime)
		if err != nil {
			return err
		}
		_, _, err = drive.Newest(tx, d.File.File)
		return err
	}))
}

func check(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// resident is what this process holds in memory, in MiB, once it has given back what it does not use.
func resident(b *testing.B) float64 {
	debug.FreeOSMemory()
	data, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0 // not this system
	}
	var size, pages int64
	_, err = fmt.Sscan(string(data), &size, &pages)
	check(b, err)
	return float64(pages*int64(os.Getpagesize())) / (1 << 20)
}

func folderSize(b *testing.B, dir string) (total int64) {
	check(b, filepath.WalkDir(dir, func(_ string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		total += info.Size()
		return err
	}))
	return total
}

// BenchmarkScaleTable computes the table of copies of 100 nodes at 10 sites, and after one site is lost
// for good: how many rows change is how much is to be copied again.
func BenchmarkScaleTable(b *testing.B) {
	var nodes []copies.Node
	for i := range 100 {
		sum, err := multihash.Sum(binary.BigEndian.AppendUint64(nil, uint64(i)), multihash.SHA2_256, -1)
		check(b, err)
		nodes = append(nodes, copies.Node{ID: peer.ID(sum), Site: fmt.Sprint("site-", i%10), Store: [16]byte{byte(i), 1}})
	}
	all := copies.Compute(copies.Table{}, nodes, 3)
	var left []copies.Node
	for _, n := range nodes {
		if n.Site != "site-3" {
			left = append(left, n)
		}
	}
	var lost copies.Table
	for b.Loop() {
		lost = copies.Compute(all, left, 3)
	}
	incoming, most := 0, map[peer.ID]int{}
	for _, row := range lost.Rows {
		for _, seat := range row {
			if seat.State == copies.Incoming {
				incoming++
				most[seat.Node]++
			}
		}
	}
	busiest := 0
	for _, n := range most {
		busiest = max(busiest, n)
	}
	// A seat is a 4,096th of all content. What is copied again, and what the busiest node has to fetch of it.
	b.ReportMetric(float64(incoming)/float64(copies.Partitions)*100, "%-of-content-copied-again")
	b.ReportMetric(float64(busiest)/float64(copies.Partitions)*100, "%-by-the-busiest-node")
}
