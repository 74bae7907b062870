package theory

import (
	"encoding/json"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// Files are the bytes of a model folder's JSON files under their path in it: "config.json", or "model_index.json" with
// "transformer/config.json" and so on. Index files of sharded weights ("*.safetensors.index.json") are a cross-check where they are given.
type Files map[string][]byte

// ReadFiles reads them from a model folder, os.DirFS(dir) for one on disk.
func ReadFiles(folder fs.FS) (Files, error) {
	files := Files{}
	for _, dir := range []string{"", "transformer", "text_encoder", "vae"} {
		found, err := fs.Glob(folder, path.Join(dir, "*.json"))
		if err != nil {
			return nil, err
		}
		for _, name := range found {
			base := path.Base(name)
			if base != "config.json" && base != "model_index.json" && !strings.HasSuffix(base, ".safetensors.index.json") {
				continue
			}
			if files[name], err = fs.ReadFile(folder, name); err != nil {
				return nil, err
			}
		}
	}
	return files, nil
}

// Size of a picture in pixels.
type Size struct {
	Width  int `json:"width"`
	Height int `json:"height"`
}

func (s Size) pixels() float64 { return float64(s.Width) * float64(s.Height) }

// Component is one part of a model with weights of its own.
type Component struct {
	Name   string // "transformer", "text_encoder", "vae"; "model" of a single config.json, beside "visual"
	Class  string
	Params float64
	Bytes  float64 // in memory
	Quant  Quantization
}

// Model is what the files say.
type Model struct {
	Name       string
	Class      string // class of the pipeline, or architecture
	Components []Component

	Text   *Decoder // nil where the model has none
	Vision *VisionTower
	DiT    *DiT
	VAE    *VAE

	Assumptions []string // what the files leave open, and what was taken instead
}

// WeightBytes of all components.
func (m *Model) WeightBytes() (sum float64) {
	for _, c := range m.Components {
		sum += c.Bytes
	}
	return sum
}

// Params of all components.
func (m *Model) Params() (sum float64) {
	for _, c := range m.Components {
		sum += c.Params
	}
	return sum
}

var pipelines = []string{"QwenImagePipeline", "QwenImageEditPipeline", "QwenImageEditPlusPipeline"}

// edit says whether input pictures pass through the text encoder and the VAE into the DiT.
func (m *Model) edit() bool { return strings.Contains(m.Class, "Edit") }

// Parse reads a model. DType names how weights are held where the files do not say it ("": bf16 for pipelines, whose files never say it,
// and that is an assumption; an error for a config.json).
func Parse(name string, files Files, dtype string) (*Model, error) {
	m := &Model{Name: name}
	var err error
	switch {
	case files["model_index.json"] != nil:
		err = m.pipeline(files, dtype)
	case files["config.json"] != nil:
		err = m.single("config.json", files["config.json"], "model", dtype, false)
	default:
		err = cannot("the model", "%q has neither config.json nor model_index.json", name)
	}
	if err != nil {
		return nil, err
	}
	return m, m.crossCheck(files)
}

func (m *Model) pipeline(files Files, dtype string) error {
	index, err := readFields("the pipeline", "model_index.json", files["model_index.json"])
	if err != nil {
		return err
	}
	m.Class = index.text("_class_name")
	if !slices.Contains(pipelines, m.Class) {
		return cannot("the pipeline", "its class %q is not known here (known: %s)", m.Class, strings.Join(pipelines, ", "))
	}
	if dtype == "" {
		dtype = "bfloat16"
		m.Assumptions = append(m.Assumptions, "weights are loaded as bfloat16: the files of a pipeline do not say it")
	}
	for _, part := range []string{"text_encoder", "transformer", "vae"} {
		if len(index.list(part)) != 2 {
			return cannot(part, "model_index.json does not name its library and class")
		}
		file := path.Join(part, "config.json")
		if files[file] == nil {
			return cannot(part, "%s is not there", file)
		}
		if err := m.single(file, files[file], part, dtype, true); err != nil {
			return err
		}
	}
	switch {
	case m.DiT == nil:
		return cannot("transformer", "transformer/config.json is of no diffusion transformer")
	case m.VAE == nil:
		return cannot("vae", "vae/config.json is of no autoencoder")
	case m.Text == nil:
		return cannot("text_encoder", "text_encoder/config.json is of no language model")
	}
	return nil
}

// single reads one config.json; in a pipeline the dtype that everything is loaded as outranks its own.
func (m *Model) single(file string, data []byte, part, dtype string, inPipeline bool) error {
	f, err := readFields(part, file, data)
	if err != nil {
		return err
	}
	class := f.text("_class_name")
	if class == "" {
		archs := f.list("architectures")
		if len(archs) != 1 {
			return cannot(part, "%s names %d architectures, and one is needed", file, len(archs))
		}
		class = archs[0]
	}
	_, decoder := families[class]
	known := decoder || class == "QwenImageTransformer2DModel" || class == "AutoencoderKLQwenImage" || class == "AutoencoderKL"
	if !known {
		return cannot(part, "the architecture %q of %s is not known here (known: %s)", class, file, strings.Join(knownClasses(), ", "))
	}
	if m.Class == "" {
		m.Class = class
	}
	size, err := m.dtype(f, part, dtype, inPipeline)
	if err != nil {
		return err
	}
	quant, err := readQuantization(f)
	if err != nil {
		return err
	}
	add := func(name string, params, bytes float64, q Quantization) {
		m.Components = append(m.Components, Component{name, class, params, bytes, q})
	}
	switch {
	case decoder:
		text := f
		if sub, there, err := f.sub("text_config"); err != nil {
			return err
		} else if there && !f.has("num_hidden_layers") {
			text = sub
		}
		if m.Text, err = readDecoder(class, text, quant, size); err != nil {
			return err
		}
		add(part, m.Text.Params(), m.Text.WeightBytes(), quant)
		if class == "Qwen2_5_VLForConditionalGeneration" {
			v, there, err := f.sub("vision_config")
			if err != nil {
				return err
			}
			if !there {
				return cannot(part, "%s has no vision_config", file)
			}
			if m.Vision, err = readVision(v, size, quant); err != nil {
				return err
			}
			add("visual", m.Vision.Params(), m.Vision.WeightBytes(), m.Vision.Quant)
		}
	case class == "QwenImageTransformer2DModel":
		if m.DiT, err = readDiT(f, size, quant); err != nil {
			return err
		}
		add(part, m.DiT.Params(), m.DiT.WeightBytes(), quant)
	default:
		if quant.Method != "" {
			return cannot(part, "%s quantises convolutions (%s), which is not counted here", file, quant.Method)
		}
		if m.VAE, err = readVAE(class, f, size); err != nil {
			return err
		}
		add(part, m.VAE.Params(), m.VAE.WeightBytes(), quant)
	}
	return nil
}

func (m *Model) dtype(f fields, part, dtype string, inPipeline bool) (float64, error) {
	own := f.text("dtype")
	if own == "" {
		own = f.text("torch_dtype")
	}
	if inPipeline || own == "" {
		own = dtype
	}
	if own == "" || own == "auto" {
		return 0, cannot("the bytes of "+part, "%s has neither dtype nor torch_dtype, and none was given", f.file)
	}
	return dtypeBytes(own)
}

func knownClasses() []string {
	all := []string{"QwenImageTransformer2DModel", "AutoencoderKLQwenImage", "AutoencoderKL"}
	for class := range families {
		all = append(all, class)
	}
	slices.Sort(all)
	return all
}

// crossCheck holds the counted bytes of a component against the total_size of its sharded checkpoint.
func (m *Model) crossCheck(files Files) error {
	for file, data := range files {
		if !strings.HasSuffix(file, ".safetensors.index.json") {
			continue
		}
		var index struct {
			Metadata struct {
				Total float64 `json:"total_size"`
			} `json:"metadata"`
		}
		if err := json.Unmarshal(data, &index); err != nil || index.Metadata.Total <= 0 {
			return cannot("the size of the checkpoint", "%s has no metadata.total_size", file)
		}
		dir := path.Dir(file)
		var counted float64
		for _, c := range m.Components {
			if dir == "." || dir == c.Name || dir == "text_encoder" && c.Name == "visual" {
				counted += c.Bytes
			}
		}
		if off := counted/index.Metadata.Total - 1; off > 0.02 || off < -0.02 {
			return cannot("weight bytes", "%s says %.0f bytes and the config makes %.0f (%+.1f %%): other weights, or another dtype on disk than in memory", file, index.Metadata.Total, counted, 100*off)
		}
	}
	return nil
}
