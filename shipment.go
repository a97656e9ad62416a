package millrace

import (
	"context"
	"time"

	"github.com/google/uuid"
)

// ShipmentState is where a parcel stands.
type ShipmentState string

// The states of a shipment.
const (
	ShipmentRequested ShipmentState = "requested" // the label is to be bought
	ShipmentPurchased ShipmentState = "purchased" // the label is bought; the parcel waits for the carrier
	ShipmentInTransit ShipmentState = "in_transit"
	ShipmentDelivered ShipmentState = "delivered"
	ShipmentCanceled  ShipmentState = "canceled"
)

// Shipment is an order's parcel. Its ID is the idempotency key and the reference that the carrier is given.
type Shipment struct {
	ID             uuid.UUID
	State          ShipmentState
	Carrier        string
	Reference      string // the carrier's own id
	Service        string
	TrackingNumber string
	LabelURL       string
}

// Carrier sells labels and follows parcels. Implementations are in provider/. Calls with a key seen before repeat the first answer
// and do nothing else. A nil error comes with one of the outcomes; an error is a call whose fate is not known and is treated as
// OutcomeUnknown.
type Carrier interface {
	// Name is the adapter's name, stored with the shipment.
	Name() string
	// Buy buys a label for an order: approved, declined (no rate, bad address), retry or unknown.
	Buy(ctx context.Context, r LabelRequest) (LabelResult, error)
	// Get asks what became of the label asked for under key: as Buy, or OutcomeNotFound if the carrier never saw it. OutcomeRetry says
	// that none was sold then; a question that cannot be answered now is an error.
	Get(ctx context.Context, key string) (LabelResult, error)
	// Track asks where a parcel is.
	Track(ctx context.Context, reference, trackingNumber string) (TrackResult, error)
	// Cancel gives a label back that was not used.
	Cancel(ctx context.Context, reference string) (LabelResult, error)
}

// LabelRequest asks for a label.
type LabelRequest struct {
	Key     string // idempotency key and reference: the shipment's id
	OrderID uuid.UUID
	ShipTo  Address
	Lines   []Reservation
}

// LabelResult is the carrier's answer. Code says why when it is declined.
type LabelResult struct {
	Outcome        Outcome
	Code           string
	Reference      string
	Service        string
	TrackingNumber string
	LabelURL       string
}

// TrackResult says where a parcel is.
type TrackResult struct {
	State      ShipmentState // purchased (not yet handed over), in_transit or delivered
	CheckAfter time.Duration // when it is worth asking again; 0 where the carrier gives no hint
}
