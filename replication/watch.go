package replication

// ChangeKind says what a Change is.
type ChangeKind uint8

// The kinds of Change.
const (
	Put    ChangeKind = iota + 1 // Key has Value
	Delete                       // Key is gone
	Synced                       // everything up to Index has been yielded
	Reset                        // forget everything; the state follows anew
)

// A Change is one event of a Watch. Key and Value belong to the receiver.
type Change struct {
	Kind  ChangeKind
	Key   []byte
	Value []byte
	Index uint64 // index of the entry that made it
}
