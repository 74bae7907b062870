package theory

import (
	"fmt"
	"slices"
	"strings"
)

// Quantization is how the weights of a component's linear layers are stored; embeddings, heads, norms and biases keep the dtype.
type Quantization struct {
	Method string  // quant_method of the config; "": none
	Bytes  float64 // a linear weight, its share of scales and zero points included; 0: as the dtype
	Detail string  // "4 bit, groups of 128"
	keeps  []string
}

func (q Quantization) computesFP8() bool { return q.Method == "fp8" }

// keepsVision says whether the vision tower is left as it was.
func (q Quantization) keepsVision() bool { return slices.Contains(q.keeps, "visual") }

var knownMethods = "fp8, gptq, awq, bitsandbytes, compressed-tensors"

// readQuantization understands the quantization_config of a config.json. Sizes: GPTQ and AWQ store per group one fp16 scale and one zero
// point of as many bits as a weight; bitsandbytes 4-bit one fp32 absmax per 64 weights, or, doubly quantised, one byte and one fp32 per 256
// of those; fp8 one fp32 scale per block.
func readQuantization(f fields) (Quantization, error) {
	sub, there, err := f.sub("quantization_config")
	if err != nil || !there {
		return Quantization{}, err
	}
	method := sub.text("quant_method")
	if method == "" && (sub.flag("load_in_4bit") || sub.flag("load_in_8bit")) {
		method = "bitsandbytes"
	}
	q := Quantization{Method: method}
	for _, key := range []string{"modules_to_not_convert", "llm_int8_skip_modules", "ignored_layers", "ignore"} {
		q.keeps = append(q.keeps, sub.list(key)...)
	}
	for _, name := range q.keeps {
		if strings.HasSuffix(name, "_proj") || strings.HasPrefix(name, "re:") && !strings.Contains(name, "lm_head") && !strings.Contains(name, "visual") {
			return q, cannot("weight bytes", "quantization_config leaves %q as it is, and single layers are not told apart here", name)
		}
	}
	if sub.flag("lm_head") {
		return q, cannot("weight bytes", "quantization_config quantises lm_head, which is counted at the dtype here")
	}
	switch method {
	case "fp8":
		block := 0.0
		if size := sub.numbers("weight_block_size"); len(size) == 2 && size[0]*size[1] > 0 {
			block = 4 / (size[0] * size[1])
			q.Detail = fmt.Sprintf("8 bit, blocks of %v x %v", size[0], size[1])
		} else {
			q.Detail = "8 bit, one scale a tensor"
		}
		q.Bytes = 1 + block
	case "gptq", "awq":
		bits, group := sub.number("bits"), sub.number("group_size")
		if bits <= 0 {
			bits = sub.number("w_bit")
		}
		if group == 0 {
			group = sub.number("q_group_size")
		}
		if bits <= 0 || group == 0 {
			return q, cannot("weight bytes", "quantization_config of %s has no bits or no group_size", method)
		}
		q.Bytes, q.Detail = bits/8, fmt.Sprintf("%v bit, one group a column", bits)
		if group > 0 { // -1: one group a column, whose scales are nothing beside the weights
			q.Bytes += (2 + bits/8) / group
			q.Detail = fmt.Sprintf("%v bit, groups of %v", bits, group)
		}
	case "bitsandbytes":
		switch {
		case sub.flag("load_in_4bit") && sub.flag("bnb_4bit_use_double_quant"):
			q.Bytes, q.Detail = 0.5+1.0/64+4.0/(64*256), "4 bit, doubly quantised"
		case sub.flag("load_in_4bit"):
			q.Bytes, q.Detail = 0.5+4.0/64, "4 bit, blocks of 64"
		case sub.flag("load_in_8bit"):
			q.Bytes, q.Detail = 1, "8 bit, one scale a row"
		default:
			return q, cannot("weight bytes", "quantization_config of bitsandbytes has neither load_in_4bit nor load_in_8bit")
		}
	case "compressed-tensors":
		bits, group, err := compressedTensors(sub)
		if err != nil {
			return q, err
		}
		q.Bytes, q.Detail = bits/8, fmt.Sprintf("%v bit, one scale a channel", bits)
		if group > 0 {
			q.Bytes += 2 / group
			q.Detail = fmt.Sprintf("%v bit, groups of %v", bits, group)
		}
	default:
		return q, cannot("weight bytes", "quant_method %q is not known here (known: %s)", method, knownMethods)
	}
	return q, nil
}

func compressedTensors(sub fields) (bits, group float64, err error) {
	groups, there, err := sub.sub("config_groups")
	if err != nil || !there || len(groups.values) != 1 {
		return 0, 0, cannot("weight bytes", "quantization_config of compressed-tensors has %d config_groups, and one is needed to know how each weight is stored", len(groups.values))
	}
	for name := range groups.values {
		g, _, err := groups.sub(name)
		if err != nil {
			return 0, 0, err
		}
		w, there, err := g.sub("weights")
		if err != nil || !there || w.number("num_bits") <= 0 {
			return 0, 0, cannot("weight bytes", "quantization_config of compressed-tensors has no weights.num_bits")
		}
		bits, group = w.number("num_bits"), w.number("group_size")
	}
	return bits, group, nil
}

// dtypeBytes are the sizes of the dtypes that configs name.
func dtypeBytes(name string) (float64, error) {
	switch strings.TrimPrefix(name, "torch.") {
	case "float32", "fp32":
		return 4, nil
	case "bfloat16", "float16", "half", "bf16", "fp16":
		return 2, nil
	case "float8_e4m3fn", "float8_e5m2", "fp8", "fp8_e4m3", "fp8_e5m2":
		return 1, nil
	}
	return 0, cannot("bytes", "the dtype %q is not known here (known: float32, bfloat16, float16, float8_e4m3fn)", name)
}
