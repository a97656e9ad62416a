-- +goose Up
ALTER TABLE gate.users
    ADD COLUMN totp_seed      bytea,   -- sealed; null: no second factor
    ADD COLUMN totp_last_step bigint NOT NULL DEFAULT 0;  -- a code is good once

CREATE TABLE gate.recovery_codes (
    user_id   uuid  NOT NULL REFERENCES gate.users (id) ON DELETE CASCADE,
    code_hash bytea NOT NULL,
    PRIMARY KEY (user_id, code_hash)
);

-- Failures to prove who one is, by account and by address, shared by all processes.
CREATE TABLE gate.throttles (
    kind          text        NOT NULL,
    subject       bytea       NOT NULL,  -- hash of an address or of an e-mail address
    failures      integer     NOT NULL,
    last_at       timestamptz NOT NULL DEFAULT now(),
    blocked_until timestamptz,
    PRIMARY KEY (kind, subject)
);

-- Links that were mailed. The payload is what the link does, sealed; the row goes when the link is used.
CREATE TABLE gate.mail_links (
    token_hash bytea       PRIMARY KEY,
    purpose    text        NOT NULL,
    email      text        NOT NULL,
    payload    bytea       NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL
);
CREATE INDEX mail_links_email ON gate.mail_links (email, purpose);

-- Mail to be sent. Whether its address has an account is looked up when it is sent, so that asking for one tells nothing.
CREATE TABLE gate.outbox (
    id         bigint      PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    purpose    text        NOT NULL,
    email      text        NOT NULL,
    payload    bytea       NOT NULL,  -- sealed
    attempts   integer     NOT NULL DEFAULT 0,
    next_at    timestamptz NOT NULL DEFAULT now(),
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX outbox_due ON gate.outbox (next_at);

CREATE TABLE gate.audit_log (
    id      bigint      PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    at      timestamptz NOT NULL DEFAULT now(),
    action  text        NOT NULL,
    result  text        NOT NULL,  -- ok, or the reason why not
    user_id uuid,                  -- whom it is about; kept when the user is deleted
    actor   text        NOT NULL,  -- a user's id, "command line", or "anonymous"
    address text        NOT NULL DEFAULT '',
    detail  text        NOT NULL DEFAULT ''
);
CREATE INDEX audit_log_at ON gate.audit_log (at);
CREATE INDEX audit_log_user ON gate.audit_log (user_id, at);

-- +goose Down
DROP TABLE gate.audit_log, gate.outbox, gate.mail_links, gate.throttles, gate.recovery_codes;
ALTER TABLE gate.users DROP COLUMN totp_seed, DROP COLUMN totp_last_step;
