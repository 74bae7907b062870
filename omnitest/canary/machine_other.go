//go:build !linux && !darwin

package canary

func kernel() string { return "" }

func cpuModel() string { return "" }
