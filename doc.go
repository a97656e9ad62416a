// Package millrace is the domain of an order processing system: its types, its states, its legal moves, its money and its
// errors. It knows no database, no network and no clock of its own, and imports nothing but the standard library and an id type.
//
// # The life of one order
//
// A customer posts an order. Intake (package db, [PlaceOrder]) prices it from the catalogue and writes, in one transaction, the
// order, its lines, its first event, the idempotency record and a job. Only after that commit does the customer get an answer.
//
// From then on jobs carry the order, each guarded by the order's own state, so that a step which runs twice does nothing the
// second time:
//
//   - [ReserveStockJob] reserves stock for the whole order, first come first served, or fails it: [Order.ReserveStock], [Order.RejectStock].
//   - [PaymentJob] settles one payment transaction at the gateway: [Order.SettlePayment]. Approved money starts the shipment, a
//     decline fails the order and releases its stock, a buyer who must act makes it wait.
//   - [ShipOrderJob] buys the label, consumes the stock and, where so configured, asks for the capture: [Order.SettleShipment].
//   - [TrackShipmentJob] follows the parcel: [Order.TrackShipment]. Delivered and paid means completed.
//
// Aside of that path an order is canceled ([Order.Cancel]), expires ([Order.Expire]), is held for a person ([Order.Hold]) and
// released again ([Order.Release]), or has money sent back ([Order.Refund]).
//
// Every change is one [Event] with the order's next version, so an order's events are 1..n without a hole; they are at once its
// audit log and what its watchers are sent.
//
// # How a change is made
//
// The methods of [Order] are the state machine. They decide on an order held in memory: each checks that the move is legal,
// changes the order, and notes what must be written with it (events, payment transactions, shipments, stock movements, jobs).
// Package db loads orders under their row locks, calls such a method on each and writes what they noted, for hundreds of orders
// in one transaction. So the rules can be read and tested here without a database, and the database code holds no rules.
//
// # Where things are
//
//	order.go      the order and its moves          payment.go    money to and from the buyer, the Gateway interface
//	state.go      statuses and the tables of moves inventory.go  stock, reservations, the Warehouse interface
//	event.go      what happened, in order          shipment.go   parcels, the Carrier interface
//	money.go      amounts and currencies           job.go        arguments of the jobs
//	error.go      error codes                      customer.go   people and addresses
package millrace
