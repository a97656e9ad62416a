package deploy

import (
	"encoding/base64"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"

	"millrace"
)

// top is the folder of compose.yaml and the Dockerfile.
const top = "../../.."

// environment is all that whoever starts compose.yaml has to set, with a value of its own for each secret, so that one used in
// another's place shows.
func environment() map[string]string {
	return map[string]string{
		"GATE_DB_PASSWORD":     "the password of gate's role",
		"GATE_PUBLIC_URL":      "https://shop.example.com",
		"GATE_SECRET":          base64.StdEncoding.EncodeToString([]byte("32 bytes that are of the gate...")),
		"MILLRACE_DB_PASSWORD": "the password of millrace's role",
		"POSTGRES_PASSWORD":    "the password of the superuser",
	}
}

// secretName is the form of variables that hold a secret.
var secretName = regexp.MustCompile(`(?i)password|secret|token|private`)

func load(t testing.TB, env map[string]string) (*types.Project, error) {
	t.Helper()
	options, err := cli.NewProjectOptions([]string{filepath.Join(top, "compose.yaml")},
		func(o *cli.ProjectOptions) error { maps.Copy(o.Environment, env); return nil })
	if err != nil {
		t.Fatalf("options: %v", err)
	}
	return options.LoadProject(t.Context())
}

func project(t testing.TB) *types.Project {
	t.Helper()
	p, err := load(t, environment())
	if err != nil {
		t.Fatalf("compose.yaml is not valid: %v", err)
	}
	return p
}

// programs are the services that run our image, by name.
func programs(p *types.Project) map[string]types.ServiceConfig {
	of := map[string]types.ServiceConfig{}
	for name, s := range p.Services {
		if s.Build != nil {
			of[name] = s
		}
	}
	return of
}

func oneShot(name string) bool { return strings.HasSuffix(name, "migrate") }

func TestEachProcessIsAService(t *testing.T) {
	t.Parallel()
	p := project(t)
	want := map[string]string{
		"migrate":         "millrace migrate",
		"gate-migrate":    "gate migrate",
		"gate":            "gate serve",
		"api":             "millrace serve",
		"worker-orders":   "millrace work --queues=inventory,payment",
		"worker-shipping": "millrace work --queues=shipping,tracking,maintenance",
	}
	got := map[string]string{}
	for name, s := range programs(p) {
		got[name] = strings.Join(s.Command, " ")
	}
	if !maps.Equal(got, want) {
		t.Errorf("services of our image are %v, want %v", got, want)
	}
	if image := p.Services["postgres"].Image; !regexp.MustCompile(`^postgres:\d+`).MatchString(image) {
		t.Errorf("postgres runs image %q, want postgres: with a major version, which its volume depends on", image)
	}
}

func TestEveryQueueHasAWorker(t *testing.T) {
	t.Parallel()
	var got []string
	for _, s := range programs(project(t)) {
		for _, arg := range s.Command {
			if list, ok := strings.CutPrefix(arg, "--queues="); ok {
				got = append(got, strings.Split(list, ",")...)
			}
		}
	}
	want := millrace.Queues()
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("the workers' queues are %v, the jobs' are %v", got, want)
	}
}

func TestEachSettingWithoutADefaultIsDemandedByName(t *testing.T) {
	t.Parallel()
	for name := range environment() {
		for state, change := range map[string]func(map[string]string){
			"unset": func(env map[string]string) { delete(env, name) },
			"empty": func(env map[string]string) { env[name] = "" },
		} {
			t.Run(name+" "+state, func(t *testing.T) {
				t.Parallel()
				env := environment()
				change(env)
				_, err := load(t, env)
				if err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), ".env") {
					t.Errorf("error is %v, want one that names %s and says where to put it", err, name)
				}
			})
		}
	}
}

