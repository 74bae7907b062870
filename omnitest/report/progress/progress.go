// Package progress shows on a terminal how far a long run is: done, rate, errors, time to go. It writes to the terminal that it is
// given (standard error of a benchmark) and to nothing else: standard output belongs to the benchmark lines.
package progress

import (
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"
)

// Run is the display of one run. The zero Run and a nil *Run show nothing, and may be used all the same.
type Run struct {
	pool   *mpb.Progress
	bar    *mpb.Bar
	done   atomic.Int64
	failed atomic.Int64
	total  int64
	began  time.Time
}

// Terminal tells whether w is a terminal. A file, a pipe and the log of a CI job are none.
func Terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// Start begins the display of a run of total calls (0: unknown) on w. Where w is no terminal nothing is shown.
func Start(w io.Writer, name string, total int) *Run {
	if !Terminal(w) {
		return &Run{total: int64(total), began: time.Now()}
	}
	return start(w, name, total)
}

// start shows the run on any writer.
func start(w io.Writer, name string, total int) *Run {
	r := &Run{total: int64(total), began: time.Now(), pool: mpb.New(mpb.WithOutput(w), mpb.WithAutoRefresh(), mpb.WithRefreshRate(200*time.Millisecond), mpb.WithWidth(40))}
	r.bar = r.pool.AddBar(int64(total), mpb.BarRemoveOnComplete(),
		mpb.PrependDecorators(decor.Name(name+" ")),
		mpb.AppendDecorators(decor.Any(func(decor.Statistics) string { return r.String() })))
	return r
}

// Done counts a call that ended; failed tells how.
func (r *Run) Done(failed bool) {
	if r == nil {
		return
	}
	r.done.Add(1)
	if failed {
		r.failed.Add(1)
	}
	if r.bar != nil {
		r.bar.Increment()
	}
}

// String is what the display says: "12/40, 3.1/s, 9s to go, 1 failed".
func (r *Run) String() string {
	if r == nil {
		return ""
	}
	return text(r.done.Load(), r.failed.Load(), r.total, time.Since(r.began))
}

func text(done, failed, total int64, since time.Duration) string {
	s := fmt.Sprint(done)
	if total > 0 {
		s += fmt.Sprintf("/%d", total)
	}
	if seconds := since.Seconds(); done > 0 && seconds > 0 {
		rate := float64(done) / seconds
		s += fmt.Sprintf(", %.3g/s", rate)
		if total > done {
			left := time.Duration(float64(total-done) / rate * float64(time.Second))
			s += fmt.Sprintf(", %v to go", left.Round(time.Second))
		}
	}
	if failed > 0 {
		s += fmt.Sprintf(", %d failed", failed)
	}
	return s
}

// Stop takes the display away. What is printed afterwards stands where it stood.
func (r *Run) Stop() {
	if r == nil || r.bar == nil {
		return
	}
	r.bar.Abort(true)
	r.pool.Wait()
}
