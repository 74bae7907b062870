package theory

import (
	"embed"
	"io/fs"
	"path"
	"slices"
	"strings"
)

//go:embed models
var builtin embed.FS

// shared are files that several built-in pipelines have in common.
var shared = map[string]string{
	"transformer/config.json":  "models/qwen-image/transformer/config.json",
	"vae/config.json":          "models/qwen-image/vae/config.json",
	"text_encoder/config.json": "models/qwen2.5-vl-7b/config.json",
}

// BuiltinNames lists the public models whose configs are compiled in, sorted.
func BuiltinNames() (names []string) {
	entries, _ := builtin.ReadDir("models") // compiled in: it cannot fail
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	return names
}

// Builtin gives the files of a public model by its name, without the organisation and in any case: "Qwen/Qwen-Image" is "qwen-image".
func Builtin(name string) (Files, error) {
	plain := strings.ToLower(path.Base(name))
	if !slices.Contains(BuiltinNames(), plain) {
		return nil, cannot("the model", "no built-in model is called %q (known: %s)", name, strings.Join(BuiltinNames(), ", "))
	}
	files := Files{}
	root := path.Join("models", plain)
	err := fs.WalkDir(builtin, root, func(file string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := builtin.ReadFile(file)
		files[strings.TrimPrefix(file, root+"/")] = data
		return err
	})
	if err != nil {
		return nil, err
	}
	if files["model_index.json"] != nil {
		for file, from := range shared {
			if files[file] != nil {
				continue
			}
			if files[file], err = builtin.ReadFile(from); err != nil {
				return nil, err
			}
		}
	}
	return files, nil
}
