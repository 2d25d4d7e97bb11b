// Package replication is the ledger: an ordered key-value database, the same on
// every node, replicated with raft.
//
// It reads like a local database (View, Update, Watch) and knows no domain: a log
// entry is the write set of a function plus what the function read; the state
// machine checks and applies, or records a conflict. See DESIGN.md in this folder.
package replication
