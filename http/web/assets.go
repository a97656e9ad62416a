package web

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"fmt"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync"
)

//go:embed assets
var assetFiles embed.FS

const assetsPath = "/assets/"

// assets serves the embedded files under /assets/<fingerprint>/. The fingerprint is that of all files together, so that modules find
// each other by relative addresses and an address, once handed out, never changes its content.
type assets struct {
	fingerprint string
	files       map[string]*asset
}

type asset struct {
	contentType string
	body        []byte
	etag        string
	zipped      func() []byte // made at first use; nil where it does not pay
}

// contentTypes are named here, since mime's table depends on the machine.
var contentTypes = map[string]string{".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml", ".txt": "text/plain; charset=utf-8"}

func newAssets() (*assets, error) {
	a := &assets{files: map[string]*asset{}}
	all := sha256.New()
	err := fs.WalkDir(assetFiles, "assets", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		body, err := assetFiles.ReadFile(name)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(body)
		fmt.Fprintf(all, "%s\x00%x\n", name, sum)
		f := &asset{contentType: contentTypes[path.Ext(name)], body: body, etag: `W/"` + base64.RawURLEncoding.EncodeToString(sum[:12]) + `"`}
		if f.contentType == "" {
			return fmt.Errorf("asset %s: unknown kind of file", name)
		}
		if len(body) > 1024 {
			f.zipped = sync.OnceValue(func() []byte { return zip(body) })
		}
		a.files[strings.TrimPrefix(name, "assets/")] = f
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the assets: %w", err)
	}
	a.fingerprint = base64.RawURLEncoding.EncodeToString(all.Sum(nil)[:9])
	return a, nil
}

func zip(body []byte) []byte {
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err == nil {
		_, err = z.Write(body)
	}
	if err == nil {
		err = z.Close()
	}
	if err != nil || b.Len() >= len(body) {
		return nil // it is sent as it is
	}
	return b.Bytes()
}

// path is where an asset is served; an error for one that does not exist, so that a template cannot name it.
func (a *assets) path(name string) (string, error) {
	if a.files[name] == nil {
		return "", fmt.Errorf("there is no asset %s", name)
	}
	return assetsPath + a.fingerprint + "/" + name, nil
}

// ServeHTTP serves an asset. Another fingerprint is that of another version, which runs beside this one while a new one is rolled out:
// it gets what there is, but no one keeps it.
func (a *assets) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	fingerprint, name, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, assetsPath), "/")
	f := a.files[name]
	if f == nil {
		rw.Header().Set("Cache-Control", "no-store")
		http.Error(rw, "There is no such asset.", http.StatusNotFound)
		return
	}
	caching := "no-cache"
	if fingerprint == a.fingerprint {
		caching = "public, max-age=31536000, immutable"
	}
	f.serve(rw, r, caching)
}

// serveFavicon answers browsers that ask for an icon without having read a page.
func (a *assets) serveFavicon(rw http.ResponseWriter, r *http.Request) {
	a.files["favicon.svg"].serve(rw, r, "public, max-age=86400")
}

func (f *asset) serve(rw http.ResponseWriter, r *http.Request, caching string) {
	h := rw.Header()
	h.Set("Cache-Control", caching)
	h.Set("ETag", f.etag)
	h.Set("Vary", "Accept-Encoding")
	if strings.Contains(r.Header.Get("If-None-Match"), f.etag) {
		rw.WriteHeader(http.StatusNotModified)
		return
	}
	body := f.body
	if f.zipped != nil && acceptsGzip(r) {
		if zipped := f.zipped(); zipped != nil {
			h.Set("Content-Encoding", "gzip")
			body = zipped
		}
	}
	h.Set("Content-Type", f.contentType)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	if r.Method != http.MethodHead {
		_, _ = rw.Write(body) //nolint:gosec // G705: embedded files; and a client that went away cannot be told
	}
}

func acceptsGzip(r *http.Request) bool {
	for part := range strings.SplitSeq(r.Header.Get("Accept-Encoding"), ",") {
		name, parameters, err := mime.ParseMediaType(part)
		if err == nil && name == "gzip" && parameters["q"] != "0" {
			return true
		}
	}
	return false
}