func TestNoSecretIsWrittenIntoTheFile(t *testing.T) {
	t.Parallel()
	for name, s := range project(t).Services {
		for key, value := range s.Environment {
			if value == nil {
				t.Errorf("%s passes on %s from whatever environment compose was started in", name, key)
				continue
			}
			if secretName.MatchString(key) && !slices.Contains(slices.Collect(maps.Values(environment())), *value) {
				t.Errorf("%s: %s is %q, want a value from the environment", name, key, *value)
			}
			if u, err := url.Parse(*value); err == nil && u.User != nil {
				if _, has := u.User.Password(); has {
					t.Errorf("%s: %s carries a password in its address, where a special character would break it", name, key)
				}
			}
		}
	}
}

func TestEachProcessKnowsItsOwnSecretsAlone(t *testing.T) {
	t.Parallel()
	own := map[string][]string{
		"gate migrate": {"GATE_DB_PASSWORD"},
		"gate serve":   {"GATE_DB_PASSWORD", "GATE_SECRET"},
	}
	for name, s := range programs(project(t)) {
		want, ok := own[strings.Join(s.Command, " ")]
		if !ok {
			want = []string{"MILLRACE_DB_PASSWORD"}
		}
		var got []string
		for secret, value := range environment() {
			if secretName.MatchString(secret) && strings.Contains(fmt.Sprint(s.Environment.ToMapping()), value) {
				got = append(got, secret)
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s knows %v, want %v", name, got, want)
		}
	}
}

func TestOnlyTheGateIsReachableFromOutside(t *testing.T) {
	t.Parallel()
	p := project(t)
	for name, s := range p.Services {
		if s.NetworkMode != "" {
			t.Errorf("%s shares a network outside of this file: network_mode %s", name, s.NetworkMode)
		}
		if name != "gate" && len(s.Ports) > 0 {
			t.Errorf("%s publishes %v, want nothing", name, s.Ports)
		}
	}
	ports := p.Services["gate"].Ports
	if len(ports) != 1 || ports[0].HostIP != "127.0.0.1" || ports[0].Target != 8080 {
		t.Errorf("the gate publishes %+v, want port 8080 on loopback alone unless GATE_PUBLISH says otherwise", ports)
	}
	if !p.Networks["data"].Internal {
		t.Error("the network of Postgres leads outside")
	}
	if nets := slices.Collect(maps.Keys(p.Services["postgres"].Networks)); !slices.Equal(nets, []string{"data"}) {
		t.Errorf("postgres is on the networks %v, want data alone", nets)
	}
}

func TestDataOutlivesTheContainers(t *testing.T) {
	t.Parallel()
	p := project(t)
	s := p.Services["postgres"]
	kept := false
	for _, v := range s.Volumes {
		_, declared := p.Volumes[v.Source]
		kept = kept || declared && v.Type == types.VolumeTypeVolume && v.Target == "/var/lib/postgresql/data"
	}
	if !kept {
		t.Errorf("the volumes of postgres are %+v, want a named one at its data directory", s.Volumes)
	}
	for _, arg := range append(slices.Clone(s.Command), *s.Environment["POSTGRES_INITDB_ARGS"]) {
		if regexp.MustCompile(`fsync|full_page_writes|synchronous_commit|no-sync`).MatchString(arg) {
			t.Errorf("postgres is started with %q, which weakens durability", arg)
		}
	}
}

func TestProcessesStartAfterWhatTheyNeed(t *testing.T) {
	t.Parallel()
	for name, s := range programs(project(t)) {
		want := map[string]string{"postgres": types.ServiceConditionHealthy}
		if !oneShot(name) {
			migration := "migrate"
			if s.Command[0] == "gate" {
				migration = "gate-migrate"
			}
			want[migration] = types.ServiceConditionCompletedSuccessfully
		}
		got := map[string]string{}
		for on, dependency := range s.DependsOn {
			got[on] = dependency.Condition
			if !dependency.Required {
				t.Errorf("%s starts without %s", name, on)
			}
		}
		if !maps.Equal(got, want) {
			t.Errorf("%s waits for %v, want %v", name, got, want)
		}
	}
}

func TestMigrationsRunOnceAndServersGoOn(t *testing.T) {
	t.Parallel()
	for name, s := range project(t).Services {
		want := types.RestartPolicyUnlessStopped
		if oneShot(name) {
			want = types.RestartPolicyNo
		}
		if s.Restart != want {
			t.Errorf("%s: restart is %q, want %q", name, s.Restart, want)
		}
		if s.ContainerName != "" {
			t.Errorf("%s has a fixed container name, and so cannot be scaled", name)
		}
	}
}

func TestEachServerHasAHealthCheck(t *testing.T) {
	t.Parallel()
	p := project(t)
	if check := p.Services["postgres"].HealthCheck; check == nil || !slices.Contains(check.Test, "--host=127.0.0.1") {
		t.Errorf("postgres is checked by %+v, want by TCP: its socket answers before databases.sql has run", check)
	}
	address := parseDockerfile(t).last(t).one(t, "HEALTHCHECK")
	for name, s := range programs(p) {
		if oneShot(name) {
			if s.HealthCheck == nil || !s.HealthCheck.Disable {
				t.Errorf("%s ends, and so can never be healthy: switch the check of the image off", name)
			}
			continue
		}
		if s.HealthCheck != nil {
			t.Errorf("%s replaces the check of the image by %+v", name, s.HealthCheck)
		}
		ops := "MILLRACE_OPS_ADDR"
		if s.Command[0] == "gate" {
			ops = "GATE_OPS_ADDR"
		}
		value := s.Environment[ops]
		if value == nil {
			t.Fatalf("%s does not set %s", name, ops)
		}
		_, port, _ := strings.Cut(*value, ":")
		if port == "" || !strings.Contains(address, "http://127.0.0.1:"+port+"/readyz") {
			t.Errorf("%s answers at %s, and the check of the image asks %s", name, *value, address)
		}
	}
}

func TestProgramsAreGivenNoMoreThanTheyNeed(t *testing.T) {
	t.Parallel()
	for name, s := range programs(project(t)) {
		switch {
		case !s.ReadOnly:
			t.Errorf("%s may write to its file system", name)
		case !slices.Equal(s.CapDrop, []string{"ALL"}) || len(s.CapAdd) > 0:
			t.Errorf("%s keeps capabilities of root: drops %v, adds %v", name, s.CapDrop, s.CapAdd)
		case !slices.Contains(s.SecurityOpt, "no-new-privileges:true"):
			t.Errorf("%s may gain privileges", name)
		case s.Privileged || s.User != "" || s.Pid != "" || s.Ipc != "":
			t.Errorf("%s changes the user of the image or shares the host's processes", name)
		case len(s.Volumes) > 0:
			t.Errorf("%s mounts %v; what programs keep is in Postgres", name, s.Volumes)
		case s.MemLimit == 0:
			t.Errorf("%s may use all memory of the host", name)
		case s.StopGracePeriod == nil || time.Duration(*s.StopGracePeriod) < 40*time.Second:
			t.Errorf("%s is killed after %v, before it has drained", name, s.StopGracePeriod)
		}
	}
}

func TestLogsAreBounded(t *testing.T) {
	t.Parallel()
	for name, s := range project(t).Services {
		if s.Logging == nil || s.Logging.Options["max-size"] == "" || s.Logging.Options["max-file"] == "" {
			t.Errorf("%s fills the disk with its log: %+v", name, s.Logging)
		}
	}
}

func TestEachConfigIsAFileOfThisPackage(t *testing.T) {
	t.Parallel()
	p := project(t)
	for name, config := range p.Configs {
		if _, err := os.Stat(config.File); err != nil {
			t.Errorf("config %s: %v", name, err)
		}
		used := false
		for _, s := range p.Services {
			used = used || slices.ContainsFunc(s.Configs, func(c types.ServiceConfigObjConfig) bool { return c.Source == name })
		}
		if !used {
			t.Errorf("no service uses config %s", name)
		}
	}
	mounted := p.Services["gate"].Configs
	if len(mounted) != 1 || mounted[0].Target != *p.Services["gate"].Environment["GATE_CONFIG"] {
		t.Errorf("the gate reads %s, mounted is %+v", *p.Services["gate"].Environment["GATE_CONFIG"], mounted)
	}
}
