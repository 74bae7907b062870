package replay

import (
	"archive/tar"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"sort"
)

// Pages reads a packed set of /metrics pages (.tar.bz2) by name, such as "nixl/01-proper/d-after.prom". Hundreds of pages
// that differ in a few numbers: packed they take a fiftieth of the room.
func Pages(fsys fs.FS, name string) (map[string][]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, fmt.Errorf("read recorded pages: %w", err)
	}
	defer f.Close()
	pages := map[string][]byte{}
	for r := tar.NewReader(bzip2.NewReader(f)); ; {
		h, err := r.Next()
		if err == io.EOF {
			return pages, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read recorded pages %s: %w", name, err)
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		if pages[path.Clean(h.Name)], err = io.ReadAll(r); err != nil {
			return nil, fmt.Errorf("read recorded pages %s: %s: %w", name, h.Name, err)
		}
	}
}

// LoadAll loads every exchange under dir, in the order of their paths, and leaves out the JSON files that hold no
// request: tables of cases, results of benchmarks.
func LoadAll(fsys fs.FS, dir string) ([]Exchange, []string, error) {
	var paths []string
	err := fs.WalkDir(fsys, dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && path.Ext(p) == ".json" {
			paths = append(paths, p)
		}
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("load recordings: %w", err)
	}
	sort.Strings(paths)
	var all []Exchange
	kept := paths[:0]
	for _, p := range paths {
		e, err := Load(fsys, p)
		if errors.Is(err, errNoExchange) {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		all, kept = append(all, e), append(kept, p)
	}
	return all, kept, nil
}
