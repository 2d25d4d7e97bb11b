package authz

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/google/go-cmp/cmp"
	"github.com/veraison/go-cose"
)

var goldenClaims = map[string]Claims{
	"receiver.token": {Grant: GrantID{0x10, 0x32, 0x54, 0x76, 0x98, 0xba, 0xdc, 0xfe, 1, 2, 3, 4, 5, 6, 7, 8}, Role: Receiver, Key: 1},
	"expiring.token": {Grant: GrantID{0xff, 15: 1}, Role: Receiver, Expires: time.Date(2027, 1, 2, 3, 4, 5, 0, time.UTC), Key: 1},
	"latekey.token":  {Grant: GrantID{15: 0xff}, Role: Receiver, Key: 0x01020304},
}

// TestJ2_GoldenTokens keeps links that are out in the world working: these files never change.
func TestJ2_GoldenTokens(t *testing.T) {
	t.Parallel()
	for name, want := range goldenClaims {
		signer, key := testKey(want.Key, 7)
		token := must(Issue(signer, want))
		if stored := golden(t, name, []byte(token)); string(stored) != string(token) {
			t.Errorf("%s: issued differently", name)
		}
		got, err := Verify(token, NewKeyring(key), t0)
		check(t, err)
		if diff := cmp.Diff(got, want); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// golden returns the stored form of data. With UPDATE_GOLDEN=1 it writes a missing file; one that is there never changes.
func golden(t *testing.T, name string, data []byte) []byte {
	t.Helper()
	path := filepath.Join("testdata", name)
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) && os.Getenv("UPDATE_GOLDEN") != "" {
		check(t, os.WriteFile(path, append(bytes.Clone(data), '\n'), 0o644))
	}
	stored, err := os.ReadFile(path)
	check(t, err)
	return bytes.TrimSuffix(stored, []byte("\n"))
}

func TestJ2_TokenIsShort(t *testing.T) {
	t.Parallel()
	signer, _ := testKey(1, 7)
	for max, claims := range map[int]Claims{
		131: {Grant: NewGrantID(), Role: Receiver},
		140: {Grant: NewGrantID(), Role: Receiver, Expires: t0},
	} {
		if got := len(must(Issue(signer, claims))); got > max {
			t.Errorf("got %d characters, want at most %d", got, max)
		}
	}
}

// refuse wants a token refused as not genuine, for the given reason.
func refuse(t *testing.T, name string, token Token, keys *Keyring, reason error) {
	t.Helper()
	_, err := Verify(token, keys, t0)
	if !errors.Is(err, ErrAccessDenied) || !errors.Is(err, reason) {
		t.Errorf("%s: got %v, want %v", name, err, reason)
	}
}

func TestJ2_EveryFlippedBitIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	data := must(base64.RawURLEncoding.DecodeString(string(w.token)))
	for bit := range 8 * len(data) {
		spoilt := bytes.Clone(data)
		spoilt[bit/8] ^= 1 << (bit % 8)
		if _, err := Verify(encodeToken(spoilt), w.keys, t0); !errors.Is(err, ErrAccessDenied) {
			t.Errorf("bit %d: got %v, want ErrAccessDenied", bit, err)
		}
	}
	for i := range len(w.token) {
		for _, c := range []byte("Az0-_=\n .") {
			spoilt := []byte(w.token)
			if spoilt[i] == c {
				continue
			}
			spoilt[i] = c
			if _, err := Verify(Token(spoilt), w.keys, t0); !errors.Is(err, ErrAccessDenied) {
				t.Errorf("character %d as %q: got %v, want ErrAccessDenied", i, c, err)
			}
		}
	}
}

func TestJ2_TruncatedAndExtendedAreRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	data := must(base64.RawURLEncoding.DecodeString(string(w.token)))
	for n := range data {
		refuse(t, fmt.Sprintf("%d octets", n), encodeToken(data[:n]), w.keys, ErrBadToken)
	}
	for n := range len(w.token) {
		refuse(t, fmt.Sprintf("%d characters", n), w.token[:n], w.keys, ErrBadToken)
	}
	refuse(t, "an octet too many", encodeToken(data, []byte{0x18}), w.keys, ErrBadToken)
	refuse(t, "a break too many", encodeToken(data, []byte{0xff}), w.keys, ErrBadToken)
	refuse(t, "2 KiB too many", w.token+Token(strings.Repeat("A", maxToken)), w.keys, ErrBadToken)
}

