package simulated

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"millrace"
)

const (
	// DefaultSlowBy is how long pm_slow takes to answer.
	DefaultSlowBy = 2 * time.Second
	// DefaultMaxConns is how many connections the providers open at most.
	DefaultMaxConns = 8

	// callTimeout bounds what one call may wait for its transaction, whatever its caller allows.
	callTimeout = 15 * time.Second
	// maxText is the longest key, reference or token that is taken, in bytes.
	maxText = 255
)

// Codes of declined calls, besides the root package's.
const (
	CodeInvalidRequest       = "invalid_request"        // a text is empty, too long or not UTF-8
	CodeInvalidAmount        = "invalid_amount"         // negative, or a refund of nothing
	CodeIdempotencyMismatch  = "idempotency_mismatch"   // the key was used with other parameters
	CodeInsufficientFunds    = "insufficient_funds"     // pm_declined
	CodeUnknownMethod        = "unknown_payment_method" // see the package's comment for those there are
	CodeAuthenticationFailed = "authentication_failed"  // the buyer declined
	CodeUnknownReference     = "unknown_reference"      // no such payment of this order, or no such label
	CodeCurrencyMismatch     = "currency_mismatch"      // the payment is in another currency
	CodeNotAuthorized        = "not_authorized"         // the buyer has not confirmed, or has declined
	CodeVoided               = "voided"                 // the payment was given up
	CodeNotCaptured          = "not_captured"           // nothing was taken that could be sent back
	CodeAmountTooLarge       = "amount_too_large"       // more than is authorized, or than is left to refund
	CodeAmountMismatch       = "amount_mismatch"        // a void is of the whole amount
	CodeNoRate               = "no_rate"                // the carrier does not go there
	CodeBadAddress           = "bad_address"            // the country is not an ISO 3166-1 alpha-2 code
	CodeInTransit            = "in_transit"             // the label was used
	CodeNotPickable          = "not_pickable"           // a SKU that the warehouse cannot pick
	CodeCanceled             = "canceled"               // it was canceled before
)

// Config says how the simulated providers behave. The zero value is a gateway with the default delay and a carrier that delivers at
// once.
type Config struct {
	// PublicURL is put before the paths of ActionURL and LabelURL, such as "https://shop.example"; empty leaves them relative to
	// the host that serves Handler.
	PublicURL string
	// OrderPage is put before an order's id to offer the buyer a way back, such as "/orders/"; empty offers none.
	OrderPage string
	// SlowBy is how long pm_slow takes to answer; 0 means DefaultSlowBy.
	SlowBy time.Duration
	// TransitAfter is when a parcel is in transit, counted from the purchase of its label; 0 means at once.
	TransitAfter time.Duration
	// DeliverAfter is when a parcel is delivered, counted from the purchase of its label; 0 means at once.
	DeliverAfter time.Duration
	// MaxConns is the size of the connection pool; 0 means DefaultMaxConns.
	MaxConns int32
	// Logger is told what Handler could not answer; nil discards it.
	Logger *slog.Logger
}

func (c *Config) complete() error {
	if c.SlowBy < 0 || c.TransitAfter < 0 || c.DeliverAfter < 0 || c.MaxConns < 0 {
		return errors.New("simulated: delays and the number of connections cannot be negative")
	}
	if c.DeliverAfter < c.TransitAfter {
		return fmt.Errorf("simulated: a parcel cannot be delivered after %s when it is in transit only after %s: set a longer delivery",
			c.DeliverAfter, c.TransitAfter)
	}
	if c.SlowBy == 0 {
		c.SlowBy = DefaultSlowBy
	}
	if c.MaxConns == 0 {
		c.MaxConns = DefaultMaxConns
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	c.PublicURL = strings.TrimSuffix(c.PublicURL, "/")
	return nil
}

// Providers are a gateway, a carrier and a warehouse, and what they show in a browser. Safe for concurrent use.
type Providers struct {
	gateway   millrace.Gateway
	carrier   millrace.Carrier
	warehouse millrace.Warehouse
	handler   http.Handler
	close     func()
}

// Open connects to a database that [Migrate] has prepared, on a pool of its own. Close it when its users are done.
func Open(ctx context.Context, databaseURL string, cfg Config) (*Providers, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	poolConfig, err := pgxpool.ParseConfig(databaseURL)
	if err != nil {
		return nil, fmt.Errorf("simulated: read the database URL: %w", err)
	}
	poolConfig.MaxConns = cfg.MaxConns
	if poolConfig.ConnConfig.RuntimeParams["application_name"] == "" {
		poolConfig.ConnConfig.RuntimeParams["application_name"] = "millrace-simulated"
	}
	pool, err := pgxpool.NewWithConfig(ctx, poolConfig)
	if err != nil {
		return nil, fmt.Errorf("simulated: open the database: %w", err)
	}
	if err := checkSchema(ctx, pool); err != nil {
		pool.Close()
		return nil, err
	}
	return &Providers{
		gateway:   &gateway{pool: pool, cfg: cfg},
		carrier:   &carrier{pool: pool, cfg: cfg},
		warehouse: &warehouse{pool: pool},
		handler:   newHandler(pool, cfg),
		close:     pool.Close,
	}, nil
}

// Gateway is the payment gateway.
func (p *Providers) Gateway() millrace.Gateway { return p.gateway }

// Carrier is the carrier.
func (p *Providers) Carrier() millrace.Carrier { return p.carrier }

// Warehouse is the warehouse.
func (p *Providers) Warehouse() millrace.Warehouse { return p.warehouse }

// Handler serves the buyer's page of a payment, with its confirm and decline, and labels. Its paths start with /simulated/: mount
// it there without stripping the prefix.
func (p *Providers) Handler() http.Handler { return p.handler }

// Close waits for running calls and disconnects. Calls after that fail.
func (p *Providers) Close() { p.close() }

// storable reports whether Postgres takes s as text, and whether it is short enough for an index.
func storable(s string) bool {
	return len(s) <= maxText && utf8.ValidString(s) && !strings.ContainsRune(s, 0)
}

func checkKey(key string) bool { return key != "" && storable(key) }

// isUndefined reports whether the table or schema that a statement names does not exist.
func isUndefined(err error) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	return ok && (pg.Code == "42P01" || pg.Code == "3F000")
}
