//go:build !linux

package proc

func leave()           {}
func startWhatLeaves() {}
