package group_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"millrace/db/group"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// flusher is a flush whose batches are seen and held up by the test.
type flusher struct {
	mu      sync.Mutex
	batches [][]int
	gate    chan struct{} // each flush takes one from it before it returns; nil lets all through
	fail    func(batch []int) error
	running int
	most    int // that ran at once
}

func (f *flusher) flush(ctx context.Context, batch []int) ([]group.Outcome[int], error) {
	f.mu.Lock()
	f.batches = append(f.batches, slices.Clone(batch))
	f.running++
	f.most = max(f.most, f.running)
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		f.running--
		f.mu.Unlock()
	}()
	if f.gate != nil {
		select {
		case <-f.gate:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if f.fail != nil {
		if err := f.fail(batch); err != nil {
			return nil, err
		}
	}
	outcomes := make([]group.Outcome[int], len(batch))
	for i, q := range batch {
		outcomes[i].Answer = 10 * q
	}
	return outcomes, nil
}

func (f *flusher) seen() [][]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.batches)
}

var errBad = errors.New("bad")

func config() group.Config {
	return group.Config{Lanes: group.NewLanes(1, 0, 0), MaxGroup: 8, MaxQueue: 16, Timeout: time.Minute, Divide: func(err error) bool { return errors.Is(err, errBad) }}
}

// answer is what a caller got.
type answer struct {
	query, answer int
	err           error
}

// ask calls Do on its own goroutine.
func ask(ctx context.Context, c *group.Committer[int, int], query int) <-chan answer {
	got := make(chan answer, 1)
	go func() {
		a, err := c.Do(ctx, query)
		got <- answer{query, a, err}
	}()
	return got
}

// Time stands still in these tests unless everything waits for it: that a call returns without it shows that no timer was waited for.
func TestAnIdleCommitterFlushesAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &flusher{}
		c := group.New(config(), f.flush)
		start := time.Now()
		for q := range 3 {
			got, err := c.Do(t.Context(), q)
			require.NoError(t, err)
			require.Equal(t, 10*q, got)
		}
		require.Equal(t, start, time.Now(), "no time went by")
		require.Equal(t, [][]int{{0}, {1}, {2}}, f.seen())
		c.Close()
	})
}

func TestAnotherFlushStartsOnceItIsWorthIt(t *testing.T) {
	t.Parallel()
	further := func(waiting int, patience time.Duration) group.Config {
		cfg := config()
		cfg.Lanes = group.NewLanes(2, waiting, patience)
		return cfg
	}
	for name, tc := range map[string]struct {
		config group.Config
		pause  time.Duration // before the last caller comes
		alone  int           // callers who come before one starts another flush; -1: nobody does
	}{
		"when enough wait":                    {further(4, time.Hour), 0, 4},
		"when the one that runs takes long":   {further(100, time.Second), time.Second, 6},
		"not before":                          {further(7, time.Hour), time.Second, -1},
		"at once where nothing else is asked": {further(0, 0), 0, 1},
		"and never more than there may be":    {func() group.Config { c := further(1, 0); c.Flushes = 1; return c }(), time.Second, -1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := &flusher{gate: make(chan struct{})}
				c := group.New(tc.config, f.flush)
				callers := []<-chan answer{ask(t.Context(), c, 0)}
				synctest.Wait()
				for q := 1; q <= 6; q++ {
					if q == 6 {
						<-time.After(tc.pause)
					}
					callers = append(callers, ask(t.Context(), c, q))
					synctest.Wait()
					started := len(f.seen()) > 1
					if want := tc.alone >= 0 && q >= tc.alone; started != want {
						t.Errorf("after %d more another flush has started: %t", q, started)
					}
				}
				close(f.gate)
				for q, caller := range callers {
					require.Equal(t, answer{q, 10 * q, nil}, <-caller, "nobody is left behind")
				}
				c.Close()
			})
		})
	}
}

// The flush that ends first leaves what is not worth another to the one beside it.
func TestFewWhoWaitAreLeftToTheFlushThatRuns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &flusher{gate: make(chan struct{})}
		cfg := config()
		cfg.Lanes = group.NewLanes(2, 2, time.Hour)
		c := group.New(cfg, f.flush)
		var callers []<-chan answer
		for q := range 4 { // 0 alone, 1 and 2 in another flush, 3 waits
			callers = append(callers, ask(t.Context(), c, q))
			synctest.Wait()
		}
		require.Equal(t, [][]int{{0}, {1, 2}}, f.seen())
		f.gate <- struct{}{} // one of them ends
		synctest.Wait()
		require.Len(t, f.seen(), 2)
		require.Equal(t, 1, c.Waiting())
		f.gate <- struct{}{}
		synctest.Wait()
		require.Equal(t, []int{3}, f.seen()[2])
		close(f.gate)
		for q, caller := range callers {
			require.Equal(t, answer{q, 10 * q, nil}, <-caller)
		}
		c.Close()
	})
}

