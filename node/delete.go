package node

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/valise-mail/valise/authz"
	"github.com/valise-mail/valise/dht"
	"github.com/valise-mail/valise/node/api"
	"github.com/valise-mail/valise/node/drive"
	"github.com/valise-mail/valise/replication"
	"github.com/valise-mail/valise/replication/copies"
)

// deleteStep bounds the grants or versions that one transaction takes away: each reads several keys, and
// an Update reads a thousand at most (L1).
const deleteStep = 100

// deleteFile deletes a file of the account for good: when it returns, the file is gone for everybody,
// with its grants and the keys that open its versions. The bytes follow when the nodes collect; the
// receipt tells. Cut short, it is finished by whoever leads, and doing it again is safe.
func (n *Node) deleteFile(ctx context.Context, account authz.AccountID, id authz.FileID, by string) (drive.Burial, error) {
	now := n.cfg.now()
	err := n.ledger.Update(ctx, func(tx *replication.Tx) error {
		_, err := drive.Bury(tx, account, id, now, by)
		return err
	})
	if err != nil {
		return drive.Burial{}, err
	}
	return n.finishBurial(ctx, id)
}

// finishBurial takes away what a buried file has left, in steps: first the grants, so that nothing is
// opened any more, then the keys.
func (n *Node) finishBurial(ctx context.Context, id authz.FileID) (drive.Burial, error) {
	return finishBurial(ctx, n.ledger, id)
}

func finishBurial(ctx context.Context, ledger *replication.DB, id authz.FileID) (b drive.Burial, err error) {
	for more := true; more; {
		err := ledger.Update(ctx, func(tx *replication.Tx) error {
			erased, err := authz.EraseFile(tx, id, deleteStep)
			more = erased == deleteStep
			return err
		})
		if err != nil {
			return b, fmt.Errorf("erase grants of %s: %w", id, err)
		}
	}
	for !b.Done {
		err := ledger.Update(ctx, func(tx *replication.Tx) error {
			burial, orphans, err := drive.Clear(tx, id, deleteStep)
			if err != nil {
				return err
			}
			for _, root := range orphans {
				if err := copies.Forget(tx, root); err != nil {
					return err
				}
			}
			b = burial
			return nil
		})
		if err != nil {
			return b, fmt.Errorf("clear versions of %s: %w", id, err)
		}
	}
	return b, nil
}

// finishBurials goes on with deletions whose node stopped in the middle, while this node leads.
func (c *cleaner) finishBurials(ctx context.Context) error {
	n := c.n
	if n.ledger.Status().Leader != n.id.id {
		return nil
	}
	var open []authz.FileID
	err := n.ledger.View(func(tx *replication.Tx) error {
		for b, err := range drive.Burials(tx) {
			if err != nil {
				return err
			}
			if !b.Done {
				open = append(open, b.File)
			}
		}
		return nil
	})
	for _, id := range open {
		if err == nil {
			_, err = n.finishBurial(ctx, id)
		}
	}
	return err
}

// Delete implements api.Admin.
func (a admin) Delete(ctx context.Context, r api.DeleteRequest) (api.ReceiptAnswer, error) {
	account, err := a.account(ctx, r.Account)
	if err != nil {
		return api.ReceiptAnswer{}, err
	}
	id, err := a.fileNamed(ctx, r.File)
	if err != nil {
		return api.ReceiptAnswer{}, err
	}
	if _, err := a.n.deleteFile(ctx, account, id, "administrator"); errors.Is(err, drive.ErrNoFile) {
		return api.ReceiptAnswer{}, hint(err, `"valise files" lists the account's files with their ids; of one that was deleted, "valise receipt" tells`)
	} else if err != nil {
		return api.ReceiptAnswer{}, ledgerHint(err)
	}
	return a.Receipt(ctx, api.ReceiptRequest{File: string(id)})
}

