package embedded

import (
	"archive/zip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/ulikunitz/xz"
)

const maxJar = 256 << 20

// mavenSource downloads zonky's jar, which holds a Postgres as tar.xz, and
// checks it against the sha256 that is published beside it.
type mavenSource struct{ base string }

func (s mavenSource) String() string {
	return "Maven Central's embedded-postgres-binaries-" + mavenPlatform()
}

func (s mavenSource) fetch(ctx context.Context, r release, work, dest string) (string, error) {
	if runtime.GOARCH != "amd64" && runtime.GOARCH != "arm64" {
		return "", fmt.Errorf("there is none for %s", runtime.GOARCH)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.ResponseHeaderTimeout = time.Minute
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}

	artifact := "embedded-postgres-binaries-" + mavenPlatform()
	address := fmt.Sprintf("%s/io/zonky/test/postgres/%s/%s/%s-%s.jar", s.base, artifact, r.maven, artifact, r.maven)
	var published strings.Builder
	if err := download(ctx, client, address+".sha256", &published, 1<<10); err != nil {
		return "", err
	}
	want, _, _ := strings.Cut(strings.TrimSpace(published.String()), " ")

	jar, err := os.Create(filepath.Join(work, "postgres.jar"))
	if err != nil {
		return "", err
	}
	defer jar.Close()
	hash := sha256.New()
	if err := download(ctx, client, address, io.MultiWriter(jar, hash), maxJar); err != nil {
		return "", err
	}
	if got := hex.EncodeToString(hash.Sum(nil)); !strings.EqualFold(got, want) {
		return "", fmt.Errorf("the jar's sha256 is %s instead of the published %q: it is not used", got, want)
	}
	return r.maven, unpackJar(jar, dest)
}

// download writes what is at the address to w, at most limit bytes.
func download(ctx context.Context, client *http.Client, address string, w io.Writer, limit int64) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("get %s: %s", address, resp.Status)
	}
	n, err := io.Copy(w, io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return fmt.Errorf("get %s: %w", address, err)
	}
	if n > limit {
		return fmt.Errorf("get %s: it has more than %d bytes", address, limit)
	}
	return nil
}

func unpackJar(jar *os.File, dest string) error {
	info, err := jar.Stat()
	if err != nil {
		return err
	}
	files, err := zip.NewReader(jar, info.Size())
	if err != nil {
		return err
	}
	for _, file := range files.File {
		if filepath.Ext(file.Name) != ".txz" {
			continue
		}
		return unpackXZ(file, dest)
	}
	return fmt.Errorf("the jar holds no .txz file")
}

// unpackXZ unpacks a .txz file of a jar into dest.
func unpackXZ(file *zip.File, dest string) error {
	packed, err := file.Open()
	if err != nil {
		return err
	}
	defer packed.Close()
	unpacked, err := xz.NewReader(packed)
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(dest)
	if err != nil {
		return err
	}
	defer root.Close()
	return untar(unpacked, root, "")
}
