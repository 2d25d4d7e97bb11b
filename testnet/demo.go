package testnet

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net/http"
	"net/mail"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/valise-mail/valise/node"
	"github.com/valise-mail/valise/node/api"
)

// A DemoConfig says what the demonstration shows, and where.
type DemoConfig struct {
	Message []byte    // sent instead of the sample, if not nil
	Keep    string    // folder for the message as sent and as delivered; empty keeps none
	Out     io.Writer // the story, in words
	Logger  *slog.Logger
}

// A DemoResult is the demonstration in figures.
type DemoResult struct {
	MessageIn   string           `json:"message_in,omitempty"`
	MessageOut  string           `json:"message_out,omitempty"`
	Attachments []DemoAttachment `json:"attachments"`
	FetchedFrom string           `json:"fetched_from"`
	OK          bool             `json:"ok"`
}

// A DemoAttachment is one attachment on its way through the village.
type DemoAttachment struct {
	Name   string   `json:"name"`
	Size   int64    `json:"size"`
	SHA256 string   `json:"sha256"`
	CID    string   `json:"cid"`
	URL    string   `json:"url"`
	Nodes  []string `json:"nodes"`
}

// A Demo is the village of the demonstration: three nodes at two sites, two
// copies of everything, on real disks below one folder.
type Demo struct {
	*Village
	Person Person
	cfg    DemoConfig
}

const (
	demoSender    = "sender@example.org"
	demoRecipient = "recipient@example.net"
)

// OpenDemo builds the village in dir.
func OpenDemo(ctx context.Context, dir string, c DemoConfig) (*Demo, error) {
	if c.Out == nil {
		c.Out = io.Discard
	}
	fmt.Fprintf(c.Out, "Building a village: three nodes at two sites, two copies of everything ...\n")
	v, err := Open(ctx, Config{Sites: []string{"berlin", "berlin", "paris"}, Dir: dir, Plain: true, Logger: c.Logger, Adjust: func(_ int, n *node.Config) {
		n.Copies.Wanted, n.Copies.Ack = 2, 2
	}})
	if err != nil {
		return nil, err
	}
	p, err := v.AddPerson(ctx, 0, demoSender)
	if err != nil {
		return nil, errors.Join(err, v.Close())
	}
	d := &Demo{Village: v, Person: p, cfg: c}
	if err := d.adopt(ctx, c.Message); err != nil {
		return nil, errors.Join(err, v.Close())
	}
	return d, nil
}

// adopt gives the demonstration's account the addresses that say who is
// responsible for the message (RFC 5322, 3.6.6): nobody else may send it.
func (d *Demo) adopt(ctx context.Context, message []byte) error {
	m, err := mail.ReadMessage(bytes.NewReader(message))
	if err != nil {
		return nil // the gateway has the last word
	}
	for _, field := range []string{"Resent-Sender", "Resent-From", "Sender", "From"} {
		list, err := m.Header.AddressList(field)
		if err != nil {
			continue
		}
		for _, a := range list {
			if strings.EqualFold(a.Address, d.Person.Address) {
				continue
			}
			err := d.Houses[0].node.Admin().AddMailbox(ctx, api.MailboxRequest{Account: d.Person.Address, Address: a.Address, NextHop: d.Mail.Addr(), TLS: "none"})
			if err != nil {
				return fmt.Errorf("mailbox of the message's %s: %w", field, err)
			}
		}
	}
	return nil
}

// Run sends the message through the first node, reads what the recipient's
// server got, and fetches every file through a node that holds none of it.
func (d *Demo) Run(ctx context.Context) (DemoResult, error) {
	in := d.cfg.Message
	if in == nil {
		in = SampleMessage(demoSender, demoRecipient, time.Now())
	}
	caught := len(d.Mail.Messages())
	start := time.Now()
	if err := d.Send(ctx, 0, d.Person, []string{demoRecipient}, in); err != nil {
		return DemoResult{}, fmt.Errorf("send through %s: %w", d.Houses[0].Name, err)
	}
	m, err := d.Mail.Next(ctx, caught)
	if err != nil {
		return DemoResult{}, fmt.Errorf("wait for the message: %w", err)
	}
	d.say("\nSent %d bytes through %s in %s; the recipient's server got %d bytes:\n\n", len(in), d.Houses[0].Name, time.Since(start).Round(time.Millisecond), len(m.Data))
	d.quote(m.Data)
	result := DemoResult{Attachments: []DemoAttachment{}}
	if err := d.keep(&result, in, m.Data); err != nil {
		return result, err
	}
	sent, err := attachments(in)
	if err != nil {
		return result, fmt.Errorf("read the message as sent: %w", err)
	}
	if err := d.fetchAll(ctx, &result, sent, m.Data); err != nil {
		return result, err
	}
	result.OK = true
	return result, nil
}

func (d *Demo) say(format string, args ...any) { fmt.Fprintf(d.cfg.Out, format, args...) }

// quote shows the head of a message, for eyes.
func (d *Demo) quote(message []byte) {
	const most = 60
	lines := strings.Split(strings.TrimRight(string(message), "\r\n"), "\r\n")
	for i, line := range lines {
		if i == most {
			d.say("    | ... %d more lines\n", len(lines)-most)
			return
		}
		d.say("    | %s\n", line)
	}
}

func (d *Demo) keep(r *DemoResult, in, out []byte) error {
	if d.cfg.Keep == "" {
		return nil
	}
	if err := os.MkdirAll(d.cfg.Keep, 0o755); err != nil {
		return err
	}
	r.MessageIn, r.MessageOut = filepath.Join(d.cfg.Keep, "message-in.eml"), filepath.Join(d.cfg.Keep, "message-out.eml")
	return errors.Join(os.WriteFile(r.MessageIn, in, 0o644), os.WriteFile(r.MessageOut, out, 0o644))
}

