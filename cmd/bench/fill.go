package main

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"

	"millrace/db"
)

// fewest is the least number of orders to fill a database with: of fewer, too few would be on hold.
const fewest = 1000

// fillChunk is how many orders are written by a statement.
const fillChunk = 50_000

// fillSteps is the steps of progress that filling takes.
func fillSteps(orders int) int { return (orders+fillChunk-1)/fillChunk + 1 }

// fillOrders stores orders of the last 90 days, as they are when all is done: most completed, some canceled, failed and expired, and
// 60 on hold. Customers number a twentieth of the orders; those with low numbers order most. Keys are kept for a week, as workers do.
func fillOrders(ctx context.Context, b *bed, databaseURL string, orders, skus int) error {
	pool, err := db.NewPool(ctx, databaseURL, 1)
	if err != nil {
		return err
	}
	defer pool.Close()
	customers := max(orders/20, 64)
	// The time limit and the wait for each commit are for orders that someone waits for.
	for _, sql := range []string{"SET statement_timeout = 0", "SET synchronous_commit = off"} {
		if _, err := pool.Exec(ctx, sql); err != nil {
			return err
		}
	}
	if _, err := pool.Exec(ctx, `
		INSERT INTO customers (id, subject, email, name, created_at, updated_at)
		SELECT md5('customer ' || n)::uuid, 'bench-' || n, 'bench-' || n || '@example.com', 'Bench', now(), now() FROM generate_series(0, $1::integer - 1) n`, customers); err != nil {
		return fmt.Errorf("customers: %w", err)
	}
	for from := 1; from <= orders; from += fillChunk {
		to := min(from+fillChunk-1, orders)
		b.step("store %d of %d orders", to, orders)
		if err := fillOne(ctx, pool, from, to, orders, customers, skus); err != nil {
			return fmt.Errorf("orders %d to %d: %w", from, to, err)
		}
	}
	b.step("vacuum %d orders", orders)
	for _, sql := range []string{fmt.Sprintf("UPDATE counters SET value = %d", orders), "VACUUM ANALYZE", "CHECKPOINT"} {
		if _, err := pool.Exec(ctx, sql); err != nil {
			return err
		}
	}
	return nil
}

// fillOne stores orders from a number to another of all, in one statement.
func fillOne(ctx context.Context, pool *pgxpool.Pool, from, to, all, customers, skus int) error {
	_, err := pool.Exec(ctx, `
		WITH o AS MATERIALIZED (
		    SELECT n, at, md5('customer ' || floor(power(random(), 2) * $4::integer)::bigint)::uuid AS customer_id, (random() * ($5::integer - 2))::integer AS product,
		           (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7' || substr(md5(n::text), 1, 3) || '8' || substr(md5(n::text), 4, 15))::uuid AS id,
		           CASE WHEN n % ($3::integer / 60) = 0 THEN 'on_hold' WHEN n % 25 = 1 THEN 'canceled' WHEN n % 40 = 2 THEN 'failed' WHEN n % 100 = 3 THEN 'expired' ELSE 'completed' END AS status
		    FROM (SELECT n, now() - interval '90 days' * (1 - n::float8 / $3::integer) AS at FROM generate_series($1::integer, $2::integer) n) x
		), fate (status, payment_status, fulfillment_status, version) AS (
		    VALUES ('completed', 'paid', 'delivered', 8), ('canceled', 'voided', 'canceled', 4), ('failed', 'failed', 'unfulfilled', 3),
		           ('expired', 'expired', 'unfulfilled', 4), ('on_hold', 'pending', 'unfulfilled', 3)
		), life (status, version, type) AS (
		    VALUES ('completed', 1, 'order.placed'), ('completed', 2, 'stock.reserved'), ('completed', 3, 'payment.authorized'), ('completed', 4, 'payment.captured'),
		           ('completed', 5, 'shipment.created'), ('completed', 6, 'shipment.in_transit'), ('completed', 7, 'shipment.delivered'), ('completed', 8, 'order.completed'),
		           ('canceled', 1, 'order.placed'), ('canceled', 2, 'stock.reserved'), ('canceled', 3, 'payment.authorized'), ('canceled', 4, 'order.canceled'),
		           ('failed', 1, 'order.placed'), ('failed', 2, 'stock.reserved'), ('failed', 3, 'order.failed'),
		           ('expired', 1, 'order.placed'), ('expired', 2, 'stock.reserved'), ('expired', 3, 'payment.requires_action'), ('expired', 4, 'order.expired'),
		           ('on_hold', 1, 'order.placed'), ('on_hold', 2, 'stock.reserved'), ('on_hold', 3, 'order.on_hold')
		), orders_in AS (
		    INSERT INTO orders (id, customer_id, received_seq, status, payment_status, fulfillment_status, version, currency, total_minor, payment_method, email, ship_to, hold_reason, placed_at, updated_at)
		    SELECT id, customer_id, n, status, payment_status, fulfillment_status, version, 'EUR', 3000, 'pm_ok', 'bench@example.com',
		           '{"name": "Ada Lovelace", "line1": "12 Mill Lane", "city": "Bath", "postal_code": "BA1 1AA", "country": "GB"}',
		           CASE status WHEN 'on_hold' THEN 'held for the bench' ELSE '' END, at, at + interval '2 days' FROM o JOIN fate USING (status) ORDER BY n
		), lines_in AS (
		    INSERT INTO order_lines (order_id, n, sku, name, quantity, unit_price_minor, total_minor)
		    SELECT id, l, 'SKU-' || lpad((product + l - 1)::text, 6, '0'), 'Product', l, 1000, 1000 * l FROM o, generate_series(1, 2) l
		), events_in AS (
		    INSERT INTO order_events (order_id, version, type, status, payment_status, fulfillment_status, data, actor, at, customer_id)
		    SELECT id, l.version, type, CASE WHEN l.version = f.version THEN o.status ELSE 'processing' END, f.payment_status, f.fulfillment_status,
		           '{"currency": "EUR", "transaction": 1, "amount_minor": 3000}', 'job bench', at, customer_id
		    FROM o JOIN fate f USING (status) JOIN life l USING (status)
		), reservations_in AS (
		    INSERT INTO reservations (order_id, sku, location, quantity, state)
		    SELECT id, 'SKU-' || lpad((product + l - 1)::text, 6, '0'), 'main', l, CASE status WHEN 'completed' THEN 'consumed' WHEN 'on_hold' THEN 'held' ELSE 'released' END
		    FROM o, generate_series(1, 2) l
		), payments_in AS (
		    INSERT INTO payment_transactions (order_id, n, kind, state, amount_minor, with_capture, key, gateway, reference, code, requested_at)
		    SELECT id, n, kind, 'succeeded', 3000, n = 1, id::text || n, 'simulated', 'ch_1', '', at
		    FROM (SELECT id, at FROM o WHERE status = 'completed') x, (VALUES (1, 'authorize'), (2, 'capture')) t (n, kind)
		), shipments_in AS (
		    INSERT INTO shipments (order_id, id, state, carrier, reference, service, tracking_number, label_url)
		    SELECT id, id, 'delivered', 'simulated', 'shp_1', 'standard', 'TRACK' || n, '' FROM o WHERE status = 'completed'
		)
		INSERT INTO idempotency_keys (principal, key, request_hash, order_id, response, created_at)
		SELECT 'bench', gen_random_uuid()::text, decode(repeat('00', 32), 'hex'), id, repeat('a', 880)::bytea, at FROM o WHERE at > now() - interval '7 days'`,
		from, to, all, customers, skus)
	return err
}
