package main

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"

	"millrace/db"
)

// fewest is the least number of orders to fill a database with: several hundred of them are on hold, expired or open.
const fewest = 2000

// fillChunk is how many orders are written by a statement.
const fillChunk = 50_000

// fillSteps is the steps of progress that filling takes.
func fillSteps(orders int) int { return (orders+fillChunk-1)/fillChunk + 1 }

// fillOrders stores orders of the last 90 days as a shop has them on a quiet morning. All but a few in a hundred are completed; some
// were canceled and some failed. Of each rarer kind there are as many in a large database as in a small one: 60 on hold and 60
// expired, far apart; of the newest orders 270 whose parcel is under way and 30 that wait for their buyer, with their jobs; some 400 of
// each of the first eight customers. The others order twenty times. Keys are kept for a week, as workers do.
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
		if _, err := pool.Exec(ctx, fillSQL, from, to, orders, customers, skus); err != nil {
			return fmt.Errorf("orders %d to %d: %w", from, to, err)
		}
	}
	b.step("vacuum %d orders", orders)
	if err := insertOpenJobs(ctx, pool, orders); err != nil {
		return err
	}
	for _, sql := range []string{setCounters(orders), "VACUUM (FREEZE, ANALYZE)", "CHECKPOINT"} {
		if _, err := pool.Exec(ctx, sql); err != nil {
			return err
		}
	}
	return nil
}

// setCounters says that n orders were taken in and offered stock.
func setCounters(n int) string {
	return fmt.Sprintf("UPDATE counters SET value = %d WHERE name IN ('received', 'allocated')", n)
}

// insertOpenJobs gives the orders that are open among the first n the jobs that carry them, for a time long after the measurement.
func insertOpenJobs(ctx context.Context, pool *pgxpool.Pool, n int) error {
	_, err := pool.Exec(ctx, `
		INSERT INTO river.river_job (state, kind, queue, args, scheduled_at, max_attempts)
		SELECT 'scheduled', kind, queue, jsonb_build_object('order_id', id, 'transaction', 1), now() + interval '30 days', 25
		FROM orders JOIN (VALUES ('processing', 'track_shipment', 'tracking'), ('requires_action', 'settle_payment', 'payment')) j (status, kind, queue) USING (status)
		WHERE received_seq BETWEEN $1::integer - 299 AND $1`, n)
	if err != nil {
		return fmt.Errorf("jobs of open orders: %w", err)
	}
	return nil
}

