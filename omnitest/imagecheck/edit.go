package imagecheck

import (
	"image"
	"math"
)

// EditInside demands that an edit happened: at least a quarter of the region's 32 px tiles differ from the picture before
// by more than 8 (see [TileMAD]). A nil region is the whole picture, and 0.5 % of its tiles are enough.
//
// A region is an image.Rectangle, or a mask of the picture's size that is white (or opaque) where the edit may change
// something. Trap: OpenAI's masks are the inverse, transparent where something may change.
func EditInside(before Picture, region image.Image) Check {
	return check("edit-inside", "edit did not happen", func(p Picture, f *finding) {
		inside, _, ok := f.editTiles(p, before, region)
		if !ok {
			return
		}
		t := f.tiles(p, before)
		want, where := f.bounds.ChangedAnywhere, "of the picture"
		if inside != nil {
			want, where = f.bounds.ChangedInside, "of the region"
		}
		share := t.changed(f.bounds.TileMAD, inside)
		f.judged = inside
		f.atLeast("changed", share, want, "changed tiles "+where, "tile MAD > "+number(f.bounds.TileMAD))
	})
}

// EditOutside demands that what lies outside the region, dilated by one 32 px tile, was given back: worst 32 px
// window of [TileMAD] <= 8 in luma and 16 in each channel, PSNR >= 28 dB and SSIM >= 0.80. Not bit-exact: the VAE alone costs that much. The worst tile is what finds an unwanted
// change of 32 px; the other two find what is spread out. The region is as in [EditInside], but not nil.
func EditOutside(before Picture, region image.Image) Check {
	return check("edit-outside", "picture changed outside the region", func(p Picture, f *finding) {
		if region == nil {
			f.fail("no region was given, so nothing lies outside it")
			return
		}
		_, outside, ok := f.editTiles(p, before, region)
		if ok {
			f.preserved(p, before, outside, 1)
		}
	})
}

// KeptOverTurns demands that after turn k of a conversation everything outside all regions edited so far still looks like the
// first picture: as [EditOutside], but VAE errors add up, so that the PSNR bound falls with k ([TurnPSNR]), the tile bound
// grows with sqrt(k) and SSIM is only reported. Each turn against the one before is EditInside and EditOutside. A region that covers the picture leaves nothing to check, which
// fails.
func KeptOverTurns(first Picture, k int, regions ...image.Rectangle) Check {
	return check("kept-over-turns", "picture changed outside the regions of all turns", func(p Picture, f *finding) {
		if k < 1 || len(regions) == 0 {
			f.fail("turn %d with %d regions cannot be checked", k, len(regions))
			return
		}
		untouched, ok := f.outsideAll(p, first, regions)
		if !ok {
			return
		}
		f.note("turn", float64(k), "")
		f.preserved(p, first, untouched, k)
	})
}

// StyleChanged demands that a style transfer changed the picture and kept its content: at least 30 % of the tiles differ,
// and the pHash64 distance to the source is at most 20 of 64 (another picture starts at 26).
func StyleChanged(before Picture) Check {
	return check("style-changed", "style transfer", func(p Picture, f *finding) {
		if !f.sameSize(p, before, "picture before") {
			return
		}
		f.expected, f.input = before.Image, true
		t := f.tiles(p, before)
		f.atLeast("changed", t.changed(f.bounds.TileMAD, nil), f.bounds.ChangedStyle, "changed tiles of the picture", "tile MAD > "+number(f.bounds.TileMAD))
		h, _, err := hashDistances(p, before)
		if err != nil {
			f.fail("%v", err)
			return
		}
		f.atMost("source.pHash64", float64(h), float64(f.bounds.StylePHash64), "content lost, distance to the source", "pHash64")
	})
}

// editTiles checks that two pictures and a region fit each other and splits the grid. A nil region gives nil sets.
func (f *finding) editTiles(p, before Picture, region image.Image) (inside, outside *tileSet, ok bool) {
	if !f.sameSize(p, before, "picture before") {
		return nil, nil, false
	}
	f.expected, f.input = before.Image, true
	if region == nil {
		return nil, nil, true
	}
	s := p.Size()
	inside, outside, err := splitByRegion(region, s.W, s.H)
	if err == nil {
		f.regions = append(f.regions, region)
	} else {
		f.fail("%v", err)
		return nil, nil, false
	}
	return inside, outside, true
}

// tiles compares two pictures that are known to have one size.
func (f *finding) tiles(p, o Picture) Tiles {
	t, err := TileMAD(p.luma(), o.luma())
	if err != nil {
		panic("imagecheck: sizes were compared before: " + err.Error())
	}
	return t
}

// preserved judges the kept tiles against the picture k turns earlier.
func (f *finding) preserved(p, before Picture, keep *tileSet, k int) {
	n := keep.count()
	f.note("tiles-judged", float64(n), "")
	if n == 0 {
		f.fail("nothing lies outside the region and the tile around it, so nothing was measured")
		return
	}
	f.judged = keep
	t := f.tiles(p, before)
	worst, at := t.worstWindow(keep)
	f.worst = at
	f.atMost("tile-MAD", worst, f.bounds.TileMAD*math.Sqrt(float64(k)), "tile MAD at "+at.String()+" is", "worst 32 px window, 0-255")
	// A red patch can have the luma of the blue that it covers.
	colour, where, name := math.Inf(-1), image.Rectangle{}, ""
	for c, n := range []string{"red", "green", "blue"} {
		tc, err := TileMAD(channel(p.opaque(), c), channel(before.opaque(), c))
		if err != nil {
			panic("imagecheck: sizes were compared before: " + err.Error())
		}
		if v, r := tc.worstWindow(keep); v > colour {
			colour, where, name = v, r, n
		}
	}
	if worst <= f.bounds.TileMAD*math.Sqrt(float64(k)) {
		f.worst = where
	}
	f.atMost("tile-colour", colour, f.bounds.TileColour*math.Sqrt(float64(k)), name+" at "+where.String()+" differs by", "worst 32 px window, 0-255")
	f.atLeast("PSNR", diffIn(p.Image, before.Image, keep).PSNR(), TurnPSNR(f.bounds.OutsidePSNR, k), "PSNR", "dB")
	if v := f.graySSIM(p, before, keep); k == 1 {
		f.atLeastBetter("SSIM", v, f.bounds.OutsideSSIM, f.bounds.WarnOutsideSSIM, "SSIM", "luma")
	} else {
		f.note("SSIM", v, "luma; no bound for several turns: grain that adds up lowers it without any visible fault")
	}
}

// channel copies one channel, 0 to 2 for R, G, B.
func channel(img *image.RGBA, c int) *image.Gray {
	w, h := img.Rect.Dx(), img.Rect.Dy()
	g := image.NewGray(image.Rect(0, 0, w, h))
	for y := range h {
		src, dst := img.Pix[y*img.Stride:][:4*w], g.Pix[y*w:][:w]
		for x := range dst {
			dst[x] = src[4*x+c]
		}
	}
	return g
}
