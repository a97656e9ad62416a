package web

import (
	"context"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"

	"millrace"
	"millrace/db"
	"millrace/db/migrations"
)

// Config is what the pages need. Store, River and Identity are required.
type Config struct {
	Store *db.Store
	// River is the client whose jobs River UI shows. It need not be started; its schema must be that of Millrace's jobs.
	River *river.Client[pgx.Tx]
	// Identity is who asks, or an error of CodeUnauthorized where nobody is logged in. It has verified the request.
	Identity func(*http.Request) (millrace.Principal, error)
	Logger   *slog.Logger
	// Simulated offers the simulated gateway's payment methods. Otherwise the buyer gives the token of a real one.
	Simulated bool
}

// Web is the pages. Make it with New, mount Handler, and keep Run running.
type Web struct {
	config    Config
	templates map[string]*template.Template
	assets    *assets
	riverUI   *riverUI
	handler   http.Handler
}

// readTimeout bounds what a page waits for the database.
const readTimeout = 5 * time.Second

// New makes the pages. It fails on a configuration that cannot work.
func New(c Config) (*Web, error) {
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	switch {
	case c.Store == nil || c.River == nil || c.Identity == nil:
		return nil, errors.New("the pages need a store, a River client and an identity function")
	case c.River.Schema() != migrations.RiverSchema:
		return nil, fmt.Errorf("the River client works in schema %q, but Millrace's jobs are in %q", c.River.Schema(), migrations.RiverSchema)
	}
	w := &Web{config: c}
	var err error
	if w.assets, err = newAssets(); err != nil {
		return nil, err
	}
	if w.templates, err = parseTemplates(w.assets); err != nil {
		return nil, err
	}
	if w.riverUI, err = newRiverUI(c.River, c.Logger); err != nil {
		return nil, err
	}
	w.handler = w.routes()
	return w, nil
}

// Handler serves every page. Mount it at "/", below the API's own paths: whatever it does not know it answers itself, as a page to a
// browser and as problem+json to a program.
func (w *Web) Handler() http.Handler { return w.handler }

// Run keeps the counts of River UI fresh until ctx ends, and returns when its goroutines have. Pages are served without it as well.
func (w *Web) Run(ctx context.Context) error { return w.riverUI.run(ctx) }

func (w *Web) routes() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /{$}", w.page(anyone, w.shop))
	mux.Handle("GET /docs", w.page(anyone, w.docs))
	mux.Handle("GET /orders", w.page(member, w.orders))
	mux.Handle("GET /orders/{id}", w.page(member, w.order))
	mux.Handle("GET /admin/{$}", w.page(operator, w.admin))
	mux.Handle("/admin/river/", w.guardRiverUI(w.riverUI))
	mux.Handle("GET "+assetsPath, w.assets)
	mux.HandleFunc("GET /favicon.ico", w.assets.serveFavicon)
	for path, target := range map[string]string{"GET /orders/{$}": "/orders", "GET /docs/{$}": "/docs", "GET /admin": "/admin/", "GET /admin/river": "/admin/river/"} {
		mux.Handle(path, http.RedirectHandler(target, http.StatusMovedPermanently))
	}
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		secure(rw.Header())
		if _, pattern := mux.Handler(r); pattern != "" {
			mux.ServeHTTP(rw, r)
			return
		}
		get := *r
		get.Method = http.MethodGet
		if _, pattern := mux.Handler(&get); pattern != "" && r.Method != http.MethodHead {
			rw.Header().Set("Allow", "GET, HEAD")
			w.refuse(rw, r, nil, http.StatusMethodNotAllowed, "method_not_allowed", "This address can only be read.")
			return
		}
		w.fail(rw, r, nil, millrace.Errorf(millrace.CodeNotFound, "There is nothing at this address."))
	})
}
