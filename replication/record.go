package replication

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"strconv"
	"strings"

	"github.com/fxamacker/cbor/v2"
)

// Unknown, embedded in a record, keeps the fields that this program does not know,
// so that they survive a decode, change, encode (L9).
type Unknown struct {
	fields map[uint64]cbor.RawMessage
}

// Versioned is a record that understands must-understand versions above 0.
type Versioned interface {
	// RecordVersion is the highest value of key 0 that this program understands.
	RecordVersion() uint64
}

// The modes are constants in all but name.
var (
	encMode = must(cbor.CoreDetEncOptions().EncMode())
	decLax  = must(cbor.DecOptions{DupMapKey: cbor.DupMapKeyEnforcedAPF, IndefLength: cbor.IndefLengthForbidden}.DecMode())
	decFast = must(cbor.DecOptions{DupMapKey: cbor.DupMapKeyEnforcedAPF, IndefLength: cbor.IndefLengthForbidden,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField}.DecMode())
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// Marshal encodes a record: a struct, or a pointer to one, whose fields are tagged
// `cbor:"1,keyasint,omitempty"`. The encoding is deterministic. Unknown fields kept
// by an embedded Unknown are put back. Key 0 is the must-understand version.
func Marshal(v any) ([]byte, error) {
	data, err := encMode.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode %T: %w", v, err)
	}
	unknown := unknownOf(reflect.ValueOf(v))
	if !unknown.IsValid() || unknown.Len() == 0 {
		return data, nil
	}
	var fields map[uint64]cbor.RawMessage
	if err := decLax.Unmarshal(data, &fields); err != nil {
		return nil, fmt.Errorf("encode %T: %w", v, err)
	}
	merged := make(map[uint64]cbor.RawMessage)
	for iter := unknown.MapRange(); iter.Next(); {
		merged[iter.Key().Uint()] = bytes.Clone(iter.Value().Bytes())
	}
	maps.Copy(merged, fields) // what the program knows counts
	return encMode.Marshal(merged)
}

// Unmarshal decodes a record into v, a pointer to a struct. It refuses with
// ErrNewerVersion when key 0 is higher than v understands (0, or what Versioned
// says). Unknown fields are kept where v embeds Unknown, else dropped.
func Unmarshal(data []byte, v any) error {
	highest := uint64(0)
	if rv, ok := v.(Versioned); ok {
		highest = rv.RecordVersion()
	}
	if version, ok := leadingVersion(data); ok && version > highest {
		return fmt.Errorf("decode %T: version %d, known %d: %w", v, version, highest, ErrNewerVersion)
	}
	err := decFast.Unmarshal(data, v)
	if err == nil {
		if u, ok := v.(interface {
			setUnknown(map[uint64]cbor.RawMessage)
		}); ok {
			u.setUnknown(nil)
		}
		return nil
	}
	if _, ok := errors.AsType[*cbor.UnknownFieldError](err); !ok {
		return fmt.Errorf("decode %T: %w", v, err)
	}
	return unmarshalUnknown(data, v, highest)
}

// leadingVersion reads key 0 where a deterministic encoding has it: first.
func leadingVersion(data []byte) (uint64, bool) {
	if len(data) < 3 || data[0]>>5 != 5 || data[0]&31 > 23 || data[1] != 0 {
		return 0, false
	}
	var version uint64
	if _, err := decLax.UnmarshalFirst(data[2:], &version); err != nil {
		return 0, false
	}
	return version, true
}

func unmarshalUnknown(data []byte, v any, highest uint64) error {
	var fields map[uint64]cbor.RawMessage
	if err := decLax.Unmarshal(data, &fields); err != nil {
		return fmt.Errorf("decode %T: %w", v, err)
	}
	if raw, ok := fields[0]; ok {
		var version uint64
		if err := decLax.Unmarshal(raw, &version); err != nil {
			return fmt.Errorf("decode %T: version: %w", v, err)
		}
		if version > highest {
			return fmt.Errorf("decode %T: version %d, known %d: %w", v, version, highest, ErrNewerVersion)
		}
	}
	if err := decLax.Unmarshal(data, v); err != nil {
		return fmt.Errorf("decode %T: %w", v, err)
	}
	u, ok := v.(interface {
		setUnknown(map[uint64]cbor.RawMessage)
	})
	if !ok {
		return nil
	}
	knownKeys(reflect.TypeOf(v).Elem(), func(key uint64) { delete(fields, key) })
	u.setUnknown(fields)
	return nil
}

func (u *Unknown) setUnknown(fields map[uint64]cbor.RawMessage) { u.fields = fields }

// unknownOf finds the map in v's embedded Unknown.
func unknownOf(v reflect.Value) reflect.Value {
	for v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	if v.Kind() != reflect.Struct {
		return reflect.Value{}
	}
	u := v.FieldByName("Unknown")
	if !u.IsValid() || u.Type() != reflect.TypeFor[Unknown]() {
		return reflect.Value{}
	}
	return u.FieldByName("fields")
}

// knownKeys calls found with every integer key of t's fields, embedded ones included.
func knownKeys(t reflect.Type, found func(uint64)) {
	for field := range t.Fields() {
		if field.Anonymous && field.Type.Kind() == reflect.Struct {
			knownKeys(field.Type, found)
			continue
		}
		name, options, _ := strings.Cut(field.Tag.Get("cbor"), ",")
		if !strings.Contains(options, "keyasint") {
			continue
		}
		if key, err := strconv.ParseUint(name, 10, 64); err == nil {
			found(key)
		}
	}
}
