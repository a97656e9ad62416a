package http

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"sync"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/danielgtaylor/huma/v2/validation"

	"millrace"
)

// configureHuma sets what Huma keeps in globals. All servers of a process want the same.
var configureHuma = sync.OnceFunc(func() {
	huma.NewErrorWithContext = problemFromHuma
	huma.NewError = func(status int, msg string, errs ...error) huma.StatusError {
		return problemFromHuma(nil, status, msg, errs...)
	}
	huma.DefaultArrayNullable = false
	huma.ValidateStrictCasing = true
	validation.MsgUnexpectedProperty = "there is no such field: remove it"
	validation.MsgExpectedInteger = "expected a whole number"
	validation.MsgExpectedRequiredProperty = "the field %s is required"
	validation.MsgExpectedMinimumNumber = "expected a number of at least %v"
	validation.MsgExpectedMaximumNumber = "expected a number of at most %v"
	validation.MsgExpectedMinLength = "expected at least %d characters"
	validation.MsgExpectedMaxLength = "expected at most %d characters"
	validation.MsgExpectedMinItems = "expected at least %d items"
	validation.MsgExpectedMaxItems = "expected at most %d items"
	validation.MsgExpectedMatchPattern = "expected text that matches %s"
	validation.MsgExpectedOneOf = "expected one of %s"
})

// newAPI makes the API without any of Huma's own routes: its documentation loads from other hosts, and its links to schemas repeat
// whatever Host a client sent.
func newAPI(mux humago.Mux, version string) huma.API {
	configureHuma()
	if version == "" {
		version = "0.0.0"
	}
	registry := huma.NewMapRegistry("#/components/schemas/", huma.DefaultSchemaNamer)
	problem := registry.Schema(reflect.TypeFor[Problem](), true, "Problem")
	registry.SchemaFromRef(problem.Ref).Properties["code"].Enum = codes()
	return humago.New(mux, huma.Config{
		OpenAPI: &huma.OpenAPI{
			OpenAPI: "3.1.0",
			Info: &huma.Info{Title: "Millrace", Version: version,
				Description: "Orders taken in, worked off and watched live. Amounts are whole minor units (cents) of the currency named with them, times are RFC 3339 in UTC, ids are UUIDs. Every error is an RFC 9457 problem with a stable code.",
				License:     &huma.License{Name: "Apache-2.0", Identifier: "Apache-2.0"}},
			Servers: []*huma.Server{{URL: "/"}},
			Components: &huma.Components{
				Schemas:   registry,
				Responses: problemResponses(problem),
				SecuritySchemes: map[string]*huma.SecurityScheme{
					"key":     {Type: "http", Scheme: "bearer", BearerFormat: "mk_...", Description: "an API key"},
					"session": {Type: "apiKey", In: "cookie", Name: "__Host-gate_session", Description: "the session of a browser that has logged in"},
				},
			},
			Tags: []*huma.Tag{{Name: "orders"}, {Name: "live"}, {Name: "catalogue"}, {Name: "stock"}, {Name: "customers"}},
		},
		Formats:                      map[string]huma.Format{"application/json": jsonFormat, "json": jsonFormat},
		DefaultFormat:                "application/json",
		RejectUnknownQueryParameters: true,
	})
}

// codes lists the codes that a problem may have.
func codes() []any {
	var all []any
	for _, code := range slices.Sorted(maps.Keys(statuses)) {
		all = append(all, string(code))
	}
	return all
}

// problemResponses are the answers that operations share, by status.
func problemResponses(problem *huma.Schema) map[string]*huma.Response {
	responses := make(map[string]*huma.Response)
	for code, status := range statuses {
		name := responseName(status)
		if responses[name] == nil {
			responses[name] = &huma.Response{Description: http.StatusText(status),
				Content: map[string]*huma.MediaType{"application/problem+json": {Schema: problem}}}
		}
		if retryAfter(code) != "" {
			responses[name].Headers = map[string]*huma.Param{"Retry-After": {Description: "seconds to wait before the same request may succeed",
				Schema: &huma.Schema{Type: huma.TypeInteger}}}
		}
	}
	return responses
}

