-- Run once by the Postgres image, as its superuser, when the volume is empty: a
-- database and an owner of its own for each program, so that neither can read
-- the other's tables and neither is a superuser.
\getenv millrace_password MILLRACE_DB_PASSWORD
\getenv gate_password GATE_DB_PASSWORD

CREATE ROLE millrace LOGIN PASSWORD :'millrace_password';
CREATE ROLE gate LOGIN PASSWORD :'gate_password';

CREATE DATABASE millrace OWNER millrace;
CREATE DATABASE gate OWNER gate;

REVOKE ALL ON DATABASE millrace FROM PUBLIC;
REVOKE ALL ON DATABASE gate FROM PUBLIC;
