package stamped

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strings"
	"time"
)

// roleArg is the first argument of a process that is to be a server.
const roleArg = "stamped-server"

// Main does nothing in an ordinary process. In one that Spawn started it serves until its parent is gone, and exits. Call it
// first thing in main or TestMain of a program that spawns.
func Main() {
	if len(os.Args) != 3 || os.Args[1] != roleArg {
		return
	}
	if err := serveRole(os.Args[2], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func serveRole(options string, parent io.Reader, out io.Writer) error {
	var o Options
	if err := json.Unmarshal([]byte(options), &o); err != nil {
		return fmt.Errorf("stamped: options: %w", err)
	}
	if len(o.CPUs) > 0 {
		if err := Pin(o.CPUs...); err != nil {
			return err
		}
	}
	// A Go processor for each pacer and one for the connections, even on one core: the system divides it better than Go's
	// scheduler, which would let a connection finish its turn before a pacer that is due.
	runtime.GOMAXPROCS(max(o.Threads, 1) + 1)
	debug.SetGCPercent(800)
	s, err := Start(o)
	if err != nil {
		return err
	}
	defer s.Close()
	if _, err := fmt.Fprintln(out, s.URL); err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, parent) // ends with the parent, however it ends: nobody else holds the other end
	return nil
}

// Child is a server in a process of its own.
type Child struct {
	URL string
	PID int

	cmd    *exec.Cmd
	stdin  io.Closer
	stderr strings.Builder
}

// startLimit is how long a child may take until it serves.
const startLimit = 30 * time.Second

// Spawn starts this program anew as a server: Main must be called at its beginning. With Options.CPUs it is bound to these
// cores. It ends with Stop, with ctx, or with this process.
func Spawn(ctx context.Context, o Options) (*Child, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	options, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	c := &Child{}
	c.cmd = exec.CommandContext(ctx, exe, roleArg, string(options))
	c.cmd.Stderr = &c.stderr
	c.cmd.WaitDelay = time.Second
	if c.stdin, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("stamped: %w", err)
	}
	c.PID = c.cmd.Process.Pid
	first := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(out).ReadString('\n')
		first <- strings.TrimSpace(line)
	}()
	select {
	case c.URL = <-first:
	case <-time.After(startLimit):
		err = fmt.Errorf("stamped: the server said nothing within %v", startLimit)
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	if err == nil && !strings.HasPrefix(c.URL, "http://") {
		err = fmt.Errorf("stamped: the server did not start (does this program call stamped.Main first?): it said %q", c.URL)
	}
	if err != nil {
		c.Stop()
		return nil, fmt.Errorf("%w\n%s", err, c.stderr.String())
	}
	return c, nil
}

// Stop ends the process and waits for it.
func (c *Child) Stop() {
	c.stdin.Close()
	done := make(chan struct{})
	go func() { _ = c.cmd.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		_ = c.cmd.Process.Kill()
		<-done
	}
}

// Truth asks the server for what has happened since its start or the last Reset; with events, token by token.
func (c *Child) Truth(ctx context.Context, events bool) (Truth, error) {
	var t Truth
	url := c.URL + "/truth"
	if !events {
		url += "?events=0"
	}
	return t, call(ctx, http.MethodGet, url, &t)
}

// Reset makes it forget the answers that have ended.
func (c *Child) Reset(ctx context.Context) error {
	return call(ctx, http.MethodDelete, c.URL+"/truth", &struct{}{})
}

func call(ctx context.Context, method, url string, into any) error {
	req, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("stamped: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("stamped: %s: %s", url, resp.Status)
	}
	return json.NewDecoder(resp.Body).Decode(into)
}
