package textcheck_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/textcheck"
)

// TestBrokenCharactersOnTheWire: what servers that break characters send, read by the client that every test uses.
func TestBrokenCharactersOnTheWire(t *testing.T) {
	for _, c := range []struct {
		name   string
		deltas []string // as they stand in the JSON
		want   string   // "": whole
	}{
		{"whole", []string{"caf", "é 你", `\u597d \ud83c\udf4e`}, ""},
		{"bytes of one character in two events", []string{"\xe4\xbd", "\xa0\xe5\xa5\xbd"}, "split-rune"},
		{"halves decoded one by one", []string{"\uFFFD", "\uFFFD好"}, "split-rune"},
		{"a pair cut in UTF-16", []string{`\ud83c`, `\udf4e`}, "lone-surrogate"},
		{"encoded twice", []string{"cafÃ©"}, `twice-encoded "Ã©" (é) at 3`},
	} {
		t.Run(c.name, func(t *testing.T) {
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "text/event-stream")
				for _, d := range c.deltas {
					fmt.Fprintf(w, "data: {\"id\":\"x\",\"choices\":[{\"index\":0,\"text\":\"%s\",\"finish_reason\":null}]}\n\n", d)
				}
				fmt.Fprint(w, "data: {\"id\":\"x\",\"choices\":[{\"index\":0,\"text\":\"\",\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n")
			}))
			defer srv.Close()
			answer, err := (&api.Client{BaseURL: srv.URL, Model: "m"}).StreamComplete(t.Context(), api.CompletionRequest{Prompt: "x"}, nil)
			require.NoError(t, err)
			err = textcheck.WholeCharacters(textcheck.Bounds{})(answer)
			if c.want == "" {
				assert.NoError(t, err)
				return
			}
			assert.ErrorContains(t, err, "mojibake ")
			assert.ErrorContains(t, err, c.want)
		})
	}
}
