-- name: LockAllocation :one
-- Unless none of the orders waits for stock any more: then there is no row.
SELECT value FROM counters
WHERE name = 'allocated' AND EXISTS (SELECT FROM orders o WHERE o.id = ANY (@ids::uuid[]) AND o.status = 'pending') FOR UPDATE;

-- name: SetAllocated :exec
UPDATE counters SET value = @value WHERE name = 'allocated';

-- name: LockQueuedOrders :many
-- The next orders to be offered stock, and of ids those that missed their turn (held when it came). Whoever calls this holds the
-- allocation lock; it is not had, and there are none, where none of ids waits. An order no younger than out_of_turn counts as one that
-- missed its turn.
WITH turn AS (
    SELECT greatest(value, @out_of_turn::bigint) AS allocated FROM counters
    WHERE name = 'allocated' AND EXISTS (SELECT FROM orders o WHERE o.id = ANY (@ids::uuid[]) AND o.status = 'pending')
)
SELECT * FROM orders
WHERE id = ANY (ARRAY(SELECT l.id FROM orders l WHERE l.id = ANY (@ids::uuid[]) AND l.status = 'pending' AND l.received_seq <= (SELECT allocated FROM turn))
             || ARRAY(SELECT q.id FROM orders q WHERE q.received_seq > (SELECT allocated FROM turn) ORDER BY q.received_seq LIMIT @page_size))
ORDER BY id FOR UPDATE;

-- name: QueuedLines :many
-- Of the orders that LockQueuedOrders found, and maybe of further ones: those of the queue come in the order of their commits.
WITH turn AS (
    SELECT greatest(value, @out_of_turn::bigint) AS allocated FROM counters
    WHERE name = 'allocated' AND EXISTS (SELECT FROM orders o WHERE o.id = ANY (@ids::uuid[]) AND o.status = 'pending')
)
SELECT l.* FROM turn, order_lines l
WHERE l.order_id = ANY (@ids::uuid[] || ARRAY(SELECT q.id FROM orders q WHERE q.received_seq > (SELECT allocated FROM turn) ORDER BY q.received_seq LIMIT @page_size))
ORDER BY l.order_id, l.n;

-- name: LockQueuedLevels :many
-- Of all that the orders of QueuedLines ask for, as LockLevels has them: each with its place in the table, which it keeps while it is locked.
WITH turn AS (
    SELECT greatest(value, @out_of_turn::bigint) AS allocated FROM counters
    WHERE name = 'allocated' AND EXISTS (SELECT FROM orders o WHERE o.id = ANY (@ids::uuid[]) AND o.status = 'pending')
)
SELECT sku, location, on_hand, reserved, ctid::text AS place FROM inventory_levels WHERE sku = ANY (ARRAY(SELECT DISTINCT l.sku FROM turn, order_lines l
    WHERE l.order_id = ANY (@ids::uuid[] || ARRAY(SELECT q.id FROM orders q WHERE q.received_seq > (SELECT allocated FROM turn) ORDER BY q.received_seq LIMIT @page_size))))
ORDER BY sku, location FOR UPDATE;

-- name: LockLevels :many
-- Of all that the orders ask for. An array, since the planner would join the whole table.
SELECT sku, location, on_hand, reserved, ctid::text AS place FROM inventory_levels WHERE sku = ANY (ARRAY(SELECT DISTINCT l.sku FROM order_lines l WHERE l.order_id = ANY (@order_ids::uuid[])))
ORDER BY sku, location FOR UPDATE;

-- name: ReserveStock :exec
-- Quantities are what is reserved more, or less. The subquery locks the levels in the order of SKU and location before the first of them changes.
UPDATE inventory_levels l
SET reserved = l.reserved + m.quantity
FROM (
    SELECT x.sku, x.location, d.quantity
    FROM inventory_levels x
    JOIN (SELECT unnest(@skus::text[]) AS sku, unnest(@locations::text[]) AS location, unnest(@quantities::bigint[]) AS quantity) d
        ON d.sku = x.sku AND d.location = x.location
    ORDER BY x.sku, x.location FOR UPDATE OF x
) m
WHERE l.sku = m.sku AND l.location = m.location;

