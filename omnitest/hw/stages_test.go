package hw_test

import (
	"crypto/rand"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest"
	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/engine"
	"github.com/omnitest/suite/omnitest/hw"
	"github.com/omnitest/suite/omnitest/metrics"
	"github.com/omnitest/suite/omnitest/refstack"
	"github.com/omnitest/suite/omnitest/refstack/ar"
	"github.com/omnitest/suite/omnitest/refstack/dit"
	"github.com/omnitest/suite/omnitest/stack"
)

const pictures = 4

// load sends pictures through a stack, after one that nobody measures, and gives the window and the shortest leg of each stage, ms.
func load(t *testing.T, timing refstack.Timing) (w hw.Window, legs map[string]float64) {
	t.Helper()
	s := omnitest.Start(t, stack.Spec{Timing: timing})
	one := func(i int) {
		_, err := s.Generate(t.Context(), api.ImageRequest{Prompt: fmt.Sprint("a red circle, ", i, " ", rand.Text()), ImageParams: api.ImageParams{Size: api.Size{W: 256, H: 256}, Steps: 4, Seed: 1}})
		require.NoError(t, err)
	}
	one(0)
	before, err := s.Ledger(t.Context(), 0)
	require.NoError(t, err)
	m := hw.NewMeter(s.PIDs())
	require.NoError(t, m.Start(t.Context(), 50*time.Millisecond))
	for i := range pictures {
		one(i + 1)
	}
	w = m.Stop()
	records, err := s.Ledger(t.Context(), before[len(before)-1].Seq)
	require.NoError(t, err)
	require.Len(t, records, pictures)
	legs = map[string]float64{}
	for _, r := range records {
		for _, h := range r.Hops {
			if took := h.EndMS - h.StartMS; legs[h.Stage] == 0 || took < legs[h.Stage] {
				legs[h.Stage] = took
			}
		}
	}
	return w, legs
}

// grown is how much a stage's memory rose from the first to the last point of its track, MiB.
func grown(t *testing.T, w hw.Window, stage engine.Stage) float64 {
	t.Helper()
	for _, track := range w.Tracks() {
		if track.Stage == string(stage) && track.Name == "memory RSS" {
			assert.Equal(t, "bytes", track.Unit)
			return (track.Peak[len(track.Peak)-1] - track.Peak[0]) / mib
		}
	}
	t.Fatalf("%s has no track of its memory", stage)
	return 0
}

// Planted on three stages of the reference stack: memory growth on prefill, CPU burn on decode, waiting on the DiT. Each is found
// there, as the difference from the same load on a healthy stack, and on no other stage.
func TestPlantedCostsAreThoseOfTheirStage(t *testing.T) {
	plain, plainLegs := load(t, refstack.Timing{})
	planted, legs := load(t, refstack.Timing{
		Prefill: ar.Timing{GrowPerRequest: 32 * mib},
		Decode:  ar.Timing{BurnPerRequest: 300 * time.Millisecond},
		DiT:     dit.Timing{Encode: time.Second},
	})
	memory, cpu := map[engine.Stage]float64{}, map[engine.Stage]float64{}
	for _, stage := range []engine.Stage{engine.Prefill, engine.Decode, engine.DiT} {
		memory[stage] = grown(t, planted, stage) - grown(t, plain, stage)
		cpu[stage] = planted.Stages[string(stage)].CPUSeconds - plain.Stages[string(stage)].CPUSeconds
		t.Logf("%s: memory %+.0f MiB, CPU %+.2f s, shortest leg %.0f ms (healthy: %.0f ms)", stage, memory[stage], cpu[stage], legs[string(stage)], plainLegs[string(stage)])
	}
	const bytes, seconds = 32 * pictures * heapFactor, 0.3 * pictures
	assert.InDelta(t, bytes, memory[engine.Prefill], bytes/4)
	assert.Less(t, memory[engine.Decode], bytes/2.0)
	assert.Less(t, memory[engine.DiT], bytes/2.0)
	assert.InDelta(t, seconds, cpu[engine.Decode], seconds/3)
	assert.Less(t, cpu[engine.Prefill], seconds/3)
	assert.Less(t, cpu[engine.DiT], seconds/3)
	assert.GreaterOrEqual(t, legs["dit"], 1000.0)
	assert.Less(t, legs["prefill"], 1000.0)
	assert.Less(t, plainLegs["dit"], 1000.0)

	d := planted.Stages[string(engine.Decode)]
	for name, v := range map[string]metrics.Value{"cores": d.MeanCores, "PSS": d.PeakPSS, "threads": d.PeakThreads, "files": d.PeakFDs} {
		x, ok := v.Get()
		assert.True(t, ok && x > 0, "%s: %v %s", name, x, v.Reason())
	}
	pss, _ := d.PeakPSS.Get()
	assert.LessOrEqual(t, pss, float64(d.PeakRSS))
	assert.True(t, d.VoluntarySwitches.OK() && d.DiskWritten.OK(), "%s %s", d.VoluntarySwitches.Reason(), d.DiskWritten.Reason())
	assert.Equal(t, metrics.Absent("it shares the host's network namespace, and traffic is counted by namespace (Window.Host)"), d.NetSent)
	busy, ok := planted.Host.BusyCores.Get()
	assert.True(t, ok)
	assert.Greater(t, busy*planted.WallS, planted.Total.CPUSeconds*0.7, "the host was at least as busy as the stages")
	assert.Positive(t, planted.Cost.Reads)
	t.Logf("sampling at 20 Hz: %s cores, %.2f ms a sample", planted.Cost.Cores, planted.Cost.MeanReadMS)

	held, err := hw.Released(t.Context(), hw.Release{PIDs: map[string]int{"decode": d.PID}, Within: time.Millisecond})
	assert.ErrorContains(t, err, "still running: decode", "the stack is stopped only when the test is over: %+v", held)
}
