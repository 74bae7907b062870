package eventlog_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/eventlog"
	"github.com/omnitest/suite/omnitest/metrics"
)

var start = time.Date(2026, 10, 1, 12, 0, 0, 123456789, time.UTC)

// tokens is a request of n tokens, one every 20 ms or so, as a server with usage at the end sends them.
func tokens(n int) metrics.Sample {
	s := metrics.Sample{Due: start.Add(-time.Millisecond), Queue: 300 * time.Microsecond, Start: start, PromptTokens: 64, InputTokens: 64, OutputTokens: n}
	s.Exchange = api.Exchange{RequestID: "req-0001", Status: 200, Start: start, FirstByte: 3 * time.Millisecond, BodyBytes: int64(n) * 220}
	for i := range n {
		s.Exchange.Events = append(s.Exchange.Events, api.Event{At: 50*time.Millisecond + time.Duration(i)*(20*time.Millisecond+12345), Tokens: -1, Usage: -1,
			Bytes: 220, Read: i, Has: api.HasChoices | api.HasText})
	}
	s.Exchange.Events = append(s.Exchange.Events,
		api.Event{At: s.Exchange.Events[n-1].At, Tokens: -1, Usage: n, Bytes: 310, Read: n - 1, Has: api.HasUsage},
		api.Event{At: s.Exchange.Events[n-1].At, Tokens: -1, Usage: -1, Bytes: 6, Read: n, Has: api.IsDone})
	s.Exchange.End = s.Exchange.Events[n].At
	return s
}

func write(t testing.TB, row string, samples ...metrics.Sample) []byte {
	t.Helper()
	var log bytes.Buffer
	w := eventlog.New(&log)
	for i := range samples {
		require.NoError(t, w.Add(row, &samples[i]))
	}
	require.NoError(t, w.Close())
	return log.Bytes()
}

// same compares what a log keeps. Errors are compared by their words and kinds.
var same = []cmp.Option{
	cmp.Comparer(func(a, b error) bool {
		return (a == nil) == (b == nil) && (a == nil || a.Error() == b.Error() && api.KindOf(a) == api.KindOf(b))
	}),
	cmp.Comparer(func(a, b time.Time) bool { return a.Equal(b) && a.IsZero() == b.IsZero() }),
}

// fill sets every field, however deep, to something of its own, so that a field which the log forgets cannot go unseen.
func fill(v reflect.Value, n *int64) {
	*n++
	switch v.Interface().(type) {
	case time.Time:
		v.Set(reflect.ValueOf(start.Add(time.Duration(*n))))
		return
	case metrics.Value:
		v.Set(reflect.ValueOf(metrics.Absent(fmt.Sprint("why ", *n))))
		return
	case error:
		v.Set(reflect.ValueOf(&api.Error{Kind: api.Truncated, Message: "cut\n \xff"}))
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), n)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range 2 {
			fill(v.Index(i), n)
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		if v.Type().Elem().Kind() == reflect.Float64 {
			v.SetMapIndex(reflect.ValueOf("a_ms"), reflect.ValueOf(0.1+0.2))
		}
	case reflect.String:
		v.SetString(fmt.Sprintf("s%d\n\xff", *n))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Float64:
		v.SetFloat(float64(*n) / 3)
	case reflect.Uint8, reflect.Uint16:
		v.SetUint(uint64(*n) % 250)
	case reflect.Interface:
		v.Set(reflect.ValueOf(error(&api.Error{Kind: api.Truncated, Message: "cut\n \xff"})))
	default:
		v.SetInt(*n)
	}
}

// Every field of a Sample comes back, but for those named here.
func TestEveryFieldComesBack(t *testing.T) {
	var s metrics.Sample
	n := int64(100)
	fill(reflect.ValueOf(&s).Elem(), &n)
	s.Exchange.Start = s.Start // one moment
	rows, err := eventlog.ReadAll(bytes.NewReader(write(t, "row \xfe", s)))
	require.NoError(t, err)
	require.Len(t, rows["row \xfe"], 1)

	s.Exchange.Method, s.Exchange.URL, s.Exchange.Header = "", "", nil
	for i := range s.Exchange.Events {
		s.Exchange.Events[i].Data, s.Exchange.Events[i].Text = nil, ""
	}
	if diff := cmp.Diff(s, rows["row \xfe"][0], same...); diff != "" {
		t.Errorf("the log keeps a request differently (-added +read):\n%s", diff)
	}
}

