package testnet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/smtp"
	"net/url"
	"regexp"
	"slices"

	"github.com/valise-mail/valise/node/api"
)

// A Person has an account, one mailbox whose server is the village's catcher, and an app password.
type Person struct {
	Account  string
	Address  string
	Password string
}

// AddPerson makes an account through house i.
func (v *Village) AddPerson(ctx context.Context, i int, address string) (Person, error) {
	admin := v.Houses[i].node.Admin()
	a, err := admin.AddAccount(ctx, api.AccountRequest{Address: address})
	if err != nil {
		return Person{}, fmt.Errorf("add account %s: %w", address, err)
	}
	if err := admin.AddMailbox(ctx, api.MailboxRequest{Account: address, Address: address, NextHop: v.Mail.Addr(), TLS: "none"}); err != nil {
		return Person{}, fmt.Errorf("add mailbox %s: %w", address, err)
	}
	return Person{Account: a.Account, Address: address, Password: a.AppPassword}, nil
}

// Send submits a message through house i as a mail program would: AUTH, MAIL,
// RCPT, DATA. An answer that is no yes is a *textproto.Error.
func (v *Village) Send(ctx context.Context, i int, p Person, to []string, message []byte) error {
	return v.SendFrom(ctx, i, p, to, bytes.NewReader(message))
}

// SendFrom is Send with a message that comes as it is read: faults happen in between.
func (v *Village) SendFrom(ctx context.Context, i int, p Person, to []string, message io.Reader) error {
	addr := v.Houses[i].cfg.Listen.SMTP
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	const host = "localhost" // what it is, whatever its number: the client sends passwords in the clear there only
	c, err := smtp.NewClient(conn, host)
	if err != nil {
		return err
	}
	if err := c.Auth(smtp.PlainAuth("", p.Address, p.Password, host)); err != nil {
		return fmt.Errorf("auth: %w", err)
	}
	if err := c.Mail(p.Address); err != nil {
		return fmt.Errorf("mail: %w", err)
	}
	for _, rcpt := range to {
		if err := c.Rcpt(rcpt); err != nil {
			return fmt.Errorf("rcpt: %w", err)
		}
	}
	w, err := c.Data()
	if err != nil {
		return fmt.Errorf("data: %w", err)
	}
	if _, err := io.Copy(w, message); err != nil {
		return fmt.Errorf("data: %w", err)
	}
	if err := w.Close(); err != nil {
		return err // the answer to the message
	}
	_ = c.Quit()
	return nil
}

// Fetch gets a link through house i, whichever node it was issued by, as curl
// would. header adds request headers.
func (v *Village) Fetch(ctx context.Context, i int, link string, header http.Header) (*http.Response, []byte, error) {
	u, err := url.Parse(link)
	if err != nil {
		return nil, nil, err
	}
	u.Host = v.Houses[i].cfg.Listen.Files
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, nil, err
	}
	for k, values := range header {
		req.Header[k] = values
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return resp, data, err
}

var linkPattern = regexp.MustCompile(`https?://[^\s<>"]+/[am]/[^\s<>"]+`)

// Links returns our links in a message's readable text, each once. Quoted-printable is undone first.
func Links(message []byte) []string {
	text := bytes.ReplaceAll(message, []byte("=\r\n"), nil)
	text = bytes.ReplaceAll(text, []byte("=3D"), []byte("="))
	var out []string
	for _, m := range linkPattern.FindAll(text, -1) {
		if link := string(bytes.TrimRight(m, ".,;)")); !slices.Contains(out, link) {
			out = append(out, link)
		}
	}
	return out
}

var filePattern = regexp.MustCompile(`href="([^"]*/a/[^"?]+)`)

// FileLinks follows a landing link through house i, as a browser would, and
// returns the links to the files on its page; a file's own link is returned as it is.
func (v *Village) FileLinks(ctx context.Context, i int, link string) ([]string, error) {
	u, err := url.Parse(link)
	if err != nil {
		return nil, err
	}
	if len(u.Path) > 2 && u.Path[:3] == "/a/" {
		return []string{link}, nil
	}
	resp, page, err := v.Fetch(ctx, i, link, http.Header{"Accept": {"text/html"}})
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answered %s", u.Host, resp.Status)
	}
	var out []string
	for _, m := range filePattern.FindAllSubmatch(page, -1) {
		ref, err := url.Parse(string(m[1]))
		if err != nil {
			return nil, err
		}
		if full := u.ResolveReference(ref).String(); !slices.Contains(out, full) {
			out = append(out, full)
		}
	}
	if len(out) == 0 {
		return nil, errors.New("the landing page lists no file")
	}
	return out, nil
}
