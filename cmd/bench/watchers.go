package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http/httputil"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// watch says which streams to open. They share the machine with what is measured, so a stream is a socket, a goroutine and some small
// buffers.
type watch struct {
	addr    string
	streams int
	path    func(i int) string
	token   func(i int) string
	history bool // each stream begins with an event at least
	// got is called by the ith stream's goroutine with the data of each event, which it must not keep.
	got func(i int, data []byte)
}

// watchers are open streams.
type watchers struct {
	conns  []net.Conn
	wg     sync.WaitGroup
	closed atomic.Bool
	errs   chan error // the first error of a stream that ended by itself
}

// dialers is how many streams are opened at the same time, and perAddress how many come from one address, as the server is told: it
// takes as many from each as from a proxy of an office.
const (
	dialers    = 32
	perAddress = 500
)

// open opens the streams and returns once the server has begun each.
func (w watch) open(ctx context.Context) (*watchers, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, 2*time.Minute, errors.New("the streams took too long to open"))
	defer cancel()
	all := &watchers{conns: make([]net.Conn, w.streams), errs: make(chan error, 1)}
	errs := make([]error, dialers)
	var next atomic.Int64
	var wg sync.WaitGroup
	for d := range dialers {
		wg.Go(func() {
			for errs[d] == nil {
				i := int(next.Add(1)) - 1
				if i >= w.streams {
					return
				}
				errs[d] = w.openOne(ctx, all, i)
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, errors.Join(err, all.close())
	}
	return all, nil
}

func (w watch) openOne(ctx context.Context, all *watchers, i int) error {
	c, err := w.request(ctx, i, 0)
	if err != nil {
		return fmt.Errorf("open stream %d: %w", i, err)
	}
	all.conns[i] = c
	_ = c.SetReadDeadline(time.Now().Add(30 * time.Second)) // of a connection just made
	in := bufio.NewReaderSize(c, 1024)
	if err := readHead(in); err != nil {
		return fmt.Errorf("open stream %d: %w", i, err)
	}
	_ = c.SetReadDeadline(time.Time{}) // likewise
	all.wg.Go(func() {
		err := readEvents(in, func(data []byte) { w.got(i, data) })
		if !all.closed.Load() {
			select {
			case all.errs <- fmt.Errorf("stream %d ended by itself: %w", i, err):
			default:
			}
		}
	})
	return nil
}

// request connects and asks for the ith stream. receive, if above 0, is the size of the socket's buffer.
func (w watch) request(ctx context.Context, i, receive int) (net.Conn, error) {
	dialer := net.Dialer{Timeout: 30 * time.Second}
	if receive > 0 { // to be set before the connection is made, since it decides on the window that is offered
		dialer.Control = func(_, _ string, raw syscall.RawConn) (err error) {
			return errors.Join(raw.Control(func(fd uintptr) {
				err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, receive)
			}), err)
		}
	}
	c, err := dialer.DialContext(ctx, "tcp", w.addr)
	if err != nil {
		return nil, err
	}
	from := i / perAddress
	_, err = fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: bench\r\nGate-Identity: %s\r\nX-Forwarded-For: 10.0.%d.%d\r\n\r\n", w.path(i), w.token(i), from/250, 1+from%250)
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// readHead reads the header of a response that must be a stream.
func readHead(in *bufio.Reader) error {
	status, err := in.ReadSlice('\n')
	if err != nil {
		return err
	}
	ok := bytes.HasPrefix(status, []byte("HTTP/1.1 200 "))
	what := string(bytes.TrimSpace(status))
	for range maxHeader {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return err
		}
		if len(bytes.TrimSpace(line)) > 0 {
			continue
		}
		if ok {
			return nil
		}
		body, _ := in.Peek(min(in.Buffered(), 400)) // what there is of an explanation
		return fmt.Errorf("no stream: %s: %s", what, body)
	}
	return errors.New("a response with too long a header")
}

var dataField = []byte("data: ")

// readEvents calls got with the data of each event until the stream ends.
func readEvents(in *bufio.Reader, got func(data []byte)) error {
	lines := bufio.NewReaderSize(httputil.NewChunkedReader(in), 1024)
	for {
		line, long, err := lines.ReadLine()
		if err != nil {
			return err
		}
		if bytes.HasPrefix(line, dataField) {
			got(line[len(dataField):])
		}
		for long && err == nil {
			_, long, err = lines.ReadLine() // the rest of the data is of no interest
		}
	}
}

// failed is the error of the first stream that ended by itself, nil if none did.
func (all *watchers) failed() error {
	select {
	case err := <-all.errs:
		return err
	default:
		return nil
	}
}

// close ends the streams and returns the error of the first that had ended by itself.
func (all *watchers) close() error {
	all.closed.Store(true)
	for _, c := range all.conns {
		if c != nil {
			_ = c.Close() // its reader ends
		}
	}
	all.wg.Wait()
	return all.failed()
}

// stalledFor is how long a stalled reader keeps its connection before it comes again: about as long as the server takes to give it up.
const stalledFor = 5 * time.Second

// stall keeps n connections open that ask for the streams of w and never read, until ctx ends. A connection is made anew now and then,
// since the server cuts those that do not read.
func (w watch) stall(ctx context.Context, n int) error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			for ctx.Err() == nil && errs[i] == nil {
				c, err := w.request(ctx, i, 2048)
				if err != nil {
					if ctx.Err() == nil {
						errs[i] = err
					}
					return
				}
				_ = sleep(ctx, stalledFor) // its end is seen above
				_ = c.Close()              // the server may have been first
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