func TestAnySample(t *testing.T) {
	ints := rapid.OneOf(rapid.IntRange(-1, 300), rapid.Int())
	durations := rapid.Custom(func(t *rapid.T) time.Duration { return time.Duration(rapid.Int64().Draw(t, "ns")) })
	rapid.Check(t, func(t *rapid.T) {
		var want []metrics.Sample
		for range rapid.IntRange(0, 4).Draw(t, "samples") {
			s := metrics.Sample{Queue: durations.Draw(t, "queue"), PromptTokens: ints.Draw(t, "prompt"), InputTokens: ints.Draw(t, "in"),
				OutputTokens: ints.Draw(t, "out"), Images: ints.Draw(t, "images"), Pixels: rapid.Int64().Draw(t, "pixels")}
			s.Exchange = api.Exchange{Status: ints.Draw(t, "status"), FirstByte: durations.Draw(t, "first"), End: durations.Draw(t, "end"),
				BodyBytes: rapid.Int64().Draw(t, "body"), RequestID: rapid.String().Draw(t, "id")}
			if rapid.Bool().Draw(t, "sent") {
				s.Start = start.Add(time.Duration(rapid.Int64Range(-1e18, 1e18).Draw(t, "start")))
				s.Exchange.Start = s.Start
			}
			if rapid.Bool().Draw(t, "failed") {
				s.Err = errors.New(rapid.String().Draw(t, "error"))
			}
			for range rapid.IntRange(0, 5).Draw(t, "events") {
				s.Exchange.Events = append(s.Exchange.Events, api.Event{At: durations.Draw(t, "at"), Tokens: ints.Draw(t, "tokens"), Usage: ints.Draw(t, "usage"),
					Bytes: ints.Draw(t, "bytes"), Read: ints.Draw(t, "read"), Has: api.Content(rapid.Uint16().Draw(t, "has"))})
			}
			want = append(want, s)
		}
		var log bytes.Buffer
		w := eventlog.New(&log)
		for i := range want {
			require.NoError(t, w.Add("a", &want[i]))
		}
		require.NoError(t, w.Close())
		rows, err := eventlog.ReadAll(&log)
		require.NoError(t, err)
		if diff := cmp.Diff(want, rows["a"], same...); diff != "" {
			t.Fatalf("-added +read:\n%s", diff)
		}
	})
}

// The promise of the package comment: at most 16 bytes an event within its bounds, at the bounds too.
func TestBytesPerEvent(t *testing.T) {
	size := func(events ...api.Event) int {
		return len(write(t, "", metrics.Sample{Exchange: api.Exchange{Events: events}}))
	}
	far := api.Event{At: 17 * time.Second, Tokens: 8191, Usage: 8191 - 1, Bytes: 256<<20 - 1, Read: 63, Has: 1<<14 - 1}
	assert.Equal(t, 16, size(far)-size())
	more := far
	more.At, more.Usage, more.Read = 2*far.At, far.Usage+8191, 2*63
	assert.Equal(t, 16, size(far, more)-size(far))
	rapid.Check(t, func(t *rapid.T) {
		first := api.Event{At: time.Second, Tokens: -1, Usage: -1}
		second := api.Event{At: first.At + time.Duration(rapid.Int64Range(0, 17e9).Draw(t, "gap")), Tokens: rapid.IntRange(-1, 8191).Draw(t, "tokens"),
			Usage: rapid.IntRange(-1, 8190).Draw(t, "usage"), Bytes: rapid.IntRange(0, 256<<20-1).Draw(t, "bytes"),
			Read: rapid.IntRange(0, 63).Draw(t, "read"), Has: api.Content(rapid.IntRange(0, 1<<14-1).Draw(t, "has"))}
		one := write0(first)
		require.LessOrEqual(t, write0(first, second)-one, 16)
	})
	usual := tokens(1000)
	assert.Less(t, float64(len(write(t, "a", usual)))/float64(len(usual.Exchange.Events)), 11.5)
}

