package imagecheck

import (
	"image"
	"math"
)

// EditLocal demands that a local instruction stayed local where nobody says which part it may change: at most 40 % of the
// 32 px tiles differ from the picture before, and what is neither changed nor next to a change was given back as in
// [EditOutside]. A picture that was redrawn fails by the first, one whose tone drifted below the bound of a tile by the
// second. That something happened at all is for [EditInside] with a nil region.
func EditLocal(before Picture) Check {
	return check("edit-local", "edit redrew more than it was asked for", func(p Picture, f *finding) {
		if _, _, ok := f.editTiles(p, before, nil); !ok {
			return
		}
		t := f.tiles(p, before)
		limit := f.bounds.TileMAD
		f.atMost("changed", t.changed(limit, nil), f.bounds.ChangedLocal, "changed tiles of the picture", "tile MAD > "+number(limit))
		rest := t.untouched(limit)
		f.note("tiles-judged", float64(rest.count()), "")
		if rest.count() == 0 {
			f.fail("no tile is unchanged with unchanged tiles around it, so nothing was kept")
			return
		}
		f.judged = rest
		f.atLeast("PSNR", diffIn(p.Image, before.Image, rest).PSNR(), f.bounds.OutsidePSNR, "PSNR of the rest", "dB")
		f.atLeastBetter("SSIM", f.graySSIM(p, before, rest), f.bounds.OutsideSSIM, f.bounds.WarnOutsideSSIM, "SSIM of the rest", "luma")
	})
}

// untouched are the tiles that did not change and are not next to one that did.
func (t Tiles) untouched(limit float64) *tileSet {
	s := &tileSet{t.Cols, t.Rows, make([]bool, len(t.MAD))}
	for i := range t.MAD {
		near := false
		for y := max(i/t.Cols-1, 0); y <= min(i/t.Cols+1, t.Rows-1); y++ {
			for x := max(i%t.Cols-1, 0); x <= min(i%t.Cols+1, t.Cols-1); x++ {
				near = near || t.MAD[y*t.Cols+x] > limit
			}
		}
		s.in[i] = !near
	}
	return s
}

// NoDrift demands that k turns of editing left the tone where it was, outside all regions edited so far: the mean of each
// channel within 5 of 255 of the first picture's and the contrast (standard deviation of luma) within 15 %. The loss of a
// VAE has no direction and cancels in a mean however many turns there are; a gain of 1.01 a turn, which no turn's own check
// and no bound that grows with the turns ([KeptOverTurns]) would see, is 10 % after ten.
func NoDrift(first Picture, k int, regions ...image.Rectangle) Check {
	return check("no-drift", "picture drifted over the turns", func(p Picture, f *finding) {
		if k < 1 || len(regions) == 0 {
			f.fail("turn %d with %d regions cannot be checked", k, len(regions))
			return
		}
		keep, ok := f.outsideAll(p, first, regions)
		if !ok {
			return
		}
		n := keep.count()
		f.note("turn", float64(k), "")
		f.note("tiles-judged", float64(n), "")
		if n == 0 {
			f.fail("nothing lies outside the regions and the tiles around them, so nothing was measured")
			return
		}
		f.judged = keep
		a, b := channelMeans(p.opaque(), keep), channelMeans(first.opaque(), keep)
		worst := 0
		for c := range a {
			f.note("mean-"+"rgb"[c:c+1], a[c]-b[c], "signed, 0-255")
			if math.Abs(a[c]-b[c]) > math.Abs(a[worst]-b[worst]) {
				worst = c
			}
		}
		f.atMost("tone", math.Abs(a[worst]-b[worst]), f.bounds.DriftTone, "mean of "+[]string{"red", "green", "blue"}[worst]+" moved by", "0-255")
		was, is := lumaDev(first.luma(), keep), lumaDev(p.luma(), keep)
		change := math.NaN()
		if was > 0 {
			change = math.Abs(is/was - 1)
		}
		f.atMost("contrast", change, f.bounds.DriftContrast, "contrast changed by", "of what it was")
	})
}

// outsideAll gives the tiles outside of every region.
func (f *finding) outsideAll(p, before Picture, regions []image.Rectangle) (keep *tileSet, ok bool) {
	for _, r := range regions {
		_, outside, ok := f.editTiles(p, before, r)
		if !ok {
			return nil, false
		}
		if keep == nil {
			keep = outside
			continue
		}
		for i := range keep.in {
			keep.in[i] = keep.in[i] && outside.in[i]
		}
	}
	return keep, true
}

// channelMeans averages R, G and B over the kept tiles, 0-255.
func channelMeans(img *image.RGBA, keep *tileSet) (mean [3]float64) {
	var sum [3]int64
	n := 0
	for y := range img.Rect.Dy() {
		for x := range img.Rect.Dx() {
			if keep.at(x, y) {
				o := y*img.Stride + 4*x
				sum[0], sum[1], sum[2] = sum[0]+int64(img.Pix[o]), sum[1]+int64(img.Pix[o+1]), sum[2]+int64(img.Pix[o+2])
				n++
			}
		}
	}
	for c := range mean {
		mean[c] = float64(sum[c]) / float64(n)
	}
	return mean
}

// lumaDev is the standard deviation of the means of 8x8 boxes over the kept tiles: contrast without grain.
func lumaDev(g *image.Gray, keep *tileSet) float64 {
	l := boxMeans(g, image.Point{})
	var n, sum, squares float64
	for i, v := range l.mean {
		if keep.at(i%l.cols*boxSide, i/l.cols*boxSide) {
			n, sum, squares = n+1, sum+v, squares+v*v
		}
	}
	return math.Sqrt(max(0, squares/n-sum/n*sum/n))
}