func responseName(status int) string { return fmt.Sprintf("Problem%d", status) }

// problemRefs refers to the shared answers of some statuses.
func problemRefs(responses map[string]*huma.Response, statuses ...int) {
	for _, status := range statuses {
		responses[fmt.Sprint(status)] = &huma.Response{Ref: "#/components/responses/" + responseName(status)}
	}
}

// spec is the OpenAPI document as it is served.
type spec struct{ json, yaml []byte }

func makeSpec(o *huma.OpenAPI) (spec, error) {
	compact, err := o.MarshalJSON()
	if err != nil {
		return spec{}, fmt.Errorf("encode the OpenAPI document: %w", err)
	}
	var indented bytes.Buffer
	if err := json.Indent(&indented, compact, "", "  "); err != nil {
		return spec{}, fmt.Errorf("indent the OpenAPI document: %w", err)
	}
	indented.WriteByte('\n')
	yaml, err := o.YAML()
	if err != nil {
		return spec{}, fmt.Errorf("encode the OpenAPI document: %w", err)
	}
	return spec{json: indented.Bytes(), yaml: yaml}, nil
}

func (s spec) register(mux *http.ServeMux) {
	for path, file := range map[string]struct {
		contentType string
		body        []byte
	}{"/openapi.json": {"application/openapi+json", s.json}, "/openapi.yaml": {"application/openapi+yaml", s.yaml}} {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", file.contentType)
			w.Header().Set("Cache-Control", "no-cache")
			_, _ = w.Write(file.body) // a client that is gone cannot be told
		})
	}
}

// enum is a schema of strings.
func enum[T ~string](description string, values []T) *huma.Schema {
	s := &huma.Schema{Type: huma.TypeString, Description: description}
	for _, v := range values {
		s.Enum = append(s.Enum, string(v))
	}
	return s
}

type (
	orderStatus       millrace.OrderStatus
	paymentStatus     millrace.PaymentStatus
	fulfillmentStatus millrace.FulfillmentStatus
	shipmentState     millrace.ShipmentState
	eventType         millrace.EventType
)

// Schema lists the order's statuses, for Huma.
func (orderStatus) Schema(huma.Registry) *huma.Schema {
	return enum("where the order as a whole stands; completed, canceled, failed and expired are final", millrace.OrderStatuses())
}

// Schema lists the payment statuses, for Huma.
func (paymentStatus) Schema(huma.Registry) *huma.Schema {
	return enum("where the money stands", []millrace.PaymentStatus{millrace.PaymentUnpaid, millrace.PaymentPending, millrace.PaymentAuthorized,
		millrace.PaymentPartiallyPaid, millrace.PaymentPaid, millrace.PaymentPartiallyRefunded, millrace.PaymentRefunded,
		millrace.PaymentVoided, millrace.PaymentExpired, millrace.PaymentFailed})
}

// Schema lists the fulfillment statuses, for Huma.
func (fulfillmentStatus) Schema(huma.Registry) *huma.Schema {
	return enum("where the goods stand", []millrace.FulfillmentStatus{millrace.FulfillmentUnfulfilled, millrace.FulfillmentOnHold,
		millrace.FulfillmentInProgress, millrace.FulfillmentPartial, millrace.FulfillmentFulfilled, millrace.FulfillmentDelivered,
		millrace.FulfillmentCanceled})
}

// Schema lists the states of a shipment, for Huma.
func (shipmentState) Schema(huma.Registry) *huma.Schema {
	return enum("where the parcel is", []millrace.ShipmentState{millrace.ShipmentRequested, millrace.ShipmentPurchased,
		millrace.ShipmentInTransit, millrace.ShipmentDelivered, millrace.ShipmentCanceled})
}

// Schema lists the event types, for Huma.
func (eventType) Schema(huma.Registry) *huma.Schema {
	return enum("what happened", millrace.EventTypes())
}