func write0(events ...api.Event) int {
	var log bytes.Buffer
	w := eventlog.New(&log)
	_ = w.Add("", &metrics.Sample{Exchange: api.Exchange{Events: events}})
	_ = w.Close()
	return log.Len()
}

// A run that is killed keeps what it had written, wherever that ends, and the log says that it was cut.
func TestCutAtEveryByte(t *testing.T) {
	failed := tokens(3)
	failed.Err = &api.Error{Kind: api.Timeout, Message: "late"}
	want := []metrics.Sample{tokens(2), failed, {InputTokens: -1, OutputTokens: -1}}
	log := write(t, "a", want...)
	ends := []int{len(write(t, "a", want[:1]...)), len(write(t, "a", want[:2]...)), len(log)}
	const end = 10 // frame, kind, count
	for cut := range len(log) {
		rows, err := eventlog.ReadAll(bytes.NewReader(log[:cut]))
		require.ErrorIs(t, err, io.ErrUnexpectedEOF, "cut at %d", cut)
		whole := 0
		for whole < 3 && ends[whole]-end <= cut {
			whole++
		}
		require.Len(t, rows["a"], whole, "cut at %d", cut)
		require.Empty(t, cmp.Diff(want[:whole], append([]metrics.Sample{}, rows["a"]...), same...))
	}
	for cut, text := range map[int]string{
		0:             "eventlog: at byte 0, after 0 requests: not even a header: unexpected EOF",
		5:             "eventlog: at byte 0, after 0 requests: not even a header: unexpected EOF",
		10:            "eventlog: at byte 8, after 0 requests: breaks off in the header: unexpected EOF",
		12:            "eventlog: at byte 12, after 0 requests: the log was not closed: unexpected EOF",
		15:            "eventlog: at byte 12, after 0 requests: breaks off between records: unexpected EOF",
		30:            fmt.Sprintf("eventlog: at byte 20, after 0 requests: a record breaks off, 10 of %d bytes: unexpected EOF", ends[0]-end-20),
		ends[0] - end: fmt.Sprintf("eventlog: at byte %d, after 1 requests: the log was not closed: unexpected EOF", ends[0]-end),
	} {
		_, err := eventlog.ReadAll(bytes.NewReader(log[:cut]))
		assert.EqualError(t, err, text)
	}
}

func TestBrokenLogs(t *testing.T) {
	good := write(t, "a", tokens(3))
	changed := func(at int, to byte) []byte {
		b := bytes.Clone(good)
		b[at] = to
		return b
	}
	for name, c := range map[string]struct {
		log  []byte
		text string
	}{
		"another version":        {changed(8, 2), "eventlog: at byte 12: version 2, this one reads 1"},
		"another file":           {[]byte("BenchmarkX 1 2 ns/op\n"), `eventlog: at byte 0: no event log: "Benchmar" where "OMNIEVLG" is due`},
		"a short other file":     {[]byte("hi"), `eventlog: at byte 0: no event log: "hi" where "OMNIEVLG" is due`},
		"a flipped bit":          {changed(40, good[40]^1), fmt.Sprintf("eventlog: at byte 20: the checksum of a record of %d bytes is wrong", len(good)-30)},
		"a claim of a gigabyte":  {changed(15, 0x40), fmt.Sprintf("eventlog: at byte 20: a record of %d bytes, 1 to 268435456 are possible", 0x40<<24+len(good)-30)},
		"bytes after the end":    {append(bytes.Clone(good), "trailing bytes"...), fmt.Sprintf(`eventlog: at byte %d: no event log: "trailing" where "OMNIEVLG" is due`, len(good))},
		"a request taken out":    {append(bytes.Clone(good[:12]), good[len(good)-10:]...), "eventlog: at byte 22: the end counts 1 requests, 0 came"},
		"cut, and another after": {append(bytes.Clone(good[:len(good)-10]), good...), fmt.Sprintf("eventlog: at byte %d, after 1 requests: the log was not closed, another follows: unexpected EOF", len(good)-10)},
	} {
		_, err := eventlog.ReadAll(bytes.NewReader(c.log))
		assert.EqualError(t, err, c.text, name)
	}
	rows, err := eventlog.ReadAll(io.MultiReader(bytes.NewReader(good), bytes.NewReader(good)))
	require.NoError(t, err, "logs can be concatenated")
	assert.Len(t, rows["a"], 2)
}

