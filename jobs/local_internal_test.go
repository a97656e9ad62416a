package jobs

import (
	"context"
	"errors"
	"testing"

	"github.com/riverqueue/river/riverdriver"
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
