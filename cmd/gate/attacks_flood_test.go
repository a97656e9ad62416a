package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// hashingStorm logs in a hundred times at once from as many addresses. One hash wants 19 MiB: all at once they were 1.9 GiB.
func hashingStorm(t *testing.T, s *site) {
	key := s.key(t, s.user(t, "customer"))
	done := make(chan struct{})
	var served int
	var good sync.WaitGroup
	good.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				s.ask(t, s.plain, s.address(), request("GET", "/guarded/"+s.id(), bearer(key))).want(t, 200, "")
				served++
				pause(t) // or it were a flood of its own
			}
		}
	})
	answers := s.storm(100, func(i int) reply {
		return s.ask(t, s.plain, s.address(), post("/auth/login", credentials(fmt.Sprintf("storm%d@example.com", i), strings.Repeat("x", 400))))
	})
	close(done)
	good.Wait()
	if answers[401]+answers[503] != 100 || answers[401] == 0 || answers[503] == 0 {
		t.Errorf("answers: %v, want some judged and the others sent away", answers)
	}
	if served < 10 {
		t.Errorf("meanwhile a customer was served %d times", served)
	}
	if most := s.plain.peak(t); most > 400<<20 {
		t.Errorf("it took %.0f MiB of memory", most/(1<<20))
	}
	if waiting := s.plain.metric(t, "gate_passwords_waiting"); waiting != 0 {
		t.Errorf("%v passwords still wait", waiting)
	}
	s.ask(t, s.plain, s.address(), post("/auth/login", credentials("a@example.com", strings.Repeat("x", 70_000)))).want(t, 422, "invalid")
}

// peak is the most memory that the program ever took from the system, in bytes, with that of what it started where that can be seen.
func (p *process) peak(t testing.TB) float64 {
	t.Helper()
	sum := p.metric(t, "go_memstats_sys_bytes")
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, list := range lists {
		children, _ := os.ReadFile(list) // a thread may have ended
		for child := range strings.FieldsSeq(string(children)) {
			status, _ := os.ReadFile("/proc/" + child + "/status")
			if found := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(status); found != nil {
				kib, err := strconv.ParseFloat(string(found[1]), 64)
				if err != nil {
					t.Fatal(err)
				}
				sum += kib * 1024
			}
		}
	}
	return sum
}

// metric reads one figure of a gate.
func (p *process) metric(t testing.TB, name string) float64 {
	t.Helper()
	found := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(name) + ` (\S+)$`).FindStringSubmatch(p.opsPage("/metrics"))
	if found == nil {
		t.Fatalf("the %s gate has no metric %s", p.name, name)
	}
	value, err := strconv.ParseFloat(found[1], 64)
	if err != nil {
		t.Fatal(err)
	}
	return value
}

func oversizedHeaders(t *testing.T, s *site) {
	s.each(t, func(t *testing.T, p *process) {
		var many strings.Builder
		for i := range 5000 {
			fmt.Fprintf(&many, "X-%d: aaaaaaaa\r\n", i)
		}
		for name, head := range map[string]string{
			"one big header": "X-Big: " + strings.Repeat("a", 64<<10) + "\r\n", "many headers": many.String(), "one big name": strings.Repeat("a", 64<<10) + ": x\r\n",
			"a big cookie": "Cookie: a=" + strings.Repeat("a", 64<<10) + "\r\n", "a big key": "Authorization: Bearer " + strings.Repeat("a", 64<<10) + "\r\n",
			"a megabyte without an end": "X-Big: " + strings.Repeat("a", 1<<20),
		} {
			id := s.id()
			answer := s.ask(t, p, s.address(), "GET /open/"+id+" HTTP/1.1\r\nHost: "+host+"\r\n"+head+"\r\n")
			if answer.StatusCode != http.StatusRequestHeaderFieldsTooLarge || s.upstream.seen(id) != nil {
				t.Errorf("%s: %d", name, answer.StatusCode)
			}
		}
		w := s.dial(t, p, s.address())
		go w.send("GET /open/" + strings.Repeat("a", 1<<20))
		if answer, ok := w.reply(); ok && answer.StatusCode < 400 {
			t.Errorf("a target of a megabyte: %d", answer.StatusCode)
		}
		w.Close()
		key := s.key(t, s.user(t, "customer"))
		big := strings.Repeat("x", 64<<10+1)
		for _, body := range []string{fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(big), big), fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(big), big), "Content-Length: 99999999999\r\n\r\n"} {
			id := s.id()
			s.ask(t, p, s.address(), "POST /guarded/"+id+" HTTP/1.1\r\nHost: "+host+"\r\n"+bearer(key)+"\r\n"+body).want(t, 413, "body_too_large")
			if s.upstream.seen(id) != nil {
				t.Error("a body that is too large reached the upstream")
			}
		}
		id := s.id()
		s.ask(t, p, s.address(), payload("POST", "/guarded/"+id, big[1:], bearer(key))).want(t, 200, "")
	})
}

