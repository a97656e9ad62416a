package group_test

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"millrace/db/group"
)

// kind is a Committer that shares lanes with others.
type kind struct {
	*flusher
	*group.Committer[int, int]
}

func newKind(lanes *group.Lanes, f *flusher) kind {
	cfg := config()
	cfg.Lanes = lanes
	return kind{f, group.New(cfg, f.flush)}
}

func held() *flusher { return &flusher{gate: make(chan struct{})} }

// While a flush of one kind runs, those of the others wait, and whose first request has waited longest is next.
func TestKindsTakeTurns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		lanes := group.NewLanes(2, 5, time.Hour)
		a, b, c := newKind(lanes, held()), newKind(lanes, held()), newKind(lanes, held())
		var callers []<-chan answer
		next := func(k kind, query int) {
			callers = append(callers, ask(t.Context(), k.Committer, query))
			synctest.Wait()
			<-time.After(time.Millisecond)
		}
		next(a, 0)
		next(c, 1)
		next(a, 2)
		next(b, 3)
		next(c, 4)
		require.Equal(t, [][]int{{0}}, a.seen())
		require.Empty(t, b.seen())
		require.Empty(t, c.seen())
		end := func(k kind) {
			k.gate <- struct{}{}
			synctest.Wait()
		}
		end(a)
		require.Equal(t, [][]int{{1, 4}}, c.seen())
		require.Len(t, a.seen(), 1)
		end(c)
		require.Equal(t, [][]int{{0}, {2}}, a.seen())
		require.Empty(t, b.seen())
		end(a)
		require.Equal(t, [][]int{{3}}, b.seen())

		for q := 5; q < 10; q++ { // five of a kind are worth another
			require.Len(t, c.seen(), 1)
			next(c, q)
		}
		require.Equal(t, [][]int{{1, 4}, {5, 6, 7, 8, 9}}, c.seen())
		end(b)
		end(c)
		for q, caller := range callers {
			require.Equal(t, answer{q, 10 * q, nil}, <-caller)
		}
		a.Close()
		b.Close()
		c.Close()
	})
}

// Who is due is next, however long others have waited.
func TestWhoIsDueIsNext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		lanes := group.NewLanes(1, 1, time.Hour)
		patient, urgent := newKind(lanes, held()), newKind(lanes, held())
		cfg := config()
		cfg.Lanes, cfg.Due = lanes, 50*time.Millisecond
		urgent.Committer = group.New(cfg, urgent.flush)
		var callers []<-chan answer
		comes := func(k kind, query int) {
			callers = append(callers, ask(t.Context(), k.Committer, query))
			synctest.Wait()
		}
		end := func(k kind) {
			k.gate <- struct{}{}
			synctest.Wait()
		}
		comes(patient, 0)
		comes(patient, 1)
		<-time.After(time.Second)
		comes(urgent, 2)
		<-time.After(49 * time.Millisecond)
		end(patient)
		require.Equal(t, [][]int{{0}, {1}}, patient.seen(), "it is not yet")
		comes(patient, 3)
		<-time.After(time.Second)
		comes(urgent, 4)
		end(patient)
		require.Equal(t, [][]int{{2, 4}}, urgent.seen())
		end(urgent)
		require.Equal(t, [][]int{{0}, {1}, {3}}, patient.seen())
		comes(patient, 5)
		<-time.After(time.Millisecond)
		comes(urgent, 6)
		<-time.After(50 * time.Millisecond)
		end(patient)
		require.Equal(t, [][]int{{2, 4}, {6}}, urgent.seen())
		end(urgent)
		end(patient)
		for q, caller := range callers {
			require.Equal(t, answer{q, 10 * q, nil}, <-caller)
		}
		patient.Close()
		urgent.Close()
	})
}