func TestCallersThatArriveDuringAFlushShareTheNext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &flusher{gate: make(chan struct{})}
		var sizes []int
		var waits []time.Duration
		cfg := config()
		cfg.Observe = func(size int, _, waited time.Duration) { sizes, waits = append(sizes, size), append(waits, waited) }
		c := group.New(cfg, f.flush)
		first := ask(t.Context(), c, 0)
		synctest.Wait()
		var others []<-chan answer
		for q := 1; q <= 11; q++ {
			others = append(others, ask(t.Context(), c, q))
			synctest.Wait() // so that they arrive in this order
		}
		require.Equal(t, 11, c.Waiting())
		<-time.After(time.Second)
		for range 3 {
			f.gate <- struct{}{}
		}
		require.Equal(t, answer{0, 0, nil}, <-first)
		for i, o := range others {
			require.Equal(t, answer{i + 1, 10 * (i + 1), nil}, <-o, "each gets its own answer")
		}
		c.Close()
		require.Equal(t, [][]int{{0}, {1, 2, 3, 4, 5, 6, 7, 8}, {9, 10, 11}}, f.seen(), "in the order of their arrival, at most MaxGroup at a time")
		require.Equal(t, []int{1, 8, 3}, sizes)
		require.Equal(t, []time.Duration{0, time.Second, time.Second}, waits)
		require.Zero(t, c.Waiting())
	})
}

func TestAFullQueueSaysSoAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &flusher{gate: make(chan struct{})}
		c := group.New(config(), f.flush)
		accepted := []<-chan answer{ask(t.Context(), c, 0)}
		synctest.Wait()
		for q := range config().MaxQueue {
			accepted = append(accepted, ask(t.Context(), c, q))
		}
		synctest.Wait()
		start := time.Now()
		_, err := c.Do(t.Context(), 99)
		require.ErrorIs(t, err, group.ErrBusy)
		require.Equal(t, start, time.Now())
		close(f.gate)
		for _, a := range accepted {
			require.NoError(t, (<-a).err, "those who were accepted are served")
		}
		_, err = c.Do(t.Context(), 1)
		require.NoError(t, err, "and then there is room again")
		c.Close()
	})
}

func TestACallerWhoLeavesBeforeItsFlushIsNotInIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &flusher{gate: make(chan struct{})}
		c := group.New(config(), f.flush)
		first := ask(t.Context(), c, 1)
		synctest.Wait()
		leaving, leave := context.WithCancel(t.Context())
		gone, stays := ask(leaving, c, 2), ask(t.Context(), c, 3)
		synctest.Wait()
		leave()
		a := <-gone
		require.ErrorIs(t, a.err, context.Canceled)
		require.NotErrorIs(t, a.err, group.ErrAbandoned, "nothing of it happened")
		close(f.gate)
		require.NoError(t, (<-first).err)
		require.NoError(t, (<-stays).err)
		c.Close()
		require.Equal(t, [][]int{{1}, {3}}, f.seen())
	})
}

func TestACallerWhoLeavesDuringItsFlushHarmsNoOne(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &flusher{gate: make(chan struct{})}
		c := group.New(config(), f.flush)
		first := ask(t.Context(), c, 1)
		synctest.Wait()
		leaving, leave := context.WithCancel(t.Context())
		gone, stays := ask(leaving, c, 2), ask(t.Context(), c, 3)
		synctest.Wait()
		f.gate <- struct{}{}
		require.NoError(t, (<-first).err)
		synctest.Wait() // 2 and 3 are being flushed
		leave()
		a := <-gone
		require.ErrorIs(t, a.err, group.ErrAbandoned)
		require.ErrorIs(t, a.err, context.Canceled)
		f.gate <- struct{}{}
		require.NoError(t, (<-stays).err)
		c.Close()
		require.Len(t, f.seen(), 2)
	})
}

func TestACallerWhoComesWithAnEndedContextIsNotQueued(t *testing.T) {
	t.Parallel()
	f := &flusher{}
	c := group.New(config(), f.flush)
	ended, end := context.WithCancel(t.Context())
	end()
	_, err := c.Do(ended, 1)
	require.ErrorIs(t, err, context.Canceled)
	c.Close()
	require.Empty(t, f.seen())
}

func TestABadRequestFailsAlone(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		fail func([]int) error // of a batch with the bad request, which is 5
		is   error
	}{
		{"by an error worth dividing", func([]int) error { return errBad }, errBad},
		{"by a panic", func([]int) error { panic("5 is bad") }, group.ErrPanic},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := &flusher{gate: make(chan struct{}), fail: func(batch []int) error {
					if slices.Contains(batch, 5) {
						return c.fail(batch)
					}
					return nil
				}}
				committer := group.New(config(), f.flush)
				callers := []<-chan answer{ask(t.Context(), committer, 0)}
				synctest.Wait()
				for q := 1; q <= 8; q++ {
					callers = append(callers, ask(t.Context(), committer, q))
				}
				synctest.Wait()
				close(f.gate)
				for q, caller := range callers {
					a := <-caller
					if q == 5 {
						require.ErrorIs(t, a.err, c.is)
						continue
					}
					require.Equal(t, answer{q, 10 * q, nil}, a, "its neighbours are served")
				}
				committer.Close()
				require.LessOrEqual(t, len(f.seen()), 1+1+2*3, "by halves")
			})
		})
	}
}

