package imagecheck

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/api"
)

// A bound comes from the row of the set-up, and every result says so.
func TestTable(t *testing.T) {
	table := Table{
		{Setup: Setup{Engine: "vllm-omni", GPU: "B200"}, Bounds: Bounds{ParitySSIM: 0.96, ParityPSNR: 28}, Run: "vLLM-Omni's own table"},
		{Setup: Setup{Engine: "vllm-omni", Model: "Qwen/Qwen-Image"}, Steps: 20, Size: api.Size{W: 512, H: 512}, Bounds: Bounds{ParityPSNR: 30}, Run: "calibrate of 3 seeds"},
		{Setup: Setup{Engine: "vllm-omni"}, Bounds: Bounds{ParityPSNR: 29}, Run: "x"},
	}
	require.NoError(t, table.Err())
	good := scene(256, 192, 1)
	p := ask(noisy(good, 10, 1)) // 28.1 dB
	p.Case.Table = table
	judge := func(s Setup, steps int, own Bounds) (psnr Metric, err error) {
		q := p
		q.Case.Setup, q.Case.Steps, q.Case.Bounds = s, steps, own
		q.Case.Observe = func(_ string, ms []Metric) { psnr = ms[0] }
		err = Parity(ask(good))(q)
		return psnr, err
	}
	m, err := judge(Setup{Engine: "vllm-omni", GPU: "NVIDIA B200"}, 20, Bounds{})
	assert.Equal(t, 28.0, m.Bound)
	assert.Equal(t, "engine=vllm-omni gpu=B200", m.Key)
	assert.ErrorContains(t, err, "want >= 0.96   bounds of engine=vllm-omni gpu=B200\n")
	m, _ = judge(Setup{Engine: "vllm-omni", GPU: "NVIDIA H100"}, 8, Bounds{})
	assert.Equal(t, 29.0, m.Bound)
	m, _ = judge(Setup{Engine: "diffusers"}, 8, Bounds{})
	assert.Equal(t, 27.0, m.Bound)
	assert.Equal(t, "default", m.Key)
	m, _ = judge(Setup{Engine: "vllm-omni"}, 8, Bounds{ParityPSNR: 31})
	assert.Equal(t, 31.0, m.Bound, "the case's own bound comes first")
	assert.Equal(t, "case over engine=vllm-omni", m.Key)
	raw, err := json.Marshal(m)
	require.NoError(t, err)
	assert.Contains(t, string(raw), `"direction":"\u003e=","key":"case over engine=vllm-omni","ok":false}`)

	p.Case.Size = api.Size{W: 512, H: 512}
	m, _ = judge(Setup{Engine: "vllm-omni", Model: "Qwen/Qwen-Image"}, 20, Bounds{})
	assert.Equal(t, "engine=vllm-omni model=Qwen/Qwen-Image steps=20 size=512x512", m.Key)

	assert.EqualError(t, Table{{Setup: Setup{Engine: "a"}}}.Err(), "bounds row 0 (engine=a): no run: which measurement does it come from?")
	assert.EqualError(t, Table{{Run: "r"}, {Setup: Setup{Engine: "a"}, Run: "r"}}.Err(), "bounds row 1 (engine=a) is never reached: row 0 (any) takes all of it")
}
