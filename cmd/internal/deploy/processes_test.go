package deploy

import (
	"bytes"
	"context"
	"debug/elf"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/types"
)

// TestTheProcessesRunWithoutContainers starts what compose.yaml starts, by its commands and settings; only host names, which
// containers give, become ports of this machine.
func TestTheProcessesRunWithoutContainers(t *testing.T) {
	t.Parallel()
	postgres := startPostgres(t)
	bin := build(t)
	services := programs(project(t))

	// 0.0.0.0:9090 is of each container: every service has ports of its own here.
	ports := map[string]string{}
	at := func(service, port string) string {
		key := service + ":" + port
		if ports[key] == "" {
			ports[key] = freePort(t)
		}
		return "127.0.0.1:" + ports[key]
	}
	local := func(service, text string) string {
		for name, port := range map[string]string{"api": "8081", "gate": "8080"} {
			text = strings.ReplaceAll(text, "http://"+name+":"+port, "http://"+at(name, port))
		}
		if port, ok := strings.CutPrefix(text, "0.0.0.0:"); ok {
			return at(service, port)
		}
		return text
	}
	routes, err := os.ReadFile("gate.yaml")
	if err != nil {
		t.Fatal(err)
	}
	routesFile := filepath.Join(t.TempDir(), "gate.yaml")
	if err := os.WriteFile(routesFile, []byte(local("gate", string(routes))), 0o600); err != nil {
		t.Fatal(err)
	}

	command := func(name string, s types.ServiceConfig) *process {
		env := []string{"HOME=" + t.TempDir(), "PATH=/nowhere"}
		for key, value := range s.Environment {
			switch {
			case strings.HasSuffix(key, "DATABASE_URL"):
				*value = socketURL(t, postgres.URL, *value)
			case key == "GATE_CONFIG":
				*value = routesFile
			default:
				*value = local(name, *value)
			}
			env = append(env, key+"="+*value)
		}
		return &process{name: name, cmd: exec.CommandContext(t.Context(), filepath.Join(bin, s.Command[0]), s.Command[1:]...), env: env}
	}

	for name, s := range services {
		if oneShot(name) {
			once := command(name, s)
			once.start(t)
			once.wait(t)
		}
	}
	servers := map[string]*process{}
	for name, s := range services {
		if !oneShot(name) {
			servers[name] = command(name, s)
			servers[name].start(t)
		}
	}
	for name, server := range servers {
		server.status(t, "http://"+at(name, "9090")+"/readyz", http.StatusOK)
	}

	servers["gate"].status(t, "http://"+at("gate", "8080")+"/v1/products", http.StatusOK)
	servers["gate"].status(t, "http://"+at("gate", "8080")+"/v1/orders", http.StatusUnauthorized)
	servers["api"].status(t, "http://"+at("api", "8081")+"/v1/orders", http.StatusUnauthorized)

	for _, server := range servers {
		if err := server.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Errorf("%s: %v", server.name, err)
		}
	}
	for _, server := range servers {
		server.wait(t)
	}
}

// build compiles both programs as the Dockerfile does, and sees to it that they are static. It returns their folder.
func build(t testing.TB) string {
	t.Helper()
	bin := t.TempDir()
	compile := exec.CommandContext(t.Context(), "go", "build", "-o", bin+"/", "./cmd/millrace", "./cmd/gate")
	compile.Dir = top
	compile.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := compile.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	if runtime.GOOS != "linux" {
		return bin
	}
	for _, name := range []string{"millrace", "gate"} {
		f, err := elf.Open(filepath.Join(bin, name))
		if err != nil {
			t.Fatal(err)
		}
		if libraries, err := f.ImportedLibraries(); err != nil || len(libraries) > 0 {
			t.Errorf("%s is not static: it loads %v, %v", name, libraries, err)
		}
		_ = f.Close()
	}
	return bin
}

// process is one service of compose.yaml as a process of this machine.
type process struct {
	name string
	cmd  *exec.Cmd
	env  []string
	log  bytes.Buffer
	done chan error
}

func (p *process) start(t testing.TB) {
	t.Helper()
	p.cmd.Env, p.cmd.Stdout, p.cmd.Stderr = p.env, &p.log, &p.log
	p.done = make(chan error, 1)
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("%s: %v", p.name, err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		p.done <- p.cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // it may have ended
		<-ended
		if t.Failed() {
			t.Logf("%s said:\n%s", p.name, p.log.String())
		}
	})
}

// wait sees the process end well.
func (p *process) wait(t testing.TB) {
	t.Helper()
	if err := <-p.done; err != nil {
		t.Errorf("%s: %v", p.name, err)
	}
}

// status asks until the answer has this status, as a health check does, and fails when the process ends before that.
func (p *process) status(t testing.TB, address string, want int) {
	t.Helper()
	client := http.Client{Timeout: 5 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for got := 0; ; {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
		if err != nil {
			t.Fatal(err)
		}
		if res, err := client.Do(req); err == nil {
			_ = res.Body.Close()
			if got = res.StatusCode; got == want {
				return
			}
		}
		select {
		case err := <-p.done:
			p.done <- err
			t.Fatalf("%s ended: %v", p.name, err)
		case <-ctx.Done():
			t.Fatalf("%s answers %d, want %d", address, got, want)
		case <-again.C:
		}
	}
}

// socketURL is a database URL of compose.yaml for the server of this test: the same role and database, by its socket.
func socketURL(t testing.TB, server func(database string) string, text string) string {
	t.Helper()
	want, err := url.Parse(text)
	if err != nil || want.Host != "postgres:5432" {
		t.Fatalf("%q is not the address of the service postgres: %v", text, err)
	}
	u, err := url.Parse(server(strings.TrimPrefix(want.Path, "/")))
	if err != nil {
		t.Fatal(err)
	}
	u.User = want.User
	return u.String()
}

func freePort(t testing.TB) string {
	t.Helper()
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, port, err := net.SplitHostPort(ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}
