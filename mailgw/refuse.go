package mailgw

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"github.com/emersion/go-smtp"

	"github.com/valise-mail/valise/authz"
	"github.com/valise-mail/valise/mailgw/message"
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

// Errors of our own that clients are told about.
var (
	errCopiesLate    = errors.New("copies and ledger took too long")
	errTooManyHops   = errors.New("more than 50 Received lines")
	errNotYourHeader = errors.New("the header names another sender")
	errNoSender      = errors.New("the header's sender cannot be read")
	errTwoSenders    = errors.New("the header names its sender twice")
	errNeeds8Bit     = errors.New("the message needs 8BITMIME, which the next hop has not")
	errNeedsUTF8     = errors.New("an address is not ASCII")
	errBadPath       = errors.New("not an address")
	errStrangers     = errors.New("AUTH is required first")
	errSize          = errors.New("SIZE is more than a message may have")
	errNested        = errors.New("a second MAIL")
	errNeedsTLS      = errors.New("AUTH without TLS")
	errTooManyTries  = errors.New("too many failed logins from this address")
	errLastTry       = errors.New("too many failed logins in this connection")
	errBadSASL       = errors.New("malformed AUTH")
	errOwnAuthz      = errors.New("AUTH for another identity")
	errPanic         = errors.New("panic")

	errOutcomeUnknown = errors.New("no answer after the final dot")
)

// A refusal is what a client is told about an error.
type refusal struct {
	err  error
	code int
	enh  smtp.EnhancedCode
	text string
}

// refusals is the table of errors and answers. The first that fits counts; what is not here is temporary.
var refusals = []refusal{
	// Who is talking.
	{errStrangers, 530, smtp.EnhancedCode{5, 7, 0}, "authentication required"},
	{errNeedsTLS, 538, smtp.EnhancedCode{5, 7, 11}, "encryption required: use STARTTLS first"},
	{errLastTry, 421, smtp.EnhancedCode{4, 7, 0}, "too many failed logins, goodbye"},
	{errTooManyTries, 454, smtp.EnhancedCode{4, 7, 0}, "too many failed logins from your address, please try again later"},
	{errBadSASL, 501, smtp.EnhancedCode{5, 5, 2}, "malformed authentication data"},
	{errOwnAuthz, 535, smtp.EnhancedCode{5, 7, 8}, "the authorization identity must be empty or the user"},
	{ErrBadCredentials, 535, smtp.EnhancedCode{5, 7, 8}, "user or password is wrong"},
	{ErrDenied, 550, smtp.EnhancedCode{5, 7, 1}, "this account may not send mail"},
	{ErrTryLater, 451, smtp.EnhancedCode{4, 3, 0}, "not possible just now, please try again later"},
	// What is said in commands.
	{errNested, 503, smtp.EnhancedCode{5, 5, 1}, "a message is being sent already: RSET first"},
	{errSize, 552, smtp.EnhancedCode{5, 3, 4}, "message too large"},
	{errBadPath, 553, smtp.EnhancedCode{5, 1, 3}, "not a mail address"},
	{errNeedsUTF8, 553, smtp.EnhancedCode{5, 6, 7}, "addresses that are not ASCII (SMTPUTF8) are not supported here"},
	{errNotYourHeader, 550, smtp.EnhancedCode{5, 7, 1}, "the header's sender is not an address of the account logged in: choose the account that owns it, or add the address to this one"},
	{errNoSender, 550, smtp.EnhancedCode{5, 1, 7}, "the header's sender cannot be read as a mail address: check its quotes, commas and brackets, and let names be encoded or in UTF-8"},
	{errTwoSenders, 550, smtp.EnhancedCode{5, 7, 1}, "the header has more than one From or Sender field"},
	{ErrNotYours, 553, smtp.EnhancedCode{5, 7, 1}, "not an address of the account logged in"},
	// The message.
	{message.ErrHeaderTooLarge, 552, smtp.EnhancedCode{5, 3, 4}, "message header too large"},
	{errTooManyHops, 554, smtp.EnhancedCode{5, 4, 6}, "too many Received lines: the message is going in circles"},
	{errNeeds8Bit, 554, smtp.EnhancedCode{5, 6, 3}, "the message has 8-bit octets, which your mailbox's own server does not take"},
	// The store (S4).
	{ErrQuota, 452, smtp.EnhancedCode{4, 2, 2}, "your quota for attachments is used up"},
	{ErrNoSpace, 452, smtp.EnhancedCode{4, 3, 1}, "no space left for attachments"},
	{syscall.ENOSPC, 452, smtp.EnhancedCode{4, 3, 1}, "no space left for messages"},
	{ErrNotDurable, 451, smtp.EnhancedCode{4, 3, 0}, "attachments could not be stored safely, please try again"},
	{ErrNoQuorum, 451, smtp.EnhancedCode{4, 3, 0}, "the cluster cannot record the message just now, please try again"},
	{errCopiesLate, 451, smtp.EnhancedCode{4, 3, 0}, "attachments could not be stored in time, please try again"},
	{errOutcomeUnknown, 451, smtp.EnhancedCode{4, 4, 2}, "your mailbox's own server took the message and did not answer: it may have been sent"},
}

