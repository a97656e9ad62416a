package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	orderhttp "millrace/http"
)

// opsFlags say where operations look at a process.
type opsFlags struct {
	OpsAddr string `default:"127.0.0.1:9090" env:"MILLRACE_OPS_ADDR" placeholder:"HOST:PORT" help:"Where to serve /healthz, /readyz and /metrics; empty for nowhere."`
	Pprof   bool   `env:"MILLRACE_PPROF" help:"Serve /debug/pprof/ there as well."`
}

// opsServer is the listener for operations.
type opsServer struct {
	server *http.Server
	addr   string
	done   chan struct{}
}

// checks say by name what a process lacks, if anything.
type checks map[string]func(context.Context) error

// listenOps serves health, readiness by the checks, and what metrics gathers.
func (f *opsFlags) listenOps(ctx context.Context, gather prometheus.Gatherer, log *slog.Logger, ready checks) (*opsServer, error) {
	o := &opsServer{done: make(chan struct{})}
	if f.OpsAddr == "" {
		close(o.done)
		return o, nil
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", f.OpsAddr)
	if err != nil {
		return nil, fmt.Errorf("listen for operations: %w", err)
	}
	o.addr = listener.Addr().String()
	o.server = &http.Server{Handler: orderhttp.NewOps(orderhttp.OpsConfig{Ready: ready, Gatherer: gather, Pprof: f.Pprof, Logger: log}), ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}
	go func() {
		defer close(o.done)
		if err := o.server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			log.ErrorContext(ctx, "operations listener ended", "error", err)
		}
	}()
	log.InfoContext(ctx, "operations", "addr", o.addr)
	return o, nil
}

// close ends the listener and waits for it. Requests under way are cut: they only look.
func (o *opsServer) close() {
	if o.server != nil {
		_ = o.server.Close() // only says that the listener was closed already
	}
	<-o.done
}
