package textcheck

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// plantedDefects gives for each check of this room its words about a defect that is planted here.
func plantedDefects() map[string][2]string {
	text := func(err error) string {
		if err == nil {
			return "accepted"
		}
		return err.Error()
	}
	loop := strings.Repeat("ab", 50)
	parting := make([]Parting, 16)
	for i := range parting {
		parting[i] = Parting{Compared: 64, At: 64 + i%2}
	}
	curve := NewCurve(parting, 16)
	half := math.Log(.5)
	coin, sure := steady(64, half, half), steady(64, 0, -20)
	return map[string][2]string{
		"Repetition":      {text(Repetition(loop, Bounds{}).Err()), `repetition-loop 0.98, want <= 0.15 (default): "ab" 50 times from character 0 of 100 to the end`},
		"NoLoop":          {text(NoLoop(Bounds{Key: "lab"})(answerOf(loop))), `repetition-loop 0.98, want <= 0.15 (lab): "ab" 50 times from character 0 of 100 to the end`},
		"Characters":      {text(Characters(answerOf("Ã¼"), Bounds{}).Err()), `mojibake 1, want <= 0 (default): twice-encoded "Ã¼" (ü) at 0`},
		"WholeCharacters": {text(WholeCharacters(Bounds{})(answerOf("Ã¼"))), `mojibake 1, want <= 0 (default): twice-encoded "Ã¼" (ü) at 0`},
		"PartingRate":     {text(PartingRate(curve, Bounds{PartedShare: .5}).Err()), "parting-rate 1, want <= 0.5 (default): 16 of 16 answers part where the control was sure; the share may be as large as this (95 %)"},
		// e^-20 * 20 / ln 2 = 5.947e-08. And 16 of 16 after 0 of 64: -16 ln(16/80) - 64 ln(64/80) = 40.03 nats.
		"NoOnset":         {text(NoOnset(curve, Bounds{}).Err()), "divergence-onset 40.03, want <= 8 (default): from tokens 64..79 on 16 of 16 answers and blocks part, before 0 of 64"},
		"Needles":         {text(Needles(NewRecall([]Asked{{.5, true}, {.5, false}}), Bounds{}).Err()), "needle-missing 0.5, want <= 0.1 (default): at depth 50 % 1 of 2 needles were found (95 %: 0.09 to 0.91)"},
		"EntropyCollapse": {text(EntropyCollapse(join(coin, sure), Bounds{}).Err()), "entropy-collapse 5.947e-08, want >= 0.1 (default): from token 64 on 0.000 nats per token (best token 100.0 %), before 0.693 (50.0 %)"},
		"EntropyKept":     {text(EntropyKept(join(sure, sure), join(sure, coin), Bounds{}).Err()), "entropy-move 0.6931, want <= 0.2 (default): tokens 96..127: 0.693 nats per token, control 0.000"},
		"SameMargins":     {text(SameMargins(coin, sure, 0)), "part of the KV is missing or wrong although the text is right: step 0 margin 20.0 nats, control 0.0"},
	}
}

// Every exported check has a defect here that trips it, with all of its words.
func TestEveryCheckIsPlanted(t *testing.T) {
	all := plantedDefects()
	assert.Equal(t, exportedChecks(t), slices.Sorted(maps.Keys(all)), "a check without a planted defect is a test that nobody has seen fail")
	for name, c := range all {
		assert.Equal(t, c[1], c[0], name)
	}
}

// exportedChecks are the exported functions of this room that return a Result, a check of answers, or an error about two of
// them, sorted.
func exportedChecks(t *testing.T) (names []string) {
	files, err := filepath.Glob("*.go")
	require.NoError(t, err)
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		require.NoError(t, err)
		for _, d := range f.Decls {
			fn, is := d.(*ast.FuncDecl)
			if !is || !fn.Name.IsExported() || fn.Recv != nil || fn.Type.Results == nil || len(fn.Type.Results.List) != 1 {
				continue
			}
			switch result := fn.Type.Results.List[0].Type.(type) {
			case *ast.Ident:
				if result.Name != "Result" && result.Name != "error" {
					continue
				}
			case *ast.FuncType:
			default:
				continue
			}
			names = append(names, fn.Name.Name)
		}
	}
	slices.Sort(names)
	return names
}

// A failure leaves its texts, the place where they part, the numbers and the request.
func TestEvidence(t *testing.T) {
	dir := t.TempDir()
	e := Evidence{Dir: dir, Name: "long/1", Prompt: "p", Got: "the quick brown fix\n你好", Control: "the quick brown fox\n你好", Repro: "curl x", Stack: "lab"}
	bad := Repetition(strings.Repeat("ab", 50), Bounds{})
	files, err := e.Keep(Characters(answerOf("fine"), Bounds{}), bad)
	require.NoError(t, err)
	folder := filepath.Join(dir, "long", "1", "repetition-loop")
	assert.Equal(t, folder, files.Dir)
	list, err := os.ReadDir(folder)
	require.NoError(t, err)
	var names []string
	for _, f := range list {
		names = append(names, f.Name())
	}
	assert.Equal(t, []string{"actual.txt", "expected.txt", "metrics.json", "repro.sh", "side-by-side.txt"}, names)
	side, err := os.ReadFile(files.Diff)
	require.NoError(t, err)
	assert.Equal(t, `part at character 17 (22 and 22 characters)
expected  the quick brown fox\n你好
actual    the quick brown fix\n你好
                           ^
`, string(side))
	raw, err := os.ReadFile(filepath.Join(folder, "metrics.json"))
	require.NoError(t, err)
	var doc struct {
		Check   string
		Metrics []map[string]any
	}
	require.NoError(t, json.Unmarshal(raw, &doc))
	assert.Equal(t, "repetition-loop", doc.Check)
	assert.Equal(t, []any{true, false}, []any{doc.Metrics[0]["ok"], doc.Metrics[1]["ok"]})
	assert.Equal(t, "default", doc.Metrics[1]["key"])

	assert.Equal(t, "the same 2 characters\n", sideBySide("你好", "你好"))
	assert.Equal(t, "part at character 1 (2 and 1 characters)\nexpected  ab\nactual    a\n           ^\n", sideBySide("a", "ab"))
	files, err = Evidence{}.Keep(bad)
	assert.NoError(t, err)
	assert.Empty(t, files)
	_, err = Evidence{Dir: filepath.Join(folder, "actual.txt")}.Keep(bad)
	assert.Error(t, err)
}
