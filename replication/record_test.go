package replication

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

type recordV1 struct {
	Unknown
	Name string `cbor:"1,keyasint,omitempty"`
	Size int64  `cbor:"2,keyasint,omitempty"`
}

type recordV2 struct {
	Name  string   `cbor:"1,keyasint,omitempty"`
	Size  int64    `cbor:"2,keyasint,omitempty"`
	Tags  []string `cbor:"3,keyasint,omitempty"`
	Note  string   `cbor:"40,keyasint,omitempty"`
	Inner struct {
		A int `cbor:"1,keyasint,omitempty"`
	} `cbor:"5,keyasint,omitempty"`
}

type recordStrict struct {
	Version uint64 `cbor:"0,keyasint,omitempty"`
	Name    string `cbor:"1,keyasint,omitempty"`
}

func TestL9_UnknownFieldsSurvive(t *testing.T) {
	t.Parallel()
	want := recordV2{Name: "a", Size: 7, Tags: []string{"x", "y"}, Note: "later"}
	want.Inner.A = 3
	data := must(Marshal(want))
	var old recordV1
	if err := Unmarshal(data, &old); err != nil {
		t.Fatal(err)
	}
	old.Size, want.Size = 8, 8
	for _, v := range []any{old, &old} {
		data = must(Marshal(v))
		var got recordV2
		if err := Unmarshal(data, &got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%T: %s", v, diff)
		}
	}
	// A field that this program knows and clears stays cleared.
	old.Size = 0
	var got recordV2
	if err := Unmarshal(must(Marshal(old)), &got); err != nil || got.Size != 0 || got.Note != "later" {
		t.Errorf("got %+v, %v", got, err)
	}
	// What an earlier decode kept does not leak into the next.
	if err := Unmarshal(must(Marshal(recordV1{Name: "b"})), &old); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(must(Marshal(recordV1{Name: "b", Size: old.Size})), must(Marshal(old))); diff != "" {
		t.Error(diff)
	}
}

func TestL9_HigherVersionIsRefused(t *testing.T) {
	t.Parallel()
	for name, v := range map[string]any{
		"with a version field":    &recordStrict{},
		"without a version field": &recordV1{},
	} {
		data := must(Marshal(recordStrict{Version: 1, Name: "a"}))
		if err := Unmarshal(data, v); !errors.Is(err, ErrNewerVersion) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	var ok recordStrict
	if err := Unmarshal(must(Marshal(recordStrict{Name: "a"})), &ok); err != nil {
		t.Error(err)
	}
	// Key 0 not in front (not our encoding) is found all the same.
	if err := Unmarshal([]byte{0xa2, 0x01, 0x61, 'a', 0x00, 0x05}, &recordV1{}); !errors.Is(err, ErrNewerVersion) {
		t.Errorf("unsorted: got %v", err)
	}
}

func FuzzUnmarshal(f *testing.F) {
	f.Add(must(Marshal(recordV2{Name: "a", Size: 7, Tags: []string{"x"}, Note: "n"})))
	f.Add(must(Marshal(recordStrict{Version: 9})))
	f.Fuzz(func(t *testing.T, data []byte) {
		var v recordV1
		if Unmarshal(data, &v) != nil {
			return
		}
		again, err := Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		var w recordV1
		if err := Unmarshal(again, &w); err != nil {
			t.Fatalf("%x: %v", again, err)
		}
		if diff := cmp.Diff(v, w, cmp.AllowUnexported(Unknown{}), cmpopts.EquateEmpty()); diff != "" {
			t.Fatal(diff)
		}
	})
}