-- name: ReserveLockedStock :exec
-- The same of levels that the transaction has locked, where they were found then: they cannot have moved. The division fails where one of them
-- is not there after all.
WITH moved AS (
    UPDATE inventory_levels l
    SET reserved = l.reserved + m.quantity
    FROM (SELECT unnest(@places::text[])::tid AS place, unnest(@quantities::bigint[]) AS quantity) m
    WHERE l.ctid = m.place
    RETURNING 1
)
SELECT 1 / (count(*) = cardinality(@places::text[]))::integer FROM moved;

-- name: InsertShippedStock :exec
INSERT INTO shipped_stock (skus, locations, quantities) VALUES (@skus, @locations, @quantities);

-- name: BookShippedStock :one
-- Takes what shipped first, of at most so many transactions, off the levels, and says of how many it was. Levels are locked in the order of SKU
-- and location, as by whoever reserves.
WITH booked AS (
    DELETE FROM shipped_stock
    WHERE id = ANY (ARRAY(SELECT s.id FROM shipped_stock s ORDER BY s.id LIMIT @page_size FOR UPDATE SKIP LOCKED))
    RETURNING skus, locations, quantities
), shipped AS (
    SELECT e.sku, e.location, sum(e.quantity)::bigint AS quantity
    FROM (SELECT unnest(skus) AS sku, unnest(locations) AS location, unnest(quantities) AS quantity FROM booked) e
    GROUP BY e.sku, e.location
), moved AS (
    UPDATE inventory_levels l
    SET on_hand = l.on_hand - m.quantity, reserved = l.reserved - m.quantity
    FROM (
        SELECT x.sku, x.location, s.quantity FROM inventory_levels x JOIN shipped s ON s.sku = x.sku AND s.location = x.location
        ORDER BY x.sku, x.location FOR UPDATE OF x
    ) m
    WHERE l.sku = m.sku AND l.location = m.location
)
SELECT count(*) FROM booked;

-- name: Stock :many
SELECT * FROM stock WHERE sku = @sku ORDER BY location;

-- name: StockAt :one
SELECT * FROM stock WHERE sku = @sku AND location = @location;

-- name: LockLevel :exec
SELECT FROM inventory_levels WHERE sku = @sku AND location = @location FOR UPDATE;

-- name: CreateLevel :exec
INSERT INTO inventory_levels (sku, location, on_hand) VALUES (@sku, @location, 0) ON CONFLICT DO NOTHING;

-- name: MoveOnHand :exec
UPDATE inventory_levels SET on_hand = on_hand + @delta WHERE sku = @sku AND location = @location;

-- name: InsertAdjustment :exec
INSERT INTO inventory_adjustments (sku, location, delta, actor, at) VALUES (@sku, @location, @delta, @actor, @at);

-- name: ListProducts :many
SELECT p.*, coalesce((SELECT sum(l.on_hand - l.reserved) FROM inventory_levels l WHERE l.sku = p.sku), 0)::bigint AS available
FROM products p
WHERE p.sku > @after AND (p.active OR @include_inactive::boolean)
ORDER BY p.sku
LIMIT @page_size;

-- name: PutProduct :one
-- xmax is 0 where the row is new.
INSERT INTO products (sku, name, description, price_minor, currency, active, updated_at)
VALUES (@sku, @name, @description, @price_minor, @currency, @active, @updated_at)
ON CONFLICT (sku) DO UPDATE SET name = excluded.name, description = excluded.description, price_minor = excluded.price_minor,
    currency = excluded.currency, active = excluded.active, updated_at = excluded.updated_at
RETURNING (xmax = 0)::boolean AS created;

-- name: ProductExists :one
SELECT EXISTS (SELECT FROM products WHERE sku = @sku);
