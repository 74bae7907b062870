package canary

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
)

// machineSteal reads the line "cpu" of /proc/stat: ticks that the host gave to others while this machine wanted to run, and
// all ticks (user nice system idle iowait irq softirq steal; guest is part of user).
func machineSteal() (stolen, all uint64, none string) {
	raw, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0, err.Error()
	}
	return parseSteal(raw)
}

func parseSteal(raw []byte) (stolen, all uint64, none string) {
	line, _, _ := bytes.Cut(raw, []byte("\n"))
	f := bytes.Fields(line)
	if len(f) < 9 || string(f[0]) != "cpu" {
		return 0, 0, fmt.Sprintf("/proc/stat begins with %.60q, which holds no steal", line)
	}
	for i, field := range f[1:9] {
		n, err := strconv.ParseUint(string(field), 10, 64)
		if err != nil {
			return 0, 0, "/proc/stat: " + err.Error()
		}
		all += n
		if i == 7 {
			stolen = n
		}
	}
	return stolen, all, ""
}
