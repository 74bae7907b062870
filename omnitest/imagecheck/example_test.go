package imagecheck_test

import (
	"fmt"
	"image"
	"image/color"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/imagecheck"
)

// A check is a value; its error is a report. Here the server sent a picture that is too narrow, and echoed the request.
func Example() {
	img := image.NewRGBA(image.Rect(0, 0, 1360, 768))
	for x := range 1360 {
		for y := range 768 {
			img.SetRGBA(x, y, color.RGBA{uint8(x / 6), uint8(y / 4), 90, 255})
		}
	}
	picture := imagecheck.Of(img, imagecheck.Case{
		Name: "poster/open-24-hours", Prompt: "a sign that says OPEN", Size: api.Size{W: 1376, H: 768}, Steps: 20, Seed: 7,
		Echo: "1376x768", Stack: "disaggregated (simulated)",
	})
	for _, check := range []imagecheck.Check{imagecheck.NotBlank(), imagecheck.Size(picture.Case.Size)} {
		if err := check(picture); err != nil {
			fmt.Println(err)
		}
	}
	// Output:
	// wrong picture size: decoded 1360x768, want 1376x768; the answer's size field claims 1376x768
	//   case    poster/open-24-hours   prompt "a sign that says OPEN"   size 1376x768  steps 20  seed 7
	//   stack   disaggregated (simulated)
}

// What an edit must do: change the named region, give back the rest. A region is a rectangle or a mask.
func ExampleEditOutside() {
	before := image.NewRGBA(image.Rect(0, 0, 256, 256))
	after := image.NewRGBA(before.Rect)
	for y := range 256 {
		for x := range 256 {
			c := color.RGBA{uint8(x), uint8(y), 90, 255}
			before.SetRGBA(x, y, c)
			if image.Pt(x, y).In(image.Rect(0, 0, 96, 96)) || image.Pt(x, y).In(image.Rect(192, 192, 224, 224)) {
				c = color.RGBA{255, 255, 255, 255}
			}
			after.SetRGBA(x, y, c)
		}
	}
	region := image.Rect(0, 0, 96, 96)
	source := imagecheck.Of(before, imagecheck.Case{})
	result := imagecheck.Of(after, imagecheck.Case{Prompt: "paint the top left white"})
	fmt.Println(imagecheck.EditInside(source, region)(result))
	fmt.Println(imagecheck.EditOutside(source, region)(result))
	// Output:
	// <nil>
	// picture changed outside the region: tile MAD at (192,192)-(224,224) is 60.9, limit 8 (worst 32 px window, 0-255); and 2 more
	//   metric  tile-MAD 60.9, want <= 8
	//   metric  tile-colour 165, want <= 16
	//   metric  PSNR 24.68, want >= 28
	//   case    prompt "paint the top left white"   seed 0
}
