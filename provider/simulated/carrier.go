package simulated

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"millrace"
)

const (
	carrierName    = "simulated"
	carrierService = "ground"
	labelPrefix    = "shp_" // of a label's reference
	trackingPrefix = "SIM"  // of its tracking number: the same digits follow, in capitals
	countryNoRate  = "XX"
	labelPath      = "/simulated/labels/"
)

// ErrUnknownParcel is what Track says of a reference and tracking number that belong to no label.
var ErrUnknownParcel = errors.New("simulated carrier: there is no parcel with this reference and tracking number")

// carrier is the simulated carrier. Its rules are the functions of the schema; see migrations/00002_shipping.sql.
type carrier struct {
	pool *pgxpool.Pool
	cfg  Config
}

var _ millrace.Carrier = (*carrier)(nil)

func (c *carrier) Name() string { return carrierName }

func (c *carrier) Buy(ctx context.Context, r millrace.LabelRequest) (millrace.LabelResult, error) {
	code := refusalOfLabel(r)
	if code == CodeInvalidRequest {
		return millrace.LabelResult{Outcome: millrace.OutcomeDeclined, Code: code}, nil
	}
	country := r.ShipTo.Country
	if code == CodeBadAddress {
		country = ""
	}
	return c.call(ctx, "buy", `SELECT o_outcome, o_reference, o_code FROM simulated.buy_label($1, $2, $3, $4, $5)`,
		r.Key, r.OrderID, country, newReference(labelPrefix), code)
}

func (c *carrier) Get(ctx context.Context, key string) (millrace.LabelResult, error) {
	if !checkKey(key) {
		return millrace.LabelResult{Outcome: millrace.OutcomeNotFound}, nil // no label was ever asked for under such a key
	}
	return c.call(ctx, "get", `SELECT o_outcome, o_reference, o_code FROM simulated.find_label($1)`, key)
}

func (c *carrier) Cancel(ctx context.Context, reference string) (millrace.LabelResult, error) {
	if !storable(reference) {
		return millrace.LabelResult{Outcome: millrace.OutcomeDeclined, Code: CodeUnknownReference}, nil
	}
	return c.call(ctx, "cancel", `SELECT o_outcome, o_reference, o_code FROM simulated.cancel_label($1, $2, $3)`,
		reference, c.cfg.TransitAfter, c.cfg.DeliverAfter)
}

func (c *carrier) Track(ctx context.Context, reference, trackingNumber string) (millrace.TrackResult, error) {
	if !storable(reference) || trackingNumber != trackingOf(reference) {
		return millrace.TrackResult{}, ErrUnknownParcel
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var r millrace.TrackResult
	var micros int64
	err := c.pool.QueryRow(ctx, `SELECT o_state, o_check_after FROM simulated.track_parcel($1, $2, $3)`,
		reference, c.cfg.TransitAfter, c.cfg.DeliverAfter).Scan(&r.State, &micros)
	if errors.Is(err, pgx.ErrNoRows) {
		return millrace.TrackResult{}, ErrUnknownParcel
	}
	if err != nil {
		return millrace.TrackResult{}, fmt.Errorf("simulated carrier: track: %w", err)
	}
	r.CheckAfter = time.Duration(micros) * time.Microsecond
	return r, nil
}

func (c *carrier) call(ctx context.Context, operation, query string, args ...any) (millrace.LabelResult, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var r millrace.LabelResult
	if err := c.pool.QueryRow(ctx, query, args...).Scan(&r.Outcome, &r.Reference, &r.Code); err != nil {
		return millrace.LabelResult{}, fmt.Errorf("simulated carrier: %s: %w", operation, err)
	}
	if r.Outcome == millrace.OutcomeApproved {
		r = labelOf(r.Reference, c.cfg.PublicURL)
	}
	return r, nil
}

// labelOf is the answer about a label that was bought, all of which follows from its reference.
func labelOf(reference, publicURL string) millrace.LabelResult {
	tracking := trackingOf(reference)
	return millrace.LabelResult{Outcome: millrace.OutcomeApproved, Reference: reference, Service: carrierService,
		TrackingNumber: tracking, LabelURL: publicURL + labelPath + tracking}
}

func trackingOf(reference string) string {
	return trackingPrefix + strings.ToUpper(strings.TrimPrefix(reference, labelPrefix))
}

// refusalOfLabel is why no label is sold for r, empty if one is.
func refusalOfLabel(r millrace.LabelRequest) string {
	switch country := r.ShipTo.Country; {
	case !checkKey(r.Key):
		return CodeInvalidRequest
	case !isCountry(country):
		return CodeBadAddress
	case country == countryNoRate:
		return CodeNoRate
	}
	return ""
}

// isCountry reports whether s has the form of an ISO 3166-1 alpha-2 code.
func isCountry(s string) bool {
	return len(s) == 2 && s[0] >= 'A' && s[0] <= 'Z' && s[1] >= 'A' && s[1] <= 'Z'
}
