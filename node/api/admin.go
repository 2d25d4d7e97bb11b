// Package api is how programs speak to a running node. For now that is the
// operator's side: JSON over a unix socket in the node's folder.
package api

import (
	"context"
	"io"
	"time"
)

// Admin is what an operator may ask of a node; node implements it. Errors
// carry a hint where there is something to try.
type Admin interface {
	Status(ctx context.Context) (Status, error)
	Invite(ctx context.Context, r InviteRequest) (Invited, error)
	CancelTicket(ctx context.Context, r CancelRequest) error
	Remove(ctx context.Context, r RemoveRequest) (Removal, error)
	Drain(ctx context.Context, r DrainRequest) (Drained, error)
	Move(ctx context.Context, r MoveRequest) (Moved, error)
	AddAccount(ctx context.Context, r AccountRequest) (AccountAdded, error)
	AddPassword(ctx context.Context, r PasswordRequest) (AccountAdded, error)
	AddMailbox(ctx context.Context, r MailboxRequest) error
	Files(ctx context.Context, r FilesRequest) (FilesAnswer, error)
	Put(ctx context.Context, r PutRequest, content io.Reader) (PutDone, error)
	Revoke(ctx context.Context, r RevokeRequest) (Revoked, error)
	Delete(ctx context.Context, r DeleteRequest) (ReceiptAnswer, error)
	Receipt(ctx context.Context, r ReceiptRequest) (ReceiptAnswer, error)
	BackupAdmin
}

// InviteRequest asks for a ticket for one new node.
type InviteRequest struct {
	Site    string        `json:"site"`              // empty with Replace: the old node's
	For     time.Duration `json:"for,omitempty"`     // 0: one hour
	Replace string        `json:"replace,omitempty"` // name or id of a node that is gone for good, and goes when the new one comes
	Force   bool          `json:"force,omitempty"`   // replace it though it alone holds contents
}

// Invited is a fresh ticket. It is a secret: whoever holds it may join once.
type Invited struct {
	Ticket  string    `json:"ticket"`
	Expires time.Time `json:"expires"`
	// Replaces says what the old node's removal will mean, where one is replaced.
	Replaces *Removal `json:"replaces,omitempty"`
}

// RemoveRequest asks for a member to be removed. Asking again goes on where the first time ended.
type RemoveRequest struct {
	Node  string `json:"node"`            // name or peer id; empty: the node asked
	Force bool   `json:"force,omitempty"` // give up what only it holds
	Plan  bool   `json:"plan,omitempty"`  // only say what would happen
}

// Removal is what removing a node means, and whether it is done.
type Removal struct {
	Node          string   `json:"node"`
	Name          string   `json:"name"`
	Site          string   `json:"site"`
	Reached       bool     `json:"reached"` // it is in reach now
	Voter         bool     `json:"voter"`
	VotersAfter   int      `json:"voters_after"`
	VotersReached int      `json:"voters_reached"` // of those after it, in reach now
	Left          int      `json:"left"`           // contents with fewer copies than wanted, once it is gone
	Sole          int      `json:"sole"`           // contents that only it holds
	Mailboxes     []string `json:"mailboxes"`      // whose upstream passwords it could read: change them
	Refused       string   `json:"refused,omitempty"`
	Hint          string   `json:"hint,omitempty"`
	Done          bool     `json:"done"`
}

// DrainRequest asks that a node give up its copies, or have some again.
type DrainRequest struct {
	Node string `json:"node"` // name or peer id; empty: the node asked
	Undo bool   `json:"undo,omitempty"`
}

// Drained says how far that is.
type Drained struct {
	Node    string `json:"node"`
	Name    string `json:"name"`
	Drained bool   `json:"drained"`
	Left    int    `json:"left"` // contents that still count on it
}

// MoveRequest says that a node stands at another site.
type MoveRequest struct {
	Node string `json:"node"` // name or peer id; empty: the node asked
	Site string `json:"site"`
}