// Receipt implements api.Admin.
func (a admin) Receipt(ctx context.Context, r api.ReceiptRequest) (api.ReceiptAnswer, error) {
	// A later word of another node matters here, not only the file.
	wait, cancel := context.WithTimeout(ctx, freshWait)
	defer cancel()
	_ = a.n.ledger.ReadIndex(wait)
	out, signed, err := a.n.receipt(authz.FileID(r.File))
	if errors.Is(err, drive.ErrNoFile) {
		return api.ReceiptAnswer{}, hint(err, "a receipt is asked for by the file's id, as \"valise delete\" printed it")
	}
	return api.ReceiptAnswer{Receipt: out, Signed: signed}, err
}

// receipt makes a deleted file's receipt, and signs it with the organisation's key: a JWS in its compact
// form (RFC 7515; EdDSA as in RFC 8037), so that whoever has the public key can verify it with any tool.
func (n *Node) receipt(id authz.FileID) (r api.Receipt, signed string, err error) {
	key, err := n.keys.orgKey()
	if err != nil {
		return r, "", err
	}
	err = n.ledger.View(func(tx *replication.Tx) error {
		b, err := drive.LoadBurial(tx, id)
		if err != nil {
			return err
		}
		r = api.Receipt{
			Organisation: n.cluster.Organisation, Cluster: n.cluster.Cluster, File: string(id), Name: b.Name, Account: string(b.Account),
			DeletedAt: b.At, DeletedBy: b.By, Versions: b.Versions, KeysGone: b.Done, Contents: []string{}, Nodes: []api.ReceiptNode{}, Issued: n.cfg.now().UTC(),
		}
		for root, err := range drive.Orphans(tx, id) {
			if err != nil {
				return err
			}
			r.Contents = append(r.Contents, root.String())
		}
		for _, err := range authz.GrantsOfFile(tx, id) {
			if err != nil {
				return err
			}
			r.Grants++
		}
		if r.Backups, err = receiptBackups(tx, b, r.Issued); err != nil {
			return err
		}
		return n.receiptNodes(tx, &r)
	})
	if err != nil {
		return r, "", err
	}
	signed, err = signReceipt(key, r)
	return r, signed, err
}

func (n *Node) receiptNodes(tx *replication.Tx, r *api.Receipt) error {
	all, err := members(tx)
	if err != nil {
		return err
	}
	for _, m := range all {
		if dht.Class(m.Class) != dht.Member {
			continue
		}
		out := api.ReceiptNode{Node: m.ID.String(), Name: m.Name, Site: m.Site, State: "waiting"}
		var d droppedRecord
		ok, err := get(tx, droppedKey(authz.FileID(r.File), m.ID), &d)
		if err != nil {
			return err
		}
		switch {
		case ok && string(d.Store) == string(m.Store):
			at := d.At.UTC()
			out.State, out.Dropped = "dropped", &at
		case m.ID != n.id.id && !n.reached(m.ID):
			out.State = "unreachable"
		}
		r.Nodes = append(r.Nodes, out)
	}
	return nil
}

// receiptHeader is the JWS header of every receipt; "kid" is the cluster's id, a hash of its public key.
type receiptHeader struct {
	Alg string `json:"alg"`
	Typ string `json:"typ"`
	Kid string `json:"kid"`
}

const receiptType = "valise-deletion-receipt+jwt"

func signReceipt(key ed25519.PrivateKey, r api.Receipt) (string, error) {
	head, err := json.Marshal(receiptHeader{Alg: "EdDSA", Typ: receiptType, Kid: r.Cluster})
	if err != nil {
		return "", err
	}
	body, err := json.Marshal(r)
	if err != nil {
		return "", err
	}
	enc := base64.RawURLEncoding
	input := enc.EncodeToString(head) + "." + enc.EncodeToString(body)
	return input + "." + enc.EncodeToString(ed25519.Sign(key, []byte(input))), nil
}
