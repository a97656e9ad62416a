package millrace_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"millrace"
)

// moves is the table of legal moves, as MayBecome tells it.
func moves() map[millrace.OrderStatus][]millrace.OrderStatus {
	table := make(map[millrace.OrderStatus][]millrace.OrderStatus)
	for _, from := range millrace.OrderStatuses() {
		table[from] = nil
		for _, to := range millrace.OrderStatuses() {
			if from != to && from.MayBecome(to) {
				table[from] = append(table[from], to)
			}
		}
	}
	return table
}

func statesPage(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile("docs/states.md")
	require.NoError(t, err)
	return string(page)
}

// section is what a page says under a heading.
func section(t *testing.T, page, heading string) string {
	t.Helper()
	_, rest, ok := strings.Cut(page, "\n## "+heading+"\n")
	require.True(t, ok, "docs/states.md has a section %q", heading)
	text, _, _ := strings.Cut(rest, "\n## ")
	return text
}

// rows reads a table: the first cell of each row, and the words in backquotes of its last.
func rows(text string) map[string][]string {
	table := make(map[string][]string)
	word := regexp.MustCompile("`([a-z_]+)`")
	for line := range strings.Lines(text) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if first := word.FindStringSubmatch(cells[0]); first != nil && strings.HasPrefix(line, "|") {
			table[first[1]] = []string{}
			for _, m := range word.FindAllStringSubmatch(cells[len(cells)-1], -1) {
				table[first[1]] = append(table[first[1]], m[1])
			}
		}
	}
	return table
}

func TestTheTableOfMovesIsTheOneInTheDocs(t *testing.T) {
	t.Parallel()
	text := section(t, statesPage(t), "The order")
	documented := rows(text)
	drawn := make(map[string][]string)
	for _, m := range regexp.MustCompile(`(?m)^\s+([a-z_]+) --> ([a-z_]+):`).FindAllStringSubmatch(text, -1) {
		drawn[m[1]] = append(drawn[m[1]], m[2])
	}
	require.Len(t, documented, len(millrace.OrderStatuses()))
	for from, to := range moves() {
		want := make([]string, len(to))
		for i, s := range to {
			want[i] = string(s)
		}
		require.ElementsMatch(t, want, documented[string(from)], "the table's moves from %s", from)
		require.ElementsMatch(t, want, drawn[string(from)], "the diagram's moves from %s", from)
		require.Equal(t, len(to) == 0, from.Final(), "%s is final when nothing leads out of it", from)
		require.Equal(t, from.Final(), strings.Contains(text, "    "+string(from)+" --> [*]"), "the diagram's end of %s", from)
	}
}

func TestTheStatusesAreTheOnesInTheDocs(t *testing.T) {
	t.Parallel()
	keys := func(table map[string][]string) (names []string) {
		for name := range table {
			names = append(names, name)
		}
		return names
	}
	page := statesPage(t)
	require.ElementsMatch(t, constants(t, "PaymentStatus"), keys(rows(section(t, page, "The money"))))
	require.ElementsMatch(t, constants(t, "FulfillmentStatus"), keys(rows(section(t, page, "The goods"))))
	require.ElementsMatch(t, constants(t, "OrderStatus"), keys(rows(section(t, page, "The order"))))
	for _, s := range constants(t, "ReservationState") {
		require.Contains(t, section(t, page, "The stock"), "`"+s+"`")
	}
	for _, s := range constants(t, "TransactionState") {
		require.Contains(t, section(t, page, "The money"), "`"+s+"`")
	}
	for _, s := range constants(t, "ShipmentState") {
		require.Contains(t, section(t, page, "The goods"), "`"+s+"`")
	}
}

func TestTheListsNameEveryConstant(t *testing.T) {
	t.Parallel()
	require.ElementsMatch(t, constants(t, "OrderStatus"), texts(millrace.OrderStatuses()))
	require.ElementsMatch(t, constants(t, "EventType"), texts(millrace.EventTypes()))
	require.ElementsMatch(t, constants(t, "Outcome"), texts(millrace.Outcomes()))
	require.ElementsMatch(t, constants(t, "Code"), texts(millrace.Codes()))
}

func texts[T ~string](list []T) (out []string) {
	for _, x := range list {
		out = append(out, string(x))
	}
	return out
}

// constants is the values of the package's string constants of a type, read from its source: a list that forgets one is found out.
func constants(t *testing.T, typeName string) (values []string) {
	t.Helper()
	names, err := os.ReadDir(".")
	require.NoError(t, err)
	declared := regexp.MustCompile(`(?m)^\s+\w+\s+` + typeName + `\s+= "([^"]+)"`)
	for _, name := range names {
		if !strings.HasSuffix(name.Name(), ".go") || strings.HasSuffix(name.Name(), "_test.go") {
			continue
		}
		source, err := os.ReadFile(name.Name())
		require.NoError(t, err)
		for _, m := range declared.FindAllStringSubmatch(string(source), -1) {
			values = append(values, m[1])
		}
	}
	require.NotEmpty(t, values, "constants of type %s", typeName)
	return values
}

func TestAStatusMayAlwaysStay(t *testing.T) {
	t.Parallel()
	for _, s := range millrace.OrderStatuses() {
		require.True(t, s.MayBecome(s), s)
	}
}

// Every move of the table is made by some command, so that the table promises nothing that cannot happen.
func TestEveryMoveOfTheTableIsMade(t *testing.T) {
	t.Parallel()
	type move struct{ from, to millrace.OrderStatus }
	made := make(map[move]bool)
	for _, c := range lives {
		o := newOrder(t)
		from := o.Status
		for _, s := range c.steps {
			s.run(t, o)
			for _, e := range o.TakeChanges().Events {
				require.True(t, from.MayBecome(e.Status), "%s: %s made the move %s to %s, which is not in the table", c.name, s.name, from, e.Status)
				made[move{from, e.Status}] = true
				from = e.Status
			}
		}
	}
	for from, list := range moves() {
		for _, to := range list {
			require.True(t, made[move{from, to}], "nothing ever moves an order from %s to %s", from, to)
		}
	}
}
