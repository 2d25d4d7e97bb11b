package authz

import (
	"errors"
	"fmt"
)

// The answers a stranger gets. Which of them an error is, errors.Is tells; why, only the log is told.
var (
	// ErrAccessDenied is the one answer to a bad token, S301, S302 and S303 (rows B6 and B7).
	ErrAccessDenied = errors.New("access denied")
	// ErrInvalidAccess answers a genuine receiver who asks for another file than the grant names (S304, row B8).
	ErrInvalidAccess = errors.New("invalid access")
	// ErrUnknownGrant means: the token is genuine, and this copy of the ledger has no such grant. It is not a refusal:
	// the copy may be behind. Wait for a read index and ask again; still unknown then means that the grant is gone.
	ErrUnknownGrant = errors.New("grant not known here")
)

// Reasons for a refusal, wrapped in a Refusal beside the answer.
var (
	ErrBadToken        = errors.New("not a genuine token")
	ErrNarrowed        = errors.New("narrowed tokens are not supported")
	ErrUnknownKey      = errors.New("signed with a key that is not ours")
	ErrDistrustedKey   = errors.New("signed with a distrusted key, and not recorded before that")
	ErrExpired         = errors.New("expired")
	ErrNoSender        = errors.New("the grant presents no sender")
	ErrUnknownSender   = errors.New("the sender is not known")
	ErrDisabled        = errors.New("the account is disabled")
	ErrNotReceiver     = errors.New("not a receiver's token")
	ErrRevoked         = errors.New("revoked")
	ErrNotProven       = errors.New("the recipient's address is not proven")
	ErrNoSuchFile      = errors.New("the grant has no such file under that name")
	ErrBadCredentials  = errors.New("bad credentials")
	ErrWrongSecret     = errors.New("no such password for that address")
	errRevokedFile     = fmt.Errorf("this file of the grant: %w", ErrRevoked)
	errNotThisAccounts = errors.New("the address belongs to another account")
)

// What the functions that change records refuse. A retry gives the same answer until the records change.
var (
	// ErrNotFound means that there is no such record.
	ErrNotFound = errors.New("not found")
	// ErrAddressTaken means that the address, or the address it is a +tag of, belongs to another mailbox (J5).
	ErrAddressTaken = errors.New("the address is taken")
	// ErrExists means that a record with this id is already there.
	ErrExists = errors.New("already exists")
	// ErrNotYours means that the address is none of the account's.
	ErrNotYours = errors.New("the address is none of this account's")
	// ErrInvalid means that a record breaks a rule of its type, which the message names.
	ErrInvalid = errors.New("invalid")
	// ErrNewer means that a record was written by a later version of this program, which says that it must be understood.
	ErrNewer = errors.New("written by a newer version")
)

// A Refusal is a decision against somebody: at which step, what to tell them, and why. Its Error is for the log;
// Answer is for the stranger.
type Refusal struct {
	Step   string // "token", "S301", "S302", "S303" or "S304"
	Answer error  // ErrAccessDenied or ErrInvalidAccess
	Reason error
}

func (r *Refusal) Error() string { return r.Answer.Error() + ": " + r.Step + ": " + r.Reason.Error() }

// Unwrap lets errors.Is find the answer and the reason.
func (r *Refusal) Unwrap() []error { return []error{r.Answer, r.Reason} }

func denied(step string, reason error) error {
	return &Refusal{Step: step, Answer: ErrAccessDenied, Reason: reason}
}
