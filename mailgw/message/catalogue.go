package message

import "fmt"

// A wording is the texts of a block in one language. To add a language, add an entry to catalogue.
type wording struct {
	one   string // above a single file
	many  string // above several; %d is their number
	open  string // what the link to several files says in HTML
	bytes string // the unit, after a number
}

var catalogue = map[string]wording{
	"en": {
		one:   "The attachment of this message is kept by its sender. Download it here:",
		many:  "The %d attachments of this message are kept by their sender. Download them here:",
		open:  "Download the attachments",
		bytes: "bytes",
	},
	"zh-CN": {
		one:   "本邮件的附件由发件人保存，请从此处下载：",
		many:  "本邮件的 %d 个附件由发件人保存，请从此处下载：",
		open:  "下载附件",
		bytes: "字节",
	},
}

// wordingOf returns the texts of a language, or the English ones, and the language they are in.
func wordingOf(lang string) (wording, string) {
	if w, ok := catalogue[lang]; ok {
		return w, lang
	}
	return catalogue["en"], "en"
}

// size writes a number of bytes for people, in powers of ten as download managers do.
func (w wording) size(n int64) string {
	if n < 1000 {
		return fmt.Sprintf("%d %s", n, w.bytes)
	}
	v, unit := float64(n)/1000, "kB"
	for _, u := range []string{"MB", "GB", "TB"} {
		if v < 999.95 {
			break
		}
		v, unit = v/1000, u
	}
	return fmt.Sprintf("%.1f %s", v, unit)
}
