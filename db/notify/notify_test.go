package notify

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"millrace"
	"millrace/db/dbtest"
)

func TestMain(m *testing.M) { dbtest.Main(m, dbtest.NoLeaks()) }

// patience is how long a test waits for what must come. It bounds a hang and decides nothing else.
const patience = 60 * time.Second

func database(t *testing.T) string {
	t.Helper()
	return dbtest.New(t, dbtest.Template{Name: "empty", Version: "1", Migrate: func(context.Context, string) error { return nil }})
}

func ring() millrace.Ring {
	return millrace.Ring{OrderID: uuid.Must(uuid.NewV7()), CustomerID: uuid.Must(uuid.NewV7())}
}

// ear notes what a listener hears.
type ear struct {
	*Listener
	mu     sync.Mutex
	heard  map[millrace.Ring]int
	resets atomic.Int64
	stop   func()
}

func listen(t *testing.T, config ListenerConfig) *ear {
	t.Helper()
	e := &ear{heard: make(map[millrace.Ring]int)}
	config.Rung = func(rings ...millrace.Ring) {
		e.mu.Lock()
		defer e.mu.Unlock()
		for _, r := range rings {
			e.heard[r]++
		}
	}
	config.Reset = func() { e.resets.Add(1) }
	var err error
	if e.Listener, err = NewListener(config); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	e.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(e.stop)
	eventually(t, "the listener listens", e.Healthy)
	return e
}

func (e *ear) has(rings ...millrace.Ring) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return !slices.ContainsFunc(rings, func(r millrace.Ring) bool { return e.heard[r] == 0 })
}

func (e *ear) count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.heard)
}

func doorbell(t *testing.T, config DoorbellConfig) *Doorbell {
	t.Helper()
	d, err := NewDoorbell(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
		defer cancel()
		if err := d.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return d
}

func (d *Doorbell) ringFor(r millrace.Ring) { d.Ring(r.OrderID, r.CustomerID) }

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

func execute(t *testing.T, databaseURL, sql string, args ...any) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	if _, err := conn.Exec(t.Context(), sql, args...); err != nil {
		t.Fatal(err)
	}
}

