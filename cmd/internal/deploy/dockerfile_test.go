package deploy

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// instruction is one of a Dockerfile, its continued lines joined.
type instruction struct{ name, args string }

// stage is what follows one FROM, which is its first instruction.
type stage []instruction

// dockerfile is its stages in order.
type dockerfile []stage

func parseDockerfile(t testing.TB) dockerfile {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(top, "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	joined := regexp.MustCompile(`\\\n`).ReplaceAllString(string(text), "")
	var d dockerfile
	for line := range strings.Lines(joined) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, args, _ := strings.Cut(line, " ")
		if name == "FROM" {
			d = append(d, stage{})
		}
		if len(d) == 0 {
			t.Fatalf("%q comes before the first FROM", line)
		}
		d[len(d)-1] = append(d[len(d)-1], instruction{name, strings.Join(strings.Fields(args), " ")})
	}
	return d
}

func (d dockerfile) last(t testing.TB) stage {
	t.Helper()
	if len(d) < 2 {
		t.Fatalf("the Dockerfile has %d stages, want one to build and one to run", len(d))
	}
	return d[len(d)-1]
}

func (s stage) all(name string) []string {
	var args []string
	for _, i := range s {
		if i.name == name {
			args = append(args, i.args)
		}
	}
	return args
}

func (s stage) one(t testing.TB, name string) string {
	t.Helper()
	args := s.all(name)
	if len(args) != 1 {
		t.Fatalf("stage %q has %d instructions %s, want one: %v", s[0].args, len(args), name, args)
	}
	return args[0]
}

func TestProgramsAreBuiltStaticInAStageOfTheirOwn(t *testing.T) {
	t.Parallel()
	d := parseDockerfile(t)
	build, run := d[0], d.last(t)
	if !strings.HasSuffix(build[0].args, " AS build") {
		t.Errorf("the first stage is FROM %s, want it named build", build[0].args)
	}
	i := slices.IndexFunc(build.all("RUN"), func(args string) bool { return strings.Contains(args, "go build") })
	if i < 0 {
		t.Fatal("no RUN in the build stage builds the programs")
	}
	command := build.all("RUN")[i]
	for _, part := range []string{"CGO_ENABLED=0", "-trimpath", "-o /out/", "./cmd/millrace", "./cmd/gate"} {
		if !strings.Contains(command, part) {
			t.Errorf("the programs are built by %q, which lacks %s", command, part)
		}
	}
	if got := run.one(t, "COPY"); got != "--from=build /out/millrace /out/gate /usr/local/bin/" {
		t.Errorf("the image gets %q, want both programs of the build stage and nothing else", got)
	}
	if strings.Contains(run[0].args, "golang") || len(run.all("RUN")) > 0 {
		t.Errorf("the image is FROM %s and runs %v: it carries more than the programs", run[0].args, run.all("RUN"))
	}
}

func TestCompilerIsTheOneOfGoMod(t *testing.T) {
	t.Parallel()
	mod, err := os.ReadFile(filepath.Join(top, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	version := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindSubmatch(mod)
	if version == nil {
		t.Fatal("go.mod has no go directive")
	}
	if from := parseDockerfile(t)[0][0].args; !strings.Contains(from, "golang:"+string(version[1])+"-") {
		t.Errorf("the build stage is FROM %s, go.mod wants Go %s", from, version[1])
	}
}

func TestImageDoesNotRunAsRoot(t *testing.T) {
	t.Parallel()
	user := parseDockerfile(t).last(t).one(t, "USER")
	if !regexp.MustCompile(`^[1-9]\d*:[1-9]\d*$`).MatchString(user) {
		t.Errorf("USER is %q, want the numbers of a user and a group other than root's", user)
	}
}

func TestImageHoldsNoSecret(t *testing.T) {
	t.Parallel()
	for _, s := range parseDockerfile(t) {
		for _, i := range s {
			if (i.name == "ENV" || i.name == "ARG") && regexp.MustCompile(`(?i)password|secret|token|key`).MatchString(i.args) {
				t.Errorf("%s %s stays in the image's history", i.name, i.args)
			}
		}
	}
}

// The build's context holds all the programs are made of, and no test, secret or database.
func TestBuildContextHoldsTheSourcesAndNoMore(t *testing.T) {
	t.Parallel()
	ignored := readDockerignore(t)
	for _, path := range []string{".git/config", ".env", ".millrace/dev.json", "docs/architecture.md", "db/dbtest/a_test.go", "http/testdata/x"} {
		if !ignored(path) {
			t.Errorf("%s gets into the build", path)
		}
	}
	for _, path := range append(sources(t), "go.mod", "go.sum") {
		if ignored(path) {
			t.Errorf("%s is part of the programs and is kept out of the build", path)
		}
	}
}

// readDockerignore returns a reader of the file's few forms: "*", a name at the top with "!", and "**/" before a name.
func readDockerignore(t testing.TB) func(path string) bool {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(top, ".dockerignore"))
	if err != nil {
		t.Fatal(err)
	}
	var rules []string
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			rules = append(rules, line)
		}
	}
	matches := func(rule, path string) bool {
		parts := strings.Split(path, "/")
		name, anywhere := strings.CutPrefix(rule, "**/")
		if !anywhere {
			parts = parts[:1]
		}
		return slices.ContainsFunc(parts, func(part string) bool {
			ok, err := filepath.Match(name, part)
			if err != nil || strings.Contains(name, "/") {
				t.Fatalf("rule %q has a form that this test does not read: %v", rule, err)
			}
			return ok
		})
	}
	return func(path string) bool {
		out := false
		for _, rule := range rules {
			if kept, again := strings.CutPrefix(rule, "!"); matches(kept, path) {
				out = !again
			}
		}
		return out
	}
}

// sources lists every file of this module that the two programs are compiled from, by its path from the top.
func sources(t testing.TB) []string {
	t.Helper()
	list := exec.CommandContext(t.Context(), "go", "list", "-deps", "-json=Dir,Module,GoFiles,EmbedFiles", "./cmd/millrace", "./cmd/gate")
	list.Dir = top
	list.Env = append(os.Environ(), "CGO_ENABLED=0")
	var stderr strings.Builder
	list.Stderr = &stderr
	out, err := list.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	root, err := filepath.Abs(top)
	if err != nil {
		t.Fatal(err)
	}
	var files []string
	for decoder := json.NewDecoder(strings.NewReader(string(out))); decoder.More(); {
		var p struct {
			Dir                 string
			Module              *struct{ Main bool }
			GoFiles, EmbedFiles []string
		}
		if err := decoder.Decode(&p); err != nil {
			t.Fatal(err)
		}
		if p.Module == nil || !p.Module.Main {
			continue
		}
		dir, err := filepath.Rel(root, p.Dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range slices.Concat(p.GoFiles, p.EmbedFiles) {
			files = append(files, filepath.ToSlash(filepath.Join(dir, name)))
		}
	}
	if len(files) == 0 {
		t.Fatal("go list names no file of this module")
	}
	return files
}
