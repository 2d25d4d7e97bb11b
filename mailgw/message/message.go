// Package message takes attachments out of a mail message and puts links in, and leaves every other byte as it came.
//
// A message is read once, as a stream. Its octets, in the normal form that [Normalise] describes, go into a spool (memory
// first, then an unlinked temporary file); the boundaries between its parts are found on those raw octets; nothing is
// ever parsed and printed again. What is not surely understood is not touched.
package message

import (
	"context"
	"errors"
	"io"
)

// Errors that Read returns, apart from those of its reader, of Take and of the spool's file system.
var (
	// ErrHeaderTooLarge says that the message's header is longer than Options.MaxHeaderBytes, or has more than 10,000
	// fields. Sending the same message again cannot succeed.
	ErrHeaderTooLarge = errors.New("message header too large")
	// ErrLeft is what a part's content returns, wrapped, when the part cannot be taken after all: its transfer encoding
	// is broken or its end is missing. Take passes it on (or returns nil); Read then leaves the part in place and goes on.
	ErrLeft = errors.New("part is left in place")
	// ErrUnread says that Take returned nil before it had read a part's content to its end: a mistake in the caller.
	ErrUnread = errors.New("content was not read to its end")
)

// Options say what Read may take and how much it may use. The zero value takes every part that may be taken.
type Options struct {
	// Threshold is a number of bytes of decoded content. A part is taken when it is larger, alone or together with the
	// other takeable children of its multipart/mixed. 0 takes every takeable part, a negative value none.
	Threshold int64
	// MaxHeaderBytes bounds the message's own header, 0 means 1 MiB. Beyond it Read fails with ErrHeaderTooLarge.
	MaxHeaderBytes int64
	// MaxParts and MaxDepth bound the parts, containers included, and their nesting; 0 means 1,000 and 50. A message with
	// more is not touched.
	MaxParts, MaxDepth int
	// SpoolDir is where the temporary file is made, empty means os.TempDir.
	SpoolDir string
	// SpoolMemory is how many bytes are kept in memory before the temporary file is made, 0 means 1 MiB.
	SpoolMemory int64
	// Header, if not nil, is given the message's own header as soon as it is read, before anything is taken. Its error
	// ends Read and is Read's.
	Header func(ctx context.Context, h *Header) error
	// OwnLink, if not nil, says whether a URL found in a text is a link of this organisation. See Message.OwnLinks.
	OwnLink func(url string) bool
}

// A Part is an attachment that is taken out.
type Part struct {
	Index     int    // position among all leaf parts of the message, from 0
	Name      string // decoded file name without path, control and bidi characters, in NFC, at most 255 bytes; may be empty
	MediaType string // in lower case, without parameters
	Size      int64  // decoded bytes; -1 while Take reads the part
}

// Take receives one part's decoded content while the message arrives. It reads content to its end and returns nil, or
// returns an error, which ends Read, unless it is the content's own ErrLeft. Calls come one after another, not always
// in the order of Index. A part given to Take may be put back later: Message.Taken says what is really taken.
type Take func(ctx context.Context, p Part, content io.Reader) error

// A Block is what the reader of the message is told instead of the attachments.
type Block struct {
	// Lang is the language of the texts, "en" or "zh-CN"; any other means "en".
	Lang string
	// Files has one entry for each part of Message.Taken, in the same order.
	Files []File
	// Landing is the link to a page with all files. It is required, and the only link written, when there are several.
	Landing string
}

// A File is one line of a Block.
type File struct {
	Name string // as shown; control and bidi characters are dropped, an empty name is shown as "attachment"
	Size int64  // bytes
	URL  string // written when it is the only file; printable ASCII without spaces, quotes and angle brackets
}
