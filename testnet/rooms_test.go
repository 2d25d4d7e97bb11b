package testnet

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/valise-mail/valise"

// rooms says which of our packages each of our packages may import. A new
// import between folders comes with its line here.
var rooms = map[string][]string{
	"cmd/valise": {"node", "node/api", "testnet"},
	"testnet":    {"node", "node/api"},

	"node": {
		"authz", "dht", "mailgw", "replication", "replication/copies",
		"node/api", "node/backup", "node/drive", "node/gateway", "node/store", "node/web",
	},
	"node/api":     {},
	"node/backup":  {},
	"node/drive":   {"authz", "node/store", "replication"},
	"node/gateway": {"authz", "node/web"},
	"node/store":   {},
	"node/web":     {},

	"mailgw":         {"authz", "mailgw/message"},
	"mailgw/message": {},

	"replication":        {},
	"replication/copies": {"replication"},
	"authz":              {},
	"dht":                {},
}

func TestRoomsImportOnlyWhatTheyMay(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	err := filepath.WalkDir("..", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "testdata" || strings.HasPrefix(d.Name(), ".") && d.Name() != "..") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		room, err := filepath.Rel("..", filepath.Dir(name))
		if err != nil {
			return err
		}
		room = filepath.ToSlash(room)
		seen[room] = true
		may, known := rooms[room]
		if !known {
			t.Errorf("%s: folder %q is no room of the plan", name, room)
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, imp := range file.Imports {
			p, err := strconv.Unquote(imp.Path.Value)
			if err != nil {
				return err
			}
			if p != module && !strings.HasPrefix(p, module+"/") {
				continue
			}
			if to := strings.TrimPrefix(p, module+"/"); !slices.Contains(may, to) {
				t.Errorf("%s: %q may not import %q", name, room, to)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for room := range rooms {
		if !seen[room] {
			t.Errorf("room %q of the plan has no Go file", room)
		}
	}
}

// Every room explains itself.
func TestRoomsHaveADesign(t *testing.T) {
	t.Parallel()
	for room := range rooms {
		if room == "cmd/valise" {
			continue
		}
		if _, err := os.Stat(path.Join("..", room, "DESIGN.md")); err != nil {
			t.Errorf("room %q: %v", room, err)
		}
	}
}