// Who comes alone while a flush of another kind takes long waits for no longer than patience, though nobody comes after; and who comes
// later does not wait at all.
func TestAKindThatTakesLongHoldsNoOtherUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		lanes := group.NewLanes(2, 100, time.Second)
		slow, quick := newKind(lanes, held()), newKind(lanes, &flusher{})
		stuck := ask(t.Context(), slow.Committer, 1)
		synctest.Wait()
		begun := time.Now()
		for i := range 3 {
			<-time.After(100 * time.Millisecond)
			got, err := quick.Do(t.Context(), i)
			require.NoError(t, err)
			require.Equal(t, 10*i, got)
			require.Equal(t, time.Second+time.Duration(i)*100*time.Millisecond, time.Since(begun))
		}
		slow.gate <- struct{}{}
		require.Equal(t, answer{1, 10, nil}, <-stuck)
		slow.Close()
		quick.Close()
	})
}

// Though every lane is taken by flushes that take long, another kind goes on; a kind of which as many run as may waits for one of its own.
func TestKindsThatTakeLongHoldNoOtherUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		lanes := group.NewLanes(2, 1, time.Second)
		slow, slower, quick := newKind(lanes, held()), newKind(lanes, held()), newKind(lanes, &flusher{})
		var stuck []<-chan answer
		for _, k := range []kind{slow, slower, slower, slower} {
			stuck = append(stuck, ask(t.Context(), k.Committer, 1))
			synctest.Wait()
			<-time.After(100 * time.Millisecond)
		}
		begun := time.Now()
		_, err := quick.Do(t.Context(), 2)
		require.NoError(t, err)
		require.Equal(t, 700*time.Millisecond, time.Since(begun), "once two have run for a second: others of the second kind came before")
		<-time.After(3 * time.Second)
		require.Len(t, slower.seen(), 2, "two of a kind, while there are two lanes")
		begun = time.Now()
		_, err = quick.Do(t.Context(), 2)
		require.NoError(t, err)
		require.Zero(t, time.Since(begun))
		close(slow.gate)
		close(slower.gate)
		for _, s := range stuck {
			require.NoError(t, (<-s).err)
		}
		slow.Close()
		slower.Close()
		quick.Close()
	})
}

// A request that was accepted is answered before Close returns, also where it waits for another kind.
func TestCloseWaitsForAnotherKind(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		lanes := group.NewLanes(1, 0, 0)
		slow, quick := newKind(lanes, held()), newKind(lanes, &flusher{})
		stuck := ask(t.Context(), slow.Committer, 1)
		synctest.Wait()
		waits := ask(t.Context(), quick.Committer, 2)
		synctest.Wait()
		closed := make(chan struct{})
		go func() {
			quick.Close()
			close(closed)
		}()
		synctest.Wait()
		select {
		case <-closed:
			t.Error("closed with a request that was accepted and is not answered")
		default:
		}
		slow.gate <- struct{}{}
		<-closed
		require.Equal(t, answer{2, 20, nil}, <-waits)
		require.Equal(t, answer{1, 10, nil}, <-stuck)
		slow.Close()
	})
}

func TestKindsTogetherRunNoMoreFlushesThanThereAreLanes(t *testing.T) {
	t.Parallel()
	for flushes := 1; flushes <= 3; flushes++ {
		var running, most atomic.Int32
		lanes := group.NewLanes(flushes, 4, time.Hour)
		cfg := config()
		cfg.Lanes, cfg.MaxQueue = lanes, 1000
		var kinds []*group.Committer[int, int]
		for range 3 {
			kinds = append(kinds, group.New(cfg, func(_ context.Context, queries []int) ([]group.Outcome[int], error) {
				defer running.Add(-1)
				for n := running.Add(1); ; {
					if old := most.Load(); n <= old || most.CompareAndSwap(old, n) {
						break
					}
				}
				outcomes := make([]group.Outcome[int], len(queries))
				for i, q := range queries {
					outcomes[i].Answer = 10 * q
				}
				return outcomes, nil
			}))
		}
		var wg sync.WaitGroup
		for q := range 600 {
			wg.Go(func() {
				got, err := kinds[rand.N(len(kinds))].Do(t.Context(), q)
				if err != nil || got != 10*q {
					t.Errorf("%d: got %d, %v", q, got, err)
				}
			})
		}
		wg.Wait()
		for _, k := range kinds {
			k.Close()
		}
		require.LessOrEqual(t, most.Load(), int32(flushes))
	}
}