func TestKindOfErrorSurvives(t *testing.T) {
	s := metrics.Sample{Err: fmt.Errorf("call 7: %w", &api.Error{Kind: api.InBand, Status: 200, Message: "engine dead"})}
	plain := metrics.Sample{Err: errors.New("no kind")}
	rows, err := eventlog.ReadAll(bytes.NewReader(write(t, "a", s, plain)))
	require.NoError(t, err)
	assert.EqualError(t, rows["a"][0].Err, "call 7: error inside a 200 answer: engine dead")
	assert.Equal(t, api.InBand, api.KindOf(rows["a"][0].Err))
	assert.EqualError(t, rows["a"][1].Err, "no kind")
	assert.Equal(t, api.Kind(""), api.KindOf(rows["a"][1].Err))
}

// Times of day follow the monotonic clock: differences between requests are those of time.Time.Sub.
func TestStartsAreMonotonic(t *testing.T) {
	var samples []metrics.Sample
	for range 5 {
		samples = append(samples, metrics.Sample{Start: time.Now()})
	}
	rows, err := eventlog.ReadAll(bytes.NewReader(write(t, "a", samples...)))
	require.NoError(t, err)
	for i, s := range rows["a"] {
		assert.Equal(t, samples[i].Start.Sub(samples[0].Start), s.Start.Sub(rows["a"][0].Start))
	}
	assert.InDelta(t, 0, rows["a"][0].Start.Sub(samples[0].Start).Seconds(), 1, "and the date is today's")
}

// Requests end at the same time in many goroutines.
func TestConcurrentAdd(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.omni")
	w, err := eventlog.Create(path)
	require.NoError(t, err)
	var all sync.WaitGroup
	for g := range 8 {
		all.Go(func() {
			for i := range 50 {
				s := tokens(1 + i)
				s.Pixels = int64(i)
				assert.NoError(t, w.Add(fmt.Sprint("row ", g), &s))
			}
		})
	}
	all.Wait()
	require.NoError(t, w.Close())
	require.NoError(t, w.Close(), "twice")
	assert.EqualError(t, w.Add("a", &metrics.Sample{}), "eventlog: Add after Close")
	rows, err := eventlog.ReadFile(path)
	require.NoError(t, err)
	require.Len(t, rows, 8)
	for row, list := range rows {
		require.Len(t, list, 50, row)
		for i, s := range list {
			assert.EqualValues(t, i, s.Pixels, "%s: in the order in which its goroutine added", row)
			assert.Len(t, s.Exchange.Events, i+3)
		}
	}

	_, err = eventlog.Create(path)
	assert.ErrorIs(t, err, os.ErrExist, "a log is never written over")
	_, err = eventlog.ReadFile(path + "x")
	assert.ErrorIs(t, err, os.ErrNotExist)
	require.NoError(t, os.Truncate(path, 100))
	_, err = eventlog.ReadFile(path)
	assert.ErrorContains(t, err, path+": eventlog: at byte ")
}

