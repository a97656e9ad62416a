-- The part of River's schema that our queries use. River's own migrations make it; this file is for sqlc alone.
CREATE SCHEMA river;

CREATE TYPE river.river_job_state AS ENUM ('available', 'cancelled', 'completed', 'discarded', 'pending', 'retryable', 'running', 'scheduled');

CREATE TABLE river.river_job (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    state        river.river_job_state NOT NULL DEFAULT 'available',
    kind         text NOT NULL,
    queue        text NOT NULL,
    args         jsonb NOT NULL,
    priority     smallint NOT NULL DEFAULT 1,
    max_attempts smallint NOT NULL,
    attempt      smallint NOT NULL DEFAULT 0,
    attempted_at timestamptz,
    attempted_by text[],
    created_at   timestamptz NOT NULL DEFAULT now(),
    scheduled_at timestamptz NOT NULL DEFAULT now(),
    finalized_at timestamptz
);
