package embedded

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

func TestDataOfAnotherVersionIsRefusedAndLeftAsItWas(t *testing.T) {
	t.Parallel()
	tests := []struct {
		rule, version string
		want          []string
	}{
		{"an older one", "13", []string{"was made by Postgres 13", "postgresql", "none is offered for download for version 13"}},
		{"one of the future", "99", []string{"was made by Postgres 99", "dump the data with version 99"}},
		{"one from before 10", "9.6", []string{`was made by a Postgres "9.6"`}},
		{"one that says nothing", "", []string{`was made by a Postgres ""`}},
	}
	for _, test := range tests {
		t.Run(test.rule, func(t *testing.T) {
			t.Parallel()
			dir := openDir(t)
			s := mustStart(t, Config{Dir: dir, Throwaway: true})
			stop(t, s)
			original := strconv.Itoa(s.in.Major) + "\n"
			mark := filepath.Join(dir, "data", "PG_VERSION")
			if err := os.WriteFile(mark, []byte(test.version+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			before := fingerprint(t, filepath.Join(dir, "data"))

			refused, err := Start(t.Context(), Config{Dir: dir})
			if err == nil {
				stop(t, refused)
				t.Fatal("it started")
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got %v, want an error with %q", err, want)
				}
			}
			if version := (*VersionError)(nil); errors.As(err, &version) {
				if version.Dir != dir || len(version.Found) == 0 || version.Found[0] != s.in {
					t.Errorf("got %+v", version)
				}
			}
			if after := fingerprint(t, filepath.Join(dir, "data")); after != before {
				t.Errorf("the data changed:\n%s\n\nbefore:\n%s", after, before)
			}

			// It is good data still.
			if err := os.WriteFile(mark, []byte(original), 0o600); err != nil {
				t.Fatal(err)
			}
			mustStart(t, Config{Dir: dir})
		})
	}
}
