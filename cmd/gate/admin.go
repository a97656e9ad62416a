package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"millrace/gate"
)

// withStore runs one command against the gate's database.
func (d database) withStore(ctx context.Context, use func(*gate.Store) error) error {
	s, err := d.store(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	return use(s)
}

// readPassword takes one line; a password never stands in the arguments, where other users of the machine could see it.
func readPassword(in io.Reader) (string, error) {
	line, err := bufio.NewReader(io.LimitReader(in, 4096)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("read the password: %w", err)
	}
	line = strings.TrimRight(line, "\r\n")
	if line == "" {
		return "", errors.New("write the password to standard input, in one line")
	}
	return line, nil
}

type userAddCmd struct {
	database
	Email         string   `arg:"" help:"E-mail address."`
	Name          string   `help:"Name to show."`
	Role          []string `help:"Role, such as customer or operator. Repeat for several."`
	Verified      bool     `help:"The address is known to be theirs."`
	PasswordStdin bool     `help:"Read the password from standard input. Default: no password."`
}

func (c userAddCmd) Run(ctx context.Context, io stdio) error {
	password := ""
	if c.PasswordStdin {
		var err error
		if password, err = readPassword(io.in); err != nil {
			return err
		}
	}
	return c.withStore(ctx, func(s *gate.Store) error {
		u, err := s.AddUser(ctx, gate.NewUser{Email: c.Email, Name: c.Name, Roles: c.Role, Password: password, Verified: c.Verified})
		if err != nil {
			return fmt.Errorf("add the user: %w", err)
		}
		fmt.Fprintln(io.out, u.ID)
		return nil
	})
}

type userRoleCmd struct {
	database
	Email string   `arg:"" help:"E-mail address."`
	Role  []string `arg:"" optional:"" help:"All roles that the user shall have."`
	None  bool     `help:"Take all roles away."`
}

func (c userRoleCmd) Run(ctx context.Context, io stdio) error {
	if len(c.Role) == 0 && !c.None {
		return errNoRole
	}
	return c.withStore(ctx, func(s *gate.Store) error {
		u, err := s.SetRoles(ctx, c.Email, c.Role)
		if err != nil {
			return fmt.Errorf("set the roles: %w", err)
		}
		fmt.Fprintf(io.out, "%s %s\n", u.Email, strings.Join(u.Roles, ","))
		return nil
	})
}

type userPasswordCmd struct {
	database
	Email string `arg:"" help:"E-mail address."`
}

func (c userPasswordCmd) Run(ctx context.Context, io stdio) error {
	password, err := readPassword(io.in)
	if err != nil {
		return err
	}
	return c.withStore(ctx, func(s *gate.Store) error {
		if err := s.SetPassword(ctx, c.Email, password); err != nil {
			return fmt.Errorf("set the password: %w", err)
		}
		return nil
	})
}

type userDisableCmd struct {
	database
	Email string `arg:"" help:"E-mail address."`
}

func (c userDisableCmd) Run(ctx context.Context) error {
	return c.withStore(ctx, func(s *gate.Store) error {
		if _, err := s.DisableUser(ctx, c.Email); err != nil {
			return fmt.Errorf("disable the user: %w", err)
		}
		return nil
	})
}

type userEnableCmd struct {
	database
	Email string `arg:"" help:"E-mail address."`
}

func (c userEnableCmd) Run(ctx context.Context) error {
	return c.withStore(ctx, func(s *gate.Store) error {
		if _, err := s.EnableUser(ctx, c.Email); err != nil {
			return fmt.Errorf("enable the user: %w", err)
		}
		return nil
	})
}

type keyCreateCmd struct {
	database
	Email   string        `arg:"" help:"E-mail address of the key's user."`
	Name    string        `help:"What the key is for."`
	Scope   []string      `help:"Scope that the key has. Repeat for several. Default: all that its user may do."`
	Expires time.Duration `help:"The key ends after so long, such as 2160h. Default: never."`
}

func (c keyCreateCmd) Run(ctx context.Context, io stdio) error {
	n := gate.NewKey{Email: c.Email, Name: c.Name, Scopes: c.Scope}
	if c.Expires < 0 {
		return errors.New("--expires must be positive")
	}
	if c.Expires > 0 {
		n.ExpiresAt = time.Now().Add(c.Expires)
	}
	return c.withStore(ctx, func(s *gate.Store) error {
		key, token, err := s.CreateKey(ctx, n)
		if err != nil {
			return fmt.Errorf("make the key: %w", err)
		}
		fmt.Fprintln(io.out, token)
		fmt.Fprintf(io.err, "key %s: keep it safe, it cannot be shown again\n", key.ID)
		return nil
	})
}

type keyListCmd struct {
	database
	Email string `arg:"" help:"E-mail address of the keys' user."`
}

func (c keyListCmd) Run(ctx context.Context, io stdio) error {
	return c.withStore(ctx, func(s *gate.Store) error {
		keys, err := s.ListKeys(ctx, c.Email)
		if err != nil {
			return fmt.Errorf("list the keys: %w", err)
		}
		for _, k := range keys {
			fmt.Fprintf(io.out, "%s\t%s\t%s\tcreated %s\texpires %s\trevoked %s\tlast used %s\n", k.ID, k.Name, strings.Join(k.Scopes, ","),
				day(k.CreatedAt), day(k.ExpiresAt), day(k.RevokedAt), day(k.LastUsedAt))
		}
		return nil
	})
}

func day(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.UTC().Format(time.RFC3339)
}

type keyRevokeCmd struct {
	database
	ID    string        `arg:"" help:"The key's id: the 16 characters after mk_."`
	After time.Duration `help:"The key goes on for so long, while its successor is rolled out. Default: ends at once."`
}

func (c keyRevokeCmd) Run(ctx context.Context) error {
	return c.withStore(ctx, func(s *gate.Store) error {
		if err := s.RevokeKey(ctx, c.ID, c.After); err != nil {
			return fmt.Errorf("revoke the key: %w", err)
		}
		return nil
	})
}

type auditCmd struct {
	database
	Email string `arg:"" optional:"" help:"E-mail address of the user it is about. Default: all."`
	Limit int    `default:"50" help:"Events, at most 1000. Default ${default}."`
}

func (c auditCmd) Run(ctx context.Context, io stdio) error {
	return c.withStore(ctx, func(s *gate.Store) error {
		user := ""
		if c.Email != "" {
			u, err := s.FindUser(ctx, c.Email)
			if err != nil {
				return fmt.Errorf("find the user: %w", err)
			}
			user = u.ID
		}
		events, err := s.ListEvents(ctx, user, c.Limit)
		if err != nil {
			return fmt.Errorf("read the audit log: %w", err)
		}
		for _, e := range events {
			fmt.Fprintf(io.out, "%s\t%s\t%s\tuser %s\tby %s\tfrom %s\t%s\n", e.At.UTC().Format(time.RFC3339), e.Action, e.Result,
				orDash(e.UserID), e.Actor, orDash(e.Address), e.Detail)
		}
		return nil
	})
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
