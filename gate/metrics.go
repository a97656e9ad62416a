package gate

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics counts what passes. Labels are bounded: codes are the gate's own, upstreams come from the routes file.
type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	logins   *prometheus.CounterVec
	audit    prometheus.Counter
	helpers  prometheus.Counter
}

func newMetrics(g *Gate) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "gate_requests_total", Help: "Requests by upstream and by the code of the denial; an empty code means passed on.",
		}, []string{"upstream", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "gate_request_duration_seconds", Help: "Time from a request's arrival to the end of its answer, streams left out.",
			Buckets: []float64{.0005, .001, .002, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"upstream"}),
		logins: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "gate_logins_total", Help: "Attempts to log in, by outcome.",
		}, []string{"outcome"}),
		audit: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "gate_audit_failures_total", Help: "Events that could not be written to the audit log.",
		}),
		helpers: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "gate_hash_helper_failures_total", Help: "Passwords that this process hashed since a helper process failed.",
		}),
	}
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
	}
	m.registry.MustRegister(m.requests, m.duration, m.logins, m.audit, m.helpers,
		gauge("gate_streams_open", "Event streams and WebSockets that are open.", func() float64 { return float64(g.streams.count()) }),
		gauge("gate_passwords_waiting", "Passwords that wait to be hashed.", func() float64 { return float64(g.store.hasher.waiting.Load()) }),
		gauge("gate_listening", "1 while this process hears of revocations by others.", func() float64 {
			if g.listening.Load() {
				return 1
			}
			return 0
		}),
		gauge("gate_db_connections_in_use", "Database connections in use.", func() float64 { return float64(g.store.pool.Stat().AcquiredConns()) }),
	)
	return m
}

// Registry returns the gate's Prometheus metrics.
func (g *Gate) Registry() *prometheus.Registry { return g.metrics.registry }

func (m *metrics) observe(x *exchange, took time.Duration) {
	upstream := ""
	if x.route != nil {
		upstream = x.route.upstream.name
	}
	m.requests.WithLabelValues(upstream, x.code).Inc()
	if x.stream == nil {
		m.duration.WithLabelValues(upstream).Observe(took.Seconds())
	}
}

// errNotListening is why Ready refuses while news of revocations would be late.
var errNotListening = errors.New("not connected to hear of revocations")
