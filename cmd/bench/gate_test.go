package main

import (
	"bytes"
	"encoding/json"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestTheGateIsMeasuredAgainstABareProxyAndItsUpstream(t *testing.T) {
	t.Parallel()
	b := testBed(t)
	c := &gateCmd{commonFlags: commonFlags{Rounds: 1, Time: 2 * time.Second}, Rate: 100, Connections: 4, Streams: 20, Quiet: 100 * time.Millisecond, Logins: 4}

	f, err := c.measure(t.Context(), b)
	require.NoError(t, err)
	for _, name := range []string{
		"upstream alone at 100 requests/s, p50", "bare proxy at 100 requests/s, p50", "gate at 100 requests/s, p50", "gate at 100 requests/s, in a storm of logins, p99",
		"bare proxy", "bare proxy that uses buffers again", "gate by a cached key", "gate by a cached session", postFigure, keyRatioFigure, cookieRatioFigure, stormFigure, "proxied streams opened", "passwords checked in the storm",
	} {
		require.Len(t, f.samples[name], 1, name)
		require.Positive(t, f.samples[name][0], name)
	}
	require.Contains(t, f.names, gateStreamFigure)
	require.Positive(t, b.count(t, 0, "SELECT count(*) FROM gate.audit_log WHERE action = 'login' AND result = 'refused'"), "wrong passwords were checked")
	require.Positive(t, b.count(t, 0, "SELECT count(*) FROM gate.sessions"), "and right ones")

	f.samples[addedFigure+", p50"] = []float64{0.31}
	f.samples[addedFigure+", p99"] = []float64{1.9}
	r := &report{Command: "gate"}
	c.report(r, f)
	var out bytes.Buffer
	require.NoError(t, r.write(&out, true))
	var printed struct{ Checks []check }
	require.NoError(t, json.Unmarshal(out.Bytes(), &printed))
	require.Len(t, printed.Checks, 6)
	require.False(t, printed.Checks[0].OK)
	require.True(t, printed.Checks[1].OK)
}

func TestGateTakesAsManyStreamsAsThereAreFilesFor(t *testing.T) {
	t.Parallel()
	few := &gateCmd{Streams: 1}
	told, err := few.fitStreams()
	require.NoError(t, err)
	require.Equal(t, "1", told)
	many := &gateCmd{Streams: 1 << 40}
	told, err = many.fitStreams()
	require.NoError(t, err)
	require.Less(t, many.Streams, 1<<40)
	require.Contains(t, told, "may open only")
}

func TestGateRefusesSettingsThatMeasureNothing(t *testing.T) {
	t.Parallel()
	for _, flag := range []string{"--rate=0", "--connections=1", "--streams=0", "--logins=1", "--rounds=0", "--time=0s"} {
		require.ErrorContains(t, run(t.Context(), io.Discard, io.Discard, "gate", flag), "must be above 0", flag)
	}
}
