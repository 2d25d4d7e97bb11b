package message

import (
	"bytes"
	"testing"
)

func TestM4_CorpusDefaultThreshold(t *testing.T) {
	t.Parallel()
	for name, in := range corpus(t) {
		r := pass(t, bytes.NewReader(in), Options{Threshold: 256 << 10}, "en")
		if len(r.offered) > 0 {
			t.Errorf("%s: %d parts offered, want none", name, len(r.offered))
		}
		if !bytes.Equal(r.original, normal(in)) || !bytes.Equal(r.rewritten, normal(in)) {
			t.Errorf("%s: not the normal form", name)
		}
	}
}

func TestM3_CorpusThresholdZero(t *testing.T) {
	t.Parallel()
	n := 0
	for name, in := range corpus(t) {
		r := pass(t, bytes.NewReader(in), Options{}, "en")
		if !bytes.Equal(r.original, normal(in)) {
			t.Errorf("%s: original is not the normal form", name)
		}
		t.Log(name, r.m.untouched, r.m.Taken())
		n += len(r.taken)
		again := pass(t, bytes.NewReader(r.rewritten), Options{}, "zh-CN")
		if !bytes.Equal(again.rewritten, r.rewritten) {
			t.Errorf("%s: a second pass changes it again: %v", name, again.m.Taken())
		}
	}
	t.Log(n)
}
