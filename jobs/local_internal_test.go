package jobs

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/rivertype"
	"github.com/stretchr/testify/require"
)

// deaf is a listener to whom Postgres says what is given.
type deaf struct {
	riverdriver.Listener
	waiting chan struct{}
	says    chan *riverdriver.Notification
	breaks  chan error
}

func (d *deaf) WaitForNotification(ctx context.Context) (*riverdriver.Notification, error) {
	d.waiting <- struct{}{}
	select {
	case n := <-d.says:
		return n, nil
	case err := <-d.breaks:
		return nil, err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// An announcement is heard at once by who waits for Postgres, and one that comes while nobody waits is not lost.
func TestAnAnnouncementEndsTheWaitForPostgres(t *testing.T) {
	t.Parallel()
	d := &deaf{waiting: make(chan struct{}), says: make(chan *riverdriver.Notification), breaks: make(chan error)}
	local := &Local{Own: func(payload string) bool { return payload == "own" }}
	l := &listener{Listener: d, local: local}
	type heard struct {
		n   *riverdriver.Notification
		err error
	}
	wait := func(ctx context.Context) <-chan heard {
		c := make(chan heard, 1)
		go func() {
			n, err := l.WaitForNotification(ctx)
			c <- heard{n, err}
		}()
		return c
	}
	payment := &riverdriver.Notification{Topic: "river_insert", Payload: `{"queue": "payment"}`}

	next := wait(t.Context())
	<-d.waiting
	local.Announce("payment")
	require.Equal(t, heard{payment, nil}, <-next)

	local.Announce("payment")
	local.Announce("payment")
	require.Equal(t, heard{payment, nil}, <-wait(t.Context()))

	next = wait(t.Context()) // both times were told by one notification, and Postgres is listened to again
	<-d.waiting
	d.says <- &riverdriver.Notification{Topic: "river_insert", Payload: "own"}
	<-d.waiting // which is not told again
	control := &riverdriver.Notification{Topic: "river_control", Payload: "own"}
	d.says <- control
	require.Equal(t, heard{control, nil}, <-next)

	require.True(t, local.desk("payment").due)
	require.False(t, local.desk("inventory").due)
	next = wait(t.Context())
	<-d.waiting
	inventory := &riverdriver.Notification{Topic: "river_insert", Payload: `{"queue": "inventory", "from": "another"}`}
	d.says <- inventory
	require.Equal(t, heard{inventory, nil}, <-next)
	require.True(t, local.desk("inventory").due) // so that a fetch looks for them, whatever was handed over

	ctx, cancel := context.WithCancel(t.Context())
	next = wait(ctx)
	<-d.waiting
	cancel()
	require.ErrorIs(t, (<-next).err, context.Canceled)

	next = wait(t.Context())
	<-d.waiting
	broken := errors.New("broken")
	d.breaks <- broken
	require.Equal(t, heard{nil, broken}, <-next)
}

func job(id int64) *rivertype.JobRow { return &rivertype.JobRow{ID: id, Queue: "payment"} }

// ids is what a fetch of payments brings without a look in Postgres, and whether one is due.
func (l *Local) ids(free int) (ids []int64, look bool) {
	jobs, again := l.take("payment", "me", free, 0)
	for _, j := range jobs {
		ids = append(ids, j.job.ID)
	}
	return ids, again == lookNow
}

func requireClaim(t *testing.T, l *Local, queue string, want bool) {
	t.Helper()
	by, ok := l.Claim(queue)
	require.Equal(t, want, ok)
	if ok {
		require.Equal(t, "me", by)
	}
}

// Claims are for workers that have nothing to do and ask for jobs, where none waits in Postgres.
func TestWhichWorkersCanBeClaimed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := &Local{}
		requireClaim(t, l, "payment", false) // nobody works here
		l.start()
		requireClaim(t, l, "payment", false) // nobody has asked yet
		asks := func(free, found int) {
			t.Helper()
			_, look := l.ids(free)
			require.True(t, look)
			l.looked("payment", make([]handed, found), found < free)
		}
		asks(3, 1)
		requireClaim(t, l, "inventory", false)
		requireClaim(t, l, "payment", true)
		requireClaim(t, l, "payment", true)
		requireClaim(t, l, "payment", false) // two were left
		l.Release([]string{"payment"})
		requireClaim(t, l, "payment", true)
		l.Hand([]*rivertype.JobRow{job(1), job(2)})
		requireClaim(t, l, "payment", false) // both are taken until they ask again
		ids, _ := l.ids(3)
		require.Equal(t, []int64{1, 2}, ids)
		requireClaim(t, l, "payment", true)
		requireClaim(t, l, "payment", false)
		l.Release([]string{"payment"})

		asks(2, 2) // there may be more in Postgres
		asks(2, 1)
		requireClaim(t, l, "payment", true)
		l.Release([]string{"payment"})
		asks(2, 2)
		asks(2, 0)
		requireClaim(t, l, "payment", true)
		l.Release([]string{"payment"})

		<-time.After(askAgain + time.Millisecond)
		requireClaim(t, l, "payment", false) // paused, or stuck
		asks(2, 0)
		requireClaim(t, l, "payment", true)
		l.stop()
		requireClaim(t, l, "payment", false)
	})
}

// A fetch goes to Postgres when nothing was handed, when word came of jobs there, and now and then; the others are spared.
func TestWhenAFetchLooksInPostgres(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := &Local{}
		l.start()
		next := int64(0)
		hand := func(n int) {
			t.Helper()
			var jobs []*rivertype.JobRow
			for range n {
				requireClaim(t, l, "payment", true)
				next++
				jobs = append(jobs, job(next))
			}
			l.Hand(jobs)
		}
		expect := func(look bool, want ...int64) {
			t.Helper()
			ids, looks := l.ids(2)
			require.Equal(t, want, ids)
			require.Equal(t, look, looks)
			if looks {
				l.looked("payment", nil, true)
			}
		}
		expect(true)
		hand(1)
		expect(false, 1)
		hand(1)
		l.Announce("payment")
		expect(true, 2)
		hand(1)
		(&listener{local: l}).expect(&riverdriver.Notification{Topic: topicInsert, Payload: `{"queue": "payment", "from": "x"}`})
		expect(true, 3)
		hand(1)
		(&listener{local: l}).expect(&riverdriver.Notification{Topic: "river_control", Payload: `{"queue": "payment"}`})
		expect(false, 4)
		<-time.After(askAgain / 2)
		hand(1)
		<-time.After(askAgain/2 + time.Millisecond)
		expect(true, 5)
		expect(true)
		hand(2)
		expect(false, 6, 7) // none is free
		expect(true)

		hand(1)
		<-time.After(handedFor + time.Millisecond)
		expect(true) // others may take it for lost
	})
}

// Looks in Postgres are a cooldown apart, which delays nothing that was handed over.
func TestLooksInPostgresAreACooldownApart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := &Local{}
		l.start()
		const cooldown = 10 * time.Millisecond
		take := func() (int, time.Duration) {
			jobs, look := l.take("payment", "me", 5, cooldown)
			if look == lookNow {
				l.looked("payment", nil, true)
			}
			return len(jobs), look
		}
		expect := func(jobs int, look time.Duration) {
			t.Helper()
			n, l := take()
			require.Equal(t, jobs, n)
			require.Equal(t, look, l)
		}
		told := func() bool {
			_, ok := l.next(func() {})
			return ok
		}
		expect(0, lookNow)
		<-time.After(4 * time.Millisecond)
		expect(0, 6*time.Millisecond)
		requireClaim(t, l, "payment", true)
		l.Hand([]*rivertype.JobRow{job(1)})
		require.True(t, told())
		expect(1, lookNot)
		require.False(t, told())
		l.Announce("payment")
		require.True(t, told())
		requireClaim(t, l, "payment", true)
		l.Hand([]*rivertype.JobRow{job(2)})
		require.True(t, told())
		expect(1, lookNot)
		require.True(t, told()) // to look for what was announced
		expect(0, 6*time.Millisecond)
		<-time.After(6 * time.Millisecond)
		requireClaim(t, l, "payment", true)
		l.Hand([]*rivertype.JobRow{job(3)})
		expect(1, lookNow) // both at once
	})
}

// Workers that stop leave what they were handed to others, also what was promised to them and comes a moment later.
func TestWhatStoppedWorkersLeave(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := &Local{}
		l.start()
		l.ids(5)
		l.looked("payment", nil, true)
		for range 4 {
			requireClaim(t, l, "payment", true)
		}
		l.Hand([]*rivertype.JobRow{job(1)})
		l.stop()
		go func() {
			<-time.After(time.Second)
			l.Release([]string{"payment"})
			l.Hand([]*rivertype.JobRow{job(2)})
			<-time.After(time.Second)
			l.Hand([]*rivertype.JobRow{job(3)})
		}()
		require.Len(t, l.leftovers(t.Context()), 3)
		require.Empty(t, l.leftovers(t.Context()))

		l.start()
		l.ids(5)
		l.looked("payment", nil, true)
		requireClaim(t, l, "payment", true)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.Empty(t, l.leftovers(ctx)) // who never ends a claim is not waited for
		l.Release([]string{"payment"})
	})
}

