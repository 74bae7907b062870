package progress

import (
	"bytes"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestText(t *testing.T) {
	for _, c := range []struct {
		done, failed, total int64
		since               time.Duration
		want                string
	}{
		{0, 0, 40, 0, "0/40"},
		{0, 0, 40, time.Second, "0/40"},
		{10, 0, 40, 5 * time.Second, "10/40, 2/s, 15s to go"},
		{10, 3, 40, 4 * time.Second, "10/40, 2.5/s, 12s to go, 3 failed"},
		{40, 1, 40, 10 * time.Second, "40/40, 4/s, 1 failed"},
		{7, 0, 0, 2 * time.Second, "7, 3.5/s"}, // the total is not known: no time to go
	} {
		assert.Equal(t, c.want, text(c.done, c.failed, c.total, c.since))
	}
}

// Nothing may be written where no terminal is: a benchmark's output is read by programs.
func TestNoTerminalNoOutput(t *testing.T) {
	var b bytes.Buffer
	file, err := os.Create(filepath.Join(t.TempDir(), "log"))
	require.NoError(t, err)
	defer file.Close()
	assert.False(t, Terminal(&b))
	assert.False(t, Terminal(file))
	for _, r := range []*Run{Start(&b, "conc=4", 10), Start(file, "conc=4", 10), nil, {}} {
		r.Done(false)
		r.Done(true)
		r.Stop()
	}
	assert.Empty(t, b.String())
	info, err := file.Stat()
	require.NoError(t, err)
	assert.Zero(t, info.Size())
	r := Start(&b, "conc=4", 10)
	r.Done(true)
	assert.Contains(t, r.String(), "1/10")
	assert.Contains(t, r.String(), ", 1 failed", "it counts all the same")
}

// On a terminal the run is shown while it lasts, and the end takes the display away, also of a run that is cut short.
func TestDisplay(t *testing.T) {
	for _, calls := range []int{40, 7} {
		var b locked
		r := start(&b, "conc=4", 40)
		for range calls {
			r.Done(false)
			time.Sleep(time.Millisecond)
		}
		stopped := make(chan struct{})
		go func() { r.Stop(); close(stopped) }()
		select {
		case <-stopped:
		case <-time.After(20 * time.Second):
			t.Fatal("Stop does not return")
		}
		size := len(b.String())
		r.Done(false)
		assert.Len(t, b.String(), size, "nothing is written after Stop")
	}
}

type locked struct {
	sync.Mutex
	bytes.Buffer
}

func (l *locked) Write(p []byte) (int, error) {
	l.Lock()
	defer l.Unlock()
	return l.Buffer.Write(p)
}

func (l *locked) String() string {
	l.Lock()
	defer l.Unlock()
	return l.Buffer.String()
}
