package offline

import (
	"errors"
	"fmt"
	"strings"
)

// Kind says in which way an engine process failed.
type Kind string

// The kinds of failure of an engine process.
const (
	NotStarted Kind = "not started" // the program cannot be run
	Exception  Kind = "exception"   // the engine said no, and lives on: a bad argument, a prompt too long, out of memory
	Died       Kind = "died"        // the process ended by itself or was killed
	Protocol   Kind = "protocol"    // it said what is none of the protocol, and was stopped
	Timeout    Kind = "timeout"     // no answer within the engine's limit or the caller's deadline
	Canceled   Kind = "canceled"    // by the caller
	Closed     Kind = "closed"      // by Close
)

// Error is every failure of an engine process. Find it with errors.As, or ask KindOf.
type Error struct {
	Kind    Kind
	Op      string // "start", "load", "generate", "close"
	Message string // of the exception, else ours
	// Of an exception: its class in Python, and the end of its traceback.
	Type      string
	Traceback []string
	LogPath   string
	Tail      []string // end of the log; nil for an exception, which brings its traceback

	cause error
}

// KindOf gives the Kind of a failure, "" for nil and for errors that are no *Error.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return ""
}

// Unwrap gives the cause, a context's error for example.
func (e *Error) Unwrap() error { return e.cause }

// Error is a report: what failed and how on the first line, then where it happened.
func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "offline %s: %s: ", e.Op, e.Kind)
	if e.Type != "" {
		b.WriteString(e.Type + ": ")
	}
	b.WriteString(e.Message)
	if len(e.Traceback) > 0 {
		b.WriteString("\n  traceback ends with:\n    " + strings.Join(e.Traceback, "\n    "))
	}
	switch {
	case e.LogPath == "":
	case e.Traceback != nil:
		b.WriteString("\n  log " + e.LogPath)
	case len(e.Tail) == 0:
		b.WriteString("\n  log " + e.LogPath + " is empty")
	default:
		b.WriteString("\n  log " + e.LogPath + " ends with:\n    " + strings.Join(e.Tail, "\n    "))
	}
	return b.String()
}
