package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	smtpmock "github.com/mocktools/go-smtp-mock/v2"

	"millrace/db/dbtest"
)

// patience is how long an attack waits for what must come. It is no measure of speed: whoever is slower than this hangs.
const patience = 45 * time.Second

// headerTimeout is how long the gates wait for a request's header.
const headerTimeout = 10 * time.Second

const password = "correct horse battery"

// routesOf is the routes file of the site; %[1]s is the upstream's address.
const routesOf = `
upstreams:
  shop: {url: "http://%[1]s"}
  reports: {url: "http://%[1]s"}
routes:
  - {path: /open/, upstream: shop, allow: [public]}
  - {path: /open/stream/, upstream: shop, allow: [public], stream: true}
  - {path: /open/quick/, upstream: shop, allow: [public], timeout: 3s}
  - {path: /guarded/, upstream: shop, allow: [customer, operator], max_body: 64KiB}
  - {path: /operator/, upstream: shop, allow: [operator]}
  - {path: /stream/, upstream: shop, allow: [customer, operator], stream: true}
  - {path: /reports/, upstream: reports, allow: [customer]}
sign_up: [customer]
`

// site is two gates on one database, one plain and one with TLS, before an upstream that records what reaches it.
type site struct {
	bin, db       string
	secret        []byte
	upstream      *tape
	mail          *smtpmock.Server
	certificates  *authority
	plain, secure *process
	ids, hosts    atomic.Int64
	mu            sync.Mutex
	secrets       []string // credentials that no upstream may ever see
}

func startSite(t *testing.T) *site {
	t.Helper()
	s := &site{db: dbtest.New(t, migrated), secret: make([]byte, 32), upstream: newTape(t), mail: smtpmock.New(smtpmock.ConfigurationAttr{MultipleMessageReceiving: true}),
		certificates: newAuthority(t)}
	rand.Read(s.secret)
	s.bin = filepath.Join(t.TempDir(), "gate")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-o", s.bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	if err := s.mail.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.mail.Stop(); err != nil {
			t.Error(err)
		}
	})
	cert, key := s.certificates.write(t, t.TempDir())
	limits := []string{"--header-timeout=" + headerTimeout.String(), "--idle-timeout=5s", "--max-conns-per-addr=64", "--log-level=DEBUG",
		"--mail-host=127.0.0.1", fmt.Sprintf("--mail-port=%d", s.mail.PortNumber()), "--mail-from=Shop <shop@example.com>", "--mail-plain"}
	s.plain = s.start(t, "plain", s.routes(t), append(limits, "--public-url=http://127.0.0.1", "--plain-cookies", "--ops-addr="+freeAddr(t))...)
	s.secure = s.start(t, "TLS", s.routes(t), append(limits, "--public-url=https://127.0.0.1", "--tls-cert="+cert, "--tls-key="+key, "--ops-addr="+freeAddr(t))...)
	for _, p := range s.gates() {
		p.eventually(t, "/readyz", "ready")
	}
	s.certificates.renew(t, cert, key) // whether the change is noticed is asked at the end: that takes a while
	return s
}

func (s *site) gates() []*process { return []*process{s.plain, s.secure} }

func (s *site) routes(t *testing.T) string {
	t.Helper()
	return writeFile(t, "gate.yaml", fmt.Sprintf(routesOf, s.upstream.addr()))
}

// id returns a word that finds a request again at the upstream.
func (s *site) id() string { return fmt.Sprintf("case%04dx", s.ids.Add(1)) }

// address returns a client address that nobody else uses: all of 127/8 is this machine.
func (s *site) address() string {
	n := s.hosts.Add(1)
	return fmt.Sprintf("127.1.%d.%d", n/250, 1+n%250)
}

// user adds a user with the password of all users here, and returns the address.
func (s *site) user(t testing.TB, roles ...string) (email string) {
	t.Helper()
	email = s.id() + "@example.com"
	args := []string{"user", "add", "--database-url=" + s.db, email, "--verified", "--password-stdin"}
	for _, r := range roles {
		args = append(args, "--role="+r)
	}
	s.command(t, args...)
	return email
}

// key makes an API key.
func (s *site) key(t testing.TB, email string) string {
	t.Helper()
	key := s.command(t, "key", "create", "--database-url="+s.db, email)
	s.keepSecret(key)
	return key
}

// command runs a command of the program in this process, which is quicker than to start it.
func (s *site) command(t testing.TB, args ...string) string {
	t.Helper()
	var out, errOut bytes.Buffer
	if err := run(context.WithoutCancel(t.Context()), strings.NewReader(password+"\n"), &out, &errOut, args...); err != nil {
		t.Fatalf("gate %s: %v", strings.Join(args[:2], " "), err)
	}
	return strings.TrimSpace(out.String())
}

