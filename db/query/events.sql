-- name: ListEvents :many
SELECT * FROM order_events WHERE order_id = @order_id AND version > @after ORDER BY version LIMIT @page_size;

-- name: EventsAfter :many
SELECT e.* FROM (SELECT unnest(@order_ids::uuid[]) AS order_id, unnest(@afters::integer[]) AS after) w
CROSS JOIN LATERAL (SELECT * FROM order_events x WHERE x.order_id = w.order_id AND x.version > w.after ORDER BY x.version LIMIT @limit_each) e
ORDER BY e.order_id, e.version;

-- name: Watermark :one
-- Every event of a transaction that this statement does not see yet has a tx of at least this.
SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS tx;

-- name: EventsSince :many
-- Keyset over (tx, order_id, version). The index on tx gives where to start and all but the order within a transaction, so that a page
-- costs the same however far behind its reader is.
SELECT * FROM order_events
WHERE tx >= greatest(@tx::bigint, @after_tx::bigint) AND (tx, order_id, version) > (@after_tx, @after_order::uuid, @after_version::integer)
ORDER BY tx, order_id, version LIMIT @page_size;

-- name: CustomerEventsSince :many
SELECT e.* FROM orders o JOIN order_events e ON e.order_id = o.id
WHERE o.customer_id = @customer_id AND e.tx >= @tx
  AND (e.tx, e.order_id, e.version) > (@after_tx, @after_order::uuid, @after_version::integer)
ORDER BY e.tx, e.order_id, e.version LIMIT @page_size;
