package http

import (
	"net"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"millrace"
	"millrace/http/live"
)

// registerStreams mounts the live streams. They are not Huma's: a stream has no deadline and no body of a type.
func (s *Server) registerStreams() {
	resume := []*huma.Param{
		{Name: "Last-Event-ID", In: "header", Description: "the id of the last event received; a browser's EventSource sends it by itself",
			Schema: &huma.Schema{Type: huma.TypeString}},
		{Name: "last_event_id", In: "query", Description: "the same for a first connection; the header counts where both are given",
			Schema: &huma.Schema{Type: huma.TypeString}},
	}
	id := &huma.Param{Name: "id", In: "path", Required: true, Description: "the order's id", Schema: orderID{}.Schema(nil)}
	s.stream(operation{id: "watch-order", method: http.MethodGet, path: "/v1/orders/{id}/stream", tag: "live", summary: "Watch an order live",
		description: "Server-Sent Events: every event of the order from the first, or from the one after Last-Event-ID; id is the version, data the event as GET /v1/orders/{id}/events lists it.",
		who:         participants, success: http.StatusOK}, append([]*huma.Param{id}, resume...), s.watchOrder)
	s.stream(operation{id: "watch-orders", method: http.MethodGet, path: "/v1/stream", tag: "live", summary: "Watch all orders live",
		description: "Server-Sent Events: what happens from now on, or after Last-Event-ID, to all orders of the caller, or of everyone for an operator. id is an opaque cursor; an event may come again after a reconnect, which order_id and version tell.",
		who:         participants, success: http.StatusOK}, resume, s.watchOrders)
}

func (s *Server) stream(o operation, params []*huma.Param, handler func(http.ResponseWriter, *http.Request) error) {
	op := o.huma()
	op.Parameters = params
	op.Responses["200"] = &huma.Response{Description: "The stream. Messages without data only move the id to resume from.",
		Content: map[string]*huma.MediaType{"text/event-stream": {Schema: &huma.Schema{Type: huma.TypeString}}}}
	op.Responses["204"] = &huma.Response{Description: "The order is final and its last event was received: nothing more will come."}
	s.api.OpenAPI().AddOperation(&op)
	s.mux.HandleFunc(o.method+" "+o.path, func(w http.ResponseWriter, r *http.Request) {
		if err := handler(w, r); err != nil {
			WriteError(w, r, err)
		}
	})
}

func (s *Server) watchOrder(w http.ResponseWriter, r *http.Request) error {
	var id orderID
	if err := id.UnmarshalText([]byte(r.PathValue("id"))); err != nil {
		return millrace.InvalidField("path.id", "%s", err.Error())
	}
	ctx, cancel := bounded(r.Context())
	p, o, err := s.orderOf(ctx, uuid.UUID(id))
	cancel()
	if err != nil {
		return err
	}
	s.config.Hub.ServeOrder(w, r, viewerOf(p, r), o)
	return nil
}

func (s *Server) watchOrders(w http.ResponseWriter, r *http.Request) error {
	p, err := principalOf(r.Context())
	if err != nil {
		return err
	}
	whose := uuid.Nil // everyone's
	if !p.Is(millrace.RoleOperator) {
		ctx, cancel := bounded(r.Context())
		// Who watches before the first order needs an id for it to come under.
		customer, err := s.config.Store.EnsureCustomer(ctx, p)
		cancel()
		if err != nil {
			return err
		}
		whose = customer.ID
	}
	s.config.Hub.ServeMany(w, r, viewerOf(p, r), whose)
	return nil
}

// viewerOf is who watches, for the limits. The gate has replaced X-Forwarded-For by what it saw.
func viewerOf(p millrace.Principal, r *http.Request) live.Viewer {
	addr, _, _ := strings.Cut(r.Header.Get("X-Forwarded-For"), ",")
	if addr = strings.TrimSpace(addr); addr == "" {
		if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
			addr = host
		}
	}
	return live.Viewer{Subject: p.Subject, Addr: addr}
}
