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

-- name: MoveStock :exec
-- The subquery locks the levels in the order of SKU and location before the first of them changes.
UPDATE inventory_levels l
SET on_hand = l.on_hand + m.on_hand, reserved = l.reserved + m.reserved
FROM (
    SELECT x.sku, x.location, d.on_hand, d.reserved
    FROM inventory_levels x
    JOIN (SELECT unnest(@skus::text[]) AS sku, unnest(@locations::text[]) AS location, unnest(@on_hands::bigint[]) AS on_hand,
                 unnest(@reserveds::bigint[]) AS reserved) d ON d.sku = x.sku AND d.location = x.location
    ORDER BY x.sku, x.location FOR UPDATE OF x
) m
WHERE l.sku = m.sku AND l.location = m.location;

-- name: MoveLockedStock :exec
-- The same of levels that the transaction has locked, where they were found then: they cannot have moved. The division fails where one of them
-- is not there after all.
WITH moved AS (
    UPDATE inventory_levels l
    SET on_hand = l.on_hand + m.on_hand, reserved = l.reserved + m.reserved
    FROM (SELECT unnest(@places::text[])::tid AS place, unnest(@on_hands::bigint[]) AS on_hand, unnest(@reserveds::bigint[]) AS reserved) m
    WHERE l.ctid = m.place
    RETURNING 1
)
SELECT 1 / (count(*) = cardinality(@places::text[]))::integer FROM moved;

-- name: Levels :many
SELECT * FROM inventory_levels WHERE sku = @sku ORDER BY location;

-- name: LockLevel :one
SELECT * FROM inventory_levels WHERE sku = @sku AND location = @location FOR UPDATE;

-- name: CreateLevel :exec
INSERT INTO inventory_levels (sku, location, on_hand) VALUES (@sku, @location, 0) ON CONFLICT DO NOTHING;

-- name: SetOnHand :one
UPDATE inventory_levels SET on_hand = @on_hand WHERE sku = @sku AND location = @location RETURNING *;

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
