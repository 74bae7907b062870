//go:build !linux || !cgo

package nvml

import "errors"

// openLibrary cannot load a C library in this build.
func openLibrary(string) (library, error) {
	return nil, errors.New("built without cgo, or not for Linux: NVML cannot be loaded")
}
