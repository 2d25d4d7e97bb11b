package node

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
)

// asked makes one request of a face and returns the answer with its body.
func asked(t *testing.T, method, addr, path, host, accept string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://"+addr, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.URL.Opaque, r.Host = path, host
	r.Header.Set("Accept", accept)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

// F1: the app face knows its public name in every spelling, and no other.
func TestF1_AppHost(t *testing.T) {
	t.Parallel()
	c := alone(t)
	c.Public.App = "https://app.example.org"
	if err := Init(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	addr := start(t, c).faces.app
	for host, want := range map[string]int{
		"app.example.org": 200, "APP.Example.org": 200, "app.example.org:443": 200, "app.example.org.": 200, addr: 200,
		"app.example.org:80": 421, "files.example.org": 421, "app.example.org.evil.example.net": 421,
	} {
		if resp, _ := asked(t, http.MethodGet, addr, "/", host, "text/html"); resp.StatusCode != want {
			t.Errorf("%s: got %d, want %d", host, resp.StatusCode, want)
		}
	}
}

// F3: the app face refuses programs with problem+json and people with a page; neither is kept.
func TestF3_AppRefusals(t *testing.T) {
	t.Parallel()
	addr := running(t).faces.app
	for _, c := range []struct {
		method, path, host string
		status             int
		title, page        string
	}{
		{"GET", "/", "evil.example.net", 421, "misdirected request", "does not answer to that name"},
		{"POST", "/", addr, 405, "method not allowed", "cannot be done here"},
		{"GET", "/nothing", addr, 404, "not found", "nothing here"},
	} {
		resp, body := asked(t, c.method, addr, c.path, c.host, "*/*")
		var problem struct {
			Title, Detail string
			Status        int
		}
		err := json.Unmarshal([]byte(body), &problem)
		if err != nil || resp.StatusCode != c.status || problem.Status != c.status || problem.Title != c.title || problem.Detail == "" ||
			resp.Header.Get("Content-Type") != "application/problem+json" || resp.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s %s for a program: got %d %v\n%s", c.method, c.path, resp.StatusCode, resp.Header, body)
		}
		resp, body = asked(t, c.method, addr, c.path, c.host, "text/html")
		if resp.StatusCode != c.status || !strings.Contains(body, c.page) || !strings.Contains(body, "<h1>") ||
			resp.Header.Get("Content-Type") != "text/html; charset=utf-8" || resp.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s %s for a person: got %d %v\n%s", c.method, c.path, resp.StatusCode, resp.Header, body)
		}
	}
}

// F1: no request gets past the question of its host, not even OPTIONS *.
func TestF1_OptionsOfTheServer(t *testing.T) {
	t.Parallel()
	n := running(t)
	for face, addr := range map[string]string{"app": n.faces.app, "files": n.faces.files} {
		for host, want := range map[string]int{"evil.example.net": 421, addr: 405} {
			if resp, _ := asked(t, http.MethodOptions, addr, "*", host, "*/*"); resp.StatusCode != want {
				t.Errorf("OPTIONS * at the %s face as %s: got %d, want %d", face, host, resp.StatusCode, want)
			}
		}
	}
}
