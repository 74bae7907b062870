package handoff

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"

	"github.com/omnitest/suite/omnitest/textcheck"
)

// Key is one member of a ticket. A dot in Name goes into an object.
type Key struct {
	Name     string
	Is       Kind
	Optional bool // may be missing or null
}

// Kind is what a value must be.
type Kind int

const (
	Text   Kind = iota // a string, not empty
	Host               // a name or an address that somebody else can dial: not "", not 0.0.0.0
	Port               // 1 to 65535
	Count              // a whole number from 1
	Blocks             // block ids: [[1,2],[7]], a list for each KV cache group, or [1,2] (older vLLM); the first one not empty
	True
	False
	URL // http://host:port
)

// fault says what is wrong with a value, "" if nothing is.
func (k Key) fault(raw json.RawMessage) string {
	said := func(want string) string {
		return fmt.Sprintf("%s is %s, want %s", k.Name, textcheck.Short(string(compact(raw)), 40), want)
	}
	switch k.Is {
	case Text:
		if text(raw) == "" {
			return said("a text")
		}
	case Host:
		if why := badHost(text(raw)); why != "" {
			return said(why)
		}
	case Port:
		if why := badPort(string(raw)); why != "" {
			return said(why)
		}
	case Count:
		if n, err := strconv.Atoi(string(raw)); err != nil || n < 1 {
			return said("a number from 1")
		}
	case True, False:
		if want := strconv.FormatBool(k.Is == True); string(raw) != want {
			return fmt.Sprintf("ticket says %s=%s", k.Name, textcheck.Short(string(raw), 40))
		}
	case URL:
		u, err := url.Parse(text(raw))
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || badHost(u.Hostname()) != "" || u.Port() != "" && badPort(u.Port()) != "" {
			return said("http://host:port")
		}
	case Blocks:
		return blocksFault(k.Name, raw)
	}
	return ""
}

// badHost says what a host must be, "" if it is that. Whether it can be reached from decode is the window's question.
func badHost(host string) string {
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		return "an address that can be dialled"
	}
	if host == "" || strings.ContainsAny(host, " /:") && net.ParseIP(host) == nil {
		return "a host"
	}
	return ""
}

func badPort(port string) string {
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		return "a port from 1 to 65535"
	}
	return ""
}

// blocksFault: ids are numbers from 0, and none is named twice within a group, but for block 0: that is vLLM's null block, which
// stands where a sliding window has passed.
func blocksFault(name string, raw json.RawMessage) string {
	groups, err := blockGroups(raw)
	switch {
	case err != nil:
		return err.Error()
	case len(groups) == 0 || len(groups[0]) == 0:
		return fmt.Sprintf("ticket names no blocks (%s %s)", name, textcheck.Short(string(compact(raw)), 40))
	}
	for _, ids := range groups {
		seen := make(map[int]bool, len(ids))
		for _, id := range ids {
			switch {
			case id < 0:
				return fmt.Sprintf("%s holds %d", name, id)
			case id > 0 && seen[id]:
				return fmt.Sprintf("%s names block %d twice", name, id)
			}
			seen[id] = true
		}
	}
	return ""
}

// blockGroups reads both forms of block ids; a flat list is one group.
func blockGroups(raw json.RawMessage) ([][]int, error) {
	var groups [][]int
	if json.Unmarshal(raw, &groups) == nil {
		return groups, nil
	}
	var flat []int
	if json.Unmarshal(raw, &flat) == nil {
		return [][]int{flat}, nil
	}
	return nil, fmt.Errorf("remote_block_ids are not numbers: %s", textcheck.Short(string(compact(raw)), 40))
}

// text is a JSON string, "" for anything else.
func text(raw json.RawMessage) (s string) {
	_ = json.Unmarshal(raw, &s)
	return s
}

// find looks a key up; null counts as missing.
func find(keys map[string]json.RawMessage, name string) json.RawMessage {
	head, rest, deep := strings.Cut(name, ".")
	raw := keys[head]
	if deep {
		var inner map[string]json.RawMessage
		if json.Unmarshal(raw, &inner) != nil {
			return nil
		}
		return find(inner, rest)
	}
	if raw = bytes.TrimSpace(raw); string(raw) == "null" {
		return nil
	}
	return raw
}

// member is one text of a ticket as it is spelled, "" if it is not there.
func member(ticket json.RawMessage, name string) string {
	var keys map[string]json.RawMessage
	_ = json.Unmarshal(ticket, &keys) // a malformed ticket is CheckTicket's finding
	return string(find(keys, name))
}
