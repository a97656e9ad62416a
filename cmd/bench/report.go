package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// report is what a subcommand measured.
type report struct {
	Command  string            `json:"command"`
	Machine  machine           `json:"machine"`
	Settings map[string]string `json:"settings"`
	Figures  []figure          `json:"figures"`
	Checks   []check           `json:"checks"`
}

// figure is one measured quantity over the rounds.
type figure struct {
	Name   string  `json:"name"`
	Unit   string  `json:"unit"`
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
	Rounds int     `json:"rounds"`
}

// check holds a figure against what it must reach.
type check struct {
	Name   string  `json:"name"`
	Value  float64 `json:"value"`
	Target string  `json:"target"`
	OK     bool    `json:"ok"`
}

// add notes a quantity, one sample for each round, and returns its median.
func (r *report) add(name, unit string, samples ...float64) float64 {
	if len(samples) == 0 {
		return 0
	}
	f := figure{Name: name, Unit: unit, Median: median(samples), Min: slices.Min(samples), Max: slices.Max(samples), Rounds: len(samples)}
	r.Figures = append(r.Figures, f)
	return f.Median
}

// ratios divides two series round by round, so that a drift of the machine between rounds cancels.
func ratios(a, b []float64) []float64 {
	out := make([]float64, min(len(a), len(b)))
	for i := range out {
		out[i] = a[i] / b[i]
	}
	return out
}

func (r *report) atLeast(name string, value, target float64) {
	r.Checks = append(r.Checks, check{name, value, fmt.Sprintf(">= %g", target), value >= target})
}

func (r *report) atMost(name string, value, target float64) {
	r.Checks = append(r.Checks, check{name, value, fmt.Sprintf("<= %g", target), value <= target})
}

func median(samples []float64) float64 {
	s := slices.Sorted(slices.Values(samples))
	n := len(s)
	if n == 0 {
		return 0
	}
	if n%2 == 1 {
		return s[n/2]
	}
	return (s[n/2-1] + s[n/2]) / 2
}

// write prints the report as a table, or as one JSON object.
func (r *report) write(w io.Writer, asJSON bool) error {
	if asJSON {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(r)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(t, "%s\tmedian\tmin\tmax\tunit\t\n", r.Command)
	for _, f := range r.Figures {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t\n", f.Name, number(f.Median), number(f.Min), number(f.Max), f.Unit)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(w)
	for _, c := range r.Checks {
		mark := "reached"
		if !c.OK {
			mark = "MISSED"
		}
		fmt.Fprintf(w, "  %-8s %s: %s (%s)\n", mark, c.Name, number(c.Value), c.Target)
	}
	fmt.Fprintf(w, "\n%s\n", r.Machine)
	keys := make([]string, 0, len(r.Settings))
	for k, v := range r.Settings {
		keys = append(keys, k+"="+v)
	}
	slices.Sort(keys)
	_, err := fmt.Fprintln(w, strings.Join(keys, " "))
	return err
}

// number writes a figure with as many digits as carry meaning.
func number(v float64) string {
	switch {
	case v >= 100 || v == float64(int64(v)):
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

func itoa(n int) string { return fmt.Sprint(n) }
