package gate_test

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/handoff"
	"github.com/omnitest/suite/omnitest/handoff/gate"
	"github.com/omnitest/suite/omnitest/internal/refpd"
)

const matrixFile = "../../../testdata/fault-matrix.md"

// matrix is every failure against every assertion.
type matrix struct {
	mu       sync.Mutex
	cells    map[string]map[string]cell // by failure and assertion
	attached map[string]*gate.Report
}

func (m *matrix) put(f, a string, c cell) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cells[f] == nil {
		m.cells[f] = map[string]cell{}
	}
	m.cells[f][a] = c
}

func (m *matrix) attach(f string, r *gate.Report) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.attached[f] = r
}

// cell of an assertion by its number: the worst of those that share it.
func (m *matrix) cell(f string, id int) cell {
	var worst *cell
	for _, a := range gate.Assertions() {
		c, there := m.cells[f][a.Name]
		if a.ID != id || !there {
			continue
		}
		if worst == nil || badness(c) > badness(*worst) {
			worst = &c
		}
	}
	if worst == nil {
		return cell{}
	}
	return *worst
}

func badness(c cell) int {
	switch {
	case !c.asked:
		return 0
	case c.state == handoff.StateRefuted:
		return 3
	case c.state == handoff.StateInconclusive:
		return 2
	}
	return 1
}

func (c cell) String() string {
	switch badness(c) {
	case 3:
		return "**" + c.rule + "**"
	case 2:
		return "doubt: " + c.rule
	case 1:
		return "·"
	}
	return "n/a"
}

// document is the table in testdata.
func (m *matrix) document(rows []refpd.Failure) string {
	var b strings.Builder
	b.WriteString(`# Fault matrix

Made by ` + "`make matrix`" + ` on the reference stack (simulated). Every failure of the field, F1 to F21, and some others are planted, and
every assertion of package gate is put to a stack of its own with that failure in it.

- **rule**: caught; the verdict is refuted, and this rule speaks first
- doubt: the verdict is inconclusive and says why; a gate does not pass
- ·: silent, as this assertion does not look there
- n/a: the question cannot be put to this stack

The last column is the whole gate run against the same stack attached by its URLs, behind a proxy that keeps no flow ledger, with
nothing that can be restarted or broken: its state, and the assertions that refute.

`)
	for id := 1; id <= 16; id++ {
		var names []string
		for _, a := range gate.Assertions() {
			if a.ID == id {
				names = append(names, a.Name)
			}
		}
		fmt.Fprintf(&b, "%d %s%s", id, strings.Join(names, " and "), map[bool]string{true: ".\n\n", false: ", "}[id == 16])
	}
	b.WriteString("| failure | planted |")
	for id := 1; id <= 16; id++ {
		fmt.Fprintf(&b, " %d |", id)
	}
	b.WriteString(" by URL alone |\n|---|---|" + strings.Repeat("---|", 17) + "\n")
	for _, f := range rows {
		fmt.Fprintf(&b, "| %s %s | %s |", f.ID, f.What, code(f.Faults))
		for id := 1; id <= 16; id++ {
			fmt.Fprintf(&b, " %s |", m.cell(f.ID, id))
		}
		fmt.Fprintf(&b, " %s |\n", byURL(m.attached[f.ID]))
	}
	return b.String()
}

// merged is the new document with those rows of the old one that it has not.
func merged(old, fresh string) string {
	rows := map[string]string{}
	for _, doc := range []string{old, fresh} {
		for line := range strings.Lines(doc) {
			if id, ok := rowID(line); ok {
				rows[id] = line
			}
		}
	}
	var b strings.Builder
	for line := range strings.Lines(fresh) {
		if _, ok := rowID(line); !ok {
			b.WriteString(line)
		}
	}
	for _, f := range which("all") {
		b.WriteString(rows[f.ID])
	}
	return b.String()
}

// rowID is the failure that a line of the table is about.
func rowID(line string) (id string, ok bool) {
	cols := strings.Split(strings.TrimSpace(line), "|")
	if len(cols) != 21 || strings.HasPrefix(cols[1], "---") || strings.TrimSpace(cols[1]) == "failure" {
		return "", false
	}
	id, _, _ = strings.Cut(strings.TrimSpace(cols[1]), " ")
	return id, true
}

func code(s string) string {
	if s == "" {
		return ""
	}
	return "`" + s + "`"
}

func byURL(r *gate.Report) string {
	if r == nil {
		return "not asked"
	}
	var ids []string
	for _, o := range r.Outcomes {
		if o.Verdict.State == handoff.StateRefuted && !o.Advisory {
			ids = append(ids, strconv.Itoa(o.ID))
		}
	}
	return strings.TrimSpace(r.State.String() + " " + strings.Join(ids, ", "))
}

// details gives the words of every verdict, for whoever builds an assertion.
func (m *matrix) details(rows []refpd.Failure) string {
	var b strings.Builder
	for _, f := range rows {
		fmt.Fprintf(&b, "\n## %s %s (%s)\n", f.ID, f.What, f.Faults)
		for _, a := range gate.Assertions() {
			fmt.Fprintf(&b, "- %d %s: %s\n", a.ID, a.Name, m.cells[f.ID][a.Name].text)
		}
		if r := m.attached[f.ID]; r != nil {
			fmt.Fprintf(&b, "attached: %s", r)
		}
	}
	return b.String()
}

// row is one line of the table as it stands in testdata.
type row struct {
	faults   string
	caught   map[int]string // rule, by assertion
	attached string         // state
}

var bold = regexp.MustCompile(`^\*\*(.+)\*\*$`)

// readMatrix reads the table back.
func readMatrix(t *testing.T) map[string]row {
	t.Helper()
	data, err := os.ReadFile(matrixFile)
	require.NoError(t, err)
	table := map[string]row{}
	for line := range strings.Lines(string(data)) {
		id, ok := rowID(line)
		if !ok {
			continue
		}
		cols := strings.Split(strings.TrimSpace(line), "|")
		r := row{faults: strings.Trim(cols[2], " `"), caught: map[int]string{}}
		r.attached, _, _ = strings.Cut(strings.TrimSpace(cols[19]), " ")
		for n := 1; n <= 16; n++ {
			if m := bold.FindStringSubmatch(strings.TrimSpace(cols[n+2])); m != nil {
				r.caught[n] = m[1]
			}
		}
		table[id] = r
	}
	return table
}
