package node

import (
	"context"
	"log/slog"
	"strings"

	"github.com/libp2p/go-libp2p/core/peer"
)

// idPrefix begins the text of every node's peer id: they are all Ed25519 keys.
const idPrefix = "12D3KooW"

// labels are what people call the members, under the text of their peer ids.
// Where two share a name, the end of the id tells them apart.
func labels(members []member) map[string]string {
	count := map[string]int{}
	for _, m := range members {
		count[m.Name]++
	}
	out := map[string]string{}
	for _, m := range members {
		id, name := m.ID.String(), m.Name
		if name == "" {
			continue
		}
		if count[name] > 1 {
			name += "-" + id[max(0, len(id)-6):]
		}
		out[id] = name
	}
	return out
}

func namesIn(labels map[string]string) *strings.Replacer {
	var pairs []string
	for id, name := range labels {
		pairs = append(pairs, id, name)
	}
	return strings.NewReplacer(pairs...)
}

// label is what people call a node: its name where it is known, else its peer id.
func (r *roster) label(id peer.ID) string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if name, ok := r.labels[id.String()]; ok {
		return name
	}
	return id.String()
}

// named puts names in the place of the peer ids in a text.
func (r *roster) named(text string) string {
	if !strings.Contains(text, idPrefix) {
		return text
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	if r.names == nil {
		return text
	}
	return r.names.Replace(text)
}

// A namingHandler tells a log's reader the members' names, so that no room
// needs to know them: an attribute that is a peer id gets a second one beside
// it, KEY_name; inside longer texts, such as errors, the name replaces the id.
type namingHandler struct {
	slog.Handler
	roster *roster
}

// Handle implements slog.Handler.
func (h namingHandler) Handle(ctx context.Context, r slog.Record) error {
	out := slog.NewRecord(r.Time, r.Level, r.Message, r.PC)
	r.Attrs(func(a slog.Attr) bool {
		out.AddAttrs(h.attr(a)...)
		return true
	})
	return h.Handler.Handle(ctx, out)
}

// WithAttrs implements slog.Handler.
func (h namingHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	var out []slog.Attr
	for _, a := range attrs {
		out = append(out, h.attr(a)...)
	}
	return namingHandler{h.Handler.WithAttrs(out), h.roster}
}

// WithGroup implements slog.Handler.
func (h namingHandler) WithGroup(name string) slog.Handler {
	return namingHandler{h.Handler.WithGroup(name), h.roster}
}

func (h namingHandler) attr(a slog.Attr) []slog.Attr {
	text, ok := textOf(a.Value.Resolve())
	if !ok {
		return []slog.Attr{a}
	}
	named := h.roster.named(text)
	switch {
	case named == text:
		return []slog.Attr{a}
	case isID(text):
		return []slog.Attr{a, slog.String(a.Key+"_name", named)}
	}
	return []slog.Attr{slog.String(a.Key, named)}
}

// textOf is the text of a value that may hold peer ids.
func textOf(v slog.Value) (string, bool) {
	switch v.Kind() {
	case slog.KindString:
		return v.String(), true
	case slog.KindAny:
		switch x := v.Any().(type) {
		case peer.ID:
			return x.String(), true
		case error:
			return x.Error(), true
		}
	}
	return "", false
}

func isID(text string) bool {
	_, err := peer.Decode(text)
	return err == nil
}
