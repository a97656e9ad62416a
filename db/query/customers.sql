-- name: CreateCustomer :exec
INSERT INTO customers (id, subject, email, name, created_at, updated_at) VALUES (@id, @subject, @email, @name, @at, @at)
ON CONFLICT (subject) DO NOTHING;

-- name: InsertCustomers :exec
-- In the order of the subject, so that two processes with the same newcomers wait for each other instead of deadlocking. One whom
-- another process has just made is a unique violation.
INSERT INTO customers (id, subject, email, name, created_at, updated_at)
SELECT c.id, c.subject, c.email, c.name, @at::timestamptz, @at::timestamptz
FROM (SELECT unnest(@ids::uuid[]) AS id, unnest(@subjects::text[]) AS subject, unnest(@emails::text[]) AS email, unnest(@names::text[]) AS name) c
ORDER BY c.subject;

-- name: CustomerIDs :many
SELECT id, subject FROM customers WHERE subject = ANY (@subjects::text[]);

-- name: FindCustomer :one
SELECT * FROM customers WHERE subject = @subject;

-- name: LockCustomer :one
SELECT * FROM customers WHERE subject = @subject FOR UPDATE;

-- name: UpdateCustomer :exec
UPDATE customers SET email = @email, name = @name, phone = @phone, address = @address, updated_at = @updated_at, erased_at = NULL
WHERE subject = @subject;

-- name: EraseCustomer :one
UPDATE customers SET email = '', name = '', phone = '', address = NULL, updated_at = @at, erased_at = @at
WHERE subject = @subject RETURNING id;

-- name: EraseOrders :exec
-- The subquery locks the orders by id, as all do that lock several.
UPDATE orders SET email = '', ship_to = NULL, revision = revision + 1
WHERE id IN (SELECT x.id FROM orders x WHERE x.customer_id = @customer_id ORDER BY x.id FOR UPDATE);

-- name: DropOldKeys :execrows
DELETE FROM idempotency_keys WHERE created_at < @before;
