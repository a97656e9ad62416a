package gate

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
)

// maxHeaderBytes bounds a request's header.
const maxHeaderBytes = 32 << 10

// NewServer returns an HTTP server for the gate with its limits on headers and idle connections. tlsConfig may be nil.
func (g *Gate) NewServer(tlsConfig *tls.Config) *http.Server {
	return &http.Server{
		Handler:           g.Handler(),
		ReadHeaderTimeout: g.cfg.HeaderTimeout,
		IdleTimeout:       g.cfg.IdleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		TLSConfig:         tlsConfig,
		ErrorLog:          slog.NewLogLogger(g.log.Handler(), slog.LevelDebug),
	}
}

// Serve answers requests on the listener, and does what Run does, until the context ends. Then it drains: no new connection,
// streams end with a hint to come back, requests under way may finish within Config.DrainTimeout. It returns nil after a
// drain in which all of them did.
func (g *Gate) Serve(ctx context.Context, ln net.Listener) error { return g.ServeTLS(ctx, ln, nil) }

// ServeTLS is Serve over TLS, HTTP/2 included, when tlsConfig is not nil.
func (g *Gate) ServeTLS(ctx context.Context, ln net.Listener, tlsConfig *tls.Config) error {
	server := g.NewServer(tlsConfig)
	if g.cfg.MaxConns > 0 || g.cfg.MaxConnsPerAddress > 0 {
		ln = &limitedListener{Listener: ln, total: g.cfg.MaxConns, perAddress: g.cfg.MaxConnsPerAddress, exempt: g.trusts, peers: map[string]int{}}
	}
	runCtx, stopRun := context.WithCancel(context.WithoutCancel(ctx))
	ran := make(chan error, 1)
	go func() { ran <- g.Run(runCtx) }()
	served := make(chan error, 1)
	go func() {
		if tlsConfig != nil {
			served <- server.ServeTLS(ln, "", "")
		} else {
			served <- server.Serve(ln)
		}
	}()
	var err error
	select {
	case err = <-served:
	case <-ctx.Done():
		err = g.drain(server)
		err = errors.Join(err, notClosed(<-served))
	}
	stopRun()
	return errors.Join(notClosed(err), <-ran)
}

// notClosed leaves out the error that only says that the server was told to stop.
func notClosed(err error) error {
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

func (g *Gate) drain(server *http.Server) error {
	ctx, cancel := context.WithTimeout(context.Background(), g.cfg.DrainTimeout)
	defer cancel()
	g.streams.endAll(endDrain)
	if err := server.Shutdown(ctx); err != nil {
		return fmt.Errorf("requests were cut off after %s of draining: %w", g.cfg.DrainTimeout, errors.Join(err, server.Close()))
	}
	return nil
}
