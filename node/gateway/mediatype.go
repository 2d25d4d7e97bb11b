package gateway

import (
	"mime"
	"path"
	"strings"
)

const octets = "application/octet-stream"

// harmless are the types we name to a receiver, each with the extensions that
// mean it. None of them runs in a browser: HTML, SVG, XML and scripts go out
// as octets, whatever the message called them.
var harmless = map[string][]string{
	"application/epub+zip":        {"epub"},
	"application/gzip":            {"gz", "tgz"},
	"application/msword":          {"doc"},
	"application/pdf":             {"pdf"},
	"application/rtf":             {"rtf"},
	"application/vnd.ms-excel":    {"xls"},
	"application/vnd.ms-outlook":  {"msg"},
	"application/vnd.rar":         {"rar"},
	"application/x-7z-compressed": {"7z"},
	"application/x-tar":           {"tar"},
	"application/x-xz":            {"xz"},
	"application/zip":             {"zip"},
	"application/zstd":            {"zst"},

	"application/vnd.ms-powerpoint":                                             {"ppt"},
	"application/vnd.oasis.opendocument.presentation":                           {"odp"},
	"application/vnd.oasis.opendocument.spreadsheet":                            {"ods"},
	"application/vnd.oasis.opendocument.text":                                   {"odt"},
	"application/vnd.openxmlformats-officedocument.presentationml.presentation": {"pptx"},
	"application/vnd.openxmlformats-officedocument.spreadsheetml.sheet":         {"xlsx"},
	"application/vnd.openxmlformats-officedocument.wordprocessingml.document":   {"docx"},

	"audio/flac": {"flac"},
	"audio/mp4":  {"m4a"},
	"audio/mpeg": {"mp3"},
	"audio/ogg":  {"ogg", "oga", "opus"},
	"audio/wav":  {"wav"},

	"image/avif": {"avif"},
	"image/bmp":  {"bmp"},
	"image/gif":  {"gif"},
	"image/heic": {"heic"},
	"image/jpeg": {"jpg", "jpeg"},
	"image/png":  {"png"},
	"image/tiff": {"tif", "tiff"},
	"image/webp": {"webp"},

	"text/csv":   {"csv"},
	"text/plain": {"txt", "log"},

	"video/mp4":       {"mp4", "m4v"},
	"video/mpeg":      {"mpg", "mpeg"},
	"video/quicktime": {"mov"},
	"video/webm":      {"webm"},
	"video/x-msvideo": {"avi"},
}

// mediaType is the type a file goes out with: the message's if it is
// harmless, else the extension's, else octets. Parameters are dropped.
func mediaType(stated, name string) string {
	if t, _, err := mime.ParseMediaType(stated); err == nil && harmless[t] != nil {
		return t
	}
	ext := strings.ToLower(strings.TrimPrefix(path.Ext(name), "."))
	for t, exts := range harmless {
		for _, e := range exts {
			if e == ext {
				return t
			}
		}
	}
	return octets
}
