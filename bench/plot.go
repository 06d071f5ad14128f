package main

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
)

// curve is one line of the plot: end to end, batches where the system knows them.
type curve struct {
	label  string
	prefix string // of the names of its cases, up to the round-trip time
	color  string // to be seen on white and on black
}

var curves = []curve{
	{"raw limit", systemLimit + "/end-to-end/batch@", "#888888"},
	{"Millrace", systemMillrace + "/end-to-end/batch@", "#e0552b"},
	{"NATS JetStream", systemNATS + "/end-to-end@", "#2f8f5b"},
	{"watermill-redisstream, 16 handlers", caseWatermill16, "#3d7fd6"},
	{"watermill-redisstream, 1 handler", caseWatermill, "#6aa9e9"},
	{"asynq", systemAsynq + "/end-to-end@", "#a868c8"},
}

// The plot in pixels, and what it shows.
const (
	plotWidth, plotHeight = 760, 420
	plotLeft, plotTop     = 70, 40
	plotRight, plotBottom = 500, 370
	plotFar               = 2.0 // ms
	plotLow, plotHigh     = 100.0, 1_000_000.0
)

func plotX(rtt float64) float64 { return plotLeft + rtt/plotFar*(plotRight-plotLeft) }

// plotY is logarithmic: the systems differ by three orders of magnitude.
func plotY(perSecond float64) float64 {
	part := math.Log(perSecond/plotLow) / math.Log(plotHigh/plotLow)
	return plotBottom - part*(plotBottom-plotTop)
}

// line is a curve with its points on the plot.
type line struct {
	curve
	points []string // as SVG has them, by round-trip time
	endY   float64  // of the last one
}

// lines returns the curves that were measured, the one that ends highest first.
func lines(all []Case, r results) []line {
	var found []line
	for _, c := range curves {
		byRTT := map[float64]float64{}
		for _, measured := range all {
			if values := r.values(measured.Name, perSecond); strings.HasPrefix(measured.Name, c.prefix) && len(values) > 0 {
				byRTT[measured.RTT] = median(values)
			}
		}
		l := line{curve: c}
		for _, rtt := range slices.Sorted(maps.Keys(byRTT)) {
			l.endY = plotY(byRTT[rtt])
			l.points = append(l.points, fmt.Sprintf("%.1f,%.1f", plotX(rtt), l.endY))
		}
		if len(l.points) > 0 {
			found = append(found, l)
		}
	}
	slices.SortStableFunc(found, func(a, b line) int { return cmp.Compare(a.endY, b.endY) })
	return found
}

// plot draws throughput against round-trip time as an SVG that can be read on light and on dark pages.
func plot(all []Case, r results) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="13">
<title>Events per second, publish to acknowledgement, against the round-trip time to the server</title>
<style>
  text { fill: #333 } .grid { stroke: #ddd } .axis { stroke: #777 }
  @media (prefers-color-scheme: dark) { text { fill: #ccc } .grid { stroke: #3a3a3a } }
</style>
`, plotWidth, plotHeight)
	fmt.Fprintf(&b, "<text x=\"%d\" y=\"20\">events/s, publish → handler → ack, 256 B</text>\n", plotLeft)
	for v := plotLow; v <= plotHigh; v *= 10 {
		fmt.Fprintf(&b, "<line class=\"grid\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/>\n", plotLeft, plotRight, plotY(v), plotY(v))
		fmt.Fprintf(&b, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%s</text>\n", plotLeft-8, plotY(v)+4, thousands(v))
	}
	for rtt := 0.0; rtt <= plotFar; rtt += 0.5 {
		fmt.Fprintf(&b, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%g</text>\n", plotX(rtt), plotBottom+20, rtt)
	}
	fmt.Fprintf(&b, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">round trip, ms</text>\n", (plotLeft+plotRight)/2, plotBottom+40)
	fmt.Fprintf(&b, "<path class=\"axis\" fill=\"none\" d=\"M%d %dV%dH%d\"/>\n", plotLeft, plotTop, plotBottom, plotRight)
	used := math.Inf(-1) // down to where labels stand already
	for _, l := range lines(all, r) {
		fmt.Fprintf(&b, "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"2.5\" points=\"%s\"/>\n", l.color, strings.Join(l.points, " "))
		y := max(l.endY, used+17)
		used = y
		fmt.Fprintf(&b, "<line stroke=\"%s\" stroke-width=\"2.5\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/>", l.color, plotRight+8, plotRight+20, y, y)
		fmt.Fprintf(&b, "<text x=\"%d\" y=\"%.1f\">%s</text>\n", plotRight+26, y+4, l.label)
	}
	b.WriteString("</svg>\n")
	return []byte(b.String())
}
