package node

import (
	"encoding/json"
	"net"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/valise-mail/valise/node/web"
)

// serveMetrics serves /metrics, /healthz (this process works) and /readyz (this
// node can acknowledge: 503 while it cannot). Nothing here changes anything.
func (n *Node) serveMetrics(l net.Listener) error {
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	gauge := func(name, help string, value func() float64) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "valise", Name: name, Help: help}, value))
	}
	gauge("ledger_age_seconds", "Age of this node's copy of the ledger.", func() float64 { return n.ledger.Status().Age.Seconds() })
	gauge("ledger_applied_index", "Last ledger entry applied here.", func() float64 { return float64(n.ledger.Status().Applied) })
	gauge("ledger_quorum", "1 while a majority is in reach.", func() float64 { return truth(n.ledger.Status().Quorum) })
	gauge("ledger_leader", "1 on the node that leads the ledger.", func() float64 { return truth(n.ledger.Status().Leader == n.id.id) })
	gauge("members", "Nodes of the cluster.", func() float64 { return float64(len(n.roster.all())) })
	gauge("clock_skew_seconds", "This node's clock less the members' median.", func() float64 { return n.skew.get().Seconds() })
	gauge("store_free_bytes", "Free space on the data folder's disk.", func() float64 {
		free, err := n.cfg.free()
		if err != nil {
			return -1
		}
		return float64(free)
	})
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) { answerHealth(w, true, "") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		s := n.ledger.Status()
		switch {
		case !s.Confirmed || !s.Quorum:
			answerHealth(w, false, "no quorum: links and downloads work, taking attachments does not")
		default:
			answerHealth(w, true, "")
		}
	})
	n.serveHTTP("metrics", l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		web.NoBody(w, r, bodyWait)
		mux.ServeHTTP(w, r)
	}))
	return nil
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func answerHealth(w http.ResponseWriter, ok bool, why string) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if !ok {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(struct {
		OK  bool   `json:"ok"`
		Why string `json:"why,omitempty"`
	}{ok, why})
}
