package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

type resultsCmd struct {
	Reports []string `arg:"" type:"existingfile" placeholder:"FILE" help:"What other subcommands printed with --json."`
	Charts  string   `type:"path" default:"docs/results" help:"Folder for the charts, beside the page."`
}

// about says what a subcommand measures, in the order of the page.
var about = []struct{ command, title, text string }{
	{"intake", "Taking orders in", "Orders of two lines posted over HTTP, each durable before it is answered. pgbench inserts the same rows, one order a transaction, with prepared statements, at its best number of clients and without HTTP."},
	{"pipeline", "From post to completed", "Orders through their whole life, with providers that answer at once. pgbench plays the same statements without a queue, one transaction a step; the textbook design is the same code with groups of one, each job completed and each change notified in the step's own transaction."},
	{"live", "Live streams", "Server-Sent Events to many watchers: what a stream costs, and how soon a change reaches those who watch."},
	{"flashsale", "A flash sale", "Many more orders than there are units, for one product, from several processes: first come, first served."},
	{"growth", "With millions of orders stored", "The same on a database that has grown."},
	{"snapshot", "While an old snapshot is held", "A transaction that stays open keeps Postgres from cleaning up behind the queue."},
	{"gate", "The gate", "What the authentication proxy adds to a request."},
}

// Run writes the page to standard output and the charts to their folder.
func (c *resultsCmd) Run(stdio stdio) error {
	reports := make([]*report, len(c.Reports))
	for i, file := range c.Reports {
		body, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		reports[i] = &report{}
		if err := json.Unmarshal(body, reports[i]); err != nil {
			return fmt.Errorf("%s is not what bench prints with --json: %w", file, err)
		}
		if !commandName.MatchString(reports[i].Command) || len(reports[i].Figures) == 0 {
			return fmt.Errorf("%s is not what bench prints with --json: it has no command, or no figures", file)
		}
	}
	slices.SortStableFunc(reports, func(a, b *report) int { return cmp.Compare(rank(a.Command), rank(b.Command)) })
	for i, r := range reports[1:] {
		if r.Command == reports[i].Command {
			return fmt.Errorf("two files hold results of %s: give one", r.Command)
		}
	}
	if err := os.MkdirAll(c.Charts, 0o750); err != nil {
		return err
	}
	p := page{out: stdio.out, charts: c.Charts}
	p.write(reports)
	return p.err
}

var commandName = regexp.MustCompile(`^[a-z]+$`)

func rank(command string) int {
	for i, a := range about {
		if a.command == command {
			return i
		}
	}
	return len(about)
}

// page is the page of results as it is written; the first error stays.
type page struct {
	out    io.Writer
	charts string
	err    error
}

func (p *page) printf(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.out, format, args...)
	}
}

func (p *page) write(reports []*report) {
	p.printf("# Results\n\nWhat `cmd/bench` measured, each figure the median of its rounds with their least and greatest value. Everything compared was taken in turn within the same run, ")
	p.printf("on the same Postgres with `fsync` and `synchronous_commit` on; load generator, servers and Postgres shared the machine. Ratios mean more than rates: rates are the machine's, and so are milliseconds. ")
	p.printf("Machines that look alike differ by several times in what a system call and the waking of a thread take, which stands below.\n\n")
	p.printf("[limits.md](limits.md) has the profiles of what was missed, what was tried, and what the limit is.\n\n")
	p.checks(reports)
	p.machines(reports)
	for _, r := range reports {
		p.section(r)
	}
	p.repeat(reports)
}

// checks is what had to be reached, and what was.
func (p *page) checks(reports []*report) {
	p.printf("## What had to be reached\n\n| bench | what | measured | target | |\n| --- | --- | ---: | ---: | --- |\n")
	for _, r := range reports {
		for _, c := range r.Checks {
			mark := "reached"
			if !c.OK {
				mark = "**missed**"
			}
			p.printf("| [%s](#%s) | %s | %s | %s | %s |\n", r.Command, r.Command, cell(c.Name), number(c.Value), c.Target, mark)
		}
	}
	p.printf("\n")
}