// While all workers are busy, as many jobs may lie at their desk as they begin in a moment: those that are added, and those that a look in
// Postgres finds, which are older. They are begun in their order.
func TestJobsLieAtTheDeskOfBusyWorkers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := &Local{}
		l.start()
		hand := func(ids ...int64) {
			t.Helper()
			var jobs []*rivertype.JobRow
			for _, id := range ids {
				requireClaim(t, l, "payment", true)
				jobs = append(jobs, job(id))
			}
			l.Hand(jobs)
		}
		look := func(wanted int, all bool, ids ...int64) (begun []int64) {
			t.Helper()
			require.Equal(t, wanted, l.want("payment"))
			var found []handed
			for _, id := range ids {
				found = append(found, handed{job: job(id), at: time.Now()})
			}
			for _, h := range l.looked("payment", found, all) {
				begun = append(begun, h.job.ID)
			}
			return begun
		}
		begins := func(free int, look bool, want ...int64) {
			t.Helper()
			ids, looks := l.ids(free)
			require.Equal(t, want, ids)
			require.Equal(t, look, looks)
		}
		begins(4, true)
		look(4, true)
		hand(1, 2, 3, 4)
		requireClaim(t, l, "payment", false) // nothing is known of their pace
		<-time.After(paceWindow)
		begins(4, false, 1, 2, 3, 4)
		hand(5, 6, 7, 8)
		requireClaim(t, l, "payment", false) // four in a moment
		begins(1, false, 5)
		hand(9)
		begins(4, false, 6, 7, 8, 9)

		l.Announce("payment")
		begins(2, true)
		require.Equal(t, []int64{10, 11}, look(6, false, 10, 11, 12, 13, 14, 15))
		requireClaim(t, l, "payment", false) // more may wait in Postgres
		begins(3, false, 12, 13, 14)
		begins(2, true, 15)
		require.Equal(t, []int64{16}, look(5, true, 16, 17))
		hand(18)
		begins(5, false, 17, 18)

		<-time.After(10 * paceWindow) // they have slowed down
		begins(1, true)
		look(2, true)
		hand(19, 20)
		requireClaim(t, l, "payment", false)
		begins(2, false, 19, 20)
	})
}

// stocked is a Postgres in which some jobs wait.
type stocked struct {
	riverdriver.Executor
	jobs  []*rivertype.JobRow
	asked int // how many it was asked for last
}

func (s *stocked) JobGetAvailable(_ context.Context, p *riverdriver.JobGetAvailableParams) (*riverdriver.JobGetAvailableResult, error) {
	s.asked = p.MaxToLock
	return &riverdriver.JobGetAvailableResult{Jobs: s.jobs}, nil
}

// A fetch brings what waits in Postgres, which came first, and what was handed over, and no more than there are workers.
func TestAFetchBringsWhatWaitsAndWhatWasHandedOver(t *testing.T) {
	t.Parallel()
	l := &Local{}
	l.start()
	p := &riverdriver.JobGetAvailableParams{ClientID: "me", Queue: "payment", MaxToLock: 5}
	postgres := &stocked{}
	e := executor{Executor: postgres, local: l}
	fetch := func(want ...*rivertype.JobRow) {
		t.Helper()
		got, err := e.JobGetAvailable(t.Context(), p)
		require.NoError(t, err)
		require.Equal(t, want, got.Jobs)
	}
	fetch()
	for id := range int64(2) {
		requireClaim(t, l, "payment", true)
		l.Hand([]*rivertype.JobRow{job(10 + id)})
	}
	postgres.jobs = []*rivertype.JobRow{job(1), job(2)}
	l.Announce("payment")
	fetch(job(1), job(2), job(10), job(11))
	require.Equal(t, 3, postgres.asked)
	requireClaim(t, l, "payment", true) // the one that is left
	requireClaim(t, l, "payment", false)
	l.Hand([]*rivertype.JobRow{job(12)})
	postgres.asked = 0
	fetch(job(12))
	require.Zero(t, postgres.asked)
}

// unreachable is a Postgres that cannot be looked in.
type unreachable struct{ riverdriver.Executor }

var errUnreachable = errors.New("unreachable")

func (unreachable) JobGetAvailable(context.Context, *riverdriver.JobGetAvailableParams) (*riverdriver.JobGetAvailableResult, error) {
	return nil, errUnreachable
}

// What was handed over is worked though Postgres cannot be looked in: nobody else will.
func TestAFetchThatFailsLosesNothingThatWasHandedOver(t *testing.T) {
	t.Parallel()
	l := &Local{}
	l.start()
	_, look := l.ids(5)
	require.True(t, look)
	l.looked("payment", nil, true)
	requireClaim(t, l, "payment", true)
	l.Hand([]*rivertype.JobRow{job(1)})
	l.Announce("payment")
	e := executor{Executor: unreachable{}, local: l}
	p := &riverdriver.JobGetAvailableParams{ClientID: "me", Queue: "payment", MaxToLock: 5}
	got, err := e.JobGetAvailable(t.Context(), p)
	require.NoError(t, err)
	require.Equal(t, []*rivertype.JobRow{job(1)}, got.Jobs)
	requireClaim(t, l, "payment", false) // what was announced waits
	_, err = e.JobGetAvailable(t.Context(), p)
	require.ErrorIs(t, err, errUnreachable)
	require.Equal(t, 5, p.MaxToLock)
}
