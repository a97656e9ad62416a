package main

import "strings"

// newID is a UUIDv7-like id in SQL: it starts with the time, so that indexes grow at their end as ours do.
const newID = `(lpad(to_hex((extract(epoch FROM clock_timestamp()) * 1000)::bigint), 12, '0') || substr(md5(random()::text), 1, 20))::uuid`

// intakeScript takes in one order in one transaction, with the rows that intake writes. The textbook numbers orders by a sequence,
// which costs less than the counter row that keeps ours in the order of commits.
func intakeScript(skus int, withJob bool) string {
	job := ""
	if withJob {
		job = insertJob("reserve_stock", "inventory", `jsonb_build_object('order_id', :id::text)`)
	}
	return fill(skus, `
\set a random(0, :skus - 1)
\set b random(0, :skus - 1)
BEGIN;
INSERT INTO orders (id, customer_id, received_seq, status, payment_status, fulfillment_status, version, currency, total_minor, payment_method, email, ship_to, placed_at, updated_at)
VALUES (NEWID, '00000000-0000-7000-8000-000000000001', nextval('bench_received'), 'pending', 'unpaid', 'unfulfilled', 1, 'EUR', 3000, 'pm_ok', 'bench@example.com',
        '{"name": "Ada Lovelace", "line1": "12 Mill Lane", "city": "Bath", "postal_code": "BA1 1AA", "country": "GB"}', now(), now()) RETURNING id \gset
INSERT INTO order_lines (order_id, n, sku, name, quantity, unit_price_minor, total_minor)
VALUES (:id, 1, 'SKU-' || lpad(:a::text, 6, '0'), 'Product', 1, 1000, 1000), (:id, 2, 'SKU-' || lpad(:b::text, 6, '0'), 'Product', 2, 1000, 2000);
`+insertEvent(1, "order.placed", "pending", "unpaid", "unfulfilled")+`
INSERT INTO idempotency_keys (principal, key, request_hash, order_id, created_at)
VALUES ('bench', :id, '\x0000000000000000000000000000000000000000000000000000000000000000', :id, now());
`+job+`COMMIT;
`)
}

// lifeScript plays an order's whole life: the same rows read and written as by the steps, one transaction a step, without a queue. As the
// steps do, those after the allocation know the order and only write.
func lifeScript(skus int) string {
	reserve := func(n, quantity string) string {
		return `UPDATE inventory_levels SET reserved = reserved + ` + quantity + ` WHERE sku = 'SKU-' || lpad(:` + n + `::text, 6, '0') AND location = 'main';
INSERT INTO reservations (order_id, sku, location, quantity, state) VALUES (:id, 'SKU-' || lpad(:` + n + `::text, 6, '0'), 'main', ` + quantity + `, 'held') ON CONFLICT DO NOTHING;
`
	}
	consume := func(n, quantity string) string {
		return `UPDATE inventory_levels SET on_hand = on_hand - ` + quantity + `, reserved = reserved - ` + quantity + ` WHERE sku = 'SKU-' || lpad(:` + n + `::text, 6, '0') AND location = 'main';
`
	}
	return intakeScript(skus, false) + fill(skus, `
BEGIN;
SELECT status FROM orders WHERE id = :id FOR UPDATE;
SELECT sku, quantity FROM order_lines WHERE order_id = :id;
`+reserve("a", "1")+reserve("b", "2")+updateOrder(2, "processing", "pending", "unfulfilled")+insertEvent(2, "stock.reserved", "processing", "pending", "unfulfilled")+`
INSERT INTO payment_transactions (order_id, n, kind, state, amount_minor, with_capture, key, gateway, reference, code, requested_at)
VALUES (:id, 1, 'authorize', 'requested', 3000, true, :id, '', '', '', now());
COMMIT;
BEGIN;
UPDATE payment_transactions SET state = 'succeeded', reference = 'ch_1' WHERE order_id = :id AND n = 1;
INSERT INTO payment_transactions (order_id, n, kind, state, amount_minor, with_capture, key, gateway, reference, code, requested_at)
VALUES (:id, 2, 'capture', 'succeeded', 3000, false, :id, '', 'ch_1', '', now());
`+updateOrder(4, "processing", "paid", "unfulfilled")+insertEvent(3, "payment.authorized", "processing", "authorized", "unfulfilled")+
		insertEvent(4, "payment.captured", "processing", "paid", "unfulfilled")+`
INSERT INTO shipments (order_id, id, state, carrier, reference, service, tracking_number, label_url) VALUES (:id, :id, 'requested', '', '', '', '', '');
COMMIT;
BEGIN;
UPDATE shipments SET state = 'purchased', carrier = 'bench', tracking_number = 'T' WHERE order_id = :id;
UPDATE reservations SET state = 'consumed' WHERE order_id = :id;
`+consume("a", "1")+consume("b", "2")+updateOrder(5, "processing", "paid", "fulfilled")+insertEvent(5, "shipment.created", "processing", "paid", "fulfilled")+`
COMMIT;
BEGIN;
UPDATE shipments SET state = 'delivered' WHERE order_id = :id;
`+updateOrder(8, "completed", "paid", "delivered")+insertEvent(6, "shipment.in_transit", "processing", "paid", "fulfilled")+
		insertEvent(7, "shipment.delivered", "processing", "paid", "delivered")+insertEvent(8, "order.completed", "completed", "paid", "delivered")+`
COMMIT;
`)
}

func insertEvent(version int, kind, status, payment, fulfillment string) string {
	return fillPairs(`INSERT INTO order_events (order_id, version, type, status, payment_status, fulfillment_status, data, actor, at, customer_id)
VALUES (:id, VERSION, 'KIND', 'STATUS', 'PAYMENT', 'FULFILLMENT', '{"currency": "EUR", "transaction": 1, "amount_minor": 3000}', 'job bench', now(), '00000000-0000-7000-8000-000000000001');
`, "VERSION", string(rune('0'+version)), "KIND", kind, "STATUS", status, "PAYMENT", payment, "FULFILLMENT", fulfillment)
}

func updateOrder(version int, status, payment, fulfillment string) string {
	return fillPairs(`UPDATE orders SET status = 'STATUS', payment_status = 'PAYMENT', fulfillment_status = 'FULFILLMENT', version = VERSION, updated_at = now() WHERE id = :id;
`, "VERSION", string(rune('0'+version)), "STATUS", status, "PAYMENT", payment, "FULFILLMENT", fulfillment)
}

func insertJob(kind, queue, args string) string {
	return `INSERT INTO river.river_job (args, kind, max_attempts, priority, queue, scheduled_at, state) VALUES (` + args + `, '` + kind + `', 20, 1, '` + queue + `', now(), 'available');
`
}

func fillPairs(s string, pairs ...string) string { return strings.NewReplacer(pairs...).Replace(s) }

func fill(skus int, s string) string {
	return fillPairs(s, "NEWID", newID, ":skus", itoa(skus))
}
