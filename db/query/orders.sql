-- name: LockOrders :many
-- By id: the first in the order of locks (orders by id, then inventory levels by SKU and location).
SELECT * FROM orders WHERE id = ANY (@ids::uuid[]) ORDER BY id FOR UPDATE;

-- name: Orders :many
SELECT * FROM orders WHERE id = ANY (@ids::uuid[]);

-- name: Lines :many
SELECT * FROM order_lines WHERE order_id = ANY (@order_ids::uuid[]) ORDER BY order_id, n;

-- name: Transactions :many
SELECT * FROM payment_transactions WHERE order_id = ANY (@order_ids::uuid[]) ORDER BY order_id, n;

-- name: Reservations :many
SELECT * FROM reservations WHERE order_id = ANY (@order_ids::uuid[]) ORDER BY order_id, sku, location;

-- name: Shipments :many
SELECT * FROM shipments WHERE order_id = ANY (@order_ids::uuid[]);

-- name: UpdateOrders :exec
-- An order that is not at the revision before the one given gets none, which is not null, and so the transaction fails. The ids come
-- sorted: where the orders are not locked yet they are so in that order.
UPDATE orders o
SET status = c.status, payment_status = c.payment_status, fulfillment_status = c.fulfillment_status, version = c.version,
    hold_reason = c.hold_reason, updated_at = c.updated_at, revision = CASE o.revision WHEN c.revision - 1 THEN c.revision END
FROM (
    SELECT unnest(@ids::uuid[]) AS id, unnest(@statuses::text[]) AS status, unnest(@payment_statuses::text[]) AS payment_status,
           unnest(@fulfillment_statuses::text[]) AS fulfillment_status, unnest(@versions::integer[]) AS version,
           unnest(@hold_reasons::text[]) AS hold_reason, unnest(@updated_ats::timestamptz[]) AS updated_at,
           unnest(@revisions::integer[]) AS revision
) c
WHERE o.id = c.id;

-- name: InsertEvents :exec
INSERT INTO order_events (order_id, version, type, status, payment_status, fulfillment_status, data, actor, at, customer_id)
SELECT unnest(@order_ids::uuid[]), unnest(@versions::integer[]), unnest(@types::text[]), unnest(@statuses::text[]),
       unnest(@payment_statuses::text[]), unnest(@fulfillment_statuses::text[]), unnest(@datas::json[]), unnest(@actors::text[]),
       unnest(@ats::timestamptz[]), unnest(@customer_ids::uuid[]);

-- name: UpsertTransactions :exec
INSERT INTO payment_transactions (order_id, n, kind, state, amount_minor, with_capture, key, gateway, reference, code, requested_at, expires_at)
SELECT unnest(@order_ids::uuid[]), unnest(@ns::integer[]), unnest(@kinds::text[]), unnest(@states::text[]), unnest(@amounts::bigint[]),
       unnest(@with_captures::boolean[]), unnest(@keys::text[]), unnest(@gateways::text[]), unnest(@transaction_references::text[]),
       unnest(@codes::text[]), unnest(@requested_ats::timestamptz[]), nullif(unnest(@expires_ats::timestamptz[]), '0001-01-01 00:00:00+00')
ON CONFLICT (order_id, n) DO UPDATE
SET state = excluded.state, gateway = excluded.gateway, reference = excluded.reference, code = excluded.code, expires_at = excluded.expires_at;

-- name: UpsertReservations :exec
INSERT INTO reservations (order_id, sku, location, quantity, state)
SELECT unnest(@order_ids::uuid[]), unnest(@skus::text[]), unnest(@locations::text[]), unnest(@quantities::bigint[]), unnest(@states::text[])
ON CONFLICT (order_id, sku, location) DO UPDATE SET state = excluded.state;

-- name: UpsertShipments :exec
INSERT INTO shipments (order_id, id, state, carrier, reference, service, tracking_number, label_url)
SELECT unnest(@order_ids::uuid[]), unnest(@ids::uuid[]), unnest(@states::text[]), unnest(@carriers::text[]),
       unnest(@shipment_references::text[]), unnest(@services::text[]), unnest(@tracking_numbers::text[]), unnest(@label_urls::text[])
ON CONFLICT (order_id) DO UPDATE
SET state = excluded.state, carrier = excluded.carrier, reference = excluded.reference, service = excluded.service,
    tracking_number = excluded.tracking_number, label_url = excluded.label_url;

-- Lists of orders, newest first; ids are UUIDv7, so their order is that of time and a time bound is an id bound. Each walks one index
-- over at most @scan orders, and no further than to a full page. The last of those @scan orders comes too, fits or not, as the place to
-- go on from. OR keeps the planner from making EXISTS a join, which would read every line of the SKU.

-- name: ListOrders :many
SELECT id, fits, place FROM (
    SELECT w.id, w.place, ((@status::text = '' OR w.status = @status) AND (@sku::text = '' OR EXISTS (SELECT FROM order_lines l WHERE l.order_id = w.id AND l.sku = @sku)))::boolean AS fits
    FROM (
        SELECT o.id, o.status, row_number() OVER (ORDER BY o.id DESC) AS place FROM orders o
        WHERE o.id < @before::uuid AND o.id >= @not_before::uuid ORDER BY o.id DESC LIMIT @scan::integer
    ) w
) x
WHERE fits OR place = @scan ORDER BY id DESC LIMIT @page_size;

-- name: ListCustomersOrders :many
SELECT id, fits, place FROM (
    SELECT w.id, w.place, ((@status::text = '' OR w.status = @status) AND (@sku::text = '' OR EXISTS (SELECT FROM order_lines l WHERE l.order_id = w.id AND l.sku = @sku)))::boolean AS fits
    FROM (
        SELECT o.id, o.status, row_number() OVER (ORDER BY o.id DESC) AS place FROM orders o
        WHERE o.customer_id = @customer_id AND o.id < @before::uuid AND o.id >= @not_before::uuid ORDER BY o.id DESC LIMIT @scan::integer
    ) w
) x
WHERE fits OR place = @scan ORDER BY id DESC LIMIT @page_size;

-- name: ListRareOrders :many
SELECT id, fits, place FROM (
    SELECT w.id, w.place, ((@sku::text = '' OR EXISTS (SELECT FROM order_lines l WHERE l.order_id = w.id AND l.sku = @sku)))::boolean AS fits
    FROM (
        SELECT o.id, row_number() OVER (ORDER BY o.id DESC) AS place FROM orders o
        WHERE o.rare_status = @status::text AND o.id < @before::uuid AND o.id >= @not_before::uuid ORDER BY o.id DESC LIMIT @scan::integer
    ) w
) x
WHERE fits OR place = @scan ORDER BY id DESC LIMIT @page_size;
