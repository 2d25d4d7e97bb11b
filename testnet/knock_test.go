package testnet

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// An answer is what a stranger can tell of a response.
type answer struct {
	Status int
	Header http.Header
	Body   string
}

// title is what a program reads of a refusal.
func (a answer) title() string {
	var p struct{ Title string }
	if json.Unmarshal([]byte(a.Body), &p) != nil {
		return ""
	}
	return p.Title
}

// knock makes one request to house i. host is the Host that is claimed, "" the right one.
func knock(t *testing.T, ctx context.Context, v *Village, i int, method, link, host string, header http.Header) answer {
	t.Helper()
	u, err := url.Parse(link)
	if err != nil {
		t.Fatal(err)
	}
	u.Host = v.Houses[i].cfg.Listen.Files
	return knockAt(t, ctx, method, u.String(), host, header)
}

func knockAt(t *testing.T, ctx context.Context, method, to, host string, header http.Header) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, to, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = host
	for k, values := range header {
		req.Header[k] = values
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true}}).Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, to, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, to, err)
	}
	resp.Header.Del("Date")
	return answer{resp.StatusCode, resp.Header, string(body)}
}

func get(t *testing.T, ctx context.Context, v *Village, i int, link string, header http.Header) answer {
	t.Helper()
	return knock(t, ctx, v, i, http.MethodGet, link, "", header)
}

var (
	browser = http.Header{"Accept": {"text/html,application/xhtml+xml,*/*;q=0.8"}, "Accept-Language": {"en"}}
	chinese = http.Header{"Accept": {"text/html,application/xhtml+xml,*/*;q=0.8"}, "Accept-Language": {"zh-CN,zh;q=0.9,en;q=0.5"}}
)

// pieces are what a link is made of.
type pieces struct{ origin, cid, token, name string }

func apart(t *testing.T, link string) pieces {
	t.Helper()
	origin, rest, ok := strings.Cut(link, "/a/")
	parts := strings.Split(rest, "/")
	if !ok || len(parts) != 3 {
		t.Fatalf("%s is no link to a file", link)
	}
	return pieces{origin, parts[0], parts[1], parts[2]}
}

func (p pieces) link() string { return p.origin + "/a/" + p.cid + "/" + p.token + "/" + p.name }

func (p pieces) withToken(token string) string {
	p.token = token
	return p.link()
}

// damaged is a token with each of its characters changed, and each of its beginnings.
func damaged(token string) []string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	var out []string
	for i := range token {
		at := strings.IndexByte(alphabet, token[i])
		out = append(out, token[:i]+alphabet[at^1:at^1+1]+token[i+1:])
		if i > 0 {
			out = append(out, token[:i])
		}
	}
	return out
}
