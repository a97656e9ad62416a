package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"

	"millrace"
)

type watchCmd struct {
	Order   string        `arg:"" help:"The order's id."`
	URL     string        `env:"MILLRACE_URL" placeholder:"http://…" help:"Where the gate is. Default: that of dev.json in the data directory."`
	APIKey  string        `env:"MILLRACE_API_KEY" placeholder:"mk_…" help:"Whose key to use. Default: the operator's of dev.json."`
	DataDir string        `default:".millrace" env:"MILLRACE_DATA_DIR" help:"Data directory of a millrace dev."`
	Limit   time.Duration `default:"0s" env:"MILLRACE_WATCH_LIMIT" help:"Stop watching after so long; 0 watches until the order has ended."`
}

func (c *watchCmd) Run(ctx context.Context, io stdio) error {
	id, err := uuid.Parse(c.Order)
	if err != nil {
		return fmt.Errorf("%q is no order id: it looks like 0199f3c2-7f7a-7cc1-8000-000000000000", c.Order)
	}
	if c.URL == "" || c.APIKey == "" {
		dev, err := readDevFile(c.DataDir)
		if err != nil {
			return fmt.Errorf("give --url and --api-key, or --data-dir of a millrace dev: %w", err)
		}
		c.URL, c.APIKey = cmp.Or(c.URL, dev.URL), cmp.Or(c.APIKey, dev.Operator.APIKey)
	}
	if c.Limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.Limit)
		defer cancel()
	}
	// No limit on the whole answer, since a stream is open for as long as the order lives; the server sends something every half minute.
	client := &http.Client{Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, ResponseHeaderTimeout: 30 * time.Second}}
	defer client.CloseIdleConnections()
	w := watcher{client: client, url: strings.TrimSuffix(c.URL, "/") + "/v1/orders/" + id.String() + "/stream", key: c.APIKey, out: io.out, paint: paintFor(io.out)}
	return w.run(ctx)
}

// watcher follows an order's stream, and goes on where it was when the connection breaks.
type watcher struct {
	client   *http.Client
	url, key string
	out      io.Writer
	paint    paint
	last     string // id of the last event seen
	started  time.Time
}

// errRefused is an answer that no second try would change.
var errRefused = errors.New("refused")

func (w *watcher) run(ctx context.Context) error {
	wait := 250 * time.Millisecond
	for {
		seen := w.last
		ended, err := w.follow(ctx)
		switch {
		case ended:
			return nil
		case ctx.Err() != nil && errors.Is(ctx.Err(), context.Canceled):
			return nil
		case ctx.Err() != nil:
			return errors.New("the order has not ended in time")
		case errors.Is(err, errRefused):
			return err
		}
		if w.last != seen {
			wait = 250 * time.Millisecond
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		wait = min(2*wait, 5*time.Second)
	}
}

// follow reads one connection and reports whether the order has ended.
func (w *watcher) follow(ctx context.Context) (ended bool, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, w.url, nil)
	if err != nil {
		return false, fmt.Errorf("%w: %w", errRefused, err)
	}
	r.Header.Set("Authorization", "Bearer "+w.key)
	r.Header.Set("Accept", "text/event-stream")
	if w.last != "" {
		r.Header.Set("Last-Event-ID", w.last)
	}
	resp, err := w.client.Do(r)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusOK:
	case resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests:
		return false, fmt.Errorf("the server answered %s", resp.Status)
	default:
		return false, fmt.Errorf("%w: %s", errRefused, problemOf(resp))
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(make([]byte, 4096), 1<<20)
	var id, data string
	for lines.Scan() {
		field, value, _ := strings.Cut(lines.Text(), ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "id":
			id = value
		case "data":
			data = value
		case "":
			if data == "" {
				continue
			}
			w.last = id
			if ended = w.show(data); ended {
				return true, nil
			}
			id, data = "", ""
		}
	}
	return false, lines.Err()
}

// problemOf is what a refusal says.
func problemOf(resp *http.Response) string {
	var p struct{ Title, Detail string }
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if json.Unmarshal(body, &p) != nil || p.Title == "" && p.Detail == "" {
		return resp.Status
	}
	return strings.TrimSpace(resp.Status + ": " + cmp.Or(p.Detail, p.Title))
}

// show prints an event and reports whether it ended the order.
func (w *watcher) show(data string) bool {
	var e struct {
		Version           int                  `json:"version"`
		Type              string               `json:"type"`
		Status            millrace.OrderStatus `json:"status"`
		PaymentStatus     string               `json:"payment_status"`
		FulfillmentStatus string               `json:"fulfillment_status"`
		At                time.Time            `json:"at"`
		Data              json.RawMessage      `json:"data"`
	}
	if err := json.Unmarshal([]byte(data), &e); err != nil {
		fmt.Fprintln(w.out, data)
		return false
	}
	if w.started.IsZero() {
		w.started = e.At
	}
	details := string(e.Data)
	if details == "{}" {
		details = ""
	}
	colour := green
	switch e.Status {
	case millrace.OrderOnHold, millrace.OrderRequiresAction:
		colour = yellow
	case millrace.OrderFailed, millrace.OrderCanceled, millrace.OrderExpired:
		colour = red
	case millrace.OrderPending, millrace.OrderProcessing, millrace.OrderCompleted:
	}
	fmt.Fprintf(w.out, "%3d  %s  %s  %-15s %s\n", e.Version, w.paint(dim, fmt.Sprintf("%8s", "+"+e.At.Sub(w.started).Round(time.Millisecond).String())),
		w.paint(colour, fmt.Sprintf("%-23s", e.Type)), e.Status, w.paint(dim, details))
	return e.Status.Final()
}
