package authz

import (
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"sync"

	"github.com/fxamacker/cbor/v2"
)

// recordVersion is the newest must-understand version this program writes and reads.
const recordVersion = 1

// Unknown is embedded in every record. It keeps what a later version of this program wrote and this one does not
// know, so that reading, changing and writing a record loses nothing.
type Unknown struct {
	// Version is the must-understand version, key 0 of the record. 0 in memory stands for the current one.
	Version uint64 `cbor:"0,keyasint,omitempty"`
	// Fields are the fields this version does not know, as they were encoded.
	Fields map[int64]cbor.RawMessage `cbor:"-"`
}

func (u *Unknown) unknown() *Unknown { return u }

// A record is a pointer to a struct with an embedded Unknown.
type record interface{ unknown() *Unknown }

// A nesting record holds records of its own, and sees to their unknown fields.
type nesting interface {
	keepInside(fields map[int64]cbor.RawMessage) error
}

// marshal encodes a record: deterministic CBOR (RFC 8949, 4.2.1), a map with stable integer keys.
func marshal(r record) ([]byte, error) {
	u := r.unknown()
	if u.Version == 0 {
		u.Version = recordVersion
		defer func() { u.Version = 0 }()
	}
	return marshalFields(r)
}

// marshalFields encodes a record as it is, with the unknown fields put back.
func marshalFields(r record) ([]byte, error) {
	data, err := modes().enc.Marshal(r)
	if err != nil || len(r.unknown().Fields) == 0 {
		return data, err
	}
	all := map[int64]cbor.RawMessage{}
	if err := modes().dec.Unmarshal(data, &all); err != nil {
		return nil, err
	}
	for k, v := range r.unknown().Fields {
		if _, ours := all[k]; !ours {
			all[k] = v
		}
	}
	return modes().enc.Marshal(all)
}

// unmarshal decodes a record that marshal wrote, in this version or another.
func unmarshal(data []byte, r record) error {
	err := unmarshalFields(data, r)
	if err != nil {
		// A newer version may have changed the type of a field: then its version is the error to report.
		var head struct {
			Version uint64 `cbor:"0,keyasint"`
		}
		if modes().lax.Unmarshal(data, &head) == nil && head.Version > recordVersion {
			return fmt.Errorf("record version %d: %w", head.Version, ErrNewer)
		}
		return err
	}
	return checkVersion(r.unknown())
}

// unmarshalSome decodes those fields of a record that r has, for reading only.
func unmarshalSome(data []byte, r record) error {
	if err := modes().some.Unmarshal(data, r); err != nil {
		return err
	}
	return checkVersion(r.unknown())
}

func checkVersion(u *Unknown) error {
	switch {
	case u.Version > recordVersion:
		return fmt.Errorf("record version %d: %w", u.Version, ErrNewer)
	case u.Version == 0:
		return errors.New("record without a version")
	case u.Version == recordVersion:
		u.Version = 0
	}
	return nil
}

// unmarshalFields decodes a record and keeps the fields it does not know.
func unmarshalFields(data []byte, r record) error {
	err := modes().dec.Unmarshal(data, r)
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*cbor.UnknownFieldError](err); !ok {
		return err
	}
	if err := modes().lax.Unmarshal(data, r); err != nil {
		return err
	}
	fields := map[int64]cbor.RawMessage{}
	if err := modes().lax.Unmarshal(data, &fields); err != nil {
		return err
	}
	if n, ok := r.(nesting); ok {
		if err := n.keepInside(fields); err != nil {
			return err
		}
	}
	for _, k := range knownKeys(reflect.TypeOf(r).Elem()) {
		delete(fields, k)
	}
	if len(fields) > 0 { // none, where only a nested record had some
		r.unknown().Fields = fields
	}
	return nil
}

// knownKeys reads the integer keys off a record's field tags, embedded structs included.
func knownKeys(t reflect.Type) []int64 {
	var keys []int64
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous {
			keys = append(keys, knownKeys(f.Type)...)
			continue
		}
		tag, _, _ := strings.Cut(f.Tag.Get("cbor"), ",")
		if k, err := strconv.ParseInt(tag, 10, 64); err == nil && tag != "-" {
			keys = append(keys, k)
		}
	}
	return keys
}

type codecModes struct {
	enc cbor.EncMode
	dec cbor.DecMode // refuses a field it does not know, so that unmarshalFields notices
	lax cbor.DecMode // ignores it
	// some ignores it too, and keeps no count of the keys it skipped.
	some cbor.DecMode
}

// modes builds the codec's modes once; they are read-only.
var modes = sync.OnceValue(func() codecModes {
	enc := cbor.CoreDetEncOptions()
	enc.Time = cbor.TimeUnix
	dec := cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
		IndefLength:       cbor.IndefLengthForbidden,
		TagsMd:            cbor.TagsForbidden,
		MaxNestedLevels:   16,
	}
	lax := dec
	lax.ExtraReturnErrors = cbor.ExtraDecErrorNone
	some := lax
	some.DupMapKey = cbor.DupMapKeyQuiet
	return codecModes{must(enc.EncMode()), must(dec.DecMode()), must(lax.DecMode()), must(some.DecMode())}
})

func must[T any](v T, err error) T {
	if err != nil {
		panic(err) // fixed options: a broken invariant of this program
	}
	return v
}
