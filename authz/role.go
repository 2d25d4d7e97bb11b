package authz

// A Role is what a credential makes of its holder. Never renumber.
type Role uint8

// The roles. The zero Role may do nothing (row B4).
const (
	Member   Role = 1 // a session or device token of a logged-in account (row B1)
	Sender   Role = 2 // an app password: a mail program, an add-on (row B2)
	Receiver Role = 3 // a link token (row B3)
)

// String returns the role in a word.
func (r Role) String() string {
	switch r {
	case Member:
		return "member"
	case Sender:
		return "sender"
	case Receiver:
		return "receiver"
	}
	return "nobody"
}

// An Op is something to do.
type Op uint8

// The operations.
const (
	List   Op = 1 // see names, sizes, dates
	Get    Op = 2 // read bytes
	Put    Op = 3 // add a file
	Choose Op = 4 // put an existing file into a message, which grants it to the message's receivers
	Change Op = 5 // rename, move, replace, remove
	Share  Op = 6 // grant, otherwise than by a message
	Revoke Op = 7 // take grants back
	lastOp    = Revoke
)

// An Object is what it is done to: always within the reach of the one credential that asks.
type Object uint8

// The objects.
const (
	Drive       Object = 1 // the account's own space, everything in it but the attachments container
	Attachments Object = 2 // the account's attachments container
	Granted     Object = 3 // the files of the grant that the presented token names
	Grants      Object = 4 // the list of what the account has granted
	lastObject         = Grants
)

// May says whether a role may do op to an object of its own. It is the one table (J1); what is not in it is refused,
// and what a role may not List does not exist for it.
func May(role Role, op Op, object Object) bool {
	switch role {
	case Member:
		switch object {
		case Drive, Attachments:
			return op >= List && op <= lastOp
		case Grants:
			return op == List || op == Revoke
		}
	case Sender:
		return object == Attachments && (op == List || op == Put || op == Choose)
	case Receiver:
		return object == Granted && (op == List || op == Get)
	}
	return false
}
