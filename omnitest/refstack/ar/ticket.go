package ar

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// ticket is the kv_transfer_params object of vLLM 0.32.0's NixlConnector, as prefill returns and decode consumes it.
type ticket struct {
	DoRemotePrefill bool     `json:"do_remote_prefill"`
	DoRemoteDecode  bool     `json:"do_remote_decode"`
	BlockIDs        blockIDs `json:"remote_block_ids"`
	EngineID        *string  `json:"remote_engine_id"`
	RequestID       *string  `json:"remote_request_id"`
	Host            *string  `json:"remote_host"`
	Port            *int     `json:"remote_port"`
	TPSize          int      `json:"tp_size"`
	DCPSize         int      `json:"dcp_size"`
	PPSize          int      `json:"pp_size"`
	NumTokens       int      `json:"remote_num_tokens"`
	Expiry          *float64 `json:"remote_blocks_expiry_time"`
	Mode            string   `json:"transfer_mode"`
	// Only there when prefill made exactly one token (recorded case 17: absent after max_tokens 4).
	CachedTokens *int `json:"remote_prefill_cached_tokens,omitempty"`
}

// complete tells whether everything is there that a pull needs.
func (t *ticket) complete() bool {
	return t.EngineID != nil && t.RequestID != nil && t.Host != nil && t.Port != nil
}

// blockIDs is written as a list per KV cache group (there is one), and read in that form or as the flat list of older
// versions. Ids are int64: a client may send anything.
type blockIDs []int64

func (b blockIDs) MarshalJSON() ([]byte, error) { return json.Marshal([][]int64{b}) }

func (b *blockIDs) UnmarshalJSON(data []byte) error {
	*b = nil
	if bytes.Equal(data, []byte("null")) {
		return nil
	}
	var flat []int64
	if json.Unmarshal(data, &flat) == nil {
		*b = flat
		return nil
	}
	var groups [][]int64
	if err := json.Unmarshal(data, &groups); err != nil {
		return fmt.Errorf("remote_block_ids: want a list of block ids, or one list per KV cache group: %w", err)
	}
	for _, g := range groups {
		*b = append(*b, g...)
	}
	return nil
}
