// Package deploy holds what compose.yaml gives to its containers: databases.sql, which Postgres runs on an empty volume, and
// gate.yaml, the gate's routes to Millrace. Its tests hold compose.yaml and the Dockerfile to what they promise: only the gate
// is reachable, no secret has a default, nothing runs as root, data outlives the containers, and processes start in order.
//
// Its only code is Routes, which `millrace dev` gives to its own gate, so that there is one list of routes.
package deploy
