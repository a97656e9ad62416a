-- +goose Up
CREATE TABLE gate.external_identities (
    issuer     text        NOT NULL,
    subject    text        NOT NULL,
    user_id    uuid        NOT NULL REFERENCES gate.users (id) ON DELETE CASCADE,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (issuer, subject)
);
CREATE INDEX external_identities_user ON gate.external_identities (user_id);

-- Sessions that go on only as long as the provider they came from says so.
CREATE TABLE gate.oidc_sessions (
    session_id     uuid        PRIMARY KEY REFERENCES gate.sessions (id) ON DELETE CASCADE,
    provider       text        NOT NULL,
    sealed_refresh bytea       NOT NULL,
    check_at       timestamptz NOT NULL
);
CREATE INDEX oidc_sessions_due ON gate.oidc_sessions (check_at);

-- +goose Down
DROP TABLE gate.oidc_sessions, gate.external_identities;
