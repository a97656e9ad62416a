package http

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"millrace"
	"millrace/db"
)

func (s *Server) registerOrders() {
	handle(s, operation{id: "place-order", method: http.MethodPost, path: "/v1/orders", tag: "orders", summary: "Place an order",
		description: "Prices come from the catalogue. The answer comes after the order is durable. Send the same request again under the same key when in doubt: it is answered as the first time, with the order as it was placed, and makes no second order.",
		who:         participants, success: http.StatusCreated, statuses: []int{http.StatusConflict, http.StatusUnprocessableEntity},
		describe: s.answersWith(reflect.TypeFor[Order]())}, s.placeOrder)
	handle(s, operation{id: "list-orders", method: http.MethodGet, path: "/v1/orders", tag: "orders", summary: "List orders, newest first",
		description: "A customer's own; all of them for operators.", who: participants, success: http.StatusOK}, s.listOrders)
	handle(s, operation{id: "get-order", method: http.MethodGet, path: "/v1/orders/{id}", tag: "orders", summary: "Get an order",
		who: participants, success: http.StatusOK, describe: func(op *huma.Operation) {
			s.answersWith(reflect.TypeFor[Order]())(op)
			op.Responses["304"] = &huma.Response{Description: "It is as it was: If-None-Match named its ETag."}
		}}, s.getOrder)
}

// answersWith says what JSON an operation answers with that writes its body's bytes itself.
func (s *Server) answersWith(t reflect.Type) func(*huma.Operation) {
	return func(op *huma.Operation) {
		schema := s.api.OpenAPI().Components.Schemas.Schema(t, true, t.Name())
		op.Responses[fmt.Sprint(op.DefaultStatus)] = &huma.Response{Description: http.StatusText(op.DefaultStatus),
			Content: map[string]*huma.MediaType{"application/json": {Schema: schema}}}
	}
}

// OrderRequest asks for an order. It names no prices: those come from the catalogue.
type OrderRequest struct {
	Lines         []LineRequest     `json:"lines" minItems:"1" maxItems:"100" doc:"several lines may name the same SKU"`
	Currency      string            `json:"currency,omitempty" minLength:"3" maxLength:"3" example:"EUR" doc:"ISO 4217; by default, and at most, that of the products"`
	PaymentMethod string            `json:"payment_method" minLength:"1" maxLength:"128" example:"pm_ok" doc:"the token of a payment method"`
	ShipTo        *millrace.Address `json:"ship_to,omitempty" doc:"by default the address stored with the customer"`
	Email         string            `json:"email,omitempty" maxLength:"200" doc:"by default the customer's own"`
}

// LineRequest is one line of an OrderRequest.
type LineRequest struct {
	SKU      string `json:"sku" minLength:"1" maxLength:"64" example:"TEA-001"`
	Quantity int32  `json:"quantity" minimum:"1" maximum:"10000"`
}

func (r *OrderRequest) domain() millrace.OrderRequest {
	d := millrace.OrderRequest{Currency: millrace.Currency(r.Currency), PaymentMethod: r.PaymentMethod, ShipTo: r.ShipTo, Email: r.Email,
		Lines: make([]millrace.LineRequest, len(r.Lines))}
	for i, l := range r.Lines {
		d.Lines[i] = millrace.LineRequest(l)
	}
	return d
}

// idempotencyKey is what a client names a request by.
type idempotencyKey string

// Schema describes a key, for Huma.
func (idempotencyKey) Schema(huma.Registry) *huma.Schema {
	shortest, longest := 1, 255
	return &huma.Schema{Type: huma.TypeString, MinLength: &shortest, MaxLength: &longest, Pattern: "^[ -~]+$",
		PatternDescription: "printable ASCII characters", Description: "names the request: a new one, such as a UUID, for each new order or refund; the same one to repeat a request"}
}

type placeOrderInput struct {
	Key  idempotencyKey `header:"Idempotency-Key" required:"true"`
	Body OrderRequest
}

type orderCreated struct {
	Location    string `header:"Location" doc:"the order's path"`
	Replayed    string `header:"Idempotency-Replayed" enum:"true" doc:"set where this repeats an earlier answer"`
	ContentType string `header:"Content-Type" hidden:"true"`
	Body        []byte
}

func (s *Server) placeOrder(ctx context.Context, in *placeOrderInput) (*orderCreated, error) {
	p, err := principalOf(ctx)
	if err != nil {
		return nil, err
	}
	hash, err := requestHash(http.MethodPost, "/v1/orders", &in.Body)
	if err != nil {
		return nil, err
	}
	placed, err := s.config.Store.PlaceOrder(ctx, db.PlaceOrder{Principal: p, Key: string(in.Key), RequestHash: hash, Request: in.Body.domain()})
	if err != nil {
		return nil, err
	}
	body, err := encodeJSON(orderFor(p, placed.Order))
	if err != nil {
		return nil, err
	}
	out := &orderCreated{Location: orderPath(placed.Order.ID), ContentType: "application/json", Body: body}
	if placed.Replayed {
		out.Replayed = "true"
	}
	return out, nil
}

// requestHash tells requests under one key apart by what they mean, however they are written.
func requestHash(method, path string, body any) ([32]byte, error) {
	canonical, err := json.Marshal(body)
	if err != nil {
		return [32]byte{}, fmt.Errorf("hash the request: %w", err)
	}
	return sha256.Sum256(fmt.Appendf(nil, "%s %s\n%s", method, path, canonical)), nil
}

// orderID is a UUID in its usual form of 36 characters.
type orderID uuid.UUID

