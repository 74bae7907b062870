package ar

import (
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// abort sends a request and takes it back when the moment has come.
func (i *instance) abort(b body, what string, when func() bool) {
	i.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan error, 1)
	go func() {
		_, err := send(ctx, i.url+"/v1/completions", b)
		done <- err
	}()
	i.eventually(what, when)
	cancel()
	<-done
}

// died waits for the end of Serve, and for the port to be closed.
func (i *instance) died(words string) {
	i.t.Helper()
	select {
	case err := <-i.done:
		assert.ErrorContains(i.t, err, words)
		i.done <- nil // for the cleanup
	case <-time.After(patience):
		i.t.Fatalf("the engine lives\n%s", i.log)
	}
	_, err := http.Get(i.url + "/health")
	assert.ErrorContains(i.t, err, "refused", "as recorded of a dead engine (cases 21 and 23)")
}

func (i *instance) healthy() {
	i.t.Helper()
	status, _ := i.get("/health")
	assert.Equal(i.t, 200, status)
}

// loading is a condition: a pull is under way, or believed to be.
func (i *instance) loading() bool {
	return i.scrape()[`num_requests_kv_fetch_by_stage{stage="in_progress"}`] == 1
}

// stuck is how many requests will never be answered, as the scheduler knows; from outside they wait like others.
func (i *instance) stuck() int {
	n := make(chan int, 1)
	if !i.s.do(func() { n <- i.s.stuck }) {
		return -1
	}
	return <-n
}

// fragile is a way to a side channel that breaks the answer after 20,000 bytes, the second block, while cut is true.
func fragile(t *testing.T, side string) (port int, cut *atomic.Bool) {
	t.Helper()
	cut = new(atomic.Bool)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			d, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer d.Close()
				p, err := net.Dial("tcp", side)
				if err != nil {
					return
				}
				defer p.Close()
				go func() {
					io.Copy(p, d)
					p.Close()
				}()
				if cut.Load() {
					io.CopyN(d, p, 20_000)
					return
				}
				io.Copy(d, p)
			}()
		}
	}()
	return ln.Addr().(*net.TCPAddr).Port, cut
}

// under runs so many handoffs at once, their tickets made before, and says how many answers were right.
func under(t *testing.T, p, d *instance, clients int, seed uint64) (right, wrong int) {
	t.Helper()
	prompts, tickets := make([]string, clients), make([]any, clients)
	for k := range prompts {
		prompts[k] = someText(99, seed+uint64(k))
		tickets[k] = p.prefillLeg(prompts[k])
	}
	var wg sync.WaitGroup
	texts := make([]string, clients)
	for k := range prompts {
		wg.Go(func() {
			got, err := send(context.Background(), d.url+"/v1/completions", body{"prompt": prompts[k], "max_tokens": 64, "temperature": 0, "kv_transfer_params": tickets[k]})
			if assert.NoError(t, err) {
				texts[k] = parse(t, got).text()
			}
		})
	}
	wg.Wait()
	for k, text := range texts {
		if text == prompts[k][:64] {
			right++
		} else {
			wrong++
		}
	}
	return right, wrong
}