// An error that says nothing of any one request, such as a commit whose outcome is not known, is everyone's, and tried once.
func TestAnErrorThatIsNobodysFaultIsNotDivided(t *testing.T) {
	t.Parallel()
	unknown := errors.New("outcome unknown")
	for name, divide := range map[string]func(error) bool{"says Divide": config().Divide, "without Divide": nil} {
		synctest.Test(t, func(t *testing.T) {
			f := &flusher{gate: make(chan struct{}), fail: func(batch []int) error {
				if len(batch) > 1 {
					return unknown
				}
				return nil
			}}
			cfg := config()
			cfg.Divide = divide
			c := group.New(cfg, f.flush)
			first := ask(t.Context(), c, 0)
			synctest.Wait()
			others := []<-chan answer{ask(t.Context(), c, 1), ask(t.Context(), c, 2), ask(t.Context(), c, 3)}
			synctest.Wait()
			close(f.gate)
			require.NoError(t, (<-first).err)
			for _, o := range others {
				require.ErrorIs(t, (<-o).err, unknown, name)
			}
			c.Close()
			require.Len(t, f.seen(), 2, name)
		})
	}
}

func TestAFlushThatLosesCountFailsInsteadOfMixingUpAnswers(t *testing.T) {
	t.Parallel()
	c := group.New(config(), func(context.Context, []int) ([]group.Outcome[int], error) { return make([]group.Outcome[int], 2), nil })
	_, err := c.Do(t.Context(), 1)
	require.ErrorContains(t, err, "a flush of 1 requests gave 2 outcomes")
	c.Close()
}

func TestAFlushEndsInTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &flusher{gate: make(chan struct{})}
		c := group.New(config(), f.flush)
		start := time.Now()
		_, err := c.Do(t.Context(), 1)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, config().Timeout, time.Since(start))
		c.Close()
	})
}

// The flush must not end with the context of the caller that happened to start it.
func TestAFlushOutlivesTheCallerThatStartedIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &flusher{gate: make(chan struct{})}
		c := group.New(config(), f.flush)
		ctx, cancel := context.WithCancel(t.Context())
		first := ask(ctx, c, 1)
		synctest.Wait()
		second := ask(t.Context(), c, 2)
		synctest.Wait()
		cancel()
		require.ErrorIs(t, (<-first).err, group.ErrAbandoned)
		f.gate <- struct{}{}
		f.gate <- struct{}{}
		require.NoError(t, (<-second).err)
		c.Close()
	})
}

func TestCloseWaitsForThoseAcceptedAndRefusesTheRest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &flusher{gate: make(chan struct{})}
		c := group.New(config(), f.flush)
		first := ask(t.Context(), c, 1)
		synctest.Wait()
		second := ask(t.Context(), c, 2)
		synctest.Wait()
		closed := make(chan struct{})
		go func() { c.Close(); close(closed) }()
		synctest.Wait()
		_, err := c.Do(t.Context(), 3)
		require.ErrorIs(t, err, group.ErrClosed)
		f.gate <- struct{}{}
		synctest.Wait()
		select {
		case <-closed:
			t.Fatal("closed before the second was flushed")
		default:
		}
		f.gate <- struct{}{}
		<-closed
		require.NoError(t, (<-first).err)
		require.NoError(t, (<-second).err)
		c.Close() // once more does nothing
	})
}

func TestNoMoreFlushesRunAtOnceThanAllowed(t *testing.T) {
	t.Parallel()
	for flushes := 1; flushes <= 3; flushes++ {
		f := &flusher{}
		cfg := config()
		cfg.Lanes, cfg.Flushes, cfg.MaxGroup, cfg.MaxQueue = group.NewLanes(max(flushes, 2), 0, 0), flushes, 3, 1000
		c := group.New(cfg, f.flush)
		var wg sync.WaitGroup
		for q := range 300 {
			wg.Go(func() {
				got, err := c.Do(t.Context(), q)
				if err != nil || got != 10*q {
					t.Errorf("%d: got %d, %v", q, got, err)
				}
			})
		}
		wg.Wait()
		c.Close()
		require.LessOrEqual(t, f.most, flushes)
		total := 0
		for _, b := range f.seen() {
			require.LessOrEqual(t, len(b), 3)
			total += len(b)
		}
		require.Equal(t, 300, total, "each request is flushed once")
	}
}