func TestJ3_NarrowedIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	data := must(base64.RawURLEncoding.DecodeString(string(w.token)))
	seed := append([]byte{0x58, 32}, make([]byte, 32)...)
	refuse(t, "seed", encodeToken(data, seed), w.keys, ErrNarrowed)
	refuse(t, "narrowing", encodeToken(data, data), w.keys, ErrNarrowed)
	refuse(t, "an item", encodeToken(data, []byte{0}), w.keys, ErrNarrowed)
	refuse(t, "eleven items", encodeToken(data, bytes.Repeat([]byte{0}, 10)), w.keys, ErrBadToken)
}

func TestJ2_KeyMustBeOurs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, one := testKey(1, 7)
	_, two := testKey(2, 8)
	_, foreign := testKey(1, 9)
	check(t, second(Verify(w.token, NewKeyring(one, two), t0)))
	refuse(t, "no key", w.token, NewKeyring(), ErrUnknownKey)
	refuse(t, "another epoch only", w.token, NewKeyring(two), ErrUnknownKey)
	refuse(t, "another organisation", w.token, NewKeyring(foreign), ErrBadToken)
	two.ID, one.ID = 1, 2
	refuse(t, "key ids swapped", w.token, NewKeyring(one, two), ErrBadToken)
}

func second[T any](_ T, err error) error { return err }

func TestJ2_SeenTokenIsJudgedAnewUnderAnotherKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	check(t, second(Verify(w.token, w.keys, t0)))
	if _, _, seen := w.keys.good.get(w.token.Hash()); !seen {
		t.Error("the token is not remembered as genuine")
	}
	_, foreign := testKey(1, 9)
	w.keys.Set(foreign)
	refuse(t, "another key", w.token, w.keys, ErrBadToken)
	w.keys.Set()
	refuse(t, "no key", w.token, w.keys, ErrUnknownKey)
	_, ours := testKey(1, 7)
	w.keys.Set(ours)
	check(t, second(Verify(w.token, w.keys, t0)))
}

func TestJ3_SeenTokenStillExpires(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(_ *Grant, c *Claims) { c.Expires = t0 })
	check(t, second(Verify(w.token, w.keys, t0.Add(60*time.Second))))
	_, err := Verify(w.token, w.keys, t0.Add(61*time.Second))
	if !errors.Is(err, ErrExpired) || !errors.Is(err, ErrAccessDenied) {
		t.Errorf("got %v, want ErrExpired", err)
	}
}

func TestGenuineIgnoresExpiryAndDistrust(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(_ *Grant, c *Claims) { c.Expires = t0.Add(-time.Hour) })
	_, key := testKey(1, 7)
	key.DistrustedAfter = t0.Add(-time.Hour)
	claims, err := Genuine(w.token, NewKeyring(key))
	check(t, err)
	if claims.Grant != w.grant.ID {
		t.Errorf("got %v, want %v", claims.Grant, w.grant.ID)
	}
	if _, err := Genuine(w.token[1:], w.keys); !errors.Is(err, ErrBadToken) {
		t.Errorf("got %v, want ErrBadToken", err)
	}
}

func TestSeenIsBoundedAndOnlyGenuineTokensEnter(t *testing.T) {
	t.Parallel()
	var s seen
	for i := range 5 * generation {
		s.put([32]byte{byte(i), byte(i >> 8), byte(i >> 16)}, Claims{}, nil)
	}
	if got := len(s.young) + len(s.old); got > 2*generation {
		t.Errorf("got %d tokens remembered, want at most %d", got, 2*generation)
	}
	w := newWorld(t)
	w.keys.Set()
	_, err := Verify(w.token, w.keys, t0)
	if err == nil || len(w.keys.good.young) > 0 {
		t.Errorf("got %v and %d remembered, want a refusal and none", err, len(w.keys.good.young))
	}
}

