package imagecheck

import (
	"encoding/hex"
	"fmt"
	"image"
)

// GridSide is the number of cells of a ColourGrid in a row and in a column.
const GridSide = 16

// ColourGrid holds the mean R, G and B of 16x16 equal cells, row by row. Perceptual hashes see luma only, so that a green
// cube with the grey value of the red one is the same picture to them; a grid of 768 bytes sees it, and noise, JPEG and VAE
// loss cancel within a cell. On disk it is 16 lines of 16 hex colours.
type ColourGrid [GridSide * GridSide][3]uint8

// Colours measures a picture, composited on white.
func Colours(img *image.RGBA) (ColourGrid, error) {
	if img == nil || img.Rect.Empty() {
		return ColourGrid{}, ErrNoPicture
	}
	if img.Rect.Min != (image.Point{}) {
		img = crop(img, img.Rect)
	}
	img = onWhite(img)
	var g ColourGrid
	for i := range g {
		g[i] = meanColour(img, gridCell(i, img.Rect))
	}
	return g, nil
}

// gridCell gives the pixels of cell i; cells of a picture below 16 px share them.
func gridCell(i int, picture image.Rectangle) image.Rectangle {
	x, y, w, h := i%GridSide, i/GridSide, picture.Dx(), picture.Dy()
	r := image.Rect(x*w/GridSide, y*h/GridSide, (x+1)*w/GridSide, (y+1)*h/GridSide)
	r.Max.X, r.Max.Y = max(r.Max.X, r.Min.X+1), max(r.Max.Y, r.Min.Y+1)
	return r
}

// meanColour is the mean of the sRGB bytes, rounded. The rectangle must lie in the picture and hold a pixel.
func meanColour(img *image.RGBA, r image.Rectangle) [3]uint8 {
	var sum [3]int
	for y := r.Min.Y; y < r.Max.Y; y++ {
		row := img.Pix[img.PixOffset(r.Min.X, y):][:4*r.Dx()]
		var s0, s1, s2 int
		for len(row) >= 4 {
			s0 += int(row[0])
			s1 += int(row[1])
			s2 += int(row[2])
			row = row[4:]
		}
		sum[0], sum[1], sum[2] = sum[0]+s0, sum[1]+s1, sum[2]+s2
	}
	n := r.Dx() * r.Dy()
	return [3]uint8{uint8((sum[0] + n/2) / n), uint8((sum[1] + n/2) / n), uint8((sum[2] + n/2) / n)}
}

// Farthest gives the cell (column and row, from 0) whose colour is farthest from another grid's, and how far: the largest
// difference of a channel, 0-255.
func (g *ColourGrid) Farthest(o *ColourGrid) (cell image.Point, distance int) {
	for i := range g {
		for c := range 3 {
			if d := int(absDiff(g[i][c], o[i][c])); d > distance {
				cell, distance = image.Pt(i%GridSide, i/GridSide), d
			}
		}
	}
	return cell, distance
}

// At gives the colour of a cell as "#rrggbb".
func (g *ColourGrid) At(cell image.Point) string {
	return hexColour(g[cell.Y*GridSide+cell.X])
}

func hexColour(c [3]uint8) string { return fmt.Sprintf("#%02x%02x%02x", c[0], c[1], c[2]) }

// lines is the text form: a row of cells each, so that a version control system shows which row changed.
func (g *ColourGrid) lines() []string {
	if g == nil {
		return nil
	}
	out := make([]string, 0, GridSide)
	for row := range GridSide {
		var raw []byte
		for _, c := range g[row*GridSide:][:GridSide] {
			raw = append(raw, c[:]...)
		}
		out = append(out, hex.EncodeToString(raw))
	}
	return out
}

// parseGrid reads the text form strictly.
func parseGrid(lines []string) (*ColourGrid, error) {
	if len(lines) != GridSide {
		return nil, fmt.Errorf("colours: %d lines, want %d", len(lines), GridSide)
	}
	g := &ColourGrid{}
	for row, line := range lines {
		raw, err := hex.DecodeString(line)
		if err != nil || len(raw) != 3*GridSide {
			return nil, fmt.Errorf("colours: line %d: want %d hex digits", row, 6*GridSide)
		}
		for i := range GridSide {
			g[row*GridSide+i] = [3]uint8(raw[3*i:])
		}
	}
	return g, nil
}
