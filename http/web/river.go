package web

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/apiframe/apiendpoint"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivershared/baseservice"
	"github.com/riverqueue/river/rivershared/startstop"
	"riverqueue.com/riverui"
	"riverqueue.com/riverui/uiendpoints"

	"millrace"
)

// maxRiverBody bounds what River UI's own API reads; its largest requests name some thousand jobs.
const maxRiverBody = 128 << 10

// riverUI is River UI at /admin/river/, with its background services in our hands: the handler's own Start leaves no way to wait for
// them.
type riverUI struct {
	http.Handler
	services []startstop.Service
}

// endpoints are River UI's, of which the services are noted.
type endpoints struct {
	uiendpoints.Bundle
	services []startstop.Service
}

func newRiverUI(client *river.Client[pgx.Tx], logger *slog.Logger) (*riverUI, error) {
	e := &endpoints{Bundle: riverui.NewEndpoints(client, nil)}
	h, err := riverui.NewHandler(&riverui.HandlerOpts{Endpoints: e, Logger: logger, Prefix: "/admin/river"})
	if err != nil {
		return nil, fmt.Errorf("make River UI: %w", err)
	}
	return &riverUI{Handler: h, services: e.services}, nil
}

// MountEndpoints mounts River UI's endpoints and notes their services.
func (e *endpoints) MountEndpoints(a *baseservice.Archetype, l *slog.Logger, mux *http.ServeMux, o *apiendpoint.MountOpts) []apiendpoint.EndpointInterface {
	mounted := e.Bundle.MountEndpoints(a, l, mux, o)
	for _, m := range mounted {
		if s, ok := m.(interface{ SubServices() []startstop.Service }); ok {
			e.services = append(e.services, s.SubServices()...)
		}
	}
	return mounted
}

// run runs the services until ctx ends, and waits for them.
func (u *riverUI) run(ctx context.Context) error {
	var started []startstop.Service
	defer func() {
		for _, s := range started {
			s.Stop() // which waits
		}
	}()
	for _, s := range u.services {
		if err := s.Start(ctx); err != nil {
			return fmt.Errorf("start River UI: %w", err)
		}
		started = append(started, s)
	}
	<-ctx.Done()
	return nil
}

// guardRiverUI lets operators alone in, and only from this site: River UI itself asks neither who it is nor where a request comes from.
func (w *Web) guardRiverUI(ui http.Handler) http.Handler {
	guarded := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		p, err := w.admit(operator, r)
		if err != nil {
			w.fail(rw, r, p, err)
			return
		}
		rw.Header().Set("Content-Security-Policy", riverPolicy)
		if r.Body != nil {
			r.Body = http.MaxBytesReader(rw, r.Body, maxRiverBody)
		}
		ui.ServeHTTP(rw, r)
	})
	protection := http.NewCrossOriginProtection()
	protection.SetDenyHandler(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.fail(rw, r, nil, millrace.Errorf(millrace.CodeForbidden, "A page of another site may not do this in your name."))
	}))
	return protection.Handler(guarded)
}
