package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"strings"

	"filippo.io/age"
	"filippo.io/age/armor"
	"github.com/cockroachdb/pebble/v2/vfs"
)

const (
	// scryptWork is what a guess at a passphrase costs: 128 MiB and some tenths
	// of a second, which a node that starts on a small machine can spend, too.
	scryptWork     = 17
	fastScryptWork = 10 // for villages
	maxScryptWork  = 22 // a file that asks for more was not written by us

	minPassphrase = 8
)

// ErrPassphrase says that a passphrase does not open the node's key.
var ErrPassphrase = errors.New("wrong passphrase")

// CheckPassphrase says whether a text may seal a key.
func CheckPassphrase(text string) error {
	if len(text) < minPassphrase {
		return hint(fmt.Errorf("a passphrase of %d bytes, %d are the least", len(text), minPassphrase), "take several words: whoever has the disk can try millions")
	}
	if strings.ContainsAny(text, "\r\n\x00") {
		return hint(errors.New("the passphrase has more than one line"), "use one line of text")
	}
	return nil
}

// seal turns the text of a key into an age file that the passphrase opens; "age -d" does, too.
func seal(text []byte, passphrase string, work int) ([]byte, error) {
	if err := CheckPassphrase(passphrase); err != nil {
		return nil, err
	}
	to, err := age.NewScryptRecipient(passphrase)
	if err != nil {
		return nil, err
	}
	to.SetWorkFactor(work)
	var buf bytes.Buffer
	a := armor.NewWriter(&buf)
	w, err := age.Encrypt(a, to)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(text); err != nil {
		return nil, err
	}
	if err := errors.Join(w.Close(), a.Close()); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

// sealed says whether the text of a key file is an age file.
func sealed(file []byte) bool {
	return bytes.HasPrefix(file, []byte(armor.Header)) || bytes.HasPrefix(file, []byte("age-encryption.org/"))
}

// unseal opens what seal made. ErrPassphrase if it is not by that passphrase.
func unseal(file []byte, passphrase string) ([]byte, error) {
	with, err := age.NewScryptIdentity(passphrase)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPassphrase, err)
	}
	with.SetMaxWorkFactor(maxScryptWork)
	var from io.Reader = bytes.NewReader(file)
	if bytes.HasPrefix(file, []byte(armor.Header)) {
		from = armor.NewReader(from)
	}
	r, err := age.Decrypt(from, with)
	if _, wrong := errors.AsType[*age.NoIdentityMatchError](err); wrong {
		return nil, ErrPassphrase
	}
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(r, maxSmallFile))
	debug.FreeOSMemory() // scrypt's working memory would stay with this process for minutes
	return text, err
}

const sealedHint = `the passphrase is asked for on the terminal, or read from --key-passphrase-file, or from the systemd credential valise-node-key-passphrase. Without it nobody can use this key: join as a new node with a new folder, and remove this one from the cluster`

// ask asks whoever started this program for the passphrase.
func (c *Config) ask(ctx context.Context) (string, error) {
	if c.NewPassphrase != "" { // a join that is repeated
		return c.NewPassphrase, nil
	}
	if c.Passphrase == nil {
		return "", errors.New("there is nobody to ask for the passphrase")
	}
	return c.Passphrase(ctx)
}

func (c *Config) scryptWork() int {
	if c.Seams.Fast {
		return fastScryptWork
	}
	return scryptWork
}

// openKeyFile returns the text of the node's key, asking for the passphrase if it is sealed.
func (c *Config) openKeyFile(ctx context.Context, fs vfs.FS, name string) ([]byte, error) {
	text, err := readFile(fs, name)
	if err != nil || !sealed(text) {
		return text, err
	}
	passphrase, err := c.ask(ctx)
	if err != nil {
		return nil, hint(fmt.Errorf("node key %s is sealed: %w", name, err), sealedHint)
	}
	if text, err = unseal(text, passphrase); err != nil {
		err = fmt.Errorf("open node key %s: %w", name, err)
		if errors.Is(err, ErrPassphrase) {
			err = hint(err, sealedHint)
		}
	}
	return text, err
}

// KeySealed says whether the key of the node in c.Dir lies there under a passphrase.
func KeySealed(c Config) (bool, error) { return keySealed(c.fs(), c.Dir) }

func keySealed(fs vfs.FS, dir string) (bool, error) {
	text, err := readFile(fs, fs.PathJoin(dir, keyName))
	if errors.Is(err, errNotExist) {
		err = hint(err, `this folder holds no node; "valise init" or "valise join" makes one`)
	}
	return sealed(text), err
}

// ChangePassphrase seals the key of the node in c.Dir anew; with an empty next
// it lies unsealed from then on. The node may run meanwhile. Whatever happens on
// the way, the file opens with the old passphrase or with the new one.
func ChangePassphrase(ctx context.Context, c Config, next string) error {
	fs := c.fs()
	if _, err := keySealed(fs, c.Dir); err != nil {
		return err
	}
	lock, err := fs.Lock(fs.PathJoin(c.Dir, keyName+".lock"))
	if err != nil {
		return hint(fmt.Errorf("lock the node's key: %w", err), "is somebody else changing its passphrase?")
	}
	defer lock.Close()
	id, err := c.loadIdentity(ctx, fs)
	if err != nil {
		return err
	}
	c.NewPassphrase = next
	return c.saveIdentity(fs, id)
}

// dropUnfinishedKey removes what a change of the passphrase that was cut off may
// have left: a key that lies unsealed beside the sealed one.
func dropUnfinishedKey(fs vfs.FS, dir string) error {
	err := fs.Remove(fs.PathJoin(dir, keyName+".new"))
	if errors.Is(err, errNotExist) {
		return nil
	}
	return err
}
