package message

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestHeader(t *testing.T) {
	t.Parallel()
	in := "Received: from a\r\n\tby b\r\nRECEIVED: x\r\nFrom: =?utf-8?B?5byg?= <a@example.org>,\r\n \"B, C\" <b@example.org>\r\n" +
		"Subject:\r\n =?gb2312?B?uL28/g==?=\r\n =?utf-8?Q?_x?=\r\nSender: <s@example.org>\r\nX-Raw: \xb8\xbd\xbc\xfe\r\nAuto-Submitted: auto-replied\r\nEmpty:\r\n\r\nbody\r\n"
	h := pass(t, str(in), Options{}, "en").m.Header()
	for _, c := range []struct{ name, value string }{
		{"received", "from a\tby b"},
		{"Subject", "=?gb2312?B?uL28/g==?= =?utf-8?Q?_x?="},
		{"x-raw", "\xb8\xbd\xbc\xfe"},
		{"AUTO-SUBMITTED", "auto-replied"},
		{"Empty", ""},
	} {
		f, ok := h.First(c.name)
		if !ok || f.Value() != c.value {
			t.Errorf("%s: %q, %v, want %q", c.name, f.Value(), ok, c.value)
		}
	}
	if _, ok := h.First("Body"); ok || h.Count("received") != 2 || h.Count("To") != 0 {
		t.Errorf("%d Received fields, want 2", h.Count("received"))
	}
	if f, _ := h.First("Received"); string(f.Raw) != "Received: from a\r\n\tby b\r\n" {
		t.Errorf("raw field %q", f.Raw)
	}
	from, _ := h.First("From")
	list, err := from.Addresses()
	if err != nil || len(list) != 2 || list[0].Name != "张" || list[1].Address != "b@example.org" {
		t.Errorf("addresses %v, %v", list, err)
	}
}

// TestM2_Responsible holds the order in which the author of a sending is looked for.
func TestM2_Responsible(t *testing.T) {
	t.Parallel()
	fields := []string{"From: f\r\n", "Sender: s\r\n", "Resent-From: rf\r\n", "Resent-Sender: rs\r\n"}
	in := ""
	for i, want := range []string{"f", "s", "rf", "rs"} {
		in += fields[i]
		if f, ok := pass(t, str(in+"\r\n"), Options{}, "en").m.Header().Responsible(); !ok || f.Value() != want {
			t.Errorf("%q: %q, want %q", in, f.Value(), want)
		}
	}
	if f, ok := pass(t, str("To: x\r\n\r\n"), Options{}, "en").m.Header().Responsible(); ok {
		t.Errorf("nobody: %q", f.Value())
	}
}

// TestM2_Addresses finds addresses beside names in whatever charset, and none where it is not sure which octets they are.
func TestM2_Addresses(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"a@x.org":                               "[a@x.org]",
		"Ann <a@x.org>, b@x.org":                "[a@x.org b@x.org]",
		"=?x-unknown?B?uL28/g==?= <a@x.org>":    "[a@x.org]",
		"=?gb2312?B?uL28/g==?= <a@x.org>":       "[a@x.org]",
		"\xb8\xbd\xbc\xfe <a@x.org>":            "[a@x.org]",
		"\"\xb8\xbd, \xbc\xfe\" <a@x.org>":      "[a@x.org]",
		"Gr\xfc\xdfe <a@x.org>, \xfc <b@x.org>": "[a@x.org b@x.org]",
		"\xb8@y.org <a@x.org>":                  "",
		"\"\x95\\\" <b@y.org>, \" <a@x.org>":    "", // another's address, to those who know GBK
		"\"\x95\\\" <a@x.org>":                  "",
		"\xb8\xbd":                              "",
		"undisclosed:;":                         "",
		"":                                      "",
	} {
		f := Field{Name: "From", Raw: []byte("From: " + in + "\r\n")}
		list, err := f.Addresses()
		var got []string
		for _, a := range list {
			got = append(got, a.Address)
		}
		if err != nil != (want == "") || err == nil && fmt.Sprint(got) != want {
			t.Errorf("%q: %q, %v, want %s", in, got, err, want)
		}
	}
}

