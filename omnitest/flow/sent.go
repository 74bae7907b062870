package flow

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
)

const (
	memberKept = 4 << 10  // bytes of one member; a longer one is a prompt, a picture, a ticket of thousands of blocks
	sentKept   = 64 << 10 // bytes of all
)

// Sent keeps of a request what a judgement needs: the JSON object member by member, values spelled as they were, and a digest
// in place of a value that is too long to keep (4 KiB; 64 KiB for all). Equal values have equal digests. nil for a body that is
// no JSON object.
func Sent(body []byte) json.RawMessage {
	var members map[string]json.RawMessage
	if json.Unmarshal(body, &members) != nil || members == nil {
		return nil
	}
	total := 0
	for _, key := range slices.Sorted(maps.Keys(members)) {
		v := members[key]
		if len(v) > memberKept || total+len(v) > sentKept {
			v = json.RawMessage(fmt.Sprintf(`"(%d bytes, sha256 %s)"`, len(canonical(v)), Digest(v)))
			members[key] = v
		}
		total += len(v)
	}
	kept, err := json.Marshal(members)
	if err != nil {
		return nil
	}
	return kept
}

// Digest names a JSON value: equal for equal values, however they are spaced, escaped or ordered.
func Digest(value json.RawMessage) string {
	sum := sha256.Sum256(canonical(value))
	return hex.EncodeToString(sum[:8])
}

// canonical writes a value anew: a proxy that decodes and encodes changes spaces, escapes and the order of keys.
func canonical(value json.RawMessage) []byte {
	d := json.NewDecoder(bytes.NewReader(value))
	d.UseNumber()
	var v any
	if d.Decode(&v) != nil {
		return value
	}
	b, err := json.Marshal(v)
	if err != nil {
		return value
	}
	return b
}