// raw is a COSE_Sign1 put together by hand.
type raw struct {
	_           struct{} `cbor:",toarray"`
	Protected   cbor.RawMessage
	Unprotected cbor.RawMessage
	Payload     cbor.RawMessage
	Signature   []byte
}

func bstr(b []byte) cbor.RawMessage { return must(cbor.Marshal(b)) }

// sign signs whatever protected header and payload, as RFC 9052, 4.4 says, with the right key and label.
func (r *raw) sign(s Signer, protected, payload []byte) *raw {
	r.Protected, r.Payload = bstr(protected), bstr(payload)
	if r.Unprotected == nil {
		r.Unprotected = cbor.RawMessage{0xa0}
	}
	tbs := must(cbor.Marshal([]any{"Signature1", protected, []byte(rootLabel), payload}))
	r.Signature = must(s.Key.Sign(nil, tbs, crypto.Hash(0)))
	return r
}

func (r *raw) token() Token { return encodeToken(must(cbor.Marshal(r))) }

var (
	goodProtected = []byte{0xa2, 0x01, 0x27, 0x04, 0x41, 0x01}
	goodPayload   = append(append([]byte{0xa2, 0x07, 0x50}, bytes.Repeat([]byte{5}, 16)...), 0x09, 0x61, 'r')
)

