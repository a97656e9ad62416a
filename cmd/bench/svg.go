package main

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// bar is a measured value with its range over the rounds.
type bar struct {
	label           string
	value, min, max float64
	ours            bool // drawn in the colour of what is measured, not of what it is compared with
}

// chartStyle follows the reader's light or dark mode; where a viewer knows neither, it is light. It brings its own ground, since the page
// around it may have another mode. Letters have a rim of the ground's colour, so that lines do not cross them.
const chartStyle = `
svg { background: #ffffff }
text { font: 13px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; fill: #1f2328; stroke: #ffffff; stroke-width: 3px; paint-order: stroke }
.title { font-weight: 600; font-size: 15px }
.axis { fill: #59636e; font-size: 11px }
.grid { stroke: #d1d9e0; stroke-width: 1 }
.bar { fill: #afb8c1 }
.ours { fill: #2f6feb }
.range { stroke: #1f2328; stroke-width: 1.5; fill: none }
@media (prefers-color-scheme: dark) {
  svg { background: #0d1117 }
  text { fill: #f0f6fc; stroke: #0d1117 }
  .axis { fill: #9198a1 }
  .grid { stroke: #3d444d }
  .bar { fill: #656c76 }
  .ours { fill: #4493f8 }
  .range { stroke: #f0f6fc }
}`

// Sizes of a chart in its own units: those of pixels where it is shown at its natural size.
const (
	chartWidth  = 720.0
	chartMargin = 12.0
	chartRight  = 70.0 // room for the value of the longest bar
	chartTop    = 44.0
	rowHeight   = 46.0
	barHeight   = 16.0
)

// barChart draws values of one unit as bars from zero, each with a whisker from its least to its greatest value, as an SVG document.
func barChart(title, unit string, bars []bar) string {
	end := 0.0
	for _, b := range bars {
		end = math.Max(end, math.Max(b.value, b.max))
	}
	step := niceStep(end)
	end = math.Max(math.Ceil(end/step), 1) * step
	x := func(v float64) float64 { return 1 + v/end*(chartWidth-chartRight-1) }
	bottom := chartTop + rowHeight*float64(len(bars))
	height := bottom + 34

	var s strings.Builder
	fmt.Fprintf(&s, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="%g %g %g %g" width="%g" height="%g" role="img" aria-labelledby="title desc">`,
		-chartMargin, -chartMargin, chartWidth+2*chartMargin, height+2*chartMargin, chartWidth+2*chartMargin, height+2*chartMargin)
	fmt.Fprintf(&s, "\n<title id=\"title\">%s</title>\n<desc id=\"desc\">%s</desc>\n<style>%s\n</style>\n", html.EscapeString(title), html.EscapeString(describeBars(unit, bars)), chartStyle)
	fmt.Fprintf(&s, "<text class=\"title\" x=\"1\" y=\"18\">%s</text>\n", html.EscapeString(title))
	for i := 0; ; i++ {
		v := float64(i) * step
		if v > end*1.001 {
			break
		}
		fmt.Fprintf(&s, "<line class=\"grid\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%g\" y2=\"%g\"/>\n", x(v), x(v), chartTop-8, bottom)
		anchor := "middle"
		if i == 0 {
			anchor = "start"
		}
		fmt.Fprintf(&s, "<text class=\"axis\" x=\"%.1f\" y=\"%g\" text-anchor=\"%s\">%s</text>\n", x(v), bottom+14, anchor, tick(v))
	}
	fmt.Fprintf(&s, "<text class=\"axis\" x=\"1\" y=\"%g\">%s; median, and least to greatest of the rounds</text>\n", bottom+29, html.EscapeString(unit))
	for i, b := range bars {
		y := chartTop + rowHeight*float64(i)
		class := "bar"
		if b.ours {
			class = "bar ours"
		}
		fmt.Fprintf(&s, "<text x=\"5\" y=\"%g\">%s</text>\n", y+9, html.EscapeString(b.label))
		fmt.Fprintf(&s, "<rect class=\"%s\" x=\"1\" y=\"%g\" width=\"%.1f\" height=\"%g\" rx=\"2\"/>\n", class, y+15, x(b.value)-1, barHeight)
		if b.max > b.min {
			middle := y + 15 + barHeight/2
			fmt.Fprintf(&s, "<path class=\"range\" d=\"M%.1f %gH%.1fM%.1f %gV%gM%.1f %gV%g\"/>\n", x(b.min), middle, x(b.max),
				x(b.min), middle-4, middle+4, x(b.max), middle-4, middle+4)
		}
		fmt.Fprintf(&s, "<text x=\"%.1f\" y=\"%g\">%s</text>\n", x(math.Max(b.value, b.max))+6, y+28, number(b.value))
	}
	s.WriteString("</svg>\n")
	return s.String()
}

// describeBars says a chart in words, for those who do not see it.
func describeBars(unit string, bars []bar) string {
	parts := make([]string, len(bars))
	for i, b := range bars {
		parts[i] = fmt.Sprintf("%s: %s (%s to %s) %s", b.label, number(b.value), number(b.min), number(b.max), unit)
	}
	return strings.Join(parts, "; ") + "."
}

// niceStep is a step of 1, 2 or 5 times a power of ten of which four to ten reach to end.
func niceStep(end float64) float64 {
	if end <= 0 {
		return 1
	}
	power := math.Pow(10, math.Floor(math.Log10(end)))
	for _, m := range []float64{0.1, 0.2, 0.5} {
		if end/(m*power) <= 10 {
			return m * power
		}
	}
	return power
}

// tick writes a value on the axis without the dust of binary fractions.
func tick(v float64) string { return fmt.Sprintf("%.6g", v) }
