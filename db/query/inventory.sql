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
-- Of all that the orders of QueuedLines ask for, as LockLevels has them.
WITH turn AS (
    SELECT greatest(value, @out_of_turn::bigint) AS allocated FROM counters
    WHERE name = 'allocated' AND EXISTS (SELECT FROM orders o WHERE o.id = ANY (@ids::uuid[]) AND o.status = 'pending')
)
SELECT * FROM inventory_levels WHERE sku = ANY (ARRAY(SELECT DISTINCT l.sku FROM turn, order_lines l
    WHERE l.order_id = ANY (@ids::uuid[] || ARRAY(SELECT q.id FROM orders q WHERE q.received_seq > (SELECT allocated FROM turn) ORDER BY q.received_seq LIMIT @page_size))))
ORDER BY sku, location FOR UPDATE;

-- name: LockLevels :many
-- Of all that the orders ask for. An array, since the planner would join the whole table.
SELECT * FROM inventory_levels WHERE sku = ANY (ARRAY(SELECT DISTINCT l.sku FROM order_lines l WHERE l.order_id = ANY (@order_ids::uuid[])))
ORDER BY sku, location FOR UPDATE;

-- name: MoveStock :exec
SELECT move_stock(@skus::text[], @locations::text[], @on_hands::bigint[], @reserveds::bigint[]);

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
