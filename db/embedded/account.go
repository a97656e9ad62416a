package embedded

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// account is the operating system's user that the server runs as.
type account struct {
	name     string
	uid, gid uint32
	// switched says that it is another than this process' own, which only root
	// may choose.
	switched bool
}

// serverAccount chooses the server's user: our own; or, as root, the owner of
// the cluster at data, else postgres, else nobody.
func serverAccount(data string) (account, error) {
	self := account{uid: uint32(os.Geteuid()), gid: uint32(os.Getegid())}
	owner, exists, err := ownerOf(data)
	if err != nil {
		return account{}, err
	}
	if self.uid != 0 {
		if exists && owner != self.uid {
			return account{}, fmt.Errorf("embedded postgres: %s belongs to the user %s: run as that user or as root, or choose another data directory",
				data, userName(owner))
		}
		self.name = userName(self.uid)
		return self, nil
	}
	if exists && owner != 0 {
		u, err := user.LookupId(strconv.FormatUint(uint64(owner), 10))
		if err != nil {
			return account{}, fmt.Errorf("embedded postgres: %s belongs to the user id %d, which this system does not know: %w", data, owner, err)
		}
		return switchedAccount(u)
	}
	for _, name := range []string{"postgres", "nobody"} {
		if u, err := user.Lookup(name); err == nil {
			return switchedAccount(u)
		}
	}
	return account{}, errors.New("embedded postgres: Postgres does not run as root, and there is no user postgres or nobody to run it as: run this as another user, or add one (useradd --system postgres)")
}

func switchedAccount(u *user.User) (account, error) {
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return account{}, fmt.Errorf("embedded postgres: user %s: %w", u.Username, err)
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return account{}, fmt.Errorf("embedded postgres: user %s: %w", u.Username, err)
	}
	return account{name: u.Username, uid: uint32(uid), gid: uint32(gid), switched: true}, nil
}

// credential is what a child process needs to run as this account; nil where it
// is our own.
func (a account) credential() *syscall.Credential {
	if !a.switched {
		return nil
	}
	return &syscall.Credential{Uid: a.uid, Gid: a.gid}
}

// own gives path to the account.
func (a account) own(path string) error {
	if !a.switched {
		return nil
	}
	if err := os.Lchown(path, int(a.uid), int(a.gid)); err != nil {
		return fmt.Errorf("embedded postgres: %w", err)
	}
	return nil
}

// canEnter says whether the account may pass through path and all its parents,
// all of which must exist. Access control lists are not looked at.
func (a account) canEnter(path string) bool {
	if !a.switched {
		return true
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return false
	}
	for dir := real; ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil {
			return false
		}
		st := info.Sys().(*syscall.Stat_t)
		need := os.FileMode(0o001)
		switch {
		case st.Uid == a.uid:
			need = 0o100
		case st.Gid == a.gid:
			need = 0o010
		}
		if info.Mode().Perm()&need == 0 {
			return false
		}
		if dir == filepath.Dir(dir) {
			return true
		}
	}
}

func ownerOf(path string) (uid uint32, exists bool, err error) {
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("embedded postgres: %w", err)
	}
	return info.Sys().(*syscall.Stat_t).Uid, true, nil
}

func userName(uid uint32) string {
	id := strconv.FormatUint(uint64(uid), 10)
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return id
}
