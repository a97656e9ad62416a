package millrace

import "github.com/google/uuid"

// Queues of the jobs. A worker process names the ones it works.
const (
	QueueInventory   = "inventory"
	QueuePayment     = "payment"
	QueueShipping    = "shipping"
	QueueTracking    = "tracking" // worked wherever shipping is
	QueueMaintenance = "maintenance"
)

// Queues lists every queue.
func Queues() []string {
	return []string{QueueInventory, QueuePayment, QueueShipping, QueueTracking, QueueMaintenance}
}

// Job is the argument of a job: ids and nothing else, since what they stand for may have changed by the time it runs. Kind is the
// name that the job runner stores; once released it is never changed, and fields are only added.
type Job interface {
	Kind() string
	Queue() string
}

// ReserveStockJob reserves stock for an order, or fails it: [Order.ReserveStock], [Order.RejectStock].
type ReserveStockJob struct {
	OrderID uuid.UUID `json:"order_id"`
}

// PaymentJob settles one payment transaction of an order at the gateway: [Order.SettlePayment].
type PaymentJob struct {
	OrderID     uuid.UUID `json:"order_id"`
	Transaction int32     `json:"transaction"`
}

// ShipOrderJob has an order picked and buys its label: [Order.SettleShipment].
type ShipOrderJob struct {
	OrderID uuid.UUID `json:"order_id"`
}

// TrackShipmentJob follows an order's parcel until it is delivered: [Order.TrackShipment].
type TrackShipmentJob struct {
	OrderID uuid.UUID `json:"order_id"`
}

// CancelShipmentJob gives back a label that was bought for an order canceled meanwhile: [Order.ShipmentCanceled].
type CancelShipmentJob struct {
	OrderID uuid.UUID `json:"order_id"`
}

// SweepJob looks for orders that no job carries any more and holds them for an operator; it also drops what is past its keep.
type SweepJob struct{}

// Kind names the job in the job table.
func (ReserveStockJob) Kind() string { return "reserve_stock" }

// Kind names the job in the job table.
func (PaymentJob) Kind() string { return "settle_payment" }

// Kind names the job in the job table.
func (ShipOrderJob) Kind() string { return "ship_order" }

// Kind names the job in the job table.
func (TrackShipmentJob) Kind() string { return "track_shipment" }

// Kind names the job in the job table.
func (CancelShipmentJob) Kind() string { return "cancel_shipment" }

// Kind names the job in the job table.
func (SweepJob) Kind() string { return "sweep" }

// Queue is the queue that the job is worked in.
func (ReserveStockJob) Queue() string { return QueueInventory }

// Queue is the queue that the job is worked in.
func (PaymentJob) Queue() string { return QueuePayment }

// Queue is the queue that the job is worked in.
func (ShipOrderJob) Queue() string { return QueueShipping }

// Queue is the queue that the job is worked in.
func (TrackShipmentJob) Queue() string { return QueueTracking }

// Queue is the queue that the job is worked in.
func (CancelShipmentJob) Queue() string { return QueueShipping }

// Queue is the queue that the job is worked in.
func (SweepJob) Queue() string { return QueueMaintenance }
