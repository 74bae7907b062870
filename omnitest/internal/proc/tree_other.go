//go:build !linux

package proc

// Without /proc only the process group is known; children that left it are not found.

func groupAlive(group int, _ bool) bool                  { return signalReaches(group) }
func groupHalted(int) bool                               { return true }
func members(int) []string                               { return nil }
func family(int, string) map[int]uint64                  { return nil }
func escaped(map[int]uint64, int, string) map[int]string { return nil }
