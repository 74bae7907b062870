package api_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"

	"github.com/omnitest/suite/omnitest/api"
)

// A stream that ends without its [DONE] is a failure with a kind; what had arrived is in the Text.
func ExampleClient_StreamComplete() {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		io.WriteString(w, `data: {"choices":[{"index":0,"text":"a red ","finish_reason":null}]}`+"\n\n")
		io.WriteString(w, `data: {"choices":[{"index":0,"text":"fox","finish_reason":null}]}`+"\n\n")
	}))
	defer server.Close()
	c := &api.Client{BaseURL: server.URL}
	text, err := c.StreamComplete(context.Background(), api.CompletionRequest{Prompt: "an animal:"}, func(e api.Event) error {
		fmt.Printf("%q\n", e.Text)
		return nil
	})
	var e *api.Error
	if errors.As(err, &e) {
		fmt.Println(e.Kind, "-", e.Message)
	}
	fmt.Println(text)
	// Output:
	// "a red "
	// "fox"
	// truncated - the stream ended: missing finish_reason of choice 0 and [DONE]
	// a red fox
}
