package message

import (
	"bytes"
	"strings"
)

// htmlScan is what is known of an HTML text while it is read. It follows tags, comments and the elements whose content is no
// markup; that is all that is needed to know where the body ends.
type htmlScan struct {
	state   htmlState
	tag     []byte // in a tag: what stands between < and >, in lower case, at most maxTag octets
	long    bool   // tag was cut
	quote   byte   // in a tag: the quote that is open
	value   bool   // in a tag: a quote would open a value
	dashes  int    // in a comment: what of its end was seen
	fresh   bool   // in a comment: it has just begun
	element string // in raw text: what ends it
	at      point  // of the last <
	rule    int    // in text: dashes so far

	inBody  bool // <body> was seen
	bodyEnd *point
	htmlEnd *point
}

type htmlState byte

const (
	inText htmlState = iota
	inTag
	inComment
	inRaw
)

const maxTag = 4 << 10

// htmlOctet follows the markup.
func (t *textScan) htmlOctet(c byte) {
	h := &t.html
	switch h.state {
	case inText:
		switch c { // -----Original Message-----, in any language
		case '-':
			h.rule++
		case ' ':
		default:
			t.quotes = t.quotes || h.rule >= 4 && c != '<' && c > ' '
			h.rule = 0
		}
		if c == '<' {
			h.at = t.keep(t.here)
			h.open()
		}
	case inRaw:
		t.rawOctet(c)
	case inComment:
		h.comment(c)
	case inTag:
		t.tagOctet(c)
	}
}

func (h *htmlScan) open() {
	h.state, h.tag, h.quote, h.value, h.long = inTag, h.tag[:0], 0, false, false
}

// rawOctet looks for the end tag of an element such as script.
func (t *textScan) rawOctet(c byte) {
	h := &t.html
	switch {
	case c == '<':
		h.tag = append(h.tag[:0], c)
	case len(h.tag) > 0:
		h.tag = append(h.tag, lower(c))
		end := "</" + h.element
		if len(h.tag) <= len(end) {
			if !strings.HasPrefix(end, string(h.tag)) {
				h.tag = h.tag[:0]
			}
			return
		}
		ended := strings.IndexByte(" \t\r\n/>", c) >= 0
		h.tag = h.tag[:0]
		if ended {
			h.open()
			h.tag = append(h.tag, end[1:]...)
			t.tagOctet(c)
		}
	}
}

// comment looks for -->, and for > and -> right at the start, which end a comment too.
func (h *htmlScan) comment(c byte) {
	switch {
	case c == '-':
		h.dashes++
	case c == '>' && h.dashes >= 2:
		h.state = inText
	case c == '!' && h.dashes >= 2 && !h.fresh: // --!>
	default:
		h.dashes = 0
	}
	h.fresh = false
}

func (t *textScan) tagOctet(c byte) {
	h := &t.html
	if len(h.tag) == 0 && !(lower(c) >= 'a' && lower(c) <= 'z' || c == '/' || c == '!' || c == '?') {
		h.state = inText // a < that opens nothing
		if c == '<' {
			t.htmlOctet(c)
		}
		return
	}
	switch {
	case h.quote != 0:
		if c == h.quote {
			h.quote = 0
		}
	case c == '>':
		h.state = inText
		t.tagEnd()
		return
	case (c == '"' || c == '\'') && h.value:
		h.quote = c
	}
	if c == '=' && h.quote == 0 {
		h.value = true
	} else if c > ' ' {
		h.value = false
	}
	if len(h.tag) == maxTag {
		h.long = true
		return
	}
	h.tag = append(h.tag, lower(c))
	if string(h.tag) == "!--" {
		h.state, h.dashes, h.fresh = inComment, 2, true // so that <!--> and <!---> are whole
	}
}

// Attribute values that say that what follows is quoted, as the usual mail programs and web mailers write them.
var quoteMarks = []string{
	"gmail_quote", "moz-cite-prefix", "moz-forward-container", "yahoo_quoted", "divrplyfwdmsg", "appendonsend",
	"outlookmessageheader", "isreplycontent", "isforwardcontent", "protonmail_quote", "zmail_extra", "qm_original", "ntes-mailquote",
	"foxmail-reply", "mailquote", "reply-intro", "replyforwardmessage", "border-top:solid #b5c4df", "border-top:solid #e1e1e1",
}

// tagEnd looks at a whole tag.
func (t *textScan) tagEnd() {
	h := &t.html
	name, attrs := h.tag, []byte(nil)
	if i := bytes.IndexAny(h.tag, " \t\r\n"); i >= 0 {
		name, attrs = h.tag[:i], h.tag[i:]
	}
	name = bytes.TrimSuffix(name, []byte("/"))
	switch string(name) {
	case "/body":
		at := h.at
		h.bodyEnd = &at
	case "/html":
		at := h.at
		h.htmlEnd = &at
	case "body":
		t.wantTop, h.inBody = !h.inBody, true
	case "html", "head", "/head", "!doctype":
		t.wantTop = !h.inBody && h.bodyEnd == nil
	case "blockquote":
		t.quotes = true
	case "script", "style", "textarea", "title", "xmp", "noframes", "iframe", "noembed":
		h.state, h.element, h.tag = inRaw, string(name), h.tag[:0]
		return
	case "plaintext":
		t.writable = false
	}
	for _, mark := range quoteMarks {
		if bytes.Contains(attrs, []byte(mark)) {
			t.quotes = true
		}
	}
	if h.long {
		t.find.refs.blind = true
	}
	t.attributes(attrs)
}

// attributes notes what a tag refers to.
func (t *textScan) attributes(attrs []byte) {
	for len(attrs) > 0 {
		i := bytes.IndexByte(attrs, '=')
		if i < 0 {
			return
		}
		name := bytes.TrimSpace(attrs[:i])
		name = name[bytes.LastIndexAny(name, " \t\r\n\"'")+1:]
		attrs = bytes.TrimLeft(attrs[i+1:], " \t\r\n")
		value := attrs
		if len(attrs) > 0 && (attrs[0] == '"' || attrs[0] == '\'') {
			value, attrs, _ = bytes.Cut(attrs[1:], attrs[:1])
		} else if j := bytes.IndexAny(attrs, " \t\r\n"); j >= 0 {
			value, attrs = attrs[:j], attrs[j:]
		} else {
			attrs = nil
		}
		switch string(name) {
		case "src", "href", "background", "data", "poster", "lowsrc", "dynsrc", "longdesc", "codebase", "classid":
			t.find.refs.attribute(value)
		}
	}
}

// htmlEnd knows where the body ends.
func (t *textScan) htmlEnd() {
	h := &t.html
	switch {
	case h.state != inText: // an open comment would hide what is put in
		t.writable = false
	case h.bodyEnd != nil:
		t.end = *h.bodyEnd
	case h.htmlEnd != nil:
		t.end = *h.htmlEnd
	}
}
