-- +goose Up
CREATE TABLE gate.users (
    id                uuid        PRIMARY KEY,
    email             text        NOT NULL UNIQUE CHECK (email = lower(email)),
    name              text        NOT NULL DEFAULT '',
    password_hash     text,       -- argon2id in PHC form; null: cannot log in by password
    roles             text[]      NOT NULL DEFAULT '{}',
    email_verified_at timestamptz,
    disabled_at       timestamptz,
    created_at        timestamptz NOT NULL DEFAULT now(),
    updated_at        timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE gate.api_keys (
    id           text        PRIMARY KEY,  -- the public half of the key
    user_id      uuid        NOT NULL REFERENCES gate.users (id) ON DELETE CASCADE,
    secret_hash  bytea       NOT NULL UNIQUE, -- SHA-256 of the whole key; its 256 random bits need no salt
    name         text        NOT NULL DEFAULT '',
    scopes       text[]      NOT NULL,     -- '*' is everything its user may do
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz,
    revoked_at   timestamptz,
    last_used_at timestamptz
);
CREATE INDEX api_keys_user ON gate.api_keys (user_id);

CREATE TABLE gate.sessions (
    id           uuid        PRIMARY KEY,
    token_hash   bytea       NOT NULL UNIQUE,  -- SHA-256 of the cookie's value
    user_id      uuid        NOT NULL REFERENCES gate.users (id) ON DELETE CASCADE,
    created_at   timestamptz NOT NULL DEFAULT now(),
    last_seen_at timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz NOT NULL,         -- absolute; the idle limit counts from last_seen_at
    revoked_at   timestamptz
);
CREATE INDEX sessions_user ON gate.sessions (user_id);
CREATE INDEX sessions_expiry ON gate.sessions (expires_at);

CREATE TABLE gate.signing_keys (
    kid         text        PRIMARY KEY,
    public_key  bytea       NOT NULL,
    sealed_seed bytea       NOT NULL,  -- Ed25519 seed, sealed with the gate's secret
    created_at  timestamptz NOT NULL DEFAULT now(),
    active_at   timestamptz NOT NULL   -- signs from here on; published as soon as it exists
);

-- +goose Down
DROP TABLE gate.signing_keys, gate.sessions, gate.api_keys, gate.users;