// What was added reaches the disk while the run goes on, without Close.
func TestWrittenWhileTheRunGoesOn(t *testing.T) {
	got := make(chan int, 10)
	w := eventlog.New(writerFunc(func(b []byte) (int, error) { got <- len(b); return len(b), nil }))
	s := tokens(2)
	require.NoError(t, w.Add("a", &s))
	for total := 0; total < 100; { // header and request, in one write or two
		select {
		case n := <-got:
			total += n
		case <-time.After(time.Minute):
			t.Fatalf("%d bytes reached the disk within a minute", total)
		}
	}
	require.NoError(t, w.Close())
}

func TestDiskFull(t *testing.T) {
	failed := make(chan struct{})
	var once sync.Once
	w := eventlog.New(writerFunc(func(b []byte) (int, error) {
		defer once.Do(func() { close(failed) })
		return 0, errors.New("disk full")
	}))
	<-failed
	s := tokens(2)
	var err error
	for range 1000 { // the failure is noted just after the write returns
		if err = w.Add("a", &s); err != nil {
			break
		}
		time.Sleep(time.Millisecond)
	}
	assert.EqualError(t, err, "eventlog: disk full")
	assert.EqualError(t, w.Close(), "eventlog: disk full")
}

// A disk that is far behind holds Add up instead of losing events or filling the memory.
func TestSlowDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		var wrote bytes.Buffer
		w := eventlog.New(writerFunc(func(b []byte) (int, error) { <-release; return wrote.Write(b) }))
		synctest.Wait() // the disk is busy with the header
		s := metrics.Sample{Exchange: api.Exchange{RequestID: strings.Repeat("x", 8<<20)}}
		added := 0
		finished := make(chan struct{})
		go func() {
			defer close(finished)
			for range 20 {
				if w.Add("a", &s) == nil {
					added++
				}
			}
		}()
		synctest.Wait()
		assert.Equal(t, 8, added, "of 8 MiB each, then Add must wait")
		close(release)
		<-finished
		require.NoError(t, w.Close())
		rows, err := eventlog.ReadAll(&wrote)
		require.NoError(t, err)
		assert.Len(t, rows["a"], 20)
	})
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

func FuzzReader(f *testing.F) {
	odd := tokens(3)
	odd.Err, odd.Sound, odd.Stages = errors.New("x"), metrics.Sound{Seconds: 1.5, Rate: 48000}, map[string]float64{"dit": math.Pi}
	good := write(f, "a", tokens(2), odd, metrics.Sample{})
	f.Add(good)
	f.Add(good[:40])
	f.Add(append(bytes.Clone(good), good...))
	f.Add([]byte("OMNIEVLG\x01\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, in []byte) {
		rows, err := eventlog.ReadAll(bytes.NewReader(in))
		if err != nil {
			if !strings.HasPrefix(err.Error(), "eventlog: ") {
				t.Fatalf("%v", err)
			}
			return
		}
		for row, list := range rows { // what was read can be written, and reads the same
			var log bytes.Buffer
			w := eventlog.New(&log)
			for i := range list {
				if err := w.Add(row, &list[i]); err != nil {
					t.Fatal(err)
				}
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			again, err := eventlog.ReadAll(&log)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(list, again[row], same...); diff != "" {
				t.Fatal(diff)
			}
		}
	})
}

// BenchmarkWriter: the cost of an event on its way into the log.
func BenchmarkWriter(b *testing.B) {
	s := tokens(200)
	w, err := eventlog.Create(filepath.Join(b.TempDir(), "events.omni"))
	require.NoError(b, err)
	b.ReportAllocs()
	for b.Loop() {
		if err := w.Add("conc=64", &s); err != nil {
			b.Fatal(err)
		}
	}
	require.NoError(b, w.Close())
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(s.Exchange.Events)), "ns/event")
	b.ReportMetric(float64(len(write(b, "conc=64", s)))/float64(len(s.Exchange.Events)), "B/event")
}

func BenchmarkReader(b *testing.B) {
	const requests = 100
	var list []metrics.Sample
	for range requests {
		list = append(list, tokens(200))
	}
	log := write(b, "conc=64", list...)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := eventlog.ReadAll(bytes.NewReader(log)); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(requests*len(list[0].Exchange.Events)), "ns/event")
}
