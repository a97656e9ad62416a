package embedded

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
)

const (
	maxUnpacked = 1 << 30 // bytes of all files of an archive together
	maxEntries  = 20_000
)

// untar unpacks the entries below prefix into root, prefix taken off. Nothing
// is written outside of root, and no link leads out of it.
func untar(r io.Reader, root *os.Root, prefix string) error {
	archive := tar.NewReader(r)
	room := int64(maxUnpacked)
	for range maxEntries {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("unpack: %w", err)
		}
		name, below := strings.CutPrefix(path.Clean(header.Name)+"/", prefix)
		name = strings.TrimSuffix(name, "/")
		if !below || name == "" || name == "." {
			continue
		}
		if !filepath.IsLocal(name) {
			return fmt.Errorf("unpack: the name %s leads out", header.Name)
		}
		switch header.Typeflag {
		case tar.TypeDir:
			err = makeDirs(root, name)
		case tar.TypeReg:
			if room -= header.Size; room < 0 {
				return fmt.Errorf("unpack: more than %d bytes", maxUnpacked)
			}
			err = unpackFile(root, name, archive, header)
		case tar.TypeSymlink:
			err = symlink(root, header.Linkname, name)
		case tar.TypeLink:
			err = root.Link(strings.TrimPrefix(path.Clean(header.Linkname), prefix), name)
		default:
			err = fmt.Errorf("an entry of type %q", header.Typeflag)
		}
		if err != nil {
			return fmt.Errorf("unpack %s: %w", header.Name, err)
		}
	}
	return fmt.Errorf("unpack: more than %d entries", maxEntries)
}

// Modes are set apart from creating, since the umask may take away what the
// server's user needs.
func unpackFile(root *os.Root, name string, content io.Reader, header *tar.Header) error {
	if err := makeDirs(root, path.Dir(name)); err != nil {
		return err
	}
	// A process that is forked meanwhile holds the file open for writing until
	// it executes, and a program so held cannot be run: "text file busy".
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	file, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := io.CopyN(file, content, header.Size); err != nil {
		return err
	}
	mode := os.FileMode(0o644)
	if header.Mode&0o111 != 0 {
		mode = 0o755
	}
	if err := file.Chmod(mode); err != nil {
		return err
	}
	return file.Close()
}

func makeDirs(root *os.Root, name string) error {
	if name == "." || name == "" {
		return nil
	}
	if info, err := root.Stat(name); err == nil && info.IsDir() {
		return nil
	}
	if err := makeDirs(root, path.Dir(name)); err != nil {
		return err
	}
	if err := root.Mkdir(name, 0o755); err != nil {
		return err
	}
	return root.Chmod(name, 0o755)
}

// symlink makes the link at name, unless it leads out of root.
func symlink(root *os.Root, target, name string) error {
	if path.IsAbs(target) || !filepath.IsLocal(path.Join(path.Dir(name), target)) {
		return fmt.Errorf("the link %s leads out, to %s", name, target)
	}
	if err := makeDirs(root, path.Dir(name)); err != nil {
		return err
	}
	return root.Symlink(target, name)
}
