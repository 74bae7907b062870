package theory

import (
	"slices"
	"strings"
)

// GPU is what a data sheet promises.
type GPU struct {
	Name      string
	FLOPS     float64 // dense bf16 tensor operations a second with fp32 accumulation; data sheets often print twice that, "with sparsity"
	FP8       float64 // dense fp8 tensor operations a second; 0: the GPU has none
	Bandwidth float64 // bytes a second of its own memory
	Memory    float64 // bytes that a process can get; see gpus
	NVLink    float64 // bytes a second in one direction; 0: none
	PCIe      float64 // bytes a second in one direction, before protocol overhead
	Source    string
}

const (
	tera = 1e12
	giga = 1e9
	gib  = 1 << 30
)

// gpus are peaks as published by NVIDIA. Memory: what PyTorch reports as total is less than the name of the board says: 79.18 GiB of
// an H100's 80 (recording vllm-gpu-pd-0.26.0), 39.50 of an A100's 40 (vLLM issue 12330): 1 to 1.3 % less. Where no report is at hand 1.5 % is
// taken off, for L40S and RTX 6000 Ada one sixteenth for ECC in GDDR6.
var gpus = []GPU{
	{"H20", 148 * tera, 296 * tera, 4.0 * tera, 96 * 0.985 * gib, 450 * giga, 64 * giga, "NVIDIA H20 product brief: 148 TFLOPS bf16, 4.0 TB/s, 96 GB, NVLink 900 GB/s"},
	{"H100", 989.4 * tera, 1978.9 * tera, 3.35 * tera, 79.18 * gib, 450 * giga, 64 * giga, "NVIDIA H100 data sheet, SXM5: 1979 TFLOPS bf16 with sparsity, 3.35 TB/s, 80 GB, NVLink 900 GB/s; memory as recorded"},
	{"H100-PCIE", 756.5 * tera, 1513 * tera, 2.0 * tera, 79.18 * gib, 300 * giga, 64 * giga, "NVIDIA H100 data sheet, PCIe: 1513 TFLOPS bf16 with sparsity, 2 TB/s, 80 GB, NVLink bridge 600 GB/s"},
	{"H200", 989.4 * tera, 1978.9 * tera, 4.8 * tera, 141 * 0.985 * gib, 450 * giga, 64 * giga, "NVIDIA H200 data sheet, SXM: 1979 TFLOPS bf16 with sparsity, 4.8 TB/s, 141 GB, NVLink 900 GB/s"},
	{"A100", 312 * tera, 0, 2.039 * tera, 80 * 0.985 * gib, 300 * giga, 32 * giga, "NVIDIA A100 80GB data sheet, SXM4: 312 TFLOPS bf16, 2039 GB/s, 80 GB, NVLink 600 GB/s"},
	{"A100-40GB", 312 * tera, 0, 1.555 * tera, 39.5 * gib, 300 * giga, 32 * giga, "NVIDIA A100 data sheet, 40 GB: 312 TFLOPS bf16, 1555 GB/s; memory as in vLLM issue 12330"},
	{"L40S", 362.05 * tera, 733 * tera, 864 * giga, 48 * 15.0 / 16 * 0.985 * gib, 0, 32 * giga, "NVIDIA L40S data sheet: 362.05 TFLOPS bf16 dense, 733 TFLOPS fp8 dense, 864 GB/s, 48 GB with ECC, PCIe 4"},
	{"B200", 2250 * tera, 4500 * tera, 8.0 * tera, 180 * 0.985 * gib, 900 * giga, 64 * giga, "NVIDIA DGX B200 data sheet: 8 GPUs, 72 PFLOPS fp8 and 36 PFLOPS bf16 with sparsity, 64 TB/s, 1440 GB, NVLink 1.8 TB/s a GPU"},
	{"RTX4090", 165.2 * tera, 330.3 * tera, 1008 * giga, 24 * 0.985 * gib, 0, 32 * giga, "NVIDIA Ada GPU architecture whitepaper: 165.2 TFLOPS bf16 with fp32 accumulate, 1008 GB/s, 24 GB, PCIe 4"},
	{"RTX5090", 209.5 * tera, 419 * tera, 1792 * giga, 32 * 0.985 * gib, 0, 64 * giga, "NVIDIA RTX Blackwell GPU architecture whitepaper: 209.5 TFLOPS bf16 with fp32 accumulate, 1792 GB/s, 32 GB, PCIe 5"},
	{"RTX6000-ADA", 364.2 * tera, 728.5 * tera, 960 * giga, 48 * 15.0 / 16 * 0.985 * gib, 0, 32 * giga, "NVIDIA RTX 6000 Ada data sheet: 1457 TFLOPS fp8 with sparsity, 960 GB/s, 48 GB with ECC, PCIe 4"},
	{"RTX-PRO-6000", 503.8 * tera, 1007.6 * tera, 1792 * giga, 96 * 0.985 * gib, 0, 64 * giga, "NVIDIA RTX PRO Blackwell whitepaper, Workstation Edition: 503.8 TFLOPS bf16 dense, 1792 GB/s, 96 GB, PCIe 5"},
}

// GPUs lists the table, by name.
func GPUs() []GPU { return slices.Clone(gpus) }

// FindGPU looks a GPU up by the name in the table; case, blanks, "NVIDIA" and "GeForce" do not count. A GPU that is not in the table is a GPU
// literal: FLOPS, Bandwidth and Memory are enough.
func FindGPU(name string) (GPU, error) {
	plain := func(s string) string {
		return strings.NewReplacer("NVIDIA", "", "GEFORCE", "", " ", "", "-", "", "_", "").Replace(strings.ToUpper(s))
	}
	var known []string
	for _, g := range gpus {
		if plain(g.Name) == plain(name) {
			return g, nil
		}
		known = append(known, g.Name)
	}
	return GPU{}, cannot("times and memory", "no GPU %q is in the table; known: %s; any other by its FLOPS, bandwidth and memory", name, strings.Join(known, ", "))
}

func (g GPU) check() error {
	for _, v := range []struct {
		name  string
		value float64
	}{{"FLOPS", g.FLOPS}, {"Bandwidth", g.Bandwidth}, {"Memory", g.Memory}} {
		if !(v.value > 0) {
			return cannot("times and memory", "GPU %q has no %s", g.Name, v.name)
		}
	}
	return nil
}
