package mailgw

import (
	"errors"

	"github.com/valise-mail/valise/authz"
)

// Errors that a Publisher or a Directory returns, wrapped or not. Each has its answer in the table of this file.
var (
	// ErrNotDurable says that too few copies could be made durable. Sending the message again is safe.
	ErrNotDurable = errors.New("not enough durable copies")
	// ErrNoQuorum says that the ledger cannot be written now. Sending the message again is safe.
	ErrNoQuorum = errors.New("the ledger has no quorum")
	// ErrNoSpace says that the store is full.
	ErrNoSpace = errors.New("no space left in the store")
	// ErrQuota says that the account's quota is used up.
	ErrQuota = errors.New("the account's quota is used up")
	// ErrNotYours says that an address is none of the account's (M2).
	ErrNotYours = authz.ErrNotYours
	// ErrBadCredentials says that the user is not known or the password is wrong; nobody is told which.
	ErrBadCredentials = errors.New("bad credentials")
	// ErrTryLater says that nobody can be authenticated, or no next hop named, just now.
	ErrTryLater = errors.New("try again later")
	// ErrDenied says that the account may not send mail: it is disabled, or policy forbids it.
	ErrDenied = errors.New("sending is not allowed")
)
