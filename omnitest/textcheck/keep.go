package textcheck

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/omnitest/suite/omnitest/measure"
)

// Evidence is what a failure of these checks leaves, as the checks of pictures and of sounds do.
type Evidence struct {
	Dir     string // folder for evidence; "": none is written
	Name    string // of the case: a folder under Dir
	Prompt  string
	Got     string
	Control string // "": the check needed none
	Repro   string // the request as a shell line
	Stack   string // one line on the stack that answered
}

// Keep writes the folder <Dir>/<Name>/<check>, the check being that of the first result which fails (of the first, if none
// does): actual.txt; with a control expected.txt and side-by-side.txt, the two around the place where they part; metrics.json;
// repro.sh.
func (e Evidence) Keep(results ...Result) (measure.Files, error) {
	if e.Dir == "" || len(results) == 0 {
		return measure.Files{}, nil
	}
	check := results[0].Name
	for _, r := range results {
		if !r.OK() {
			check = r.Name
			break
		}
	}
	dir, err := measure.Open(measure.Path(e.Dir, e.Name, "text", check))
	if err != nil {
		return measure.Files{}, err
	}
	files := measure.Files{Dir: dir.Dir, Got: dir.Write("actual.txt", []byte(e.Got))}
	if e.Control != "" {
		files.Golden = dir.Write("expected.txt", []byte(e.Control))
		files.Diff = dir.Write("side-by-side.txt", []byte(sideBySide(e.Got, e.Control)))
	}
	files.Replay = dir.Script(e.Repro)
	dir.Metrics(struct {
		Check    string            `json:"check"`
		Metrics  []Result          `json:"metrics"`
		Name     string            `json:"name"`
		Prompt   string            `json:"prompt"`
		Stack    string            `json:"stack,omitempty"`
		Versions map[string]string `json:"versions"`
	}{check, results, e.Name, e.Prompt, e.Stack, measure.Versions()})
	return files, dir.Err()
}

// around is how many characters side-by-side.txt shows on either side of a parting.
const around = 60

// sideBySide shows two texts around the place where they part, with a mark below it. Quoted, so that white space and what is
// no character can be seen.
func sideBySide(got, want string) string {
	a, b := []rune(got), []rune(want)
	at := 0
	for at < len(a) && at < len(b) && a[at] == b[at] {
		at++
	}
	if at == len(a) && at == len(b) {
		return fmt.Sprintf("the same %d characters\n", at)
	}
	part := func(r []rune) (before, after string) {
		quoted := func(r []rune) string { s := fmt.Sprintf("%q", string(r)); return s[1 : len(s)-1] }
		return quoted(r[max(0, at-around):at]), quoted(r[at:min(len(r), at+around)])
	}
	before, wanted := part(b)
	_, is := part(a)
	return fmt.Sprintf("part at character %d (%d and %d characters)\nexpected  %s%s\nactual    %s%s\n          %s^\n",
		at, len(b), len(a), before, wanted, before, is, strings.Repeat(" ", utf8.RuneCountInString(before)))
}
