package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/omnitest/suite/omnitest/report"
	"github.com/omnitest/suite/omnitest/report/plot"
)

type reportCommand struct {
	File string `arg:"" help:"result.json or its folder, or the result file of vllm bench serve, aiperf or guidellm."`

	Out   string `short:"o" help:"Write the page there; unset: report.html beside the file." placeholder:"FILE"`
	PNG   string `name:"png" help:"Write the charts there too, as PNG and SVG." placeholder:"FOLDER"`
	VLLM  string `name:"vllm" help:"Write each row there under the keys of vllm bench serve." placeholder:"FOLDER"`
	Table bool   `help:"Print the record as Markdown."`
}

// Run reads one document and makes the views of it. Of another tool's file it prints which of its names became what. A document that
// report.Write would refuse, because it was edited, is shown with a warning.
func (c *reportCommand) Run(out io.Writer, k *kong.Context) error {
	if info, err := os.Stat(c.File); err == nil && info.IsDir() {
		c.File = filepath.Join(c.File, "result.json")
	}
	r, err := report.Read(c.File)
	if errors.Is(err, report.ErrNoSchema) {
		var mapping []report.Mapped
		if r, mapping, err = report.Import(c.File); err == nil {
			fmt.Fprintf(out, "%s: a file of %s\n\n%s\n", c.File, r.Provenance.Tool, report.MappingText(mapping))
		}
	}
	if err != nil {
		return err
	}
	if err := r.Check(); err != nil {
		for line := range strings.Lines(err.Error()) {
			fmt.Fprintf(k.Stderr, "omnitest: warning: %s: %s\n", c.File, strings.TrimSuffix(line, "\n"))
		}
	}
	page, err := report.HTML(r)
	if err != nil {
		return err
	}
	if c.Out == "" {
		c.Out = filepath.Join(filepath.Dir(c.File), "report.html")
	}
	if err := os.WriteFile(c.Out, page, 0o644); err != nil {
		return err
	}
	fmt.Fprintln(out, "page    ", c.Out)
	if c.PNG != "" {
		paths, err := plot.Write(c.PNG, r)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "charts   %s (%d files)\n", c.PNG, len(paths.Files))
		for _, chart := range report.Charts(r) {
			if why, empty := paths.Empty[chart.ID]; empty {
				fmt.Fprintf(out, "no chart %s: %s\n", chart.ID, strings.Join(why, "; "))
			}
		}
	}
	if c.VLLM != "" {
		if err := c.vllm(r, out); err != nil {
			return err
		}
	}
	if c.Table {
		fmt.Fprintf(out, "\n%s", report.Table(r))
	}
	return nil
}

func (c *reportCommand) vllm(r report.Result, out io.Writer) error {
	written := 0
	for i, row := range r.Rows {
		keys, err := report.VLLMJSON(r, row)
		if err != nil {
			fmt.Fprintln(out, "no file  ", err)
			continue
		}
		name := strings.Map(func(c rune) rune {
			if strings.ContainsRune(`/\: `, c) {
				return '-'
			}
			return c
		}, row.Name)
		if err := report.WriteJSON(filepath.Join(c.VLLM, fmt.Sprintf("%02d-%s.json", i+1, name)), keys); err != nil {
			return err
		}
		written++
	}
	fmt.Fprintf(out, "vllm     %s (%d files)\n", c.VLLM, written)
	return nil
}
