package simulated

import "github.com/google/uuid"

// NewInstant is Instant with a memory of another size.
var NewInstant = newInstant

// InstantLedger is what the instant gateway remembers of an order.
func InstantLedger(p *Providers, order uuid.UUID) (e Entry) {
	g := p.gateway.(*instantGateway)
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range g.charges.values {
		switch {
		case c.order != order:
		case c.taken:
			e.Captures++
			e.CapturedMinor += c.captured
			e.RefundedMinor += c.refunded
		case !c.voided:
			e.HeldMinor += c.amount
		}
	}
	return e
}

// InstantSize is how many entries the instant providers hold.
func InstantSize(p *Providers) (answers, charges, labels, requests int) {
	return len(p.gateway.(*instantGateway).answers.values), len(p.gateway.(*instantGateway).charges.values),
		len(p.carrier.(*instantCarrier).labels.values), len(p.warehouse.(*instantWarehouse).requests.values)
}