func terminate(t *testing.T, databaseURL, name string) {
	t.Helper()
	execute(t, databaseURL, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1 AND datname = current_database()`, name)
}

func TestRingsReachEveryListener(t *testing.T) {
	t.Parallel()
	u := database(t)
	a, b := listen(t, ListenerConfig{DatabaseURL: u}), listen(t, ListenerConfig{DatabaseURL: u})
	d := doorbell(t, DoorbellConfig{DatabaseURL: u})
	for range 3 {
		r := ring()
		d.ringFor(r)
		eventually(t, "both hear the ring", func() bool { return a.has(r) && b.has(r) })
	}
	if a.count() != 3 || a.resets.Load() != 1 {
		t.Errorf("%d rings and %d resets, want 3 and the one of the start", a.count(), a.resets.Load())
	}
}

func TestRingsThatComeTogetherShareATransaction(t *testing.T) {
	t.Parallel()
	u := database(t)
	e := listen(t, ListenerConfig{DatabaseURL: u})
	d := doorbell(t, DoorbellConfig{DatabaseURL: u, Interval: time.Hour})
	first := ring()
	d.ringFor(first) // at once, since it was quiet
	eventually(t, "the first is heard", func() bool { return e.has(first) })
	rings := make([]millrace.Ring, 3*ringsPerPayload+1) // several payloads
	for i := range rings {
		rings[i] = ring()
	}
	for range 2 { // the second time adds nothing
		for _, r := range rings {
			d.ringFor(r)
		}
	}
	if err := d.Close(t.Context()); err != nil { // does not wait for the hour, nor lose any
		t.Fatal(err)
	}
	eventually(t, "all are heard", func() bool { return e.has(rings...) })
	if got := d.Stats(); got.Notifies != 2 || got.Rings != uint64(1+2*len(rings)) {
		t.Errorf("stats %+v, want 2 notifies", got)
	}
}

func TestTooManyRingsBecomeOneThatSaysAnything(t *testing.T) {
	t.Parallel()
	u := database(t)
	e := listen(t, ListenerConfig{DatabaseURL: u})
	d := doorbell(t, DoorbellConfig{DatabaseURL: u, Interval: time.Hour, Capacity: 10})
	first := ring()
	d.ringFor(first)
	eventually(t, "the first is heard", func() bool { return e.has(first) })
	for range 11 {
		d.ringFor(ring())
	}
	if err := d.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the listener is told to look at everything", func() bool { return e.resets.Load() == 2 })
	if e.count() != 1 || d.Stats().Overflows != 1 {
		t.Errorf("heard %d, stats %+v", e.count(), d.Stats())
	}
}

// River's clients hear of new jobs as if River had announced them, and each process knows its own word.
func TestAnnouncementsOfJobsReachRiversClients(t *testing.T) {
	t.Parallel()
	u := database(t)
	conn, err := pgx.Connect(t.Context(), u)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	if _, err := conn.Exec(t.Context(), `LISTEN "river.river_insert"`); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	next := func() string {
		t.Helper()
		n, err := conn.WaitForNotification(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return n.Payload
	}
	local := make(chan []string, 10)
	d := doorbell(t, DoorbellConfig{DatabaseURL: u, Interval: 200 * time.Millisecond, LocalJobs: func(queues ...string) { local <- queues }})
	other := doorbell(t, DoorbellConfig{DatabaseURL: u})
	heard := func(queue string) {
		t.Helper()
		payload := next()
		var said struct {
			Queue string `json:"queue"`
		}
		if err := json.Unmarshal([]byte(payload), &said); err != nil || said.Queue != queue {
			t.Errorf("heard %s, want the queue %s", payload, queue)
		}
		if !d.Announced(payload) || other.Announced(payload) {
			t.Errorf("it is not known who said %s", payload)
		}
	}
	d.Announce("inventory")
	if got := <-local; !slices.Equal(got, []string{"inventory"}) { // before Announce returned
		t.Errorf("this process heard of %v", got)
	}
	heard("inventory")
	for range 3 { // which come together with the next
		d.Announce("payment", "shipping")
	}
	terminate(t, u, "millrace doorbell")
	heard("payment")
	heard("shipping")
	eventually(t, "two messages are counted, a moment after they were heard", func() bool { return d.Stats().Notifies == 2 })
}

func TestRingNeverBlocksWithoutADatabase(t *testing.T) {
	t.Parallel()
	var local atomic.Int64
	d, err := NewDoorbell(DoorbellConfig{DatabaseURL: "postgres://127.0.0.1:1/none", Capacity: 100,
		Local: func(rings ...millrace.Ring) { local.Add(int64(len(rings))) }})
	if err != nil {
		t.Fatal(err)
	}
	for range 10_000 {
		d.ringFor(ring())
	}
	if local.Load() != 10_000 {
		t.Errorf("%d of 10000 rings were heard in the process itself", local.Load())
	}
	d.mu.Lock()
	if n := len(d.waiting); n > 100 {
		t.Errorf("%d rings wait", n)
	}
	d.mu.Unlock()
	eventually(t, "attempts fail", func() bool { return d.Stats().Failures > 3 })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := d.Close(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Close: %v; want it to say that rings were lost", err)
	}
	d.ringFor(ring())
	if local.Load() != 10_001 {
		t.Error("after Close the process itself hears nothing")
	}
}

func TestBothSidesReconnect(t *testing.T) {
	t.Parallel()
	u := database(t)
	e := listen(t, ListenerConfig{DatabaseURL: u})
	d := doorbell(t, DoorbellConfig{DatabaseURL: u})
	for round := range int64(3) {
		r := ring()
		d.ringFor(r)
		eventually(t, "the ring is heard", func() bool { return e.has(r) })
		terminate(t, u, "millrace listener")
		eventually(t, "the listener is back and says that it missed something", func() bool {
			return e.resets.Load() == round+2 && e.Healthy()
		})
		terminate(t, u, "millrace doorbell")
	}
}

func TestOwnRingsAreNotHeardTwice(t *testing.T) {
	t.Parallel()
	u := database(t)
	var local atomic.Int64
	own := doorbell(t, DoorbellConfig{DatabaseURL: u, Local: func(...millrace.Ring) { local.Add(1) }})
	other := doorbell(t, DoorbellConfig{DatabaseURL: u})
	e := listen(t, ListenerConfig{DatabaseURL: u, Own: own})
	far := listen(t, ListenerConfig{DatabaseURL: u})
	mine, theirs := ring(), ring()
	own.ringFor(mine)
	eventually(t, "another process hears it", func() bool { return far.has(mine) })
	other.ringFor(theirs)
	eventually(t, "what others ring is heard", func() bool { return e.has(theirs) })
	if e.has(mine) || local.Load() != 1 {
		t.Errorf("its own ring was heard through the database: %v; directly: %d times", e.has(mine), local.Load())
	}
}

func TestUnreadableNotificationMeansAnything(t *testing.T) {
	t.Parallel()
	u := database(t)
	e := listen(t, ListenerConfig{DatabaseURL: u})
	execute(t, u, `SELECT pg_notify($1, 'what a later release says')`, DefaultChannel)
	eventually(t, "a reset", func() bool { return e.resets.Load() == 2 })
}

func TestListenerThatOnlyPollsNeedsNoDatabase(t *testing.T) {
	t.Parallel()
	l, err := NewListener(ListenerConfig{PollOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.Run(ctx); err != nil || !l.Healthy() {
		t.Errorf("Run: %v, healthy: %v", err, l.Healthy())
	}
}

func TestConfigurationIsChecked(t *testing.T) {
	t.Parallel()
	if _, err := NewDoorbell(DoorbellConfig{DatabaseURL: "nonsense://"}); err == nil {
		t.Error("doorbell: no error")
	}
	if _, err := NewListener(ListenerConfig{DatabaseURL: "postgres://127.0.0.1/x"}); err == nil {
		t.Error("listener without callbacks: no error")
	}
	nothing := func(...millrace.Ring) {}
	if _, err := NewListener(ListenerConfig{DatabaseURL: "nonsense://", Rung: nothing, Reset: func() {}}); err == nil {
		t.Error("listener: no error")
	}
}