// fetchAll follows every link of the delivered message through a node that
// holds no copy, and compares with what was sent.
func (d *Demo) fetchAll(ctx context.Context, r *DemoResult, sent map[[32]byte]string, delivered []byte) error {
	for _, link := range Links(delivered) {
		files, err := d.FileLinks(ctx, 0, link)
		if err != nil {
			return fmt.Errorf("open the landing page: %w", err)
		}
		for _, file := range files {
			a, err := d.fetchOne(ctx, r, sent, file)
			if err != nil {
				return err
			}
			if !slices.ContainsFunc(r.Attachments, func(b DemoAttachment) bool { return b.URL == a.URL }) {
				r.Attachments = append(r.Attachments, a)
			}
		}
	}
	if len(r.Attachments) == 0 {
		d.say("\nNothing was taken out: no attachment is above the threshold, or the message must stay as it is.\n")
	}
	return nil
}

func (d *Demo) fetchOne(ctx context.Context, r *DemoResult, sent map[[32]byte]string, link string) (DemoAttachment, error) {
	u, err := url.Parse(link)
	if err != nil {
		return DemoAttachment{}, err
	}
	parts := strings.SplitN(strings.TrimPrefix(u.Path, "/a/"), "/", 3)
	if len(parts) != 3 {
		return DemoAttachment{}, fmt.Errorf("link %s has another form than expected", u.Path)
	}
	a := DemoAttachment{CID: parts[0], Name: parts[2], URL: link}
	if a.Nodes, err = d.Houses[0].node.Holders(a.CID); err != nil {
		return a, fmt.Errorf("holders of %s: %w", a.CID, err)
	}
	through := slices.IndexFunc(d.Houses, func(h *House) bool { return !slices.Contains(a.Nodes, h.Name) })
	if through < 0 {
		return a, fmt.Errorf("every node holds %s: there is none that must fetch it", a.CID)
	}
	r.FetchedFrom = d.Houses[through].Name
	start := time.Now()
	resp, data, err := d.Fetch(ctx, through, link, nil)
	if err != nil {
		return a, fmt.Errorf("fetch through %s: %w", r.FetchedFrom, err)
	}
	if resp.StatusCode != http.StatusOK {
		return a, fmt.Errorf("fetch through %s: %s", r.FetchedFrom, resp.Status)
	}
	sum := sha256.Sum256(data)
	a.Size, a.SHA256 = int64(len(data)), hex.EncodeToString(sum[:])
	if _, ok := sent[sum]; !ok {
		return a, fmt.Errorf("fetch through %s: %s is not what was sent: SHA-256 %s", r.FetchedFrom, a.Name, a.SHA256)
	}
	d.say("\n%s\n    link    %s\n    copies  %s\n    fetched through %s, which holds none: %d bytes in %s, SHA-256 equal to what was sent\n            %s\n",
		a.Name, link, strings.Join(a.Nodes, ", "), r.FetchedFrom, a.Size, time.Since(start).Round(time.Millisecond), a.SHA256)
	return a, nil
}

// Watch shows every further message that the recipient's server gets, until ctx ends.
func (d *Demo) Watch(ctx context.Context) {
	for n := len(d.Mail.Messages()); ; n++ {
		m, err := d.Mail.Next(ctx, n)
		if err != nil {
			return
		}
		d.say("\nThe recipient's server got a message of %d bytes from %s:\n\n", len(m.Data), m.From)
		d.quote(m.Data)
	}
}

// Addresses says in words where the village can be used; program is how this one was called.
func (d *Demo) Addresses(program string) string {
	var b strings.Builder
	c := d.Houses[0].cfg
	fmt.Fprintf(&b, "\nThe village stays up until Ctrl-C. Try it:\n")
	fmt.Fprintf(&b, "    mail program   SMTP %s, no encryption, user %s, password %s (what the recipient gets is shown here)\n", c.Listen.SMTP, d.Person.Address, d.Person.Password)
	fmt.Fprintf(&b, "    links          open them in a browser, through any node:")
	for _, h := range d.Houses {
		fmt.Fprintf(&b, " %s=http://%s", h.Name, h.cfg.Listen.Files)
	}
	fmt.Fprintf(&b, "\n    steer a node   %s status --dir %s\n", program, c.Dir)
	return b.String()
}

// attachments returns the decoded leaves of a message by their SHA-256.
func attachments(message []byte) (map[[32]byte]string, error) {
	m, err := mail.ReadMessage(bytes.NewReader(message))
	if err != nil {
		return nil, err
	}
	out := map[[32]byte]string{}
	return out, leaves(out, m.Header.Get("Content-Type"), m.Header.Get("Content-Transfer-Encoding"), "", m.Body)
}

func leaves(out map[[32]byte]string, contentType, encoding, name string, body io.Reader) error {
	mediaType, params, err := mime.ParseMediaType(contentType)
	if err == nil && strings.HasPrefix(mediaType, "multipart/") {
		r := multipart.NewReader(body, params["boundary"])
		for {
			p, err := r.NextRawPart()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			if err := leaves(out, p.Header.Get("Content-Type"), p.Header.Get("Content-Transfer-Encoding"), p.FileName(), p); err != nil {
				return err
			}
		}
	}
	switch strings.ToLower(strings.TrimSpace(encoding)) {
	case "base64":
		body = base64.NewDecoder(base64.StdEncoding, body)
	case "quoted-printable":
		body = quotedprintable.NewReader(body)
	}
	data, err := io.ReadAll(body)
	if err != nil {
		return err
	}
	out[sha256.Sum256(data)] = name
	return nil
}
