// Package dht is the road between nodes: a peer's identity, the gate, classes
// of peers, private Kademlia routing.
//
// A Road is two libp2p hosts under one Ed25519 key, the bulk lane and the
// ledger lane, behind one gate. The gate knows the member list, which the
// organisation's key signs, and admits nobody else: a stranger learns this
// node's peer id and nothing more. Every stream is checked against the classes
// its handler serves; what a peer's class may not use does not exist for it.
package dht
