package api_test

import (
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"

	"github.com/omnitest/suite/omnitest/internal/stamped"
)

func TestMain(m *testing.M) {
	stamped.Main() // the benchmarks' servers are this program started anew
	if len(os.Args) == 2 && os.Args[1] == pictureRole {
		servePictures()
		return
	}
	os.Exit(m.Run())
}

const pictureRole = "picture-server"

// servePictures answers every request with a picture of 10 MB in base64, until its parent is gone.
func servePictures() {
	if err := stamped.Pin(0); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	raw := make([]byte, 10_000_000) // a PNG by its header; nobody decodes its pixels
	copy(raw, pngHeader)
	answer := []byte(`{"created":1,"data":[{"b64_json":"` + base64.StdEncoding.EncodeToString(raw) + `"}],"size":"1024x1024"}`)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", asJSON)
		w.Header().Set("Content-Length", fmt.Sprint(len(answer)))
		w.Write(answer)
	}))
	fmt.Println(s.URL)
	io.Copy(io.Discard, os.Stdin)
}

// pngHeader is the signature and the IHDR chunk of 1024x1024 RGB, with its checksum.
const pngHeader = "\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x04\x00\x00\x00\x04\x00\x08\x02\x00\x00\x00\xf0\x7f\xbc\xd4"
