package deploy

import _ "embed" // for gate.yaml

// Routes are the gate's routes to Millrace, as YAML.
//
//go:embed gate.yaml
var Routes string

// RoutesUpstream is where Routes look for the API.
const RoutesUpstream = "http://api:8081"
