package metrics_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/metrics"
)

// Real streams, failures and pictures give the same summary from the log as from memory.
func TestLogGivesTheSameSummary(t *testing.T) {
	b := readBench(t, "g-chat-in64-out16-conc4.json")
	text := b.samples(true)
	broken := stream(5, 5, 10, 20)
	broken.Err = errors.New("stream ended\nwithout [DONE] <html>")
	mixed := []metrics.Sample{picture(time.Second, api.Size{W: 1376, H: 768}), broken, stream(3, -1, 7, 9), {}}

	var log bytes.Buffer
	require.NoError(t, metrics.WriteLog(&log, "conc=4", text[:20]))
	require.NoError(t, metrics.WriteLog(&log, "mixed", mixed))
	require.NoError(t, metrics.WriteLog(&log, "conc=4", text[20:]))
	rows, err := metrics.ReadLog(bytes.NewReader(log.Bytes()))
	require.NoError(t, err)
	require.Len(t, rows, 2)
	for row, samples := range map[string][]metrics.Sample{"conc=4": text, "mixed": mixed} {
		want := metrics.Summarize(metrics.VLLM, samples, time.Minute)
		assert.Empty(t, cmp.Diff(want, metrics.Summarize(metrics.VLLM, rows[row], time.Minute)), row)
	}
	assert.Equal(t, mixed[0].Start.UTC(), rows["mixed"][0].Start)
	assert.True(t, rows["mixed"][3].Start.IsZero())
	assert.Equal(t, len(text)+len(mixed), strings.Count(log.String(), "\n"), "one line each, whatever the error text")
}

func TestLogOfAKilledRun(t *testing.T) {
	var log bytes.Buffer
	require.NoError(t, metrics.WriteLog(&log, "a", []metrics.Sample{stream(1, 2, 3, 4), stream(1, 2, 3, 4)}))
	rows, err := metrics.ReadLog(bytes.NewReader(log.Bytes()[:log.Len()-9]))
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	assert.EqualError(t, err, "metrics: event log, sample 2: unexpected EOF")
	assert.Len(t, rows["a"], 1)

	_, err = metrics.ReadLog(strings.NewReader(`{"v":2,"row":"a"}`))
	require.EqualError(t, err, "metrics: event log, sample 1: version 2, this one reads 1")
	_, err = metrics.ReadLog(strings.NewReader(`Benchmark`))
	require.ErrorContains(t, err, "metrics: event log, sample 1: invalid character 'B'")
	rows, err = metrics.ReadLog(strings.NewReader(""))
	require.NoError(t, err)
	assert.Empty(t, rows)
	assert.EqualError(t, metrics.WriteLog(full{}, "a", []metrics.Sample{stream(1, 2, 3)}), "metrics: event log: disk full")
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("disk full") }
