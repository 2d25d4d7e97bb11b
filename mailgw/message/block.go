package message

import (
	"errors"
	"fmt"
	"html"
	"net/url"
	"strconv"
	"strings"
)

// ErrBadBlock says that a Block does not fit the message: a mistake in the caller.
var ErrBadBlock = errors.New("block does not fit the message")

// check returns ErrBadBlock, wrapped, if b cannot stand for n taken parts.
func (b *Block) check(n int) error {
	if len(b.Files) != n {
		return fmt.Errorf("%w: %d files for %d taken parts", ErrBadBlock, len(b.Files), n)
	}
	if u := b.link(); u == "" || strings.ContainsFunc(u, func(r rune) bool {
		return r <= ' ' || r >= 0x7f || strings.ContainsRune("\"<>\\", r)
	}) {
		return fmt.Errorf("%w: %q is no link", ErrBadBlock, u)
	}
	return nil
}

// link is the one link of the block.
func (b *Block) link() string {
	if len(b.Files) == 1 {
		return b.Files[0].URL
	}
	return b.Landing
}

// shown is a file's name as people see it.
func (f *File) shown() string {
	if name := cleanName(f.Name); name != "" {
		return name
	}
	return "attachment"
}

// intro is the line above the link.
func (b *Block) intro(w wording) string {
	if len(b.Files) == 1 {
		return w.one
	}
	return fmt.Sprintf(w.many, len(b.Files))
}

// plain returns the block as lines of plain text. can says whether a text can be written where it goes; what cannot is
// written in ASCII. No line begins with a blank, ">", "From " or "--", and none ends with a blank, so that they mean the
// same in format=flowed and next to any boundary.
func (b *Block) plain(can func(string) bool) []string {
	w, _ := wordingOf(b.Lang)
	if !can(w.one + w.many + w.bytes) {
		w, _ = wordingOf("en")
	}
	lines := []string{b.intro(w), "<" + b.link() + ">"}
	for _, f := range b.Files {
		name := f.shown()
		if !can(name) {
			name = inASCII(name, can)
		}
		lines = append(lines, "- "+name+" ("+w.size(f.Size)+")")
	}
	return lines
}

// inASCII writes what cannot be written as it stands the way the link does, so that the name is not lost.
func inASCII(s string, can func(string) bool) string {
	var b strings.Builder
	for _, r := range s {
		if c := string(r); can(c) {
			b.WriteString(c)
		} else {
			b.WriteString(url.PathEscape(c))
		}
	}
	return b.String()
}

// html returns the block as HTML, which is ASCII and so right in every charset.
func (b *Block) html() []string {
	w, lang := wordingOf(b.Lang)
	lines := []string{`<div dir="auto" lang="` + lang + `" style="margin:1em 0">`}
	link := `<a href="` + escapeHTML(b.link()) + `">`
	if len(b.Files) == 1 {
		f := b.Files[0]
		return append(lines, `<p>`+escapeHTML(b.intro(w))+`<br>`,
			link, `<bdi>`+escapeHTML(f.shown())+`</bdi></a> (`+escapeHTML(w.size(f.Size))+`)</p>`, `</div>`)
	}
	lines = append(lines, `<p>`+escapeHTML(b.intro(w))+`<br>`, link, escapeHTML(w.open)+`</a></p>`, `<ul>`)
	for _, f := range b.Files {
		lines = append(lines, `<li><bdi>`+escapeHTML(f.shown())+`</bdi> (`+escapeHTML(w.size(f.Size))+`)</li>`)
	}
	return append(lines, `</ul>`, `</div>`)
}

func escapeHTML(s string) string {
	var b strings.Builder
	for _, r := range html.EscapeString(s) {
		if r < 0x80 {
			b.WriteRune(r)
		} else {
			b.WriteString("&#" + strconv.Itoa(int(r)) + ";")
		}
	}
	return b.String()
}
