package main

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMedianIsTheMiddleWhateverTheOrder(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		samples []float64
		want    float64
	}{
		"none is zero":               {nil, 0},
		"one is itself":              {[]float64{7}, 7},
		"odd takes the middle":       {[]float64{9, 1, 5}, 5},
		"even takes the mean of two": {[]float64{4, 1, 3, 100}, 3.5},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			before := append([]float64(nil), c.samples...)
			require.InDelta(t, c.want, median(c.samples), 1e-9)
			require.Equal(t, before, append([]float64(nil), c.samples...), "samples stay in their order")
		})
	}
}

func TestRatiosAreTakenRoundByRound(t *testing.T) {
	t.Parallel()
	require.Equal(t, []float64{2, 0.5}, ratios([]float64{4, 1}, []float64{2, 2, 9}))
}

func TestChecksHoldFiguresToTheirTargets(t *testing.T) {
	t.Parallel()
	r := &report{Command: "x"}
	r.atLeast("a", r.add("rate", "orders/s", 1, 3, 2), 2)
	r.atLeast("b", 1.99, 2)
	r.atMost("c", 25, 25)
	r.atMost("d", 25.1, 25)
	require.Equal(t, []figure{{"rate", "orders/s", 2, 1, 3, 3}}, r.Figures)
	require.Equal(t, []check{{"a", 2, ">= 2", true}, {"b", 1.99, ">= 2", false}, {"c", 25, "<= 25", true}, {"d", 25.1, "<= 25", false}}, r.Checks)
	require.Zero(t, r.add("nothing", "ms"))
	require.Len(t, r.Figures, 1, "a quantity without samples is no figure")
}

func TestTheRateIsReadOffWhatPgbenchPrints(t *testing.T) {
	t.Parallel()
	m := tpsLine.FindStringSubmatch("latency average = 3.029 ms\ninitial connection time = 11.911 ms\ntps = 2641.203412 (without initial connection time)\n")
	require.Equal(t, "2641.203412", m[1])
	require.Nil(t, tpsLine.FindStringSubmatch("pgbench: error: Run was aborted; the above results are incomplete.\n"))
}

func TestScriptsAskForWholeOrders(t *testing.T) {
	t.Parallel()
	for name, script := range map[string]string{"intake": intakeScript(10, true), "life": lifeScript(10)} {
		require.Equal(t, strings.Count(script, "BEGIN;"), strings.Count(script, "COMMIT;"), name)
		require.NotContains(t, script, ":skus", name)
		require.NotContains(t, script, "NEWID", name)
		require.Contains(t, script, "random(0, 10 - 1)", name)
	}
	require.Contains(t, intakeScript(10, true), "river_job")
	require.NotContains(t, intakeScript(10, false), "river_job")
}

// drawn is what a chart shows.
type drawn struct {
	Title string `xml:"title"`
	Desc  string `xml:"desc"`
	Bars  []struct {
		Class string  `xml:"class,attr"`
		Width float64 `xml:"width,attr"`
	} `xml:"rect"`
	Ranges []struct {
		D string `xml:"d,attr"`
	} `xml:"path"`
	Texts []string `xml:"text"`
}

func draw(t *testing.T, bars ...bar) drawn {
	t.Helper()
	var d drawn
	require.NoError(t, xml.Unmarshal([]byte(barChart("Rates", "orders/s", bars)), &d))
	return d
}

func TestBarsAreAsLongAsTheirValues(t *testing.T) {
	t.Parallel()
	d := draw(t, bar{"ours", 4000, 3000, 4500, true}, bar{"pgbench", 1000, 1000, 1000, false}, bar{"none", 0, 0, 0, false})
	require.Len(t, d.Bars, 3)
	require.InDelta(t, 4, d.Bars[0].Width/d.Bars[1].Width, 0.01)
	require.Zero(t, d.Bars[2].Width)
	require.Equal(t, "bar ours", d.Bars[0].Class)
	require.Equal(t, "bar", d.Bars[1].Class)
	require.Len(t, d.Ranges, 1, "a range of one value has no whisker")
	from, to, found := strings.Cut(strings.TrimPrefix(d.Ranges[0].D, "M"), "H")
	require.True(t, found)
	least, err := strconv.ParseFloat(strings.Fields(from)[0], 64)
	require.NoError(t, err)
	greatest, err := strconv.ParseFloat(to[:strings.IndexByte(to, 'M')], 64)
	require.NoError(t, err)
	require.InDelta(t, 1.5, (greatest-1)/(least-1), 0.01)
	require.Less(t, greatest, chartWidth)
	require.Contains(t, d.Texts, "4000")
	require.Contains(t, d.Desc, "pgbench: 1000 (1000 to 1000) orders/s")
}

