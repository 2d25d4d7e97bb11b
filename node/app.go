package node

import (
	"embed"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/valise-mail/valise/node/web"
)

//go:embed home.html
var appTemplates embed.FS

// bodyWait is how long a face waits for the end of a body that it does not want.
const bodyWait = 15 * time.Second

// An appFace is how to set up a mail program, until there is a drive to log in
// to. Another host than the public name is refused with 421 (F1).
type appFace struct {
	n      *Node
	look   *web.Look
	home   *web.Page
	origin *url.URL
	hosts  map[string]bool // in one spelling
}

func (n *Node) serveApp(l net.Listener) error {
	a := &appFace{n: n, origin: originOf(n.cfg.Public.App, n.faces.app, n.faces.tls != nil), hosts: make(map[string]bool)}
	var err error
	if a.look, err = web.New(n.cfg.Organisation); err != nil {
		return err
	}
	if a.home, err = a.look.Page(appTemplates, "home.html"); err != nil {
		return err
	}
	for _, h := range append(n.loopbackHosts(n.faces.app), a.origin.Host) {
		a.hosts[web.PlainHost(a.origin.Scheme, h)] = true
	}
	n.serveHTTP("app", l, a)
	return nil
}

func (a *appFace) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	web.NoBody(w, r, bodyWait)
	lang := web.ChooseLang(r.Header.Get("Accept-Language"), web.Lang(a.n.cfg.Language))
	switch {
	case !a.hosts[web.PlainHost(a.origin.Scheme, r.Host)]:
		a.refuse(w, r, web.Refusal{Lang: lang, Status: http.StatusMisdirectedRequest, Title: "misdirected request",
			Heading: lang.Pick("This server does not answer to that name", "此服务器不使用该名称"),
			Reason:  lang.Pick("The request named another host.", "请求中的主机名不正确。"),
			Next:    lang.Pick("Use the address that your operator gave you.", "请使用管理员给您的地址。"),
		})
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		a.refuse(w, r, web.Refusal{Lang: lang, Status: http.StatusMethodNotAllowed, Title: "method not allowed",
			Heading: lang.Pick("That cannot be done here", "不支持此操作"),
			Reason:  lang.Pick("Pages can only be opened.", "页面只能打开，不能用于其他操作。"),
			Next:    lang.Pick("Begin at the first page.", "请从首页开始。"),
		})
	case a.look.Asset(w, r):
	case r.URL.Path != "/":
		a.refuse(w, r, web.Refusal{Lang: lang, Status: http.StatusNotFound, Title: "not found",
			Heading: lang.Pick("There is nothing here", "这里什么也没有"),
			Reason:  lang.Pick("No page has this address.", "没有页面使用这个地址。"),
			Next:    lang.Pick("Begin at the first page.", "请从首页开始。"),
		})
	default:
		a.serveHome(w, r, lang)
	}
}

func (a *appFace) refuse(w http.ResponseWriter, r *http.Request, f web.Refusal) {
	if err := a.look.Refuse(w, r, f); err != nil {
		a.n.log.ErrorContext(r.Context(), "refusal page", "err", err)
	}
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

func (a *appFace) serveHome(w http.ResponseWriter, r *http.Request, lang web.Lang) {
	n := a.n
	_, port, err := net.SplitHostPort(n.faces.smtp)
	if err != nil {
		port = "-"
	}
	security := lang.Pick("none (this machine only)", "无（仅限本机）")
	if n.faces.tls != nil {
		security = "STARTTLS"
	}
	body, err := a.home.Render(web.View{Lang: lang, Title: "Valise", Data: homeView{
		Heading:    lang.Pick("Attachments that stay home", "附件留在家里"),
		Intro:      lang.Pick("This is a Valise node of "+n.cfg.Organisation+". It takes the attachments out of what you send, keeps them here, and puts a link into the message.", "这是 "+n.cfg.Organisation+" 的 Valise 节点。它取出您邮件中的附件，保存在这里，并在邮件中放入链接。"),
		Mail:       lang.Pick("Your mail program's outgoing server", "邮件程序的发件服务器"),
		ServerName: lang.Pick("Server", "服务器"), Server: a.origin.Hostname(),
		PortName: lang.Pick("Port", "端口"), Port: port,
		SecurityName: lang.Pick("Encryption", "加密"), Security: security,
		UserName: lang.Pick("User name", "用户名"), User: lang.Pick("your mail address", "您的邮件地址"),
		PasswordName: lang.Pick("Password", "密码"), Password: lang.Pick("the app password your operator gave you", "管理员给您的应用密码"),
		After: lang.Pick("Incoming mail stays as it is.", "收件设置保持不变。"),
	}})
	if err != nil {
		n.log.ErrorContext(r.Context(), "home page", "err", err)
		a.refuse(w, r, web.Refusal{Lang: lang, Status: http.StatusInternalServerError, Title: "internal error",
			Heading: lang.Pick("Something went wrong here", "服务器出错了"),
			Reason:  lang.Pick("The fault is on this side, not yours.", "问题出在我们这边。"),
			Next:    lang.Pick("Try again in a few minutes.", "请几分钟后再试。"),
		})
		return
	}
	web.Headers(w.Header(), lang)
	web.Send(w, r, http.StatusOK, body)
}
