package gate

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// Arguments that make this test program a helper.
const (
	goodHelper   = "helper"
	hungHelper   = "helper-hangs"
	brokenHelper = "helper-breaks"
	lyingHelper  = "helper-lies"
)

// playHelper is what a helper does; it returns if the argument names none.
func playHelper(kind string) {
	switch kind {
	case goodHelper:
		if err := HashPasswords(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	case hungHelper:
		select {}
	case brokenHelper:
	case lyingHelper:
		if err := json.NewDecoder(os.Stdin).Decode(new(hashWork)); err == nil {
			fmt.Fprintln(os.Stdout, `"AAAA"`)
		}
	default:
		return
	}
	os.Exit(0)
}

var cheapArgon = argonParams{memory: 64, time: 1, threads: 1}

// helped returns a hasher with helpers of a kind, and the failures that it hears of.
func helped(t *testing.T, kind string) (*hasher, *[]error) {
	t.Helper()
	h, failures := newHasher(cheapArgon), &[]error{}
	h.helpers = newHelpers([]string{os.Args[0], kind})
	h.failed = func(err error) { *failures = append(*failures, err) }
	t.Cleanup(h.helpers.close)
	return h, failures
}

func checkHashes(t *testing.T, h *hasher) {
	t.Helper()
	encoded, err := h.hash(t.Context(), "correct horse battery")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		password, encoded string
		want              bool
	}{{"correct horse battery", encoded, true}, {"wrong horse battery", encoded, false}, {"correct horse battery", "", false}} {
		if ok, err := h.verify(t.Context(), c.password, c.encoded); err != nil || ok != c.want {
			t.Errorf("verify %q: %v, %v", c.password, ok, err)
		}
		if ok, err := newHasher(cheapArgon).verify(t.Context(), c.password, c.encoded); err != nil || ok != c.want {
			t.Errorf("verify %q without a helper: %v, %v", c.password, ok, err)
		}
	}
}

func TestAHelperHashesAsThisProcessDoes(t *testing.T) {
	t.Parallel()
	h, failures := helped(t, goodHelper)
	checkHashes(t, h)
	if len(*failures) > 0 {
		t.Errorf("failures: %v", *failures)
	}
	if len(h.helpers.all) != 1 || len(h.helpers.idle) != 1 {
		t.Errorf("%d helpers, %d idle; one after the other needs one", len(h.helpers.all), len(h.helpers.idle))
	}
}

func TestEveryThreadOfAHelperHasALowPriorityAndNoSecretsInItsEnvironment(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		return // elsewhere a helper is a process like any other
	}
	h, _ := helped(t, goodHelper)
	checkHashes(t, h)
	proc := fmt.Sprintf("/proc/%d/", h.helpers.idle[0].cmd.Process.Pid)
	env, err := os.ReadFile(proc + "environ")
	if err != nil || string(env) != "GOMAXPROCS=1\x00" {
		t.Errorf("environment %q, %v", env, err)
	}
	threads, err := filepath.Glob(proc + "task/*/stat")
	if err != nil || len(threads) == 0 {
		t.Fatalf("threads: %v, %v", threads, err)
	}
	for _, name := range threads {
		stat, err := os.ReadFile(name)
		if err != nil {
			continue // it has ended
		}
		_, after, _ := bytes.Cut(stat, []byte(") "))
		if nice := strings.Fields(string(after))[16]; nice != fmt.Sprint(helperNice) {
			t.Errorf("nice value %s, not %d", nice, helperNice)
		}
	}
}

func TestAHelperThatFailsShutsNobodyOut(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{brokenHelper, lyingHelper, hungHelper} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			h, failures := helped(t, kind)
			if kind == hungHelper {
				h.helpers.patience = 1
			}
			checkHashes(t, h)
			if len(*failures) != 4 {
				t.Errorf("%d failures noted for 4 passwords: %v", len(*failures), *failures)
			}
			if len(h.helpers.all) != 0 {
				t.Errorf("%d helpers that failed are kept", len(h.helpers.all))
			}
		})
	}
	t.Run("no such program", func(t *testing.T) {
		t.Parallel()
		h, failures := helped(t, goodHelper)
		h.helpers.command = []string{filepath.Join(t.TempDir(), "none")}
		checkHashes(t, h)
		if len(*failures) != 4 {
			t.Errorf("failures: %v", *failures)
		}
	})
}

func TestAHelperThatWasKilledIsReplaced(t *testing.T) {
	t.Parallel()
	h, failures := helped(t, goodHelper)
	checkHashes(t, h)
	killed := h.helpers.idle[0]
	if err := killed.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	checkHashes(t, h)
	if len(*failures) != 1 {
		t.Errorf("failures: %v", *failures)
	}
	if killed.cmd.ProcessState == nil {
		t.Error("nobody waited for the one that was killed")
	}
}

func TestHelpersEndWithTheGate(t *testing.T) {
	t.Parallel()
	h, failures := helped(t, goodHelper)
	checkHashes(t, h)
	one := h.helpers.idle[0]
	h.helpers.close()
	if one.cmd.ProcessState == nil || !one.cmd.ProcessState.Success() {
		t.Errorf("it ended with %v", one.cmd.ProcessState)
	}
	if len(*failures) != 0 {
		t.Errorf("failures: %v", *failures)
	}
	if _, err := h.helpers.sum(hashWork{}); err == nil {
		t.Error("a helper was started after the end")
	}
}

func helperFailures(t *testing.T, g *Gate) float64 {
	t.Helper()
	families, err := g.Registry().Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "gate_hash_helper_failures_total" {
			return f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	t.Fatal("failures of helpers are not counted")
	return 0
}

func TestAGateWithAHelperLogsInByIt(t *testing.T) {
	t.Parallel()
	b := setup(t)
	hasher, _ := helped(t, goodHelper)
	hasher.failed = b.gate.hashHelperFailed
	b.gate.store.hasher.helpers, b.gate.store.hasher.failed = hasher.helpers, hasher.failed
	b.loggedIn(customerEmail, customerPassword)
	if failures := helperFailures(t, b.gate); failures != 0 || len(hasher.helpers.idle) != 1 {
		t.Errorf("%g failures, %d helpers", failures, len(hasher.helpers.idle))
	}
	hasher.helpers.command = []string{filepath.Join(t.TempDir(), "none")}
	hasher.helpers.drop(hasher.helpers.idle[0])
	hasher.helpers.idle = nil
	b.loggedIn(customerEmail, customerPassword)
	if failures := helperFailures(t, b.gate); failures == 0 {
		t.Error("that no helper could be started was not counted")
	}
}

func TestHashPasswordsRefusesWhatItCannotHash(t *testing.T) {
	t.Parallel()
	for name, in := range map[string]string{"no JSON": "what", "half a question": `{"input":"`, "no passes": `{"threads":1,"length":32}`, "no lanes": `{"time":1,"length":32}`} {
		var out bytes.Buffer
		if err := HashPasswords(strings.NewReader(in), &out); err == nil || out.Len() > 0 {
			t.Errorf("%s: %v, answered %q", name, err, &out)
		}
	}
	if err := HashPasswords(strings.NewReader(""), &bytes.Buffer{}); err != nil {
		t.Errorf("the end of the input: %v", err)
	}
}
