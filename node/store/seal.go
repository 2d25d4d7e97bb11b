package store

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"runtime"
	"sync"

	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
)

// A ScopeKey is the secret from which the keys of one scope's content are derived. Equal content
// sealed under an equal ScopeKey gives equal blocks.
type ScopeKey struct {
	Epoch  uint32   // which generation of the secret this is
	Scope  string   // within what content is stored once: an account's id, or the organisation's
	Secret [32]byte // never leaves the node
}

// Sealed is what Seal made of a stream.
type Sealed struct {
	Root   cid.Cid  // the manifest, a DAG-CBOR block
	Key    [32]byte // opens the manifest, and through it the file
	Size   int64    // bytes of content
	Chunks int      // blocks besides manifests, repeated ones counted each time
}

// sealAhead bounds the chunks between the reader and emit. With one that is being cut, and plaintext
// and ciphertext of those under way, Seal stays under 24 MiB.
const sealAhead = 4

// Seal reads r to its end, cuts it into chunks, encrypts them and hands each block to emit, children
// before the manifest that lists them and the root last. emit is called from one goroutine, in order, and may keep the blocks. Seal uses at
// most about 24 MiB, and returns only when all it started has ended: a Read that blocks is waited
// for, even after ctx is done. Errors of r and emit are wrapped.
func Seal(ctx context.Context, r io.Reader, k ScopeKey, emit func(context.Context, blocks.Block) error) (Sealed, error) {
	s := newSealing(k, emit)
	cut, single, err := newCutter(r, &k)
	if err != nil {
		return Sealed{}, fmt.Errorf("seal: read content: %w", err)
	}
	defer cut.close()
	if single {
		err = s.inline(ctx, cut)
	} else {
		err = s.pipeline(ctx, cut)
	}
	if err != nil {
		return Sealed{}, err
	}
	return s.finish(ctx)
}

// sealing is one call of Seal.
type sealing struct {
	key      ScopeKey
	chunkKey [32]byte
	emit     func(context.Context, blocks.Block) error

	// Owned by the goroutine that emits:
	m   manifest // what was emitted and no manifest lists yet
	top manifest // the leaves emitted so far; none unless the file is long
}

// A chunk passes through the pipeline and comes out sealed.
type chunk struct {
	plain  []byte // from getBuffer, given back once sealed
	size   int64
	key    [32]byte
	cid    cid.Cid
	sealed []byte
	done   chan struct{} // closed when the four above are set
}

func newSealing(k ScopeKey, emit func(context.Context, blocks.Block) error) *sealing {
	s := &sealing{key: k, chunkKey: k.subkey(forChunk), emit: emit}
	s.m.epoch, s.m.scope = k.Epoch, scopeTag(&k)
	s.top.kind, s.top.epoch, s.top.scope = treeManifest, s.m.epoch, s.m.scope
	return s
}

// encrypt fills in what follows from plain. The ciphertext is not from a pool: emit may keep it.
func (s *sealing) encrypt(c *chunk) {
	c.key = contentKey(s.chunkKey, nil, c.plain)
	c.sealed = sealTo(make([]byte, 0, len(c.plain)+tagSize), c.key, c.plain, nil)
	c.cid = cidOf(cid.Raw, sha256.Sum256(c.sealed))
}

// inline seals a stream of at most one chunk without starting anything.
func (s *sealing) inline(ctx context.Context, cut *cutter) error {
	plain, err := cut.next()
	if err == io.EOF {
		return nil
	}
	if err != nil {
		return fmt.Errorf("seal: read content: %w", err)
	}
	c := &chunk{plain: plain, size: int64(len(plain))}
	s.encrypt(c)
	putBuffer(plain)
	return s.deliver(ctx, c)
}

