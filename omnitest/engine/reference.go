package engine

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"
)

// Environment of a reference process: the role it plays and the JSON of that role's configuration. omnitest.Main looks at
// them before anything else.
const (
	RoleEnv       = "OMNITEST_ROLE"
	RoleConfigEnv = "OMNITEST_ROLE_CONFIG"
)

// Reference is a stage of the reference stack: this very program, executed again in a role. Nothing has to be built
// first, and launching, killing, ports, logs and metrics are real.
type Reference struct {
	Role string // "prefill", "decode", "dit", "proxy"; "": the stage
	// Config is the role's configuration, marshalled to JSON; nil: the role's defaults. Its Listen (and Side for prefill
	// and decode) are set to the reserved ports where they are empty.
	Config any
	// Configure makes the configuration once ports and peers are known; it goes before Config.
	Configure    func(Place) (any, error)
	Model        string        // "": asked from /v1/models
	ReadyTimeout time.Duration // 0: 60 s
	Devices      []string      // locks to hold, as a real engine would ("gpu0")
}

var _ Engine = Reference{}

// Kind is "reference".
func (Reference) Kind() string { return "reference" }

// Ports are "http" and, for a role that hands KV over (or one not known yet), "side".
func (r Reference) Ports() []string {
	if r.Role == "" || transfersKV(r.Role) {
		return []string{"http", "side"}
	}
	return []string{"http"}
}

func transfersKV(role string) bool { return role == string(Prefill) || role == string(Decode) }

// Plan executes this program again. -test.run=^$ is for a test binary whose TestMain forgot omnitest.Main: it then runs
// no test (which would launch the next copy, and so on) and ends.
func (r Reference) Plan(p Place) (Plan, error) {
	role := r.Role
	if role == "" {
		role = string(p.Stage)
	}
	if role == "" {
		return Plan{}, fmt.Errorf("a reference engine needs a role or a stage")
	}
	exe, err := os.Executable()
	if err != nil {
		return Plan{}, fmt.Errorf("cannot find this program to execute it again: %w", err)
	}
	config, err := r.config(role, p)
	if err != nil {
		return Plan{}, fmt.Errorf("configuration of role %s: %w", role, err)
	}
	base := "http://" + loopback(p.Ports["http"])
	return Plan{
		Path: exe, Args: []string{"-test.run=^$"},
		Env:     []string{RoleEnv + "=" + role, RoleConfigEnv + "=" + config},
		BaseURL: base, MetricsURL: base + "/metrics", Model: r.Model,
		ReadyTimeout: r.ReadyTimeout, Devices: r.Devices, Simulated: true,
	}, nil
}

func (Reference) exitHint() string { return "does TestMain call omnitest.Main?" }

// config gives the JSON of the role, with addresses where it has none.
func (r Reference) config(role string, p Place) (string, error) {
	value := r.Config
	if r.Configure != nil {
		var err error
		if value, err = r.Configure(p); err != nil {
			return "", err
		}
	}
	text, err := json.Marshal(value)
	if err != nil {
		return "", err
	}
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal(text, &fields); err != nil {
		return "", fmt.Errorf("want an object, have %.80s", text)
	}
	if fields == nil { // null
		fields = map[string]json.RawMessage{}
	}
	set := func(key, port string) {
		if old := fields[key]; len(old) == 0 || bytes.Equal(old, []byte(`""`)) {
			fields[key] = strconv.AppendQuote(nil, loopback(p.Ports[port]))
		}
	}
	set("Listen", "http")
	if transfersKV(role) {
		set("Side", "side")
	}
	text, err = json.Marshal(fields)
	return string(text), err
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