func TestLabelsCannotBreakAChart(t *testing.T) {
	t.Parallel()
	label := `River's <defaults> & "others"`
	require.Contains(t, draw(t, bar{label, 1, 1, 1, false}).Texts, label)
	require.Len(t, draw(t).Bars, 0, "a chart of nothing is still one")
}

func TestAxesHaveFewRoundSteps(t *testing.T) {
	t.Parallel()
	for _, end := range []float64{0.03, 0.9, 1, 7, 10, 23.4, 333, 12_300, 99_999} {
		step := niceStep(end)
		require.LessOrEqual(t, end/step, 10.0, end)
		require.Greater(t, end/step, 1.9, end)
		require.Contains(t, "125", strings.Trim(tick(step), "0.")[:1], end)
	}
}

// write puts a report where `bench results` finds it.
func write(t *testing.T, r *report) string {
	t.Helper()
	body, err := json.Marshal(r)
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "report.json")
	require.NoError(t, os.WriteFile(file, body, 0o600))
	return file
}

func sample(command string) *report {
	r := &report{Command: command, Machine: machine{CPU: "a CPU", Cores: 2}, Settings: map[string]string{"fsync": "on"}}
	r.add("millrace", "orders/s", 300, 310)
	r.add("pgbench | plain", "orders/s", 100, 90)
	r.atLeast("against pgbench", r.add("against pgbench", "times", 3, 3.4), 2)
	r.atMost("p99", 30, 25)
	return r
}

func TestThePageOfResultsHoldsWhatWasMeasured(t *testing.T) {
	t.Parallel()
	charts := filepath.Join(t.TempDir(), "results")
	var out bytes.Buffer
	require.NoError(t, run(t.Context(), &out, io.Discard, "results", "--charts="+charts, write(t, sample("pipeline")), write(t, sample("intake"))))
	page := out.String()
	require.Contains(t, page, "| [intake](#intake) | against pgbench | 3.20 | >= 2 | reached |")
	require.Contains(t, page, "| [intake](#intake) | p99 | 30 | <= 25 | **missed** |")
	require.Contains(t, page, `| pgbench \| plain | 95 | 90 | 100 | orders/s |`)
	require.Contains(t, page, "a CPU, 2 cores")
	require.Contains(t, page, "`fsync=on`")
	require.Less(t, strings.Index(page, `<a id="intake">`), strings.Index(page, `<a id="pipeline">`), "in the order of an order's life, whatever that of the files")
	for _, command := range []string{"intake", "pipeline"} {
		file := command + "-orders-per-second.svg"
		require.Contains(t, page, "](results/"+file+")")
		svg, err := os.ReadFile(filepath.Join(charts, file))
		require.NoError(t, err)
		require.Contains(t, string(svg), "pgbench | plain")
	}
}

func TestResultsRefuseWhatIsNone(t *testing.T) {
	t.Parallel()
	broken := filepath.Join(t.TempDir(), "broken.json")
	require.NoError(t, os.WriteFile(broken, []byte("{"), 0o600))
	one := write(t, sample("intake"))
	for name, files := range map[string][]string{
		"broken JSON":      {broken},
		"no report":        {write(t, &report{})},
		"a path as a name": {write(t, sample("../intake"))},
		"the same twice":   {one, one},
		"a missing file":   {broken + ".missing"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Error(t, run(t.Context(), io.Discard, io.Discard, append([]string{"results", "--charts=" + t.TempDir()}, files...)...))
		})
	}
	require.ErrorIs(t, (&resultsCmd{Reports: []string{one}, Charts: t.TempDir()}).Run(stdio{out: full{}}), errFull)
}

// full is a disk without room.
type full struct{}

var errFull = errors.New("no room")

func (full) Write([]byte) (int, error) { return 0, errFull }