// pipeline seals a long stream: one goroutine reads and cuts, one for each other processor (at
// least one) encrypts and hashes, and the caller's emits in order.
func (s *sealing) pipeline(ctx context.Context, cut *cutter) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)

	order := make(chan *chunk, sealAhead-1) // what was cut, for the emitter; its room is the bound
	work := make(chan *chunk, sealAhead)    // the same, for whoever encrypts
	var readErr error                       // set before order is closed
	wg.Go(func() {
		defer close(order)
		defer close(work)
		readErr = s.cutAll(ctx, cut, order, work)
	})
	for range max(1, min(runtime.GOMAXPROCS(0), sealAhead)) {
		wg.Go(func() {
			for c := range work {
				s.encrypt(c)
				putBuffer(c.plain)
				c.plain = nil
				close(c.done)
			}
		})
	}
	for c := range order {
		<-c.done
		if err := s.deliver(ctx, c); err != nil {
			cancel(err)
			for range order { // let the reader see ctx and end
			}
			return err
		}
	}
	return readErr
}

// chunkReader is what cutAll needs of a cutter.
type chunkReader interface{ next() ([]byte, error) }

// cutAll passes chunks on until the stream or ctx ends.
func (s *sealing) cutAll(ctx context.Context, cut chunkReader, order, work chan<- *chunk) error {
	for {
		plain, err := cut.next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("seal: read content: %w", err)
		}
		c := &chunk{plain: plain, size: int64(len(plain)), done: make(chan struct{})}
		select {
		case order <- c:
			work <- c
		case <-ctx.Done():
			putBuffer(c.plain)
			return fmt.Errorf("seal: %w", context.Cause(ctx))
		}
	}
}

// deliver emits one chunk and notes it in the manifest.
func (s *sealing) deliver(ctx context.Context, c *chunk) error {
	blk, err := blocks.NewBlockWithCid(c.sealed, c.cid)
	if err != nil {
		return err
	}
	if len(s.m.links) == maxLinks {
		if err := s.leaf(ctx); err != nil {
			return err
		}
	}
	s.m.links = append(s.m.links, c.cid)
	s.m.keys = append(s.m.keys, c.key)
	s.m.sizes = append(s.m.sizes, c.size)
	return s.send(ctx, blk)
}

func (s *sealing) send(ctx context.Context, blk blocks.Block) error {
	if err := context.Cause(ctx); err != nil {
		return fmt.Errorf("seal: %w", err)
	}
	if err := s.emit(ctx, blk); err != nil {
		return fmt.Errorf("seal: block %s: %w", blk.Cid(), err)
	}
	return nil
}

// leaf emits a manifest of the chunks that none lists yet, for a tree.
func (s *sealing) leaf(ctx context.Context) error {
	if len(s.top.links) == maxLinks {
		return fmt.Errorf("seal: %w (%d are the limit)", ErrTooManyChunks, MaxChunks)
	}
	blk, key, err := s.m.seal(&s.key, forTree)
	if err != nil {
		return fmt.Errorf("seal: %w", err)
	}
	s.top.links = append(s.top.links, blk.Cid())
	s.top.keys = append(s.top.keys, key)
	s.top.sizes = append(s.top.sizes, s.m.size())
	s.m.links, s.m.keys, s.m.sizes = s.m.links[:0], s.m.keys[:0], s.m.sizes[:0]
	return s.send(ctx, blk)
}

// finish emits the root: the manifest of all chunks, or the tree over the leaves.
func (s *sealing) finish(ctx context.Context) (Sealed, error) {
	m, chunks := &s.m, len(s.top.links)*maxLinks+len(s.m.links)
	if len(s.top.links) > 0 {
		if err := s.leaf(ctx); err != nil {
			return Sealed{}, err
		}
		m = &s.top
	}
	root, key, err := m.seal(&s.key, forRoot)
	if err != nil {
		return Sealed{}, fmt.Errorf("seal: %w", err)
	}
	if err := s.send(ctx, root); err != nil {
		return Sealed{}, err
	}
	return Sealed{Root: root.Cid(), Key: key, Size: m.size(), Chunks: chunks}, nil
}
