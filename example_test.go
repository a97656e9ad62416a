package millrace_test

import (
	"fmt"
	"time"

	"github.com/google/uuid"

	"millrace"
)

// The life of an order: each command decides on the order in memory and notes the events and jobs that are to be written with it.
func ExampleOrder() {
	at := time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)
	catalogue := map[string]millrace.Product{"TEA-001": {SKU: "TEA-001", Name: "Tea", PriceMinor: 1250, Currency: "EUR", Active: true}}
	ada := millrace.Customer{ID: uuid.Must(uuid.NewV7()), Email: "ada@example.com",
		Address: &millrace.Address{Name: "Ada", Line1: "1 Mill Lane", City: "Bath", Country: "GB"}}
	request := millrace.OrderRequest{PaymentMethod: "pm_ok", Lines: []millrace.LineRequest{{SKU: "TEA-001", Quantity: 2}}}

	order, err := millrace.NewOrder(uuid.Must(uuid.NewV7()), &ada, &request, catalogue, at, "customer:ada")
	if err != nil {
		fmt.Println(err)
		return
	}
	show := func() {
		change := order.TakeChanges()
		for _, e := range change.Events {
			fmt.Printf("%d %-20s %s\n", e.Version, e.Type, e.Status)
		}
		for _, j := range change.Jobs {
			fmt.Printf("  then %s\n", j.Kind())
		}
	}
	show()

	policy := millrace.PaymentPolicy{ActionTimeout: 30 * time.Minute}
	shelf := millrace.NewShelf([]millrace.InventoryLevel{{SKU: "TEA-001", Location: millrace.DefaultLocation, OnHand: 5}})
	order.ReserveStock(shelf, policy, at, "job:reserve_stock")
	show()

	approved := millrace.PaymentResult{Outcome: millrace.OutcomeApproved, Reference: "ch_1", Captured: true}
	if err := order.SettlePayment(1, approved, policy, at, "job:settle_payment"); err != nil {
		fmt.Println(err)
	}
	show()

	label := millrace.LabelResult{Outcome: millrace.OutcomeApproved, TrackingNumber: "T1"}
	if err := order.SettleShipment(label, "simulated", at, "job:ship_order"); err != nil {
		fmt.Println(err)
	}
	show()

	if err := order.TrackShipment(millrace.TrackResult{State: millrace.ShipmentDelivered}, at, "job:track_shipment"); err != nil {
		fmt.Println(err)
	}
	show()
	fmt.Println(order.Currency.Format(order.TotalMinor), order.PaymentStatus)

	// Output:
	// 1 order.placed         pending
	//   then reserve_stock
	// 2 stock.reserved       processing
	//   then settle_payment
	// 3 payment.authorized   processing
	// 4 payment.captured     processing
	//   then ship_order
	// 5 shipment.created     processing
	//   then track_shipment
	// 6 shipment.in_transit  processing
	// 7 shipment.delivered   processing
	// 8 order.completed      completed
	// 25.00 EUR paid
}
