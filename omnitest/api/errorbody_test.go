package api

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"unicode/utf8"
)

// Whatever a server answers under an error status, the report names kind and status, holds no endless text, and a JSON
// error with a message is never lost.
func FuzzErrorBody(f *testing.F) {
	for _, s := range []string{
		`{"error":{"message":"m","type":"t","param":"p","code":400,"request_id":"r","error_stage_id":1}}`, `{"error":"Unauthorized"}`,
		`{"detail":"Not Found"}`, `{"detail":[{"loc":["body","prompt"],"msg":"Field required","type":"missing"}]}`, `{"detail":{"error":{"message":"x"}}}`,
		`{"object":"error","message":"m","code":"c"}`, `{"message":"m"}`, `{"error":null}`, `{"error":{"message":{"a":1},"code":[1]}}`, `{"error":[1]}`,
		`<html><title>502 Bad Gateway</title>`, `<title>`, `<TITLE a="b">x`, ``, `Internal Server Error`, `{`, "\xff\xfe", `{"detail":[1,"a",null]}`,
		"<html><title>\u0130\u0130\u0130\u0130</title>",
	} {
		f.Add(400, "application/json", []byte(s))
		f.Add(502, "text/html", []byte(s))
	}
	f.Fuzz(func(t *testing.T, status int, contentType string, body []byte) {
		if status < 300 || status > 599 {
			status = 500
		}
		e := statusError(status, http.Header{"Content-Type": {contentType}}, body, "http://x")
		e.Status = status
		want := Protocol
		switch {
		case status >= 500:
			want = Server
		case status >= 400:
			want = Refused
		}
		if e.Kind != want {
			t.Fatalf("status %d is kind %s", status, e.Kind)
		}
		if e.Message == "" {
			t.Fatal("no message")
		}
		if text := e.Error(); len(text) > 2500 {
			t.Fatalf("a report of %d bytes", len(text))
		}
		var m struct {
			Error struct{ Message string }
		}
		// encoding/json matches keys regardless of case and keeps the last of two: only the plain case is comparable.
		if utf8.Valid(body) && strings.Count(strings.ToLower(string(body)), "error") == 1 && strings.Count(strings.ToLower(string(body)), "message") == 1 &&
			strings.Contains(string(body), `"error"`) && strings.Contains(string(body), `"message"`) && !strings.Contains(string(body), `\`) &&
			json.Unmarshal(body, &m) == nil && m.Error.Message != "" && m.Error.Message != e.Message {
			t.Fatalf("encoding/json reads message %q, the report says %q", m.Error.Message, e.Message)
		}
	})
}
