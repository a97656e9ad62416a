package gate

import (
	"errors"
	"fmt"
)

// Errors of the Store, to be told apart with errors.Is.
var (
	// ErrInvalid: the input is not acceptable. The error's text says what to change and may be shown to whoever sent it.
	ErrInvalid = errors.New("invalid")
	// ErrNotFound: there is no such user, key or session.
	ErrNotFound = errors.New("not found")
	// ErrExists: the e-mail address or key is taken.
	ErrExists = errors.New("exists already")
)

// inputError is an ErrInvalid whose text is its message alone.
type inputError string

func (e inputError) Error() string        { return string(e) }
func (e inputError) Is(target error) bool { return target == ErrInvalid }

func invalid(format string, args ...any) error { return inputError(fmt.Sprintf(format, args...)) }
