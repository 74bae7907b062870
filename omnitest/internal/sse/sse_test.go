package sse

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

type got struct {
	Name, Data string
	Cut        bool
}

func readAll(t testing.TB, src io.Reader) ([]got, error) {
	t.Helper()
	r := NewReader(src, func() time.Duration { return 0 }, 0)
	var all []got
	for {
		e, err := r.Next()
		if err == io.EOF {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		all = append(all, got{e.Name, string(e.Data), e.Cut})
	}
}

var streams = []struct {
	name, in string
	want     []got
}{
	{"vLLM", "data: {\"a\":1}\n\ndata: [DONE]\n\n", []got{{Data: `{"a":1}`}, {Data: "[DONE]"}}},
	{"CRLF", "data: a\r\n\r\ndata: b\r\n\r\n", []got{{Data: "a"}, {Data: "b"}}},
	{"mixed line ends", "data: a\r\n\ndata: b\n\r\n", []got{{Data: "a"}, {Data: "b"}}},
	{"no space after the colon", "data:a\n\n", []got{{Data: "a"}}},
	{"only one space is taken off", "data:  a \n\n", []got{{Data: " a "}}},
	{"comments and keep-alives", ": ping\n\n:\n\ndata: a\n: between\n\n", []got{{Data: "a"}}},
	{"several data lines", "data: a\ndata: b\ndata:\ndata: c\n\n", []got{{Data: "a\nb\n\nc"}}},
	{"named", "event: error\nid: 7\nretry: 10\ndata: x\n\ndata: y\n\n", []got{{"error", "x", false}, {"", "y", false}}},
	{"a name without data is no event", "event: ping\n\ndata: x\n\n", []got{{Data: "x"}}},
	{"empty data", "data:\n\n", []got{{Data: ""}}},
	{"byte order mark", "\xef\xbb\xbfdata: a\n\n", []got{{Data: "a"}}},
	{"no blank line at the end", "data: a\n\ndata: [DONE]\n", []got{{Data: "a"}, {Data: "[DONE]", Cut: true}}},
	{"no newline at the end", "data: a\n\ndata: [DONE]", []got{{Data: "a"}, {Data: "[DONE]", Cut: true}}},
	{"cut in the payload", "data: {\"a\":", []got{{Data: `{"a":`, Cut: true}}},
	{"cut in the field's name", "data: a\n\nda", []got{{Data: "a"}}},
	{"blank lines", "\n\n\n\r\n", nil},
	{"empty", "", nil},
	{"many blank lines between", "data: a\n\n\n\n\ndata: b\n\n", []got{{Data: "a"}, {Data: "b"}}},
	{"CJK and emoji", "data: 红苹果🍎👩‍🚀\n\n", []got{{Data: "红苹果🍎👩‍🚀"}}},
}

func TestReader(t *testing.T) {
	for _, c := range streams {
		t.Run(c.name, func(t *testing.T) {
			for how, src := range map[string]io.Reader{
				"at once":       strings.NewReader(c.in),
				"byte by byte":  iotest.OneByteReader(strings.NewReader(c.in)),
				"data with EOF": iotest.DataErrReader(strings.NewReader(c.in)),
				"halves":        iotest.HalfReader(strings.NewReader(c.in)),
			} {
				all, err := readAll(t, src)
				require.NoError(t, err, how)
				assert.Equal(t, c.want, all, how)
			}
		})
	}
}

// Every split of a stream into two reads must give the same events: a server's chunks fall anywhere.
func TestEverySplit(t *testing.T) {
	in := "data: {\"t\":\"红🍎\"}\r\n\r\n: c\ndata: a\ndata: b\n\nevent: e\ndata: [DONE]\n\n"
	want, err := readAll(t, strings.NewReader(in))
	require.NoError(t, err)
	require.Len(t, want, 3)
	for i := range in {
		all, err := readAll(t, io.MultiReader(strings.NewReader(in[:i]), strings.NewReader(in[i:])))
		require.NoError(t, err)
		require.Equal(t, want, all, "split at %d", i)
	}
}

func TestDataStaysValid(t *testing.T) {
	var in strings.Builder
	var want []string
	for i := range 3000 { // several blocks of every size
		s := strings.Repeat(string(rune('a'+i%26)), i%700)
		want = append(want, s)
		in.WriteString("data: " + s + "\n\n")
	}
	r := NewReader(iotest.HalfReader(strings.NewReader(in.String())), func() time.Duration { return 0 }, 0)
	var kept [][]byte
	for {
		e, err := r.Next()
		if err == io.EOF {
			break
		}
		require.NoError(t, err)
		kept = append(kept, e.Data)
		_ = append(e.Data, "scribble"...) // must not reach the neighbour
	}
	require.Len(t, kept, len(want))
	for i := range want {
		require.Equal(t, want[i], string(kept[i]), "event %d", i)
	}
}

// With Reuse the same events come, however they are split, and the blocks stay few: a stream costs the memory of its longest event.
func TestReuse(t *testing.T) {
	var in strings.Builder
	var want []got
	for i := range 3000 {
		s := strings.Repeat(string(rune('a'+i%26)), i%700)
		want = append(want, got{Data: s + "\nx"})
		in.WriteString("data: " + s + "\ndata: x\n\n")
	}
	want = append(want, got{Data: strings.Repeat("z", 100_000)})
	in.WriteString("data: " + want[3000].Data + "\n\n")
	for how, src := range map[string]io.Reader{
		"at once": strings.NewReader(in.String()), "byte by byte": iotest.OneByteReader(strings.NewReader(in.String())),
		"halves": iotest.HalfReader(strings.NewReader(in.String())),
	} {
		r := NewReader(src, func() time.Duration { return 0 }, 0)
		r.Reuse = true
		var all []got
		blocks := map[*byte]bool{}
		for {
			e, err := r.Next()
			if err == io.EOF {
				break
			}
			require.NoError(t, err)
			all = append(all, got{e.Name, string(e.Data), e.Cut})
			blocks[&r.block[0]] = true
		}
		require.Equal(t, want, all, how)
		assert.Less(t, len(blocks), 4, "%s: blocks for %d bytes", how, in.Len())
	}
}

// The time of an event is the time of the read that completed it, not of the read that began it, nor of the call to Next.
func TestAtIsTheCompletingRead(t *testing.T) {
	chunks := []string{"data: a\n\ndata: b\n\nda", "ta: c\n", "\n"}
	reads := 0
	src := readerFunc(func(p []byte) (int, error) {
		if reads == len(chunks) {
			return 0, io.EOF
		}
		reads++
		return copy(p, chunks[reads-1]), nil
	})
	r := NewReader(src, func() time.Duration { return time.Duration(reads) * time.Second }, 0)
	var at []time.Duration
	var read []int
	for {
		e, err := r.Next()
		if err != nil {
			break
		}
		at, read = append(at, e.At), append(read, e.Read)
	}
	assert.Equal(t, []time.Duration{time.Second, time.Second, 3 * time.Second}, at)
	assert.Equal(t, []int{0, 0, 2}, read, "two events came with one read")
}

func TestLimit(t *testing.T) {
	next := func(in string, max int) error {
		r := NewReader(iotest.OneByteReader(strings.NewReader(in)), func() time.Duration { return 0 }, max)
		for {
			if _, err := r.Next(); err != nil {
				return err
			}
		}
	}
	assert.Equal(t, io.EOF, next("data: "+strings.Repeat("x", 50)+"\n\n", 50))
	assert.Equal(t, ErrTooLong, next("data: "+strings.Repeat("x", 5000), 50), "one endless line")
	assert.Equal(t, ErrTooLong, next(strings.Repeat("data: xxxxxxxxx\n", 6)+"\n", 50), "many short lines of one event")
}

func TestHugeLine(t *testing.T) {
	want := strings.Repeat("0123456789abcdef", 1<<18) // 4 MiB
	all, err := readAll(t, iotest.HalfReader(strings.NewReader("data: "+want+"\n\n")))
	require.NoError(t, err)
	require.Len(t, all, 1)
	assert.True(t, all[0].Data == want, "4 MiB line differs (length %d)", len(all[0].Data))
}

func TestStray(t *testing.T) {
	r := NewReader(strings.NewReader("Traceback (most recent call last)\n  File\ndata: a\n\n"), func() time.Duration { return 0 }, 0)
	_, err := r.Next()
	require.NoError(t, err)
	n, first := r.Stray()
	assert.Equal(t, 2, n)
	assert.Equal(t, "Traceback (most recent call last)", string(first))
}

func TestSourceErrors(t *testing.T) {
	boom := errors.New("connection reset")
	r := NewReader(io.MultiReader(strings.NewReader("data: a\n\ndata: b"), iotest.ErrReader(boom)), func() time.Duration { return 0 }, 0)
	e, err := r.Next()
	require.NoError(t, err)
	assert.Equal(t, "a", string(e.Data))
	_, err = r.Next()
	assert.Equal(t, boom, err, "an event cut by an error is not an event")
	_, err = r.Next()
	assert.Equal(t, boom, err, "sticky")

	r = NewReader(readerFunc(func([]byte) (int, error) { return 0, nil }), func() time.Duration { return 0 }, 0)
	_, err = r.Next()
	assert.Equal(t, io.ErrNoProgress, err, "a reader that gives nothing for ever must not spin")
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// simple is an independent, slow reading of the same rules: split into lines, then group.
func simple(in string) []got {
	in = strings.TrimPrefix(in, "\xef\xbb\xbf")
	var out []got
	var data []string
	name := ""
	lines := strings.Split(in, "\n")
	for i, l := range lines {
		last := i == len(lines)-1
		if last && l == "" {
			break
		}
		l = strings.TrimSuffix(l, "\r")
		if l == "" {
			if data != nil && !last {
				out = append(out, got{name, strings.Join(data, "\n"), false})
				data = nil
			}
			if !last {
				name = ""
			}
			continue
		}
		k, v, _ := strings.Cut(l, ":")
		v = strings.TrimPrefix(v, " ")
		switch k {
		case "data":
			data = append(data, v)
		case "event":
			name = v
		}
	}
	if data != nil {
		out = append(out, got{name, strings.Join(data, "\n"), true})
	}
	return out
}

func FuzzReader(f *testing.F) {
	for _, c := range streams {
		f.Add([]byte(c.in), 3)
	}
	f.Add([]byte("\r\ndata\ndata:\r\r\n\n"), 1)
	f.Fuzz(func(t *testing.T, in []byte, step int) {
		if step < 1 || step > 64 {
			step = 7
		}
		src := &stepReader{in, step}
		all, err := readAll(t, src)
		if err != nil {
			t.Fatalf("error %v from a source without errors", err)
		}
		want := simple(string(in))
		if len(all) != len(want) {
			t.Fatalf("in steps of %d: %d events %+v, a line splitter finds %d %+v", step, len(all), all, len(want), want)
		}
		for i := range all {
			if all[i] != want[i] {
				t.Fatalf("in steps of %d: event %d is %+v, a line splitter finds %+v", step, i, all[i], want[i])
			}
		}
	})
}

type stepReader struct {
	b    []byte
	step int
}

func (s *stepReader) Read(p []byte) (int, error) {
	if len(s.b) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), s.step)], s.b)
	s.b = s.b[n:]
	return n, nil
}

// BenchmarkReader is memory only: what the splitting itself costs per event of vLLM's usual size.
func BenchmarkReader(b *testing.B) {
	one := []byte(`data: {"id":"cmpl-93d8054a7f452223","object":"text_completion","created":1795506734,"model":"tiny","choices":[{"index":0,"text":"eh","logprobs":null,"finish_reason":null,"stop_reason":null,"prompt_token_ids":null,"token_ids":null}]}` + "\n\n")
	const n = 1000
	in := bytes.Repeat(one, n)
	b.SetBytes(int64(len(in)))
	b.ReportAllocs()
	for b.Loop() {
		r := NewReader(bytes.NewReader(in), func() time.Duration { return 0 }, 0)
		events := 0
		for {
			if _, err := r.Next(); err != nil {
				break
			}
			events++
		}
		if events != n {
			b.Fatalf("%d events of %d", events, n)
		}
	}
	b.ReportMetric(float64(b.N)*n/b.Elapsed().Seconds(), "events/s")
}
