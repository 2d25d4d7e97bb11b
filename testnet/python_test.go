package testnet

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// pythonLeaves prints, for each message, the sha256 of what Python's parser
// decodes each leaf to, and the text of those that are text.
const pythonLeaves = `
import email, hashlib, json, sys
for path in sys.stdin:
    with open(path.rstrip("\n"), "rb") as f:
        message = email.message_from_bytes(f.read())
    sums, text = [], ""
    for part in message.walk():
        if part.is_multipart():
            continue
        data = part.get_payload(decode=True) or b""
        sums.append(hashlib.sha256(data).hexdigest())
        if part.get_content_maintype() == "text":
            try:
                text += data.decode(part.get_content_charset("latin-1"), "replace") + "\n"
            except LookupError:
                text += data.decode("latin-1") + "\n"
    print(json.dumps({"sums": sums, "text": text}))
`

// A parsed message is what the second parser makes of it.
type parsed struct {
	Sums []string // of its leaves
	Text string
}

// secondParser reads messages as Python does. It returns nil where there is no
// Python, which CI may not be.
func secondParser(t *testing.T, ctx context.Context, messages [][]byte) []parsed {
	t.Helper()
	exe, err := exec.LookPath("python3")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("python3 is not here: it is the second parser, and CI has it")
		}
		t.Log("taken parts are not compared: python3, the second parser, is not here")
		return nil
	}
	dir, paths := t.TempDir(), strings.Builder{}
	for i, m := range messages {
		path := filepath.Join(dir, fmt.Sprint(i))
		if err := os.WriteFile(path, m, 0o600); err != nil {
			t.Fatal(err)
		}
		paths.WriteString(path + "\n")
	}
	cmd := exec.CommandContext(ctx, exe, "-c", pythonLeaves)
	cmd.Stdin, cmd.Stderr = strings.NewReader(paths.String()), t.Output()
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("python3: %v", err)
	}
	var all []parsed
	for line := range bytes.Lines(out) {
		var p parsed
		if err := json.Unmarshal(line, &p); err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if len(all) != len(messages) {
		t.Fatalf("python3 read %d of %d messages", len(all), len(messages))
	}
	return all
}
