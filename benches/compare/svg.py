"""Plots as SVG text: grouped horizontal bars, and lines over a linear or logarithmic axis."""
import html, math

# Okabe and Ito's colours, which stay apart for colour-blind readers.
COLOURS = ["#D55E00", "#0072B2", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#F0E442", "#000000"]
GREY, INK = "#d8d8d8", "#222222"


def text(x, y, words, size=13, anchor="start", **more):
    more = "".join(f' {k.replace("_", "-")}="{v}"' for k, v in more.items())
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}"{more}>{html.escape(str(words))}</text>'


def line(x1, y1, x2, y2, colour=GREY, width=1):
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width}"/>'


def page(width, height, title, note, parts):
    head = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img"'
            f' aria-label="{html.escape(title)}" font-family="Helvetica, Arial, \'DejaVu Sans\', sans-serif" fill="{INK}">',
            f'<rect width="{width}" height="{height}" fill="#ffffff"/>', text(20, 30, title, 18, font_weight="bold"),
            text(20, 50, note, 12, fill="#555555")]
    return "\n".join(head + parts + ["</svg>"]) + "\n"


def number(value):
    """Short, with three digits that count."""
    if value == 0 or value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def ticks(top, wanted=6):
    """Round steps from 0 until `top` is covered."""
    step = 10 ** math.floor(math.log10(top / wanted)) if top > 0 else 1
    step *= next(m for m in (1, 2, 5, 10) if top / (step * m) <= wanted)
    return [step * i for i in range(math.ceil(top / step - 1e-9) + 1)]


def tick_label(value):
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:.4g}"


def legend(x, y, names, colours):
    parts = []
    for name in names:
        parts += [f'<rect x="{x}" y="{y - 10}" width="12" height="12" fill="{colours[name]}"/>', text(x + 17, y, name)]
        x += 34 + 7 * len(name)
    return parts


def bars(title, note, unit, groups, names):
    """`groups`: [(label, {name: value})]. A name without a value has no bar in that group."""
    width, left, right, top, bar, gap = 860, 240, 80, 96, 17, 16
    colours = dict(zip(names, COLOURS))
    values = [v for _, row in groups for v in row.values()]
    scale = ticks(max(values, default=1) or 1)
    body = sum(bar * len(row) + gap for _, row in groups)
    height = top + body + 60

    def at(value):
        return left + value / scale[-1] * (width - left - right)
    parts = legend(left, 76, [n for n in names if any(n in row for _, row in groups)], colours)
    for tick in scale:
        parts += [line(at(tick), top - 6, at(tick), top + body), text(at(tick), top + body + 18, tick_label(tick), 12, "middle")]
    parts.append(text((left + width - right) / 2, top + body + 42, unit, 13, "middle"))
    y = top
    for label, row in groups:
        parts.append(text(left - 10, y + bar * len(row) / 2 + 4, label, 13, "end"))
        for name in (n for n in names if n in row):
            parts += [f'<rect x="{left}" y="{y + 1}" width="{max(at(row[name]) - left, 1):.1f}" height="{bar - 2}" '
                      f'fill="{colours[name]}"><title>{html.escape(f"{label}, {name}: {number(row[name])} {unit}")}</title></rect>',
                      text(at(row[name]) + 5, y + bar - 4, number(row[name]), 12)]
            y += bar
        y += gap
    parts.append(line(left, top - 6, left, top + body, INK))
    return page(width, height, title, note, parts)


def log_ticks(low, high):
    return [10.0 ** e for e in range(math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9) + 1)]


class Axis:
    """Where a value lies between two ends, and which ticks belong there."""

    def __init__(self, values, log, begin, end):
        self.log, self.begin, self.end = log, begin, end
        self.ticks = log_ticks(min(v for v in values if v > 0), max(values)) if log else ticks(max(values) or 1)
        if log and len(self.ticks) == 1:
            self.ticks.append(self.ticks[0] * 10)

    def at(self, value):
        low, high = self.ticks[0], self.ticks[-1]
        if self.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(max(value, low))
        return self.begin + (value - low) / (high - low) * (self.end - self.begin)


def lines(title, note, x_name, y_name, series, log_x=False, log_y=False, labels=True):
    """`series`: {name: [(x, y)]}, all over the same axes. A logarithmic axis leaves out zeros."""
    width, height, left, right, top, bottom = 760, 440, 84, 50, 100, 60
    series = {n: [(x, y) for x, y in points if (x > 0 or not log_x) and (y > 0 or not log_y)] for n, points in series.items()}
    xs, ys = ([p[i] for points in series.values() for p in points] for i in (0, 1))
    across, up = Axis(xs, log_x, left, width - right), Axis(ys, log_y, height - bottom, top)
    colours = dict(zip(series, COLOURS))
    parts = legend(left, 78, series, colours) if len(series) > 1 else []
    for tick in across.ticks:
        x = across.at(tick)
        parts += [line(x, top, x, height - bottom), text(x, height - bottom + 18, tick_label(tick), 12, "middle")]
    for tick in up.ticks:
        y = up.at(tick)
        parts += [line(left, y, width - right, y), text(left - 8, y + 4, tick_label(tick), 12, "end")]
    middle = (top + height - bottom) / 2
    parts += [text((left + width - right) / 2, height - 16, x_name, 13, "middle"),
              text(22, middle, y_name, 13, "middle", transform=f"rotate(-90 22 {middle:.1f})"),
              line(left, top, left, height - bottom, INK), line(left, height - bottom, width - right, height - bottom, INK)]
    for name, points in series.items():
        at = [(across.at(x), up.at(y)) for x, y in points]
        parts.append(f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in at)}" fill="none" stroke="{colours[name]}" '
                     'stroke-width="2.5"/>')
        if labels:
            for (x, y), (_, value) in zip(at, points):
                parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colours[name]}"/>',
                          text(x, y - 10, number(value), 12, "start" if x < left + 20 else "middle")]
    return page(width, height, title, note, parts)