// TestJ2_OneEncodingOnly signs every second way to say the same with the right key: none is accepted but the one.
func TestJ2_OneEncodingOnly(t *testing.T) {
	t.Parallel()
	signer, key := testKey(1, 7)
	keys := NewKeyring(key)
	build := func(protected, payload string) Token {
		p, q := slices.Clone(goodProtected), slices.Clone(goodPayload)
		if protected != "" {
			p = []byte(protected)
		}
		if payload != "" {
			q = []byte(payload)
		}
		return new(raw).sign(signer, p, q).token()
	}
	check(t, second(Verify(build("", ""), keys, t0)))

	id := "\x50" + strings.Repeat("\x05", 16)
	tests := map[string]Token{
		"protected: no alg":                build("\xa1\x04\x41\x01", ""),
		"protected: alg none":              build("\xa2\x01\x00\x04\x41\x01", ""),
		"protected: alg null":              build("\xa2\x01\xf6\x04\x41\x01", ""),
		"protected: alg ES256":             build("\xa2\x01\x26\x04\x41\x01", ""),
		"protected: alg by name":           build("\xa2\x01\x65EdDSA\x04\x41\x01", ""),
		"protected: no kid":                build("\xa1\x01\x27", ""),
		"protected: empty":                 build("\xa0", ""),
		"protected: kid with leading zero": build("\xa2\x01\x27\x04\x42\x00\x01", ""),
		"protected: kid empty":             build("\xa2\x01\x27\x04\x40", ""),
		"protected: kid zero":              build("\xa2\x01\x27\x04\x41\x00", ""),
		"protected: kid of five octets":    build("\xa2\x01\x27\x04\x45\x01\x01\x01\x01\x01", ""),
		"protected: kid as number":         build("\xa2\x01\x27\x04\x01", ""),
		"protected: unsorted":              build("\xa2\x04\x41\x01\x01\x27", ""),
		"protected: alg in two octets":     build("\xa2\x01\x38\x07\x04\x41\x01", ""),
		"protected: map in two octets":     build("\xb8\x02\x01\x27\x04\x41\x01", ""),
		"protected: endless map":           build("\xbf\x01\x27\x04\x41\x01\xff", ""),
		"protected: one more header":       build("\xa3\x01\x27\x04\x41\x01\x05\x41\x00", ""),
		"protected: key twice":             build("\xa3\x01\x27\x04\x41\x01\x04\x41\x01", ""),
		"protected: crit":                  build("\xa3\x01\x27\x02\x81\x04\x04\x41\x01", ""),
		"protected: trailing octet":        build("\xa2\x01\x27\x04\x41\x01\x00", ""),
		"claims: unsorted":                 build("", "\xa2\x09\x61r\x07"+id),
		"claims: one more":                 build("", "\xa3\x01\x61x\x07"+id+"\x09\x61r"),
		"claims: cnf, reserved":            build("", "\xa3\x07"+id+"\x08\xa0\x09\x61r"),
		"claims: key twice":                build("", "\xa3\x07"+id+"\x07"+id+"\x09\x61r"),
		"claims: no grant":                 build("", "\xa1\x09\x61r"),
		"claims: grant of 15 octets":       build("", "\xa2\x07\x4f"+id[2:]+"\x09\x61r"),
		"claims: grant of 17 octets":       build("", "\xa2\x07\x51"+id[1:]+"\x05\x09\x61r"),
		"claims: grant as text":            build("", "\xa2\x07\x70"+id[1:]+"\x09\x61r"),
		"claims: no role":                  build("", "\xa1\x07"+id),
		"claims: role not known":           build("", "\xa2\x07"+id+"\x09\x61x"),
		"claims: role as octets":           build("", "\xa2\x07"+id+"\x09\x41r"),
		"claims: role in another case":     build("", "\xa2\x07"+id+"\x09\x61R"),
		"claims: expiry zero":              build("", "\xa3\x04\x00\x07"+id+"\x09\x61r"),
		"claims: expiry null":              build("", "\xa3\x04\xf6\x07"+id+"\x09\x61r"),
		"claims: expiry negative":          build("", "\xa3\x04\x20\x07"+id+"\x09\x61r"),
		"claims: expiry as float":          build("", "\xa3\x04\xfb\x42\x00\x00\x00\x00\x00\x00\x00\x07"+id+"\x09\x61r"),
		"claims: expiry beyond 9999":       build("", "\xa3\x04\x1b\x00\x00\x01\x00\x00\x00\x00\x00\x07"+id+"\x09\x61r"),
		"claims: expiry overflows":         build("", "\xa3\x04\x1b\xff\xff\xff\xff\xff\xff\xff\xff\x07"+id+"\x09\x61r"),
		"claims: expiry wraps to never":    build("", "\xa3\x04\x1b\xff\xff\xff\xf1\x88\x6e\x09\x00\x07"+id+"\x09\x61r"),
		"claims: expiry tagged":            build("", "\xa3\x04\xc1\x1a\x7f\x00\x00\x00\x07"+id+"\x09\x61r"),
		"claims: key in two octets":        build("", "\xa2\x18\x07"+id+"\x09\x61r"),
		"claims: endless":                  build("", "\xbf\x07"+id+"\x09\x61r\xff"),
		"claims: trailing octet":           build("", string(goodPayload)+"\x00"),
		"claims: array":                    build("", "\x82"+id+"\x61r"),
		"claims: none":                     build("", "\xa0"),
	}
	good := new(raw).sign(signer, goodProtected, goodPayload)
	outer := must(cbor.Marshal(good))
	junk := &raw{Unprotected: cbor.RawMessage("\xa1\x05\x41\x00")}
	tests["unprotected: junk"] = junk.sign(signer, goodProtected, goodPayload).token()
	kid := &raw{Unprotected: cbor.RawMessage("\xa1\x04\x41\x01")}
	tests["unprotected: kid, and none protected"] = kid.sign(signer, []byte{0xa1, 0x01, 0x27}, goodPayload).token()
	endless := &raw{Unprotected: cbor.RawMessage("\xbf\xff")}
	tests["unprotected: endless"] = endless.sign(signer, goodProtected, goodPayload).token()
	tests["tagged 18"] = encodeToken([]byte{0xd2}, outer)
	tests["tagged CWT"] = encodeToken([]byte{0xd8, 61, 0xd2}, outer)
	tests["array in two octets"] = encodeToken([]byte{0x98, 4}, outer[1:])
	tests["endless array"] = encodeToken([]byte{0x9f}, outer[1:], []byte{0xff})
	tests["five elements"] = encodeToken([]byte{0x85}, outer[1:], []byte{0})
	tests["three elements"] = encodeToken([]byte{0x83}, outer[1:len(outer)-66])
	tests["signature's length in three octets"] = encodeToken(outer[:len(outer)-66], []byte{0x59, 0, 64}, good.Signature)
	tests["signature empty"] = encodeToken(outer[:len(outer)-66], []byte{0x40})
	tests["signature of 65 octets"] = encodeToken(outer[:len(outer)-66], []byte{0x58, 65}, good.Signature, []byte{0})
	tests["signature with S plus the group's order"] = encodeToken(outer[:len(outer)-64], addOrder(good.Signature))
	tests["padded"] = build("", "") + "="
	tests["line end inside"] = build("", "")[:9] + "\n" + build("", "")[9:]
	tests["line end after"] = build("", "") + "\r\n"
	tests["space"] = build("", "") + " "
	tests["standard alphabet"] = Token(base64.RawStdEncoding.EncodeToString(append(outer[:len(outer)-1:len(outer)-1], 0xff)))
	tests["trailing bits"] = trailingBits(build("", ""))
	for name, token := range tests {
		refuse(t, name, token, keys, ErrBadToken)
	}
}

// addOrder makes the other number that many verifiers take for S (RFC 8032, 8.4).
func addOrder(signature []byte) []byte {
	order, _ := new(big.Int).SetString("7237005577332262213973186563042994240857116359379907606001950938285454250989", 10)
	s := slices.Clone(signature[32:])
	slices.Reverse(s)
	sum := new(big.Int).Add(new(big.Int).SetBytes(s), order).FillBytes(make([]byte, 32))
	slices.Reverse(sum)
	return append(slices.Clone(signature[:32]), sum...)
}

// trailingBits sets a bit of the last character that stands for nothing.
func trailingBits(t Token) Token {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := strings.IndexByte(alphabet, t[len(t)-1])
	return t[:len(t)-1] + Token(alphabet[last|1:last|1+1])
}

func TestTrailingBitsTestIsOne(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	spoilt := trailingBits(w.token)
	a := must(base64.RawURLEncoding.DecodeString(string(w.token)))
	b := must(base64.RawURLEncoding.DecodeString(string(spoilt)))
	if spoilt == w.token || !bytes.Equal(a, b) {
		t.Error("want another text of the same octets")
	}
}

func TestJ2_SignatureIsForThisUseOnly(t *testing.T) {
	t.Parallel()
	signer, key := testKey(1, 7)
	cs := must(cose.NewSigner(cose.AlgorithmEdDSA, signer.Key))
	for _, external := range []string{"", "valise token narrowed 1"} {
		data := must(cose.Sign1Untagged(rand.Reader, cs, rootHeaders(1), goodPayload, []byte(external)))
		refuse(t, "external data "+external, encodeToken(data), NewKeyring(key), ErrBadToken)
	}
}

func TestJ2_OtherAlgorithmsAreRefused(t *testing.T) {
	t.Parallel()
	_, key := testKey(1, 7)
	private := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	cs := must(cose.NewSigner(cose.AlgorithmES256, private))
	headers := rootHeaders(1)
	headers.Protected[cose.HeaderLabelAlgorithm] = cose.AlgorithmES256
	data := must(cose.Sign1Untagged(rand.Reader, cs, headers, goodPayload, []byte(rootLabel)))
	refuse(t, "ES256", encodeToken(data), NewKeyring(key), ErrBadToken)
	if _, err := Issue(Signer{ID: 1, Key: private}, Claims{Role: Receiver}); err == nil {
		t.Error("issued with a P-256 key")
	}
}

func TestIssueRefuses(t *testing.T) {
	t.Parallel()
	signer, _ := testKey(1, 7)
	tests := map[string]struct {
		signer Signer
		claims Claims
	}{
		"no key":             {Signer{ID: 1}, Claims{Role: Receiver}},
		"no key id":          {Signer{Key: signer.Key}, Claims{Role: Receiver}},
		"no role":            {signer, Claims{}},
		"unknown role":       {signer, Claims{Role: 9}},
		"expired since 1960": {signer, Claims{Role: Receiver, Expires: time.Date(1960, 1, 1, 0, 0, 0, 0, time.UTC)}},
		"expires in 10000":   {signer, Claims{Role: Receiver, Expires: time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)}},
	}
	for name, tt := range tests {
		if token, err := Issue(tt.signer, tt.claims); err == nil {
			t.Errorf("%s: issued %q", name, string(token))
		}
	}
}

