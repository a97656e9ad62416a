package main

import (
	"io"
	"os"
)

// colour is an ANSI attribute.
type colour string

const (
	bold   colour = "1"
	dim    colour = "2"
	red    colour = "31"
	green  colour = "32"
	yellow colour = "33"
	cyan   colour = "36"
)

// paint colours text.
type paint func(c colour, text string) string

// paintFor is a paint that colours where w is a terminal that wants it.
func paintFor(w io.Writer) paint {
	f, ok := w.(*os.File)
	plain := !ok || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb"
	if !plain {
		info, err := f.Stat()
		plain = err != nil || info.Mode()&os.ModeCharDevice == 0
	}
	if plain {
		return func(_ colour, text string) string { return text }
	}
	return func(c colour, text string) string { return "\x1b[" + string(c) + "m" + text + "\x1b[0m" }
}