// Moved says where it stood and stands.
type Moved struct {
	Node string `json:"node"`
	Name string `json:"name"`
	From string `json:"from"`
	Site string `json:"site"`
}

// CancelRequest ends a ticket that nobody has used yet. Cancelling again, or late, does nothing.
type CancelRequest struct {
	Ticket string `json:"ticket"`
}

// PasswordRequest asks for one more app password.
type PasswordRequest struct {
	Account string `json:"account"` // an address or id
	Label   string `json:"label,omitempty"`
}

// AccountRequest adds an account with its first address.
type AccountRequest struct {
	Address string `json:"address"`
	Name    string `json:"name,omitempty"`
}

// AccountAdded holds the app password in the clear, this once.
type AccountAdded struct {
	Account     string `json:"account"`
	Address     string `json:"address"`
	AppPassword string `json:"app_password"`
}

// MailboxRequest adds a mailbox to an account, or changes where it submits.
type MailboxRequest struct {
	Account  string `json:"account"` // an address or id of the account
	Address  string `json:"address"`
	NextHop  string `json:"next_hop"` // host:port
	TLS      string `json:"tls"`      // starttls, implicit, none (loopback only)
	User     string `json:"user,omitempty"`
	Password string `json:"password,omitempty"`
}

// FilesRequest asks for an account's files.
type FilesRequest struct {
	Account string `json:"account"` // an address or id
}

// FilesAnswer lists them by name.
type FilesAnswer struct {
	Files []FileStatus `json:"files"`
}

// FileStatus is one file.
type FileStatus struct {
	File    string    `json:"file"`
	Name    string    `json:"name"`
	Version uint32    `json:"version"` // number of the newest, from 1
	Created time.Time `json:"created"`
	Changed time.Time `json:"changed"`
}

// PutRequest stores a file for an account, as a new one or as a new version.
type PutRequest struct {
	Account string `json:"account"`           // an address or id
	Name    string `json:"name,omitempty"`    // what the file is called
	Replace string `json:"replace,omitempty"` // id of the file that gets a new version, or a link to it
}

// PutDone says what was stored. Link is empty for a new version: the links already sent give it.
type PutDone struct {
	File    string `json:"file"`
	Version uint32 `json:"version"`
	CID     string `json:"cid"`
	Size    int64  `json:"size"`
	Link    string `json:"link,omitempty"`
}

// RevokeRequest names the link to end, as it stands in a message.
type RevokeRequest struct {
	Link string `json:"link"`
}

// Revoked says what no longer opens.
type Revoked struct {
	Grant string   `json:"grant"`
	Files []string `json:"files"`
}

// DeleteRequest names a file to delete for good: by its id, or by a link to it.
type DeleteRequest struct {
	Account string `json:"account"`
	File    string `json:"file"`
}

// ReceiptRequest names a file that was deleted, by its id.
type ReceiptRequest struct {
	File string `json:"file"`
}

// ReceiptAnswer says what has become of a deleted file so far.
type ReceiptAnswer struct {
	Receipt Receipt `json:"receipt"`
	Signed  string  `json:"signed"` // the same as a JWS in compact form (RFC 7515), by the organisation's key
}

// A Receipt says what became of a deleted file. It tells what is so when it is issued: a later one may
// say more, when more nodes have spoken.
type Receipt struct {
	Organisation string        `json:"organisation"`
	Cluster      string        `json:"cluster"` // a hash of the organisation's public key
	File         string        `json:"file"`
	Name         string        `json:"name"`
	Account      string        `json:"account"`
	DeletedAt    time.Time     `json:"deleted_at"`
	DeletedBy    string        `json:"deleted_by"`
	KeysGone     bool          `json:"keys_gone"`            // false while the deletion is still under way
	Versions     int           `json:"versions_without_key"` // whose keys are gone: nobody can open their bytes
	Grants       int           `json:"grants_left"`          // 0 once the keys are gone
	Contents     []string      `json:"contents"`             // CIDs that nothing refers to since
	Nodes        []ReceiptNode `json:"nodes"`
	Issued       time.Time     `json:"issued_at"`

	Backups []ReceiptBackup `json:"backups"` // made before the deletion: they may still hold it
}