func TestKeyIDForms(t *testing.T) {
	t.Parallel()
	for id, want := range map[KeyID]string{1: "\x01", 255: "\xff", 256: "\x01\x00", 1 << 16: "\x01\x00\x00", 1<<32 - 1: "\xff\xff\xff\xff"} {
		if got := encodeKeyID(id); string(got) != want || must(decodeKeyID(got)) != id {
			t.Errorf("%d: got %x, want %x", id, got, want)
		}
	}
	for _, bad := range []string{"", "\x00", "\x00\x01", "\x01\x00\x00\x00\x00"} {
		if id, err := decodeKeyID([]byte(bad)); err == nil {
			t.Errorf("%x: got %d, want an error", bad, id)
		}
	}
}

func TestKeyringServesMany(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, key := testKey(1, 7)
	_, next := testKey(2, 8)
	var wg sync.WaitGroup
	for n := range 8 {
		wg.Go(func() {
			for range 50 {
				if n == 0 {
					w.keys.Set(key, next)
				}
				if _, err := Verify(w.token, w.keys, t0); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

func TestTokensAndSecretsDoNotPrint(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	secret := NewAppPassword()
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "token", w.token, "secret", secret)
	got := log.String() + fmt.Sprintf("%v %+v %#v %s %q %x %d", w.token, w.token, w.token, w.token, w.token, w.token, w.token) +
		fmt.Sprintf("%v %+v %#v %s %q %x %v", secret, secret, secret, secret, secret, secret, []any{secret, struct{ S Secret }{secret}})
	for _, text := range []string{string(w.token), fmt.Sprintf("%x", string(w.token)), secret.text, secret.Reveal()} {
		if strings.Contains(got, text) {
			t.Errorf("%s shows %q", got, text)
		}
	}
	if strings.Count(got, redacted) < 15 {
		t.Errorf("got %s, want all redacted", got)
	}
}

// FuzzVerify: a stranger's text never panics; what is accepted has one text only, and says what was signed.
func FuzzVerify(f *testing.F) {
	signer, key := testKey(1, 7)
	for _, c := range goldenClaims {
		f.Add(string(must(Issue(signer, c))))
	}
	f.Add("hEA")
	f.Add(string(new(raw).sign(signer, goodProtected, goodPayload).token()))
	f.Fuzz(func(t *testing.T, text string) {
		keys := NewKeyring(key)
		claims, err := Verify(Token(text), keys, t0)
		if err != nil {
			if !errors.Is(err, ErrAccessDenied) {
				t.Errorf("got %v, want ErrAccessDenied", err)
			}
			return
		}
		again, err := Issue(signer, claims)
		if err != nil || string(again) != text {
			t.Errorf("accepted %q, which Issue writes %q, %v", text, string(again), err)
		}
	})
}

// FuzzCertificate goes past base64 and signature: what parses encodes to the same octets.
func FuzzCertificate(f *testing.F) {
	signer, _ := testKey(1, 7)
	for _, c := range goldenClaims {
		f.Add(must(base64.RawURLEncoding.DecodeString(string(must(Issue(signer, c))))))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		items, err := decodeToken(encodeToken(data))
		if err != nil {
			return
		}
		if got := bytes.Join(toBytes(items), nil); !bytes.Equal(got, data) {
			t.Errorf("items of %x are %x", data, got)
		}
		for _, item := range items {
			cert, err := parseRoot(item)
			if err != nil {
				continue
			}
			if again, err := cert.encode(); err != nil || !bytes.Equal(again, item) {
				t.Errorf("parsed %x, encodes to %x, %v", item, again, err)
			}
		}
	})
}

func toBytes(items []cbor.RawMessage) [][]byte {
	var all [][]byte
	for _, i := range items {
		all = append(all, i)
	}
	return all
}
