-- name: GivenUpOrders :many
-- Orders whose jobs were given up or canceled since a time. River has an index on (state, finalized_at).
SELECT DISTINCT (j.args ->> 'order_id')::uuid AS order_id
FROM river.river_job j
WHERE j.state IN ('discarded', 'cancelled') AND j.finalized_at >= @since AND j.kind = ANY (@kinds::text[]) AND j.args ? 'order_id';

-- name: OrderIDsBefore :many
SELECT id FROM orders WHERE id < @before ORDER BY id DESC LIMIT @page_size;

-- name: StrandedOrders :many
-- Those of the orders that only a job can take on (Order.Waits) and that have none. A step's next job is inserted with the step itself, so one
-- statement, which sees both tables at one moment, finds no order between two jobs.
SELECT o.id FROM orders o
WHERE o.id = ANY (@ids::uuid[])
  AND (o.status IN ('pending', 'processing', 'requires_action')
       OR o.status <> 'on_hold' AND EXISTS (
           SELECT FROM payment_transactions t WHERE t.order_id = o.id AND t.state NOT IN ('succeeded', 'failed'))
       OR o.status IN ('completed', 'canceled', 'failed', 'expired') AND EXISTS (
           SELECT FROM shipments s WHERE s.order_id = o.id AND s.state IN ('requested', 'purchased')))
  AND NOT EXISTS (
      SELECT FROM river.river_job j
      WHERE j.state IN ('available', 'pending', 'retryable', 'running', 'scheduled') AND j.args ->> 'order_id' = o.id::text);

-- name: QueueDepths :many
-- For each queue, the jobs that are due and how long the first of them has waited.
SELECT j.queue, count(*) AS depth, coalesce(extract(epoch FROM now() - min(j.scheduled_at)), 0)::float8 AS oldest_seconds
FROM river.river_job j
WHERE j.state = 'available'
GROUP BY j.queue;
