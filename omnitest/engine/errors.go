package engine

import (
	"fmt"
	"strings"
)

// LaunchError says why an instance did not get ready, with the end of its log. Nothing of it is left running.
type LaunchError struct {
	Stage   Stage
	Name    string
	Remote  bool     // it was to be attached, not started
	Cause   error    // "exited with code 3 after 120 ms", "not ready after 60 s: last health answer 503 ..."
	Hint    string   // what the log says the cause is and what to do (see Diagnose); "": not recognised
	LogPath string   // "": it never came to a log
	Tail    []string // last lines of that log
}

func (e *LaunchError) Error() string {
	verb := "failed to start"
	if e.Remote {
		verb = "cannot be attached"
	}
	hint := ""
	if e.Hint != "" {
		hint = "\n  " + e.Hint
	}
	return fmt.Sprintf("%s %s: %v%s%s", title(e.Stage, e.Name), verb, e.Cause, hint, logText(e.LogPath, e.Tail))
}

func (e *LaunchError) Unwrap() error { return e.Cause }

// DiedError says that an instance ended without having been stopped by us.
type DiedError struct {
	Stage   Stage
	Name    string
	Cause   error // "was ended by signal 9 (killed) after 3.2 s"
	LogPath string
	Tail    []string
}

func (e *DiedError) Error() string {
	return fmt.Sprintf("%s died: %v%s", title(e.Stage, e.Name), e.Cause, logText(e.LogPath, e.Tail))
}

func (e *DiedError) Unwrap() error { return e.Cause }

// title is "decode-0 (decode)", or "decode" alone where the name adds nothing.
func title(stage Stage, name string) string {
	if stage == "" || name == string(stage) {
		return name
	}
	return fmt.Sprintf("%s (%s)", name, stage)
}

func logText(path string, tail []string) string {
	switch {
	case path == "":
		return ""
	case len(tail) == 0:
		return "\n  log " + path + " is empty"
	}
	return "\n  log " + path + " ends with:\n    " + strings.Join(tail, "\n    ")
}
