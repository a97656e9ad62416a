package main

import (
	"bytes"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/stretchr/testify/require"
)

func TestEveryFlagHasAnEnvironmentVariableAndSaysWhatItIs(t *testing.T) {
	t.Parallel()
	parser, err := kong.New(&cli{}, kong.Name("millrace"))
	require.NoError(t, err)
	for _, command := range parser.Model.Children {
		for _, f := range command.Flags {
			if f.Name == "help" {
				continue
			}
			require.NotEmpty(t, f.Envs, "%s --%s has no environment variable", command.Name, f.Name)
			require.NotEmpty(t, f.Help, "%s --%s has no help", command.Name, f.Name)
		}
	}
}

func TestWrongCallsSayWhatToDo(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"unknown flag":       {[]string{"serve", "--nonsense"}, "--help"},
		"no order to watch":  {[]string{"watch"}, "order"},
		"not an order id":    {[]string{"watch", "42"}, "no order id"},
		"no dev to watch":    {[]string{"watch", "--data-dir=/nonexistent", "0199f3c2-7f7a-7cc1-8000-000000000000"}, "--url"},
		"unknown queue":      {[]string{"work", "--database-url=postgres://127.0.0.1:1/none", "--queues=nonsense"}, "inventory"},
		"database not there": {[]string{"migrate", "--database-url=postgres://127.0.0.1:1/none"}, "127.0.0.1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			err := run(t.Context(), &out, &out, c.args...)
			require.ErrorContains(t, err, c.want)
		})
	}
}

func TestHelpIsNoFailure(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"--help"}, {"dev", "--help"}, {"work", "--help"}} {
		var out bytes.Buffer
		require.NoError(t, run(t.Context(), &out, &out, args...))
		require.Contains(t, out.String(), "Usage: millrace")
	}
}
