-- River's job table as this load wants it: see docs/decisions/0005.

-- +goose Up
DROP INDEX river.river_job_args_index;
DROP INDEX river.river_job_metadata_index;
-- Every job is inserted, updated twice and deleted within minutes: vacuum early, and without pauses.
ALTER TABLE river.river_job SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.1,
    autovacuum_analyze_scale_factor = 0.1, autovacuum_vacuum_cost_delay = 0);

-- +goose Down
ALTER TABLE river.river_job RESET (autovacuum_vacuum_scale_factor, autovacuum_vacuum_insert_scale_factor,
    autovacuum_analyze_scale_factor, autovacuum_vacuum_cost_delay);
CREATE INDEX river_job_args_index ON river.river_job USING gin (args);
CREATE INDEX river_job_metadata_index ON river.river_job USING gin (metadata);
