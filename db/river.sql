-- The part of River's schema that our queries read. River's own migrations make it; this file is for sqlc alone.
CREATE SCHEMA river;

CREATE TYPE river.river_job_state AS ENUM ('available', 'cancelled', 'completed', 'discarded', 'pending', 'retryable', 'running', 'scheduled');

CREATE TABLE river.river_job (
    id           bigint PRIMARY KEY,
    state        river.river_job_state NOT NULL,
    kind         text NOT NULL,
    queue        text NOT NULL,
    args         jsonb NOT NULL,
    scheduled_at timestamptz NOT NULL,
    finalized_at timestamptz
);
