package replay

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
)

// Fields is an answer as two engines' answers are compared: a value for each place in it, "usage.prompt_tokens", with what
// identifies a run taken out. Everything else must be equal: status, headers, framing, keys and their order, types, nulls,
// numbers. Of a list there is its length and its first element; of a stream its first, second and last events.
type Fields map[string]string

// Difference is a field in which two answers differ; "absent" where one has no such field.
type Difference struct{ Field, Want, Got string }

func (d Difference) String() string { return fmt.Sprintf("%s: %s -> %s", d.Field, d.Want, d.Got) }

// Differences lists them by field.
func Differences(want, got Fields) (all []Difference) {
	fields := maps.Clone(want)
	maps.Copy(fields, got)
	for field := range fields {
		w, wok := want[field]
		g, gok := got[field]
		if !wok {
			w = "absent"
		}
		if !gok {
			g = "absent"
		}
		if w != g {
			all = append(all, Difference{field, w, g})
		}
	}
	slices.SortFunc(all, func(a, b Difference) int { return cmp.Compare(a.Field, b.Field) })
	return all
}

var (
	runID       = regexp.MustCompile(`^(chatcmpl|cmpl|modelperm)-[0-9a-f]{16}`)
	fingerprint = regexp.MustCompile(`^(vllm-[\d.]+)-[0-9a-f]{8}$`)
	suffix      = regexp.MustCompile(`-[0-9a-f]{8}$`)
)

// FieldsOf takes an answer apart. hung: it had not ended when the client left.
func FieldsOf(status int, header http.Header, body string, hung bool) Fields {
	f := Fields{"connection": "answered"}
	if hung {
		f["end"] = "none: the client gave up"
	}
	f["status"] = fmt.Sprint(status)
	for _, h := range []string{"Content-Type", "X-Request-Id", "Allow"} {
		if v := header.Get(h); v != "" {
			f["header "+strings.ToLower(h)] = v
		}
	}
	if !strings.HasPrefix(body, "data: ") {
		flatten(f, "", body)
		return f
	}
	var first, second, finish, usage, failure string
	list := strings.Split(body, "\n\n")
	framed := list[len(list)-1] == "" && (hung || list[len(list)-2] == "data: [DONE]")
	for _, one := range list[:len(list)-1] {
		data, ok := strings.CutPrefix(one, "data: ")
		framed = framed && ok && !strings.Contains(data, "\n")
		var event struct {
			Choices []struct {
				FinishReason *string `json:"finish_reason"`
			}
			Usage *struct{}
			Error *struct{}
		}
		if json.Unmarshal([]byte(data), &event) != nil {
			continue
		}
		switch {
		case event.Error != nil:
			failure = data
		case len(event.Choices) == 0 && event.Usage != nil:
			usage = data
		case len(event.Choices) > 0 && event.Choices[0].FinishReason != nil:
			finish = data
		case first == "":
			first = data
		case second == "":
			second = data
		}
	}
	f["framing"] = map[bool]string{true: "data: events, [DONE]", false: "other"}[framed]
	for name, data := range map[string]string{"first.": first, "second.": second, "finish.": finish, "usage.": usage, "failure.": failure} {
		if data != "" {
			f[strings.TrimSuffix(name, ".")+" event"] = "there"
			flatten(f, name, data)
		}
	}
	return f
}

// flatten writes the fields of a JSON text under their paths. Of a list the first element stands for all, with the length.
func flatten(f Fields, prefix, text string) {
	if text == "" {
		f[prefix+"body"] = "empty"
		return
	}
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	var value func(at string)
	value = func(at string) {
		tok, err := d.Token()
		if err != nil {
			f[prefix+"body"] = "no JSON"
			return
		}
		switch tok := tok.(type) {
		case json.Delim:
			if tok == '[' {
				n := 0
				for ; d.More(); n++ {
					if n == 0 {
						value(at + "[]")
						continue
					}
					var skip json.RawMessage
					if d.Decode(&skip) != nil {
						return
					}
				}
				f[at] = fmt.Sprint(n, " elements")
				d.Token()
				return
			}
			var keys []string
			for d.More() {
				k, _ := d.Token()
				name := k.(string)
				if tokenKeys(at) { // keys are tokens here
					name = "<token>"
				}
				keys = append(keys, name)
				value(strings.TrimPrefix(at+"."+name, "."))
			}
			d.Token()
			if !tokenKeys(at) {
				f[strings.TrimSpace(at+" keys")] = strings.Join(keys, " ")
			}
		default:
			if s, ok := normal(at, tok); ok {
				f[at] = s
			}
		}
	}
	inner := Fields{}
	outer := f
	f = inner
	value("")
	for k, v := range inner {
		outer[prefix+k] = v
	}
}

// tokenKeys: in top_logprobs of completions the keys are tokens; in those of chat each element has fields.
func tokenKeys(at string) bool {
	return strings.HasSuffix(at, "logprobs.top_logprobs[]")
}

// normal gives a value without what is this run's own: ids, times, ports, what the model said.
func normal(at string, tok any) (string, bool) {
	key := at[strings.LastIndex(at, ".")+1:]
	switch v := tok.(type) {
	case nil:
		return "null", true
	case bool:
		return fmt.Sprint(v), true
	case json.Number:
		switch {
		case key == "created", key == "remote_port", strings.Contains(at, "logprob"), strings.HasSuffix(key, "[]"):
			return "number", true
		}
		return v.String(), true
	case string:
		switch {
		case key == "text", key == "content", strings.Contains(at, "logprobs") && (key == "token" || strings.HasPrefix(key, "tokens")):
			return "text", true
		case key == "prompt" || key == "token_strs[]":
			return "text", true
		case key == "system_fingerprint":
			return fmt.Sprintf("%q", fingerprint.ReplaceAllString(v, "$1-<hex>")), true
		case key == "id", key == "remote_request_id":
			v = runID.ReplaceAllString(v, "$1-<hex>")
			return fmt.Sprintf("%q", suffix.ReplaceAllString(v, "-<hex>")), true
		}
		return fmt.Sprintf("%q", v), true
	}
	return "", false
}