// fillSQL stores orders from a number to another of all, in one statement. Their rows lie in the tables as orders that came one after
// the other leave them, an event of one between those of others. Events of the past have transaction ids below any that Postgres will
// give, a second apart.
const fillSQL = `
WITH o AS MATERIALIZED (
    SELECT n, at, md5('customer ' || CASE n % greatest($3::integer / 3200, 1) WHEN 0 THEN n / greatest($3::integer / 3200, 1) % 8
               ELSE 8 + floor(random() * ($4::integer - 8))::integer END)::uuid AS customer_id,
            (random() * ($5::integer - 2))::integer AS product,
           (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7' || substr(md5(n::text), 1, 3) || '8' || substr(md5(n::text), 4, 15))::uuid AS id,
           CASE WHEN n > $3::integer - 300 THEN CASE n % 10 WHEN 0 THEN 'requires_action' ELSE 'processing' END
                WHEN n % (($3::integer - 300) / 60) = 0 THEN 'on_hold' WHEN n % (($3::integer - 300) / 60) = 1 THEN 'expired'
                WHEN n % 25 = 2 THEN 'canceled' WHEN n % 40 = 3 THEN 'failed' ELSE 'completed' END AS status
    FROM (SELECT n, now() - interval '90 days' * (1 - n::float8 / $3::integer) AS at FROM generate_series($1::integer, $2::integer) n) x
), fate (status, payment_status, fulfillment_status, version, ends) AS (
    VALUES ('completed', 'paid', 'delivered', 8, 8), ('processing', 'paid', 'fulfilled', 6, 2), ('canceled', 'voided', 'canceled', 5, 4),
           ('failed', 'failed', 'canceled', 4, 4), ('expired', 'expired', 'canceled', 4, 4), ('requires_action', 'pending', 'unfulfilled', 3, 3),
           ('on_hold', 'pending', 'unfulfilled', 3, 3)
), life (status, version, type, hours) AS (
    SELECT status, 1, 'order.placed', 0 FROM fate
    UNION ALL SELECT status, 2, 'stock.reserved', 0 FROM fate
    UNION ALL SELECT status, version, type, hours FROM (VALUES ('completed'), ('processing')) f (status),
        (VALUES (3, 'payment.authorized', 0), (4, 'payment.captured', 0), (5, 'shipment.created', 0), (6, 'shipment.in_transit', 1),
                (7, 'shipment.delivered', 4), (8, 'order.completed', 4)) x (version, type, hours)
    WHERE status = 'completed' OR version <= 6
    UNION ALL VALUES ('canceled', 3, 'payment.authorized', 0), ('canceled', 4, 'order.canceled', 1), ('canceled', 5, 'payment.voided', 1),
        ('failed', 3, 'payment.declined', 0), ('failed', 4, 'order.failed', 0), ('expired', 3, 'payment.requires_action', 0),
        ('expired', 4, 'order.expired', 24), ('requires_action', 3, 'payment.requires_action', 0), ('on_hold', 3, 'order.on_hold', 0)
), orders_in AS (
    INSERT INTO orders (id, customer_id, received_seq, status, payment_status, fulfillment_status, version, currency, total_minor, payment_method, email, ship_to, hold_reason, placed_at, updated_at)
    SELECT id, customer_id, n, status, payment_status, fulfillment_status, version, 'EUR', 3000, 'pm_ok', 'bench@example.com',
           '{"name": "Ada Lovelace", "line1": "12 Mill Lane", "city": "Bath", "postal_code": "BA1 1AA", "country": "GB"}',
           CASE status WHEN 'on_hold' THEN 'held for the bench' ELSE '' END, at, at + interval '4 hours' FROM o JOIN fate USING (status) ORDER BY n
), lines_in AS (
    INSERT INTO order_lines (order_id, n, sku, name, quantity, unit_price_minor, total_minor)
    SELECT id, l, 'SKU-' || lpad((product + l - 1)::text, 6, '0'), 'Product', l, 1000, 1000 * l FROM o, generate_series(1, 2) l ORDER BY o.n, l
), events_in AS (
    INSERT INTO order_events (order_id, version, type, status, payment_status, fulfillment_status, data, actor, at, customer_id, tx)
    SELECT id, version, type, status, payment_status, fulfillment_status, '{"currency": "EUR", "transaction": 1, "amount_minor": 3000}', 'job:bench', at, customer_id,
           floor(extract(epoch FROM at - now()))::bigint - 1
    FROM (SELECT id, l.version, type, CASE WHEN l.version >= f.ends THEN o.status WHEN l.version = 1 THEN 'pending' ELSE 'processing' END AS status,
                 f.payment_status, f.fulfillment_status, customer_id, least(at + interval '1 hour' * hours, (SELECT max(at) FROM o)) AS at
          FROM o JOIN fate f USING (status) JOIN life l USING (status)) x
    ORDER BY at, id, version
), reservations_in AS (
    INSERT INTO reservations (order_id, sku, location, quantity, state)
    SELECT id, 'SKU-' || lpad((product + l - 1)::text, 6, '0'), 'main', l,
           CASE WHEN status IN ('completed', 'processing') THEN 'consumed' WHEN status IN ('on_hold', 'requires_action') THEN 'held' ELSE 'released' END
    FROM o, generate_series(1, 2) l ORDER BY o.n, l
), payments_in AS (
    INSERT INTO payment_transactions (order_id, n, kind, state, amount_minor, with_capture, key, gateway, reference, code, requested_at, expires_at)
    SELECT id, t.n, kind, state, 3000, t.n = 1, id::text || t.n, 'simulated', 'ch_1', '', at, CASE state WHEN 'requires_action' THEN at + interval '30 days' END
    FROM o JOIN (VALUES ('completed', 1, 'authorize', 'succeeded'), ('completed', 2, 'capture', 'succeeded'), ('processing', 1, 'authorize', 'succeeded'),
                        ('processing', 2, 'capture', 'succeeded'), ('canceled', 1, 'authorize', 'succeeded'), ('canceled', 2, 'void', 'succeeded'),
                        ('failed', 1, 'authorize', 'failed'), ('expired', 1, 'authorize', 'failed'), ('requires_action', 1, 'authorize', 'requires_action')
                ) t (status, n, kind, state) USING (status) ORDER BY o.n, t.n
), shipments_in AS (
    INSERT INTO shipments (order_id, id, state, carrier, reference, service, tracking_number, label_url)
    SELECT id, id, CASE status WHEN 'completed' THEN 'delivered' ELSE 'in_transit' END, 'simulated', 'shp_1', 'standard', 'TRACK' || n, ''
    FROM o WHERE status IN ('completed', 'processing') ORDER BY n
)
INSERT INTO idempotency_keys (principal, key, request_hash, order_id, created_at)
SELECT 'bench', gen_random_uuid()::text, decode(repeat('00', 32), 'hex'), id, at FROM o WHERE at > now() - interval '7 days'`
