package main

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var happyPath = []string{"order.placed", "stock.reserved", "payment.authorized", "payment.captured", "shipment.created",
	"shipment.in_transit", "shipment.delivered", "order.completed"}

// typesOf reads versions and types off what watch printed, and requires the versions to be 1..n.
func typesOf(t testing.TB, lines []string) (types []string) {
	t.Helper()
	for i, line := range lines {
		fields := strings.Fields(line)
		require.Equal(t, strconv.Itoa(i+1), fields[0], "versions are 1..n: %q", lines)
		types = append(types, fields[2])
	}
	return types
}

func TestANewcomersFirstMinutes(t *testing.T) {
	t.Parallel()
	dir := dataDir(t)
	d := startDev(t, dir)

	// The command that dev prints works when pasted.
	out := d.output.String()
	pasted := out[strings.Index(out, "curl -sS"):strings.Index(out, "\n\nand follow it")]
	answer, err := exec.CommandContext(t.Context(), "sh", "-c", pasted).CombinedOutput()
	require.NoError(t, err, string(answer))
	id := regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f-]{27}`).FindString(string(answer))
	require.NotEmpty(t, id, string(answer))
	require.Equal(t, happyPath, typesOf(t, d.watch(t, id)))

	info, err := os.Stat(devPath(dir))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm(), "dev.json holds credentials")

	// A second start on the same directory says who holds it.
	second := start(t, "dev", "--addr=127.0.0.1:0", "--ops-addr=", "--data-dir="+dir)
	<-second.ended
	require.Error(t, second.err)
	require.Contains(t, second.output.String(), strconv.Itoa(d.command.Process.Pid))

	// It ends cleanly while a stream is open, and a later start finds the same data under the same credentials.
	stream := openStream(t, d.customer(), "/v1/orders/"+id+"/stream")
	require.NoError(t, d.terminate(), d.output.String())
	require.NoError(t, <-stream, "the stream ended properly")
	again := startDev(t, dir)
	require.Equal(t, d.Customer, again.Customer)
	status, body, err := again.customer().do(t.Context(), http.MethodGet, "/v1/orders/"+id, "")
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, status, string(body))
	require.Contains(t, string(body), `"completed"`)
	require.NoError(t, again.terminate())
}

// openStream opens a stream and returns, through the channel, how it ended.
func openStream(t testing.TB, c *client, path string) <-chan error {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.url+path, nil)
	require.NoError(t, err)
	r.Header.Set("Authorization", "Bearer "+c.key)
	resp, err := c.http.Do(r) //nolint:bodyclose // the goroutine below closes it
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, resp.StatusCode)
	ended := make(chan error, 1)
	go func() {
		defer resp.Body.Close()
		buffer := make([]byte, 4096)
		for {
			if _, err := resp.Body.Read(buffer); err != nil {
				if err.Error() == "EOF" {
					err = nil
				}
				ended <- err
				return
			}
		}
	}()
	return ended
}

func TestEachMethodAndSKUBehavesAsDocumented(t *testing.T) {
	t.Parallel()
	d := startDev(t, dataDir(t), "--action-timeout=20s")
	c := d.customer()
	for _, x := range []struct{ name, method, country, sku, status, last string }{
		{"approved", "pm_ok", "GB", "POT-003", "completed", "order.completed"},
		{"declined", "pm_declined", "GB", "TEA-001", "failed", "order.failed"},
		{"flaky", "pm_flaky", "GB", "TEA-001", "completed", "order.completed"},
		{"slow", "pm_slow", "GB", "TEA-001", "completed", "order.completed"},
		{"lost answer", "pm_lost_answer", "GB", "TEA-001", "completed", "order.completed"},
		{"buyer must act", "pm_3ds", "GB", "TEA-001", "completed", "order.completed"},
		{"no rate", "pm_ok", "XX", "CUP-002", "on_hold", "order.on_hold"},
		{"scarce", "pm_ok", "GB", "RARE-010", "completed", "order.completed"},
		{"sold out", "pm_ok", "GB", "GONE-000", "failed", "order.failed"},
	} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			id := c.place(t, x.name, orderBody(x.method, x.country, x.sku))
			confirmed := false
			var o struct {
				Status string `json:"status"`
			}
			require.Eventually(t, func() bool {
				_, body, err := c.do(context.WithoutCancel(t.Context()), http.MethodGet, "/v1/orders/"+id, "")
				if err != nil || json.Unmarshal(body, &o) != nil {
					return false
				}
				if o.Status == "requires_action" && !confirmed {
					confirmed = confirm(t, c, id)
				}
				return o.Status == x.status
			}, time.Minute, 50*time.Millisecond)
			types := eventTypes(t, c, id)
			require.Equal(t, x.last, types[len(types)-1])
		})
	}
}

// confirm acts as the buyer of an order that requires it.
func confirm(t testing.TB, c *client, id string) bool {
	t.Helper()
	reference := ""
	for _, e := range events(t, c, id) {
		if e.Type == "payment.requires_action" {
			reference = e.Data.Reference
		}
	}
	status, _, err := c.do(t.Context(), http.MethodPost, "/simulated/payments/"+reference+"/confirm", "")
	return err == nil && status < 400
}

// event is what the history shows.
type event struct {
	Version int    `json:"version"`
	Type    string `json:"type"`
	Data    struct {
		Reference string `json:"reference"`
	} `json:"data"`
}

func events(t testing.TB, c *client, id string) []event {
	t.Helper()
	status, body, err := c.do(t.Context(), http.MethodGet, "/v1/orders/"+id+"/events", "")
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, status, string(body))
	var page struct{ Events []event }
	require.NoError(t, json.Unmarshal(body, &page))
	return page.Events
}

func eventTypes(t testing.TB, c *client, id string) (types []string) {
	t.Helper()
	for i, e := range events(t, c, id) {
		require.Equal(t, i+1, e.Version)
		types = append(types, e.Type)
	}
	return types
}

func TestWithoutListenPollingDoesAllOfIt(t *testing.T) {
	t.Parallel()
	dir := dataDir(t)
	d := startDev(t, dir, "--poll-only")
	id := d.customer().place(t, "one", orderBody("pm_ok", "GB", "TEA-001"))
	require.Equal(t, happyPath, typesOf(t, d.watch(t, id)))
	a := newAudit(t, d.DatabaseURL)
	require.Zero(t, a.count(`SELECT count(*) FROM pg_stat_activity WHERE query ILIKE 'listen%' AND datname = 'millrace'`), "nobody listens")
	require.NoError(t, d.terminate())
}