// UnmarshalText parses an id.
func (id *orderID) UnmarshalText(text []byte) error {
	parsed, err := uuid.ParseBytes(text)
	if err != nil || len(text) != 36 {
		return fmt.Errorf("an order's id is a UUID such as 0197f2a4-8c1e-7b3a-9d55-0c4f6a2e1b77")
	}
	*id = orderID(parsed)
	return nil
}

// Schema describes an id, for Huma.
func (orderID) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeString, Format: "uuid"}
}

// orderOf is the order of an id, if the caller may see it: another's is not found, like one that does not exist.
func (s *Server) orderOf(ctx context.Context, id uuid.UUID) (millrace.Principal, *millrace.Order, error) {
	p, err := principalOf(ctx)
	if err != nil {
		return p, nil, err
	}
	o, err := s.config.Store.FindOrder(ctx, id)
	if err != nil {
		return p, nil, err
	}
	if p.Is(millrace.RoleOperator) {
		return p, o, nil
	}
	own, err := s.customerID(ctx, p)
	if err != nil {
		return p, nil, err
	}
	if own == uuid.Nil || own != o.CustomerID {
		return p, nil, millrace.Errorf(millrace.CodeNotFound, "There is no such order.")
	}
	return p, o, nil
}

// customerID is the customer that the principal is, uuid.Nil before their first order.
func (s *Server) customerID(ctx context.Context, p millrace.Principal) (uuid.UUID, error) {
	c, err := s.config.Store.FindCustomer(ctx, p.Subject)
	if millrace.ErrorCode(err) == millrace.CodeNotFound {
		return uuid.Nil, nil
	}
	if err != nil {
		return uuid.Nil, err
	}
	return c.ID, nil
}

type getOrderInput struct {
	ID          orderID `path:"id" doc:"the order's id"`
	IfNoneMatch string  `header:"If-None-Match" doc:"the ETag of the order as the caller has it"`
}

type orderOutput struct {
	Status      int
	ETag        string `header:"ETag" doc:"changes with whatever is shown of the order"`
	ContentType string `header:"Content-Type" hidden:"true"`
	Body        []byte
}

func (s *Server) getOrder(ctx context.Context, in *getOrderInput) (*orderOutput, error) {
	p, o, err := s.orderOf(ctx, uuid.UUID(in.ID))
	if err != nil {
		return nil, err
	}
	body, err := encodeJSON(orderFor(p, o))
	if err != nil {
		return nil, err
	}
	// The version alone would miss what is no event: erased personal data, and what only operators see.
	sum := sha256.Sum256(body)
	etag := fmt.Sprintf(`"%d-%s"`, o.Version, hex.EncodeToString(sum[:6]))
	if matches(in.IfNoneMatch, etag) {
		return &orderOutput{Status: http.StatusNotModified, ETag: etag}, nil
	}
	return &orderOutput{Status: http.StatusOK, ETag: etag, ContentType: "application/json", Body: body}, nil
}

// matches reports whether an If-None-Match names etag, by weak comparison.
func matches(ifNoneMatch, etag string) bool {
	for tag := range strings.SplitSeq(ifNoneMatch, ",") {
		tag = strings.TrimSpace(tag)
		if tag == "*" || strings.TrimPrefix(tag, "W/") == etag {
			return true
		}
	}
	return false
}

type listOrdersInput struct {
	Status orderStatus `query:"status"`
	SKU    string      `query:"sku" pattern:"^[A-Z0-9][A-Z0-9._-]{0,63}$" patternDescription:"a SKU as GET /v1/products lists them" doc:"only orders with a line of it"`
	From   time.Time   `query:"from" doc:"placed at or after; write + as %2B"`
	To     time.Time   `query:"to" doc:"placed before"`
	Cursor string      `query:"cursor" maxLength:"200" doc:"next_cursor of the page before; keep the other parameters as they were"`
	Limit  int         `query:"limit" minimum:"1" maximum:"100" default:"50"`
}

// OrderPage is one page of orders.
type OrderPage struct {
	Orders     []OrderSummary `json:"orders"`
	NextCursor string         `json:"next_cursor,omitempty" doc:"left out on the last page; a page before it may be short or empty where few orders fit"`
}

type orderPageOutput struct{ Body OrderPage }

func (s *Server) listOrders(ctx context.Context, in *listOrdersInput) (*orderPageOutput, error) {
	p, err := principalOf(ctx)
	if err != nil {
		return nil, err
	}
	filter := db.OrderFilter{Status: millrace.OrderStatus(in.Status), SKU: in.SKU, From: in.From, To: in.To, Limit: in.Limit}
	if !in.From.IsZero() && !in.To.IsZero() && !in.From.Before(in.To) {
		return nil, millrace.InvalidField("query.from", "from must be earlier than to.")
	}
	if filter.Before, err = decodeOrderCursor(in.Cursor); err != nil {
		return nil, err
	}
	page := OrderPage{Orders: []OrderSummary{}}
	if !p.Is(millrace.RoleOperator) {
		if filter.CustomerID, err = s.customerID(ctx, p); err != nil {
			return nil, err
		}
		if filter.CustomerID == uuid.Nil {
			return &orderPageOutput{page}, nil
		}
	}
	found, err := s.config.Store.PageOrders(ctx, filter)
	if err != nil {
		return nil, err
	}
	for _, o := range found.Orders {
		page.Orders = append(page.Orders, summaryFor(p, o))
	}
	if found.Next != uuid.Nil {
		page.NextCursor = encodeCursor(orderCursor, found.Next[:])
	}
	return &orderPageOutput{page}, nil
}
