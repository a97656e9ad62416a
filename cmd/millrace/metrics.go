package main

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/riverqueue/river/rivertype"

	"millrace/db"
	"millrace/http/live"
)

// metrics is what a process counts and times.
type metrics struct {
	registry  *prometheus.Registry
	groupSize *prometheus.HistogramVec
	groupTime *prometheus.HistogramVec
	groupWait *prometheus.HistogramVec
	jobs      *prometheus.CounterVec
	jobTime   *prometheus.HistogramVec
	eventLag  prometheus.Histogram
}

func newMetrics() *metrics {
	sizes := prometheus.ExponentialBuckets(1, 2, 10)
	seconds := prometheus.ExponentialBuckets(0.0005, 2, 16)
	histogram := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
	}
	m := &metrics{
		registry:  prometheus.NewRegistry(),
		groupSize: histogram("millrace_group_size", "Callers that shared a transaction, by kind.", sizes, "kind"),
		groupTime: histogram("millrace_group_seconds", "Time of a shared transaction, by kind.", seconds, "kind"),
		groupWait: histogram("millrace_group_wait_seconds", "Time that the first caller of a group waited for it, by kind.", seconds, "kind"),
		jobs:      prometheus.NewCounterVec(prometheus.CounterOpts{Name: "millrace_jobs_total", Help: "Tries of jobs, by kind and outcome."}, []string{"kind", "outcome"}),
		jobTime:   histogram("millrace_job_seconds", "Time of a try of a job, by kind.", seconds, "kind"),
		eventLag:  prometheus.NewHistogram(prometheus.HistogramOpts{Name: "millrace_event_lag_seconds", Help: "Time from an event to its delivery to a watcher.", Buckets: seconds}),
	}
	m.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		m.groupSize, m.groupTime, m.groupWait, m.jobs, m.jobTime, m.eventLag)
	return m
}

func (m *metrics) observeFlush(kind string, size int, took, waited time.Duration) {
	m.groupSize.WithLabelValues(kind).Observe(float64(size))
	m.groupTime.WithLabelValues(kind).Observe(took.Seconds())
	m.groupWait.WithLabelValues(kind).Observe(waited.Seconds())
}

func (m *metrics) observeJob(job *rivertype.JobRow, outcome string, took time.Duration) {
	m.jobs.WithLabelValues(job.Kind, outcome).Inc()
	m.jobTime.WithLabelValues(job.Kind).Observe(took.Seconds())
}

func (m *metrics) observeLag(lag time.Duration) { m.eventLag.Observe(lag.Seconds()) }

// watchStore adds what the store knows of its queues and of River's.
func (m *metrics) watchStore(s *db.Store) { m.registry.MustRegister(&storeCollector{store: s}) }

// storeCollector asks the store at each scrape.
type storeCollector struct{ store *db.Store }

var (
	waitingDesc = prometheus.NewDesc("millrace_group_waiting", "Callers that wait for a transaction, by kind.", []string{"kind"}, nil)
	depthDesc   = prometheus.NewDesc("millrace_queue_depth", "Jobs that are due, by queue.", []string{"queue"}, nil)
	oldestDesc  = prometheus.NewDesc("millrace_queue_oldest_seconds", "How long the first due job has waited, by queue.", []string{"queue"}, nil)
)

// scrapeTimeout bounds the questions that a scrape asks of the database.
const scrapeTimeout = 3 * time.Second

// Describe is part of prometheus.Collector.
func (c *storeCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- waitingDesc
	ch <- depthDesc
	ch <- oldestDesc
}

// Collect is part of prometheus.Collector.
func (c *storeCollector) Collect(ch chan<- prometheus.Metric) {
	for kind, n := range c.store.Waiting() {
		ch <- prometheus.MustNewConstMetric(waitingDesc, prometheus.GaugeValue, float64(n), kind)
	}
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	depths, err := c.store.QueueDepths(ctx)
	if err != nil {
		ch <- prometheus.NewInvalidMetric(depthDesc, err)
		return
	}
	for _, d := range depths {
		ch <- prometheus.MustNewConstMetric(depthDesc, prometheus.GaugeValue, float64(d.Depth), d.Queue)
		ch <- prometheus.MustNewConstMetric(oldestDesc, prometheus.GaugeValue, d.Oldest.Seconds(), d.Queue)
	}
}

// watchHub adds what the hub knows of its streams.
func (m *metrics) watchHub(h *live.Hub) {
	gauge := func(name, help string, value func(live.Stats) float64) {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return value(h.Stats()) }))
	}
	counter := func(name, help string, value func(live.Stats) uint64) {
		m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, func() float64 { return float64(value(h.Stats())) }))
	}
	gauge("millrace_streams_order", "Open streams of one order.", func(s live.Stats) float64 { return float64(s.OrderStreams) })
	gauge("millrace_streams_many", "Open streams of many orders.", func(s live.Stats) float64 { return float64(s.ManyStreams) })
	counter("millrace_events_delivered_total", "Events written to watchers.", func(s live.Stats) uint64 { return s.Delivered })
	counter("millrace_streams_overflowed_total", "Streams closed because too many events waited for them.", func(s live.Stats) uint64 { return s.Overflows })
	counter("millrace_streams_stalled_total", "Streams closed because their reader did not read.", func(s live.Stats) uint64 { return s.Stalled })
	counter("millrace_streams_rejected_total", "Streams refused.", func(s live.Stats) uint64 { return s.Rejected })
	counter("millrace_event_reads_total", "Questions for new events.", func(s live.Stats) uint64 { return s.Reads })
	counter("millrace_event_sweep_finds_total", "Changed orders that no ring announced in time.", func(s live.Stats) uint64 { return s.SweepFinds })
}
