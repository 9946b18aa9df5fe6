"""Draws the results: for each case one bar a tool, as long as it took; the bars of one case have one scale."""

from xml.sax.saxutils import escape

COLOURS = {"lifeboat": "#0b7285", "zstd|age": "#868e96", "restic": "#e8590c", "borg": "#5f3dc4", "rustic": "#c2255c"}
OTHER = "#adb5bd"
LEFT, WIDTH, LABEL, BAR, GAP = 160, 560, 280, 16, 18


def draw(cases: list[dict], machine: dict, setup: dict) -> str:
    parts, y = [], 64
    for case in cases:
        tools = {"lifeboat": case["lifeboat"], **case["peers"]}
        slowest = max(figures["seconds"] for figures in tools.values())
        parts.append(f'<text x="20" y="{y + 12}" class="case">{escape(case["name"])}</text>')
        for tool, figures in tools.items():
            length = max(figures["seconds"] / slowest * WIDTH, 1)
            ratio = f" ({case['ratio'][tool]:.2f} × lifeboat)" if tool in case["ratio"] else ""
            colour = COLOURS.get(tool, OTHER)
            parts.append(f'<rect x="{LEFT}" y="{y}" width="{length:.1f}" height="{BAR - 3}" fill="{colour}" rx="2"/>')
            label = f'{escape(tool)}  {figures["seconds"]:.3g} s{ratio}'
            parts.append(f'<text x="{LEFT + length + 6:.1f}" y="{y + 11}">{label}</text>')
            y += BAR
        y += GAP
    title = f"Seconds, shorter is better: {machine['processor']}, {machine['cores']} cores, median of {setup['rounds']}, {setup['mib']} MiB"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + LABEL}" height="{y + 10}" font-family="sans-serif" font-size="12">\n'
        "<style>.case{font-weight:bold}</style>\n"
        f'<rect width="100%" height="100%" fill="white"/>\n<text x="20" y="32" font-size="16">{escape(title)}</text>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )
