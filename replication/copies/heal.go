package copies

import (
	"context"
	"errors"

	"github.com/ipfs/go-cid"
)

// Heal is to come.
func (c *Copies) Heal(ctx context.Context, id cid.Cid) error { return errors.New("to come") }