// A ReceiptBackup is a backup that may still hold a deleted file, as bytes and keys that the
// organisation's own secrets open.
type ReceiptBackup struct {
	Backup string     `json:"backup"` // the random id of its folder
	State  uint64     `json:"state"`
	Node   string     `json:"node"` // that wrote it
	At     time.Time  `json:"at"`
	Until  *time.Time `json:"until,omitempty"` // when it is to be gone; nil: no end was named
}

// A ReceiptNode is one node's part of a Receipt.
type ReceiptNode struct {
	Node    string     `json:"node"`
	Name    string     `json:"name"`
	Site    string     `json:"site"`
	State   string     `json:"state"` // dropped: no block is on its disk; waiting: until its next collections; unreachable: likewise, and it does not answer
	Dropped *time.Time `json:"dropped_at,omitempty"`
}

// Status is a node's view of itself and its cluster.
type Status struct {
	Organisation string         `json:"organisation"`
	Cluster      string         `json:"cluster"`
	Program      string         `json:"program"`
	Node         string         `json:"node"`
	Name         string         `json:"name"`
	Site         string         `json:"site"`
	Started      time.Time      `json:"started"`
	Ledger       LedgerStatus   `json:"ledger"`
	Members      []MemberStatus `json:"members"`
	Copies       CopiesStatus   `json:"copies"`
	Store        StoreStatus    `json:"store"`
	Faces        FacesStatus    `json:"faces"`
	Warnings     []string       `json:"warnings"`
}

// LedgerStatus is about this node's copy of the ledger.
type LedgerStatus struct {
	State   string  `json:"state"` // leader, follower, candidate
	Leader  string  `json:"leader,omitempty"`
	Quorum  bool    `json:"quorum"`
	Term    uint64  `json:"term"`
	Applied uint64  `json:"applied"`
	Age     float64 `json:"age_seconds"` // since a read index confirmed by the leader was applied; negative: never yet
	Voters  int     `json:"voters"`
}

// MemberStatus is one node as this one sees it.
type MemberStatus struct {
	Node      string `json:"node"`
	Name      string `json:"name"`
	Site      string `json:"site"`
	Role      string `json:"role"` // voter, non-voter, joining
	Leader    bool   `json:"leader,omitempty"`
	Self      bool   `json:"self,omitempty"`
	Connected bool   `json:"connected"`       // and has answered within the last seconds
	Files     string `json:"files,omitempty"` // its files face
	Program   string `json:"program,omitempty"`
	Drained   bool   `json:"drained,omitempty"` // it is to hold no copies
	Leaving   bool   `json:"leaving,omitempty"` // it is being removed
	Left      int    `json:"left,omitempty"`    // of a drained or leaving node: contents that still count on it
	KeySealed bool   `json:"key_sealed"`        // its key lies on its disk under a passphrase
}

// CopiesStatus counts what the ledger wants on disks.
type CopiesStatus struct {
	Wanted  int `json:"wanted"`
	Ack     int `json:"ack"`
	Files   int `json:"contents"` // contents recorded in the ledger
	Missing int `json:"missing"`  // copies that some node still has to fetch
	Nodes   int `json:"nodes"`    // nodes that can hold copies
}

// StoreStatus is this node's disk.
type StoreStatus struct {
	Free    int64 `json:"free"`
	Reserve int64 `json:"reserve"`

	Collected *time.Time `json:"collected_at,omitempty"` // when garbage was last collected; none since the start
	Freed     int64      `json:"freed,omitempty"`        // bytes that gave back to the disk
}

// FacesStatus says where this node listens, as bound.
type FacesStatus struct {
	SMTP    string `json:"smtp,omitempty"`
	Files   string `json:"files,omitempty"`
	App     string `json:"app,omitempty"`
	Metrics string `json:"metrics,omitempty"`
}
