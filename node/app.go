package node

import (
	"net"
	"net/http"
	"slices"
)

// serveApp serves the app face. Another host than the public name is refused with 421 (F1).
func (n *Node) serveApp(l net.Listener) error {
	origin := originOf(n.cfg.Public.App, n.faces.app, n.faces.tls != nil)
	hosts := append(n.loopbackHosts(n.faces.app), origin.Host)
	mux := http.NewServeMux()
	n.serveHTTP("app", l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !slices.Contains(hosts, r.Host) {
			http.Error(w, "this host is not served here", http.StatusMisdirectedRequest)
			return
		}
		mux.ServeHTTP(w, r)
	}))
	return nil
}