// drip sends a byte now and then until the other side hangs up; it is done when the test closes the connection.
func (w *wire) drip(stop <-chan struct{}) {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
			if _, err := io.WriteString(w.Conn, "x"); err != nil {
				return
			}
		}
	}
}

// dripped starts a request, feeds it byte by byte, and returns what came until the gate hung up.
func (s *site) dripped(t testing.TB, p *process, start string) string {
	t.Helper()
	w := s.dial(t, p, s.address())
	w.send(start)
	stop := make(chan struct{})
	var feeding sync.WaitGroup
	feeding.Go(func() { w.drip(stop) })
	defer feeding.Wait()
	defer close(stop)
	first, ok := w.reply()
	w.Close()
	if !ok {
		return ""
	}
	return fmt.Sprint(first.StatusCode, " ", first.code())
}

func slowHeader(t *testing.T, s *site) {
	s.each(t, func(t *testing.T, p *process) {
		all := atOnce{T: t}
		defer all.Wait()
		for name, start := range map[string]string{"a request line": "GET /open/", "a header": "GET /open/x HTTP/1.1\r\nHost: x\r\nX-Slow: ", "a second request": request("GET", "/open/x") + "GET /open/"} {
			all.run(name, func(t *testing.T) {
				if got := s.dripped(t, p, start); got != "" && !strings.HasPrefix(got, "4") && name != "a second request" {
					t.Errorf("answered %s", got)
				}
			})
		}
		all.run("nothing at all", func(t *testing.T) {
			w := s.dial(t, p, s.address())
			w.rest()
		})
		all.run("nothing after a request", func(t *testing.T) {
			w := s.dial(t, p, s.address())
			w.send(request("GET", "/open/"+s.id()))
			if text := w.rest(); !strings.HasPrefix(text, "HTTP/1.1 200 ") {
				t.Errorf("%q", text)
			}
		})
		all.run("half a handshake", func(t *testing.T) {
			w := s.dial(t, &process{name: p.name, addr: p.addr}, s.address())
			w.send("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
			w.rest()
		})
		for range 20 { // meanwhile others are served
			s.ask(t, p, s.address(), request("GET", "/open/"+s.id())).want(t, 200, "")
		}
	})
}

func slowBody(t *testing.T, s *site) {
	s.each(t, func(t *testing.T, p *process) {
		all := atOnce{T: t}
		defer all.Wait()
		for name, framing := range map[string]string{"by length": "Content-Length: 1000\r\n\r\nab", "in chunks": "Transfer-Encoding: chunked\r\n\r\nfff\r\nab"} {
			all.run(name, func(t *testing.T) {
				id := s.id()
				if got := s.dripped(t, p, "POST /open/quick/"+id+" HTTP/1.1\r\nHost: x\r\n"+framing); got != "408 body_too_slow" {
					t.Errorf("answered %q", got)
				}
			})
		}
		all.run("of a login", func(t *testing.T) {
			got := s.dripped(t, p, "POST /auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 1000\r\n\r\nemail=")
			if got != "" && !strings.HasPrefix(got, "4") {
				t.Errorf("answered %q", got)
			}
		})
	})
}

// idleConnections holds connections that say nothing, on a gate of its own that would keep them for long.
func idleConnections(t *testing.T, s *site) {
	const most = 16
	p := s.start(t, "crowded", s.routes(t), "--public-url=http://127.0.0.1", "--plain-cookies", "--ops-addr=", "--header-timeout=10m", "--idle-timeout=10m", fmt.Sprintf("--max-conns-per-addr=%d", most))
	from, served := s.address(), 0
	var silent []*wire
	for range most / 2 {
		silent = append(silent, s.dial(t, p, from)) // not a byte
	}
	for range 3 * most {
		w := s.dial(t, p, from)
		w.send(request("GET", "/open/"+s.id()))
		if answer, ok := w.reply(); ok {
			answer.want(t, 200, "")
			served++
		}
	}
	if served != most/2 {
		t.Errorf("beside %d silent connections %d more were served, want %d", len(silent), served, most/2)
	}
	for range 2 * most {
		s.ask(t, p, s.address(), request("GET", "/open/"+s.id())).want(t, 200, "") // from elsewhere
	}
	for _, w := range silent {
		w.Close()
	}
	for until := time.Now().Add(patience); ; pause(t) {
		w := s.dial(t, p, from)
		w.send(request("GET", "/open/"+s.id()))
		answer, ok := w.reply()
		w.Close()
		if ok {
			answer.want(t, 200, "")
			return
		}
		if time.Now().After(until) {
			t.Fatal("places that became free were not given away")
		}
	}
}