// execute runs the program itself, as someone at a terminal would.
func (s *site) execute(t testing.TB, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), s.bin, args...)
	cmd.Env = s.environment(t)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("gate %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func (s *site) environment(t testing.TB) []string {
	t.Helper()
	return []string{"HOME=" + t.TempDir(), "PATH=" + os.Getenv("PATH"), "GATE_DATABASE_URL=" + s.db, "GOMAXPROCS=2",
		"GATE_SECRET=" + base64.StdEncoding.EncodeToString(s.secret)}
}

func (s *site) keepSecret(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.secrets = append(s.secrets, text)
}

// process is a gate that runs.
type process struct {
	name, addr, ops string
	tls             *tls.Config // nil: plain HTTP
	log             *journal
	cmd             *exec.Cmd
	ended           chan struct{}
	err             error // how it ended
}

// start runs `gate serve` until the test ends or the process is told to stop, and waits until it listens.
func (s *site) start(t testing.TB, name, config string, args ...string) *process {
	t.Helper()
	p := &process{name: name, log: newJournal(), ended: make(chan struct{})}
	p.cmd = exec.Command(s.bin, append([]string{"serve", "--addr=127.0.0.1:0", "--config=" + config}, args...)...)
	p.cmd.Env, p.cmd.Stdout, p.cmd.Stderr = s.environment(t), p.log, p.log
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.ended)
		p.log.end()
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // it may have ended
		<-p.ended
		if t.Failed() {
			t.Logf("the end of what the %s gate said:\n%s", name, p.log.tail(4000))
		}
	})
	var line struct {
		Addr string `json:"addr"`
		Ops  string `json:"ops_addr"`
		TLS  bool   `json:"tls"`
	}
	if err := json.Unmarshal([]byte(p.log.await(t, "gate is listening")), &line); err != nil {
		t.Fatal(err)
	}
	p.addr, p.ops = line.Addr, line.Ops
	if line.TLS {
		p.tls = s.certificates.client()
	}
	return p
}

// eventually waits until a page of the ops address says text.
func (p *process) eventually(t testing.TB, path, text string) {
	t.Helper()
	var got string
	for until := time.Now().Add(patience); time.Now().Before(until); pause(t) {
		if got = p.opsPage(path); strings.Contains(got, text) {
			return
		}
	}
	t.Fatalf("%s of the %s gate says %q, want %q", path, p.name, got, text)
}

// opsPage returns what the ops address says, or nothing while it does not answer.
func (p *process) opsPage(path string) string {
	client := http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Get("http://" + p.ops + path)
	if err != nil {
		return ""
	}
	defer res.Body.Close()
	var b bytes.Buffer
	_, _ = b.ReadFrom(res.Body) // what was not read is missed by whoever looks for it
	return b.String()
}

// pause is the time between two looks at something that no signal tells of.
func pause(t testing.TB) {
	t.Helper()
	select {
	case <-t.Context().Done():
	case <-time.After(20 * time.Millisecond):
	}
}

// journal keeps all that a process logs.
type journal struct {
	mu    sync.Mutex
	text  []byte
	news  chan struct{} // closed when there is more
	ended bool
}

func newJournal() *journal { return &journal{news: make(chan struct{})} }

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.text = append(j.text, p...)
	close(j.news)
	j.news = make(chan struct{})
	return len(p), nil
}

func (j *journal) end() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.ended = true
	close(j.news)
	j.news = make(chan struct{})
}

func (j *journal) all() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return string(j.text)
}

func (j *journal) tail(n int) string {
	text := j.all()
	return text[max(0, len(text)-n):]
}

// await returns the first line with text, once it is there.
func (j *journal) await(t testing.TB, text string) (line string) {
	t.Helper()
	j.until(t, text, func(all string) bool {
		for line = range strings.Lines(all) {
			if strings.Contains(line, text) && strings.HasSuffix(line, "\n") {
				return true
			}
		}
		return false
	})
	return line
}

// until waits until what was logged is as wanted.
func (j *journal) until(t testing.TB, what string, enough func(all string) bool) {
	t.Helper()
	limit := time.After(patience)
	for {
		j.mu.Lock()
		all, news, ended := string(j.text), j.news, j.ended
		j.mu.Unlock()
		if enough(all) {
			return
		}
		if ended {
			t.Fatalf("the process ended without logging %s:\n%s", what, all)
		}
		select {
		case <-news:
		case <-limit:
			t.Fatalf("%s was not logged:\n%s", what, all)
		}
	}
}
