//go:build !linux

package load

import "time"

func fineThread() bool { return false } // the runtime's timers, then

func threadSleep(d time.Duration) { time.Sleep(d) }
