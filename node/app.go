package node

import (
	"embed"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/valise-mail/valise/node/web"
)

//go:embed home.html
var appTemplates embed.FS

// bodyWait is how long a face waits for the end of a body that it does not want.
const bodyWait = 15 * time.Second

// serveApp serves the app face: how to set up a mail program, until there is a
// drive to log in to. Another host than the public name is refused with 421 (F1).
func (n *Node) serveApp(l net.Listener) error {
	look, err := web.New(n.cfg.Organisation)
	if err != nil {
		return err
	}
	home, err := look.Page(appTemplates, "home.html")
	if err != nil {
		return err
	}
	origin := originOf(n.cfg.Public.App, n.faces.app, n.faces.tls != nil)
	hosts := append(n.loopbackHosts(n.faces.app), origin.Host)
	n.serveHTTP("app", l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		web.NoBody(w, r, bodyWait)
		switch {
		case !slices.Contains(hosts, r.Host):
			http.Error(w, "this host is not served here", http.StatusMisdirectedRequest)
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "only GET and HEAD are served here", http.StatusMethodNotAllowed)
		case look.Asset(w, r):
		case r.URL.Path != "/":
			http.NotFound(w, r)
		default:
			n.serveHome(w, r, home, origin.Hostname())
		}
	}))
	return nil
}

type homeView struct {
	Heading, Intro, Mail   string
	ServerName, Server     string
	PortName, Port         string
	SecurityName, Security string
	UserName, User         string
	PasswordName, Password string
	After                  string
}

func (n *Node) serveHome(w http.ResponseWriter, r *http.Request, page *web.Page, host string) {
	lang := web.ChooseLang(r.Header.Get("Accept-Language"), web.Lang(n.cfg.Language))
	_, port, err := net.SplitHostPort(n.faces.smtp)
	if err != nil {
		port = "-"
	}
	security := lang.Pick("none (this machine only)", "无（仅限本机）")
	if n.faces.tls != nil {
		security = "STARTTLS"
	}
	body, err := page.Render(web.View{Lang: lang, Title: "Valise", Data: homeView{
		Heading:    lang.Pick("Attachments that stay home", "附件留在家里"),
		Intro:      lang.Pick("This is a Valise node of "+n.cfg.Organisation+". It takes the attachments out of what you send, keeps them here, and puts a link into the message.", "这是 "+n.cfg.Organisation+" 的 Valise 节点。它取出您邮件中的附件，保存在这里，并在邮件中放入链接。"),
		Mail:       lang.Pick("Your mail program's outgoing server", "邮件程序的发件服务器"),
		ServerName: lang.Pick("Server", "服务器"), Server: host,
		PortName: lang.Pick("Port", "端口"), Port: port,
		SecurityName: lang.Pick("Encryption", "加密"), Security: security,
		UserName: lang.Pick("User name", "用户名"), User: lang.Pick("your mail address", "您的邮件地址"),
		PasswordName: lang.Pick("Password", "密码"), Password: lang.Pick("the app password your operator gave you", "管理员给您的应用密码"),
		After: lang.Pick("Incoming mail stays as it is.", "收件设置保持不变。"),
	}})
	if err != nil {
		n.log.ErrorContext(r.Context(), "home page", "err", err)
		http.Error(w, "this page cannot be shown now", http.StatusInternalServerError)
		return
	}
	web.Headers(w.Header(), lang)
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = w.Write(body)
}
