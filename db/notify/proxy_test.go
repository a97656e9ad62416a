package notify

import (
	"context"
	"errors"
	"io"
	"net"
	"net/url"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// A peer that is gone without a word answers nothing; the connection looks fine.
func TestHalfDeadConnectionIsNoticed(t *testing.T) {
	t.Parallel()
	u := database(t)
	p := newProxy(t, u)
	e := listen(t, ListenerConfig{DatabaseURL: p.url, Quiet: 20 * time.Millisecond})
	d := doorbell(t, DoorbellConfig{DatabaseURL: p.url})
	first, second := ring(), ring()
	d.ringFor(first)
	eventually(t, "the first is heard", func() bool { return e.has(first) })
	p.freeze()
	d.ringFor(second)
	eventually(t, "the listener notices", func() bool { return !e.Healthy() })
	eventually(t, "the doorbell notices", func() bool { return d.Stats().Failures > 0 })
	eventually(t, "both are back", func() bool { return e.Healthy() && e.resets.Load() >= 2 })
	third := ring()
	d.ringFor(third)
	eventually(t, "rings are heard again", func() bool { return e.has(third) })
}

// proxy passes connections on to Postgres, until those that are open are frozen: they stay open, and nothing passes.
type proxy struct {
	url    string
	mu     sync.Mutex
	frozen chan struct{}
}

func newProxy(t *testing.T, databaseURL string) *proxy {
	t.Helper()
	config, err := pgx.ParseConfig(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	network, address := pgconnAddress(config)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	host, port, _ := net.SplitHostPort(listener.Addr().String())
	u := url.URL{Scheme: "postgres", Host: net.JoinHostPort(host, port), User: url.UserPassword(config.User, config.Password),
		Path: "/" + config.Database, RawQuery: "sslmode=disable"}
	p := &proxy{url: u.String(), frozen: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var running sync.WaitGroup
	t.Cleanup(func() {
		cancel()
		listener.Close()
		running.Wait()
	})
	running.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial(network, address)
			if err != nil {
				client.Close()
				continue
			}
			p.mu.Lock()
			frozen := p.frozen
			p.mu.Unlock()
			context.AfterFunc(ctx, func() { client.Close(); server.Close() })
			pass := func(to, from net.Conn) {
				for buf := make([]byte, 4096); ; {
					n, err := from.Read(buf)
					select {
					case <-frozen:
						<-ctx.Done()
						return
					default:
					}
					if err != nil {
						to.Close()
						return
					}
					if _, err := to.Write(buf[:n]); err != nil && !errors.Is(err, io.EOF) {
						return
					}
				}
			}
			running.Go(func() { pass(server, client) })
			running.Go(func() { pass(client, server) })
		}
	})
	return p
}

func (p *proxy) freeze() {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.frozen)
	p.frozen = make(chan struct{})
}

func pgconnAddress(config *pgx.ConnConfig) (network, address string) {
	if len(config.Host) > 0 && config.Host[0] == '/' {
		return "unix", config.Host + "/.s.PGSQL." + strconv.Itoa(int(config.Port))
	}
	return "tcp", net.JoinHostPort(config.Host, strconv.Itoa(int(config.Port)))
}
