package live

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/google/uuid"

	"millrace"
)

func (n *node) orderURL(o millrace.Ring) string {
	return n.server.URL + "/orders/" + o.OrderID.String() + "/stream"
}

func (n *node) manyURL(customer uuid.UUID) string {
	return n.server.URL + "/stream?customer=" + customer.String()
}

// request sends a request with the headers given as name, value, ...
func (n *node) request(url string, headers ...string) *http.Response {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), patience)
	n.t.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		n.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	resp, err := n.server.Client().Do(r)
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { resp.Body.Close() })
	return resp
}

// answer is a whole response.
type answer struct {
	status int
	header http.Header
	text   string
}

// get is for requests that get no stream.
func (n *node) get(url string, headers ...string) answer {
	n.t.Helper()
	resp := n.request(url, headers...)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		n.t.Fatal(err)
	}
	return answer{status: resp.StatusCode, header: resp.Header, text: string(text)}
}

// block is what lies between two empty lines of a stream.
type block struct {
	id, event, data, retry, comment string
	hasID                           bool
	body                            body
}

type body struct {
	OrderID uuid.UUID `json:"order_id"`
	Version int32     `json:"version"`
	Type    string    `json:"type"`
}

// client reads a stream as an EventSource does.
type client struct {
	t      testing.TB
	resp   *http.Response
	lines  *bufio.Reader
	lastID string
}

func newClient(t testing.TB, resp *http.Response) *client {
	t.Helper()
	return &client{t: t, resp: resp, lines: bufio.NewReader(resp.Body)}
}

func (n *node) open(url string, headers ...string) *client {
	n.t.Helper()
	resp := n.request(url, headers...) //nolint:bodyclose // client.close does, and so does the test's end
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(resp.Body)
		n.t.Fatalf("GET %s: %s: %s", url, resp.Status, text)
	}
	c := newClient(n.t, resp)
	if b, err := c.next(); err != nil || b.comment != "open" || !b.hasID || b.data != "" {
		n.t.Fatalf("first block %+v, error %v; want an id and no data", b, err)
	}
	return c
}

// next reads one block.
func (c *client) next() (b block, err error) {
	for {
		line, err := c.lines.ReadString('\n')
		if err != nil {
			return b, err
		}
		line = strings.TrimSuffix(line, "\n")
		if line == "" {
			if b.hasID {
				c.lastID = b.id
			}
			if b.data != "" {
				err = json.Unmarshal([]byte(b.data), &b.body)
			}
			return b, err
		}
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch name {
		case "id":
			b.id, b.hasID = value, true
		case "event":
			b.event = value
		case "data":
			b.data += value
		case "retry":
			b.retry = value
		case "":
			b.comment = value
		default:
			return b, fmt.Errorf("unexpected line %q", line)
		}
	}
}

// event reads up to the next block with data.
func (c *client) event() (block, error) {
	for {
		b, err := c.next()
		if err != nil || b.data != "" {
			return b, err
		}
	}
}

func (c *client) close() { c.resp.Body.Close() }

// wantVersions reads events of one order's stream and requires exactly these versions.
func (c *client) wantVersions(from, to int32) {
	c.t.Helper()
	for v := from; v <= to; v++ {
		b, err := c.event()
		if err != nil {
			c.t.Fatalf("waiting for version %d: %v", v, err)
		}
		if b.body.Version != v || b.id != strconv.Itoa(int(v)) {
			c.t.Fatalf("got version %d with id %q, want version %d", b.body.Version, b.id, v)
		}
	}
}

func uuidNew() uuid.UUID { return uuid.Must(uuid.NewV7()) }
