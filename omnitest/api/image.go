package api

import (
	"archive/zip"
	"bytes"
	"context"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// Generate asks for pictures (POST /v1/images/generations). It takes them from wherever the server put them: base64 in
// the JSON, the file itself, a zip of files. An answer without any is an error; whether the number is the one that was
// asked for is a check's business.
func (c *Client) Generate(ctx context.Context, r ImageRequest) (*Images, error) {
	body, err := r.encode(c.Model)
	if err != nil {
		return nil, err
	}
	return c.images(ctx, outgoing{path: "/v1/images/generations", contentType: jsonType, requestID: r.RequestID, body: payload{body}})
}

func (c *Client) images(ctx context.Context, q outgoing) (*Images, error) {
	q.method, q.accept = http.MethodPost, "*/*"
	x, err := c.send(ctx, q)
	if err != nil {
		return nil, err
	}
	defer x.close()
	out := &Images{}
	switch t := mediaType(x.ex.Header); {
	case t == sseType:
		s := &imageStream{out: out, limits: c.Limits}
		if err := x.pump(s, nil); err != nil {
			return nil, err
		}
		out.Plan = string(s.plan)
	case t == "application/zip", strings.HasPrefix(t, "image/"):
		if err := x.files(out, t); err != nil {
			return nil, err
		}
	default:
		body, err := x.readJSON(borrow())
		defer giveBack(body)
		if err != nil {
			return nil, err
		}
		if err := readImages(body, out, c.Limits); err != nil {
			return nil, x.failBody(err, body)
		}
		if len(out.Items) == 0 {
			return nil, x.failBody(finding(Protocol, "an answer without pictures"), body)
		}
	}
	out.Exchange = x.ex
	return out, nil
}

// readImages reads the JSON answer of the image routes, or the chunk of an edit stream that holds the pictures.
func readImages(body []byte, out *Images, limits Limits) error {
	c := cursor{b: body}
	failed := false
	c.object(func(key []byte) {
		switch string(key) {
		case "created":
			out.Created = int64(c.int(0))
		case "size":
			keep(&out.Size, c.bytes())
		case "output_format":
			keep(&out.Format, c.bytes())
		case "cot_output":
			out.Plan = c.scalar()
		case "metrics":
			if m := readMetrics(&c); m != nil {
				out.Metrics = m
			}
		case "data":
			c.array(func(n int) {
				found := false
				c.object(func(key []byte) {
					if k := string(key); k != "b64_json" && k != "url" || c.null() {
						return
					}
					if im, ok := readPicture(&c, limits); ok {
						out.Items = append(out.Items, im)
						found = true
					}
				})
				if !found && c.err == nil {
					c.fail("data[%d] holds neither b64_json nor url", n)
				}
			})
		case "error", "detail":
			failed = failed || !c.null()
		case "object":
			failed = failed || string(c.bytes()) == "error"
		}
	})
	c.end()
	if failed {
		if said, found, _ := readSaid(body); found {
			e := &Error{Kind: InBand}
			said.set(e)
			return e
		}
	}
	if c.err != nil {
		return unexpected(c.err, body)
	}
	return nil
}

// readPicture reads a string of base64 or a data URL as an image file.
func readPicture(c *cursor, limits Limits) (Image, bool) {
	if c.peek() == '"' && bytes.HasPrefix(c.b[c.i+1:], []byte("http")) {
		c.fail("a picture by URL, where its data is due")
		return Image{}, false
	}
	raw := c.base64(limits.file())
	if c.err != nil {
		return Image{}, false
	}
	im, err := ReadImage(raw, limits)
	if err != nil {
		c.err = err
	}
	return im, err == nil
}

// files reads an answer that is an image file or a zip of image files (response_format "file").
func (x *call) files(out *Images, contentType string) error {
	body, err := x.readAll(nil) // an image keeps these bytes: no borrowed buffer
	if err != nil {
		return err
	}
	out.Metrics = headerMetrics(x.ex.Header)
	files := [][]byte{body}
	if contentType == "application/zip" {
		if files, err = unzip(body, x.c.Limits); err != nil {
			return x.failBody(err, body)
		}
	}
	for _, raw := range files {
		im, err := ReadImage(raw, x.c.Limits)
		if err != nil {
			return x.failBody(err, body)
		}
		out.Items = append(out.Items, im)
	}
	if len(out.Items) == 0 {
		return x.failBody(finding(Protocol, "a zip without files"), body)
	}
	out.Format = strings.TrimPrefix(contentType, "image/")
	return nil
}

// unzip reads every file of an archive in its order. Neither the sizes that the archive claims nor the compression ratio
// are trusted: each file is bounded, and so is their sum.
func unzip(body []byte, limits Limits) ([][]byte, error) {
	z, err := zip.NewReader(bytes.NewReader(body), int64(len(body)))
	if err != nil {
		return nil, finding(Protocol, "no zip: %v", err)
	}
	var files [][]byte
	left := limits.body()
	for _, f := range z.File {
		if f.FileInfo().IsDir() {
			continue
		}
		limit := min(limits.file(), left)
		if f.UncompressedSize64 > uint64(limit) {
			return nil, finding(Limit, "%q in the zip claims %d bytes, limit %d", f.Name, f.UncompressedSize64, limit)
		}
		r, err := f.Open()
		if err != nil {
			return nil, finding(Protocol, "%q in the zip: %v", f.Name, err)
		}
		raw, err := io.ReadAll(io.LimitReader(r, limit+1))
		r.Close()
		switch {
		case err != nil:
			return nil, finding(Protocol, "%q in the zip: %v", f.Name, err)
		case int64(len(raw)) > limit:
			return nil, finding(Limit, "%q in the zip has more than %d bytes", f.Name, limit)
		}
		left -= int64(len(raw))
		files = append(files, raw)
	}
	return files, nil
}

// headerMetrics reads the timings that vLLM-Omni puts into headers where the body is a file; nil if there are none.
func headerMetrics(h http.Header) *Metrics {
	m := &Metrics{PeakMemoryMB: -1}
	if v := h.Get("X-Stage-Durations"); v != "" {
		c := cursor{b: []byte(v)}
		if m.read(&c, []byte("stage_durations")); c.err != nil {
			m.StageDurations = nil
		}
	}
	if v, err := strconv.ParseFloat(h.Get("X-Peak-Memory-MB"), 64); err == nil {
		m.PeakMemoryMB = v
	}
	if !m.told() {
		return nil
	}
	return m
}

// imageStream is the sink of a streamed edit: chunks of type ar_delta bring the plan, one of type image the pictures.
type imageStream struct {
	out    *Images
	limits Limits
	plan   []byte
}

func (s *imageStream) take(data []byte, ev *Event) error {
	c := cursor{b: data}
	var delta []byte
	c.object(func(key []byte) {
		if string(key) == "delta" {
			delta = c.bytes()
		}
	})
	if c.err == nil && delta != nil {
		ev.Text = string(delta)
		s.plan = append(s.plan, delta...)
		if len(delta) > 0 {
			ev.Has |= HasText
		}
	}
	had := len(s.out.Items)
	err := readImages(data, s.out, s.limits)
	if len(s.out.Items) > had {
		ev.Has |= HasImage
	}
	return err
}

func (s *imageStream) tokens() int { return -1 }

func (s *imageStream) missing() string {
	if len(s.out.Items) == 0 {
		return "the picture"
	}
	return ""
}
