-- name: IdempotencyKeys :many
SELECT k.principal, k.key, k.request_hash, k.order_id
FROM idempotency_keys k
JOIN (SELECT unnest(@principals::text[]) AS principal, unnest(@keys::text[]) AS key) q
  ON q.principal = k.principal AND q.key = k.key;

-- name: ProductsBySKU :many
-- Each with the catalogue's version as of the same snapshot; and as many from the beginning of the catalogue as are asked for.
SELECT p.sku, p.name, p.price_minor, p.currency, p.active, c.value AS version
FROM products p, counters c
WHERE p.sku = ANY (@skus::text[] || ARRAY(SELECT n.sku FROM products n ORDER BY n.sku LIMIT @ahead::integer)) AND c.name = 'catalogue';

-- name: CatalogueVersion :one
SELECT value FROM counters WHERE name = 'catalogue';

-- name: HoldCatalogue :one
-- No product changes until the transaction ends.
SELECT value FROM counters WHERE name = 'catalogue' FOR SHARE;

-- name: InsertJobs :exec
-- River's jobs, as its InsertManyFastTx would copy them in. What is left out has a default: they are available, and due at once by the
-- clock that the fetch goes by.
INSERT INTO river.river_job (args, kind, max_attempts, priority, queue)
SELECT unnest(@args::jsonb[]), unnest(@kinds::text[]), unnest(@max_attempts::smallint[]), unnest(@priorities::smallint[]), unnest(@queues::text[]);

-- name: InsertClaimedJobs :many
-- River's jobs as its fetch would leave them, for workers that wait for them in this process.
INSERT INTO river.river_job (args, kind, max_attempts, priority, queue, state, attempt, attempted_at, attempted_by)
SELECT j.args, j.kind, j.max_attempts, j.priority, j.queue, 'running', 1, now(), ARRAY[@claimed_by::text]
FROM (SELECT unnest(@args::jsonb[]) AS args, unnest(@kinds::text[]) AS kind, unnest(@max_attempts::smallint[]) AS max_attempts,
             unnest(@priorities::smallint[]) AS priority, unnest(@queues::text[]) AS queue) j
RETURNING id, args, kind, max_attempts, priority, queue, created_at;

-- name: InsertIdempotencyKeys :exec
-- In the order of the key, so that two processes with the same keys wait for each other instead of deadlocking. A key that another
-- process has just used is a unique violation, after which the group looks again and answers with what is stored.
INSERT INTO idempotency_keys (principal, key, request_hash, order_id, created_at)
SELECT r.principal, r.key, r.request_hash, r.order_id, r.created_at
FROM (SELECT unnest(@principals::text[]) AS principal, unnest(@keys::text[]) AS key, unnest(@request_hashes::bytea[]) AS request_hash,
             unnest(@order_ids::uuid[]) AS order_id, unnest(@created_ats::timestamptz[]) AS created_at) r
ORDER BY r.principal, r.key;

-- name: InsertLines :exec
INSERT INTO order_lines (order_id, n, sku, name, quantity, unit_price_minor, total_minor)
SELECT unnest(@order_ids::uuid[]), unnest(@ns::integer[]), unnest(@skus::text[]), unnest(@names::text[]),
       unnest(@quantities::integer[]), unnest(@unit_prices::bigint[]), unnest(@totals::bigint[]);

-- name: InsertOrders :exec
-- The last statement of an intake transaction: it takes the lock of the counter row, which is held until the commit, so that
-- received_seq follows the order of commits and has no holes. Orders priced by a catalogue that has changed since get no number, which
-- is not null, and so the transaction fails.
WITH counter AS (
    UPDATE counters SET value = value + cardinality(@ids::uuid[]) WHERE counters.name = 'received' RETURNING value - cardinality(@ids::uuid[]) AS base
)
INSERT INTO orders (id, customer_id, received_seq, status, payment_status, fulfillment_status, version, currency, total_minor,
                    payment_method, email, ship_to, placed_at, updated_at)
SELECT r.id, r.customer_id, CASE catalogue.value WHEN @catalogue_version::bigint THEN counter.base + r.n END,
       r.status, r.payment_status, r.fulfillment_status, r.version, r.currency, r.total_minor, r.payment_method,
       r.email, r.ship_to, r.placed_at, r.placed_at
FROM counter, counters catalogue, (
    SELECT unnest(@ids::uuid[]) AS id, unnest(@customer_ids::uuid[]) AS customer_id, unnest(@ns::bigint[]) AS n,
           unnest(@statuses::text[]) AS status, unnest(@payment_statuses::text[]) AS payment_status,
           unnest(@fulfillment_statuses::text[]) AS fulfillment_status, unnest(@versions::integer[]) AS version,
           unnest(@currencies::text[]) AS currency, unnest(@totals::bigint[]) AS total_minor,
           unnest(@payment_methods::text[]) AS payment_method, unnest(@emails::text[]) AS email,
           unnest(@ship_tos::json[]) AS ship_to, unnest(@placed_ats::timestamptz[]) AS placed_at
) r
WHERE catalogue.name = 'catalogue';