func TestFileName(t *testing.T) {
	t.Parallel()
	gbk, _ := charsetOf("gbk")
	for _, c := range []struct {
		disposition, contentType string
		hint                     charset
		want                     string
	}{
		{`attachment; filename="a b.pdf"`, ``, charset{}, "a b.pdf"},
		{`attachment; filename=a.pdf; x=y`, ``, charset{}, "a.pdf"},
		{`attachment; filename=report (final).pdf`, ``, charset{}, "report (final).pdf"},
		{`attachment; filename=a.pdf (a comment)`, ``, charset{}, "a.pdf"},
		{`attachment; filename="say \"hi\".txt"`, ``, charset{}, `say "hi".txt`},
		{`attachment; filename=""`, `x/y; name=b.pdf`, charset{}, "b.pdf"},
		{`attachment`, `x/y; name="=?GB18030?B?sai45g==?=.pdf"`, charset{}, "报告.pdf"},
		{`attachment; filename="plain.pdf"; filename*=UTF-8''%E6%8A%A5%E5%91%8A.pdf`, ``, charset{}, "报告.pdf"},
		{`attachment; filename*0*=UTF-8''%E6%8A; filename*1*=%A5; filename*2=" 1.pdf"`, ``, charset{}, "报 1.pdf"},
		{`attachment; filename*0="=?utf-8?B?5oql"; filename*1="5ZGK?=.pdf"`, ``, charset{}, "报告.pdf"},
		{`attachment; filename*=big5'zh-TW'%B3%F8%A7i.pdf`, ``, charset{}, "報告.pdf"},
		{`attachment; filename*=x-none''%E6%8A%A5.pdf`, ``, charset{}, "报.pdf"},
		{`attachment; filename="=?utf-8?B?5oql?= =?utf-8?B?5ZGK?=.pdf"`, ``, charset{}, "报告.pdf"},
		{`attachment; filename="=?utf-8?B?5g==?= =?utf-8?B?iqU=?="`, ``, charset{}, "报"},
		{`attachment; filename="=?utf-8?q?a=20b?=.pdf"`, ``, charset{}, "a b.pdf"},
		{`attachment; filename="=?broken"`, ``, charset{}, "=?broken"},
		{"attachment; filename=\"\xe6\x8a\xa5.pdf\"", ``, charset{}, "报.pdf"},
		{"attachment; filename=\"\xb1\xa8\xb8\xe6.pdf\"", ``, charset{}, "报告.pdf"},
		{"attachment; filename=\"\x95\\.pdf\"", ``, gbk, "昞.pdf"},
		{"attachment; filename=\"Fr\xf6sche.pdf\"", ``, charset{}, "Frösche.pdf"},
		{`attachment; filename="/etc/passwd"`, ``, charset{}, "passwd"},
		{`attachment; filename="C:\Temp\a.pdf"`, ``, charset{}, "a.pdf"},
		{`attachment; filename=".."`, ``, charset{}, ""},
		{`attachment; filename="dir/"`, ``, charset{}, ""},
		{`attachment; filename*=UTF-8''a%0D%0AB%00%E2%80%AE.pdf`, ``, charset{}, "a  B.pdf"},
		{"attachment; filename=\"e\u0301.pdf\"", ``, charset{}, "é.pdf"},
	} {
		_, d, _ := parseParams(c.disposition)
		_, ct, _ := parseParams(c.contentType)
		if got := fileName(d, ct, c.hint); got != c.want {
			t.Errorf("%s %s: %q, want %q", c.disposition, c.contentType, got, c.want)
		}
	}
	long := ""
	for range 100 {
		long += "报告"
	}
	if got := cleanName(long + ".pdf"); len(got) > 255 || got[len(got)-4:] != ".pdf" {
		t.Errorf("a long name is %d bytes: %q", len(got), got)
	}
}

func TestParseParams(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]struct {
		value  string
		params []param
		ok     bool
	}{
		`text/plain`: {"text/plain", nil, true},
		`TEXT/Plain ; Charset = "utf-8" (a comment); x=1;`: {"text/plain", []param{{"charset", "utf-8"}, {"x", "1"}}, true},
		`multipart/mixed (c) ; boundary="a;b=\"c"`:         {"multipart/mixed", []param{{"boundary", `a;b="c`}}, true},
		`multipart/mixed; boundary=----=_a=b`:              {"multipart/mixed", []param{{"boundary", "----=_a=b"}}, true},
		`a/b;; x=`:                                         {"a/b", []param{{"x", ""}}, true},
		`a/b; name="open`:                                  {"a/b", nil, false},
		`a/b; (open`:                                       {"a/b", nil, false},
		`a/b; name`:                                        {"a/b", nil, false},
		`a/b; name="x" y`:                                  {"a/b", nil, false},
		`a/b name=x`:                                       {"a/b name=x", nil, true},
	} {
		value, params, ok := parseParams(s)
		if value != want.value || ok != want.ok {
			t.Errorf("%s: %q %v, want %q %v", s, value, ok, want.value, want.ok)
		}
		if d := cmp.Diff(want.params, params, cmp.AllowUnexported(param{})); ok && d != "" {
			t.Errorf("%s, -want +got:\n%s", s, d)
		}
	}
}
