package ports

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// owner finds the process that listens on a port, 0 when it cannot be seen (another user's, another container's).
func owner(port int) int {
	inodes := listeners(port)
	if len(inodes) == 0 {
		return 0
	}
	fds, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, fd := range fds {
		target, err := os.Readlink(fd)
		if err != nil || !inodes[target] {
			continue
		}
		pid, _ := strconv.Atoi(strings.Split(fd, "/")[2])
		return pid
	}
	return 0
}

// listeners gives the sockets that listen on a port, as they look in /proc/*/fd: "socket:[1234]".
func listeners(port int) map[string]bool {
	const listening = "0A" // TCP_LISTEN, include/net/tcp_states.h
	suffix := fmt.Sprintf(":%04X", port)
	found := map[string]bool{}
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		f, err := os.Open(table)
		if err != nil {
			continue
		}
		for sc := bufio.NewScanner(f); sc.Scan(); {
			// sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode
			w := strings.Fields(sc.Text())
			if len(w) > 9 && w[3] == listening && strings.HasSuffix(w[1], suffix) {
				found["socket:["+w[9]+"]"] = true
			}
		}
		f.Close()
	}
	return found
}

func processName(pid int) string {
	if pid == 0 {
		return ""
	}
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	return strings.TrimSpace(string(b))
}