// machines says what each report was taken on, once where it is the same.
func (p *page) machines(reports []*report) {
	p.printf("## Machine and settings\n\n")
	told := map[string][]string{}
	var order []string
	for _, r := range reports {
		text := r.Machine.String() + "\n\n`" + strings.Join(settingList(r.Settings), "` `") + "`"
		if _, ok := told[text]; !ok {
			order = append(order, text)
		}
		told[text] = append(told[text], r.Command)
	}
	for _, text := range order {
		if len(order) > 1 {
			p.printf("**%s**: ", strings.Join(told[text], ", "))
		}
		p.printf("%s\n\n", text)
	}
}

func settingList(settings map[string]string) []string {
	list := make([]string, 0, len(settings))
	for _, k := range slices.Sorted(maps.Keys(settings)) {
		list = append(list, k+"="+settings[k])
	}
	return list
}

// section is a report with its charts.
func (p *page) section(r *report) {
	p.printf("<a id=\"%s\"></a>\n\n", r.Command)
	title, text := r.Command, ""
	if i := rank(r.Command); i < len(about) {
		title, text = about[i].title, about[i].text+"\n\n"
	}
	p.printf("## %s\n\n%s", title, text)
	for _, unit := range chartedUnits(r) {
		p.chart(r, title, unit)
	}
	p.printf("| | median | least | greatest | unit |\n| --- | ---: | ---: | ---: | --- |\n")
	for _, f := range r.Figures {
		p.printf("| %s | %s | %s | %s | %s |\n", cell(f.Name), number(f.Median), number(f.Min), number(f.Max), cell(f.Unit))
	}
	p.printf("\nRounds: %d.\n\n", r.Figures[0].Rounds)
}

// chartedUnits are the units of rates and times of which a report has several figures.
func chartedUnits(r *report) []string {
	count := map[string]int{}
	var units []string
	for _, f := range r.Figures {
		if count[f.Unit]++; count[f.Unit] == 2 && (strings.HasSuffix(f.Unit, "/s") || f.Unit == "ms") {
			units = append(units, f.Unit)
		}
	}
	return units
}

var notInFileNames = regexp.MustCompile(`[^a-z0-9]+`)

// chart draws the figures of a unit and shows them.
func (p *page) chart(r *report, title, unit string) {
	var bars []bar
	for _, f := range r.Figures {
		if f.Unit == unit {
			bars = append(bars, bar{label: f.Name, value: f.Median, min: f.Min, max: f.Max, ours: strings.Contains(f.Name, "millrace")})
		}
	}
	if !slices.ContainsFunc(bars, func(b bar) bool { return b.ours }) { // nothing to tell apart
		for i := range bars {
			bars[i].ours = true
		}
	}
	title = title + ", " + unit
	file := r.Command + "-" + strings.Trim(notInFileNames.ReplaceAllString(strings.ToLower(strings.ReplaceAll(unit, "/s", "-per-second")), "-"), "-") + ".svg"
	p.err = errors.Join(p.err, os.WriteFile(filepath.Join(p.charts, file), []byte(barChart(title, unit, bars)), 0o600))
	p.printf("![%s](%s/%s)\n\n", cell(title), filepath.Base(p.charts), file)
}

// repeat says how to take the figures again.
func (p *page) repeat(reports []*report) {
	p.printf("## To repeat this\n\nWith Go, and pgbench of a PostgreSQL installation, on a machine that does nothing else:\n\n```sh\n")
	files := make([]string, len(reports))
	for i, r := range reports {
		files[i] = r.Command + ".json"
		p.printf("go run ./cmd/bench %s --json > %s\n", r.Command, files[i])
	}
	p.printf("go run ./cmd/bench results %s > docs/results.md\n```\n\n", strings.Join(files, " "))
	p.printf("Each takes an embedded Postgres of its own, or the one that `DATABASE_URL` names, which must not give up durability. `--help` says what can be changed.\n")
}

// cell makes text fit for a cell of a table.
func cell(s string) string {
	return strings.NewReplacer("|", `\|`, "\n", " ", "<", "&lt;").Replace(s)
}