// departures says what a client is told about the way its own message ended.
var departures = []refusal{
	{errTooLarge, 552, smtp.EnhancedCode{5, 3, 4}, "message too large"},
	{os.ErrDeadlineExceeded, 421, smtp.EnhancedCode{4, 4, 2}, "nothing came for too long, goodbye"},
	{io.ErrUnexpectedEOF, 421, smtp.EnhancedCode{4, 4, 2}, "the connection ended before the message did"},
}

// answer says what a client is told about err.
func answer(err error) reply {
	if at, ok := errors.AsType[*stageError](err); ok {
		return at.answer()
	}
	table := refusals
	if _, ok := errors.AsType[*clientError](err); ok {
		table = departures
	}
	for _, r := range table {
		if errors.Is(err, r.err) {
			return newReply(r.code, r.enh, r.text)
		}
	}
	return newReply(451, smtp.EnhancedCode{4, 3, 0}, "something went wrong here, please try again")
}

// A stage is a point in the dialogue with a next hop.
type stage int

const (
	stageConnect stage = iota
	stageGreeting
	stageHello
	stageTLS
	stageAuth
	stageMail
	stageRcpt
	stageNoop
	stageData
	stageBody
	stageEnd
	stageQuit
)

// String names a stage.
func (s stage) String() string {
	return [...]string{"connecting", "greeting", "EHLO", "TLS", "AUTH", "MAIL", "RCPT", "NOOP", "DATA", "message", "end of message", "QUIT"}[s]
}

// answer translates what happened in a dialogue with a next hop (S3, S4). What is about our own conversation is not the
// client's to solve: it is told a temporary error, with a hint. What is about the message passes as it is.
func (e *stageError) answer() reply {
	const own = "your mailbox's own server "
	temporary := func(a, b, c int, hint string) reply {
		if e.err == nil {
			hint += fmt.Sprintf(" (it said: %d %s)", e.rep.code, e.rep.text())
		}
		return newReply(451, smtp.EnhancedCode{a, b, c}, own+hint)
	}
	switch code := e.rep.code; {
	case errors.Is(e.err, errNoStartTLS), errors.Is(e.err, errNoAuth), errors.Is(e.err, errNotLoopback):
		return temporary(4, 7, 0, "cannot be used as it is set up here: "+errors.Unwrap(e).Error())
	case e.err != nil && e.stage == stageConnect:
		return temporary(4, 4, 1, "cannot be reached, please try again later")
	case e.err != nil && e.stage == stageTLS:
		return temporary(4, 7, 0, "could not be verified or encrypted to: ask your administrator to look at its certificate")
	case e.err != nil:
		return temporary(4, 4, 2, "went away, please try again later")
	case code == 421:
		return temporary(4, 4, 2, "closed the connection, please try again later")
	case code == 454, code == 530, code == 534, code == 535, code == 538, e.stage == stageAuth, e.stage == stageTLS:
		return temporary(4, 7, 0, "did not accept the login stored here: ask your administrator to check the mailbox's user, password and TLS mode")
	case code/100 < 4, code >= 500 && code <= 504 && !e.rep.aboutAddress(), e.stage == stageHello:
		return temporary(4, 3, 5, "did not understand us")
	case e.stage == stageGreeting:
		return temporary(4, 4, 2, "is not taking mail just now, please try again later")
	}
	return e.rep
}

// aboutAddress reports whether an answer with a code of syntax is about an address all the same: many servers say 501
// 5.1.3 or 5.1.7 for one they cannot parse. Its sender must hear of that at once, not after days of retries.
func (r reply) aboutAddress() bool { return r.enh[0] == 5 && r.enh[1] == 1 }
