package http

import (
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"net/http"
	"net/http/pprof"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// OpsConfig is what the operations' listener shows. All of it is optional.
type OpsConfig struct {
	// Ready are the checks of /readyz by name, such as "database", "migrations" and "listen"; each must heed its context.
	Ready    map[string]func(context.Context) error
	Gatherer prometheus.Gatherer // what /metrics shows
	Pprof    bool                // whether /debug/pprof/ is there
	Logger   *slog.Logger        // default slog.Default()
}

// readyTimeout bounds all checks of one /readyz together.
const readyTimeout = 2 * time.Second

// NewOps makes the handler of a listener that only whoever runs Millrace can reach: /healthz (the process lives), /readyz (it can
// serve: 503 names the checks that fail, the log says why), /metrics and, if asked for, /debug/pprof/.
func NewOps(c OpsConfig) http.Handler {
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		writeStatus(w, http.StatusOK, health{Status: "ok"})
	})
	mux.HandleFunc("GET /readyz", c.ready)
	if c.Gatherer != nil {
		mux.Handle("GET /metrics", promhttp.HandlerFor(c.Gatherer, promhttp.HandlerOpts{}))
	}
	if c.Pprof {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("POST /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	return mux
}

type health struct {
	Status string            `json:"status"`
	Checks map[string]string `json:"checks,omitempty"`
}

func (c OpsConfig) ready(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), readyTimeout)
	defer cancel()
	names := slices.Sorted(maps.Keys(c.Ready))
	errs := make([]error, len(names))
	var running sync.WaitGroup
	for i, name := range names {
		running.Go(func() { errs[i] = c.Ready[name](ctx) })
	}
	running.Wait()
	h, status := health{Status: "ready", Checks: make(map[string]string, len(names))}, http.StatusOK
	for i, name := range names {
		h.Checks[name] = "ok"
		if errs[i] != nil {
			h.Status, h.Checks[name], status = "not ready", "failed", http.StatusServiceUnavailable
			c.Logger.WarnContext(ctx, "not ready", "check", name, "error", errs[i])
		}
	}
	writeStatus(w, status, h)
}

func writeStatus(w http.ResponseWriter, status int, h health) {
	body, err := json.Marshal(h)
	if err != nil {
		status = http.StatusInternalServerError // strings always encode
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // a client that is gone cannot be told
}
