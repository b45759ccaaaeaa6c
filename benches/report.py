#!/usr/bin/env python3
"""Writes the figures of target/bench.json into docs/performance.md, between its markers, and draws docs/scale.png.

Run it after `make bench`; the curves need matplotlib (benches/rivals/setup.sh installs it: target/rivals/bin/python).
"""

import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/performance.md"
FIGURES = json.loads((ROOT / "target/bench.json").read_text())


def number(value):
    for limit, factor, unit in ((1e6, 1e6, " M"), (1e4, 1e3, " k")):
        if abs(value) >= limit:
            return f"{value / factor:.{2 if unit == ' M' else 1}f}{unit}"
    return f"{value:.{0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2}f}"


def spread(value):
    if value is None:
        return ""
    text = number(value["median"])
    if value["runs"] > 1:
        text += f" ({number(value['lowest'])}–{number(value['highest'])})"
    return text


def table(figures, floor):
    lines = [f"| row | what | ours | {floor} | ratio | goal | met | note |", "|---|---|---|---|---|---|---|---|"]
    for one in figures:
        met = {True: "yes", False: "**no**", None: ""}[one["met"]]
        cells = [one["row"], one["what"], spread(one["ours"]), spread(one["floor"]), spread(one["ratio"])]
        lines.append("| " + " | ".join([*cells, one["goal"] or "", met, one["note"]]) + " |")
    return "\n".join(lines)


def fill(text, name, body):
    pattern = rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)"
    return re.sub(pattern, lambda found: f"{found[1]}{body}\n{found[2]}", text, flags=re.S)


def curves(figures):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plot

    lines = {}
    for one in figures:
        found = re.fullmatch(r"(\d+) (sources|instances): (.*)", one["what"])
        count, axis, what = int(found[1]), found[2], found[3]
        lines.setdefault((axis, what), []).append((count, one["ours"]["median"]))
    figure, ((cost, memory), (rate, shared)) = plot.subplots(2, 2, figsize=(10, 7))
    places = {
        ("sources", "our µs per request"): (cost, "our process"),
        ("sources", "server µs per request"): (cost, "PostgreSQL"),
        ("sources", "memory, MB"): (memory, "our process"),
        ("instances", "events/s"): (rate, "all instances together"),
        ("instances", "our µs per event"): (shared, "our processes"),
        ("instances", "server µs per event"): (shared, "PostgreSQL"),
    }
    for key, (axes, label) in places.items():
        points = sorted(lines.get(key, []))
        axes.plot([x for x, _ in points], [y for _, y in points], marker="o", label=label)
    for axes, x, y, base in (
        (cost, "idle sources", "CPU per request, µs", 10),
        (memory, "idle sources", "resident, MB", 10),
        (rate, "instances", "events/s", 2),
        (shared, "instances", "CPU per event, µs", 2),
    ):
        axes.set_xscale("log", base=base)
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.tight_layout()
    figure.savefig(ROOT / "docs/scale.png", dpi=100)


def main():
    text = PAGE.read_text()
    rows = [one for one in FIGURES if one["row"] not in ("rivals", "scale")]
    text = fill(text, "figures", table(rows, "floor"))
    rivals = [one for one in FIGURES if one["row"] == "rivals"]
    if rivals:
        text = fill(text, "rivals", table(rivals, "theirs"))
    scale = [one for one in FIGURES if one["row"] == "scale"]
    if scale:
        curves(scale)
        text = fill(text, "curves", "![CPU and memory by sources; events a second by instances](scale.png)")
    PAGE.write_text(text)


if __name__ == "__main__":
    main()
