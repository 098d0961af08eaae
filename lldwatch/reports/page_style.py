"""The style sheet of the pages: light, dark and printed; colours after Okabe and Ito.

Every colour has a second channel: lines differ by their dashes, stages by name and hatching, findings by a sign.
"""

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f6f7f9; --paper: #fff; --ink: #1f2328; --muted: #57606a; --rule: #d8dde3; --grid: #e4e7eb; --link: #005a9c;
  --l0: #0072b2; --l1: #a8467f; --l2: #00785a; --l3: #b34e00; --l4: #5d6470; --alert: #c24e00;
  --good-bg: #d9f2e8; --good-ink: #00523b; --watch-bg: #fbf6b0; --watch-ink: #4d4600;
  --warn-bg: #ffe2a8; --warn-ink: #5e3c00; --bad-bg: #b84500; --bad-ink: #fff; --quiet-bg: #e7eaee;
  --shade: 0.16; --stagnation: #f0e442; --decay: #e69f00; --collapse: #d55e00;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --page: #121519; --paper: #1b1f24; --ink: #e6e8eb; --muted: #a3acb7; --rule: #333a43; --grid: #2c323a;
    --link: #7cc4f2; --l0: #56b4e9; --l1: #dc8fb8; --l2: #3ccfa4; --l3: #ff9d4d; --l4: #aab2bd; --alert: #ff8a3d;
    --good-bg: #0d3b2e; --good-ink: #7fe3c0; --watch-bg: #454008; --watch-ink: #f5ec86;
    --warn-bg: #553800; --warn-ink: #ffcf70; --bad-bg: #d55e00; --bad-ink: #14100c; --quiet-bg: #2b3139; --shade: 0.2;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1200px; margin: 0 auto; padding: 20px 16px 48px; }
h1 { font-size: 22px; line-height: 1.3; margin: 2px 0 12px; overflow-wrap: anywhere; }
h2 { font-size: 17px; margin: 34px 0 10px; }
h3 { font-size: 14px; margin: 22px 0 8px; color: var(--muted); }
p { margin: 0 0 10px; max-width: 78ch; overflow-wrap: anywhere; }
a { color: var(--link); text-underline-offset: 2px; }
code { font-size: 0.93em; overflow-wrap: anywhere; }
ol, ul { margin: 0; padding-left: 24px; max-width: 88ch; }
li { margin: 0 0 6px; overflow-wrap: anywhere; }
table + p, table + ul, table + table { margin-top: 12px; }
.muted, .small { color: var(--muted); }
.small { font-size: 13px; }
.over { font-size: 13px; color: var(--muted); margin: 0; }
.verdict { background: var(--paper); border: 1px solid var(--rule); border-left: 6px solid var(--edge, var(--rule));
  border-radius: 6px; padding: 14px 18px; }
.verdict p { font-size: 18px; line-height: 1.4; margin: 8px 0 0; }
.verdict.healthy { --edge: #009e73; } .verdict.stagnation { --edge: var(--stagnation); }
.verdict.decay { --edge: var(--decay); } .verdict.collapse { --edge: var(--collapse); }
.badge { display: inline-block; padding: 1px 10px; border-radius: 999px; font-weight: 600; white-space: nowrap;
  background: var(--quiet-bg); }
.badge.healthy, .badge.ok { background: var(--good-bg); color: var(--good-ink); }
.badge.stagnation { background: var(--watch-bg); color: var(--watch-ink); }
.badge.decay, .badge.warning { background: var(--warn-bg); color: var(--warn-ink); }
.badge.collapse, .badge.critical { background: var(--bad-bg); color: var(--bad-ink); }
dl.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 10px 20px;
  margin: 16px 0 0; }
dl.facts dt { font-size: 13px; color: var(--muted); }
dl.facts dd { margin: 0; font-weight: 600; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
table { border-collapse: collapse; width: 100%; background: var(--paper);
  border: 1px solid var(--rule); font-size: 14px; }
th, td { text-align: left; vertical-align: top; padding: 6px 10px; border-top: 1px solid var(--rule);
  overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
th { font-size: 13px; font-weight: 600; color: var(--muted); border-top: 0; }
td:not(:last-child) { min-width: 7em; }
table.steps td:first-child { white-space: nowrap; width: 8em; }
table.same tr > :first-child { width: 30%; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(320px, 100%), 1fr)); gap: 14px; }
figure { margin: 0; background: var(--paper); border: 1px solid var(--rule); border-radius: 6px; padding: 10px 12px; }
figure h4 { font-size: 14px; line-height: 1.3; margin: 0; }
figure .unit { font-weight: 400; color: var(--muted); font-size: 13px; }
figure svg { display: block; width: 100%; height: auto; margin: 6px 0; }
figcaption { font-size: 12.5px; line-height: 1.45; color: var(--muted); }
figcaption b { color: var(--ink); font-weight: 600; }
.note { color: var(--alert); }
.keys { font-size: 13px; display: flex; flex-wrap: wrap; gap: 0 16px; }
.keys + .charts { margin-top: 8px; }
.keys svg { display: inline-block; width: 30px; height: 8px; margin: 0 5px 0 0; vertical-align: middle; }
svg text { font-size: 10px; fill: var(--muted); font-variant-numeric: tabular-nums; }
svg .none { font-size: 12px; }
svg path { fill: none; vector-effect: non-scaling-stroke; }
.shade path { fill: var(--colour); opacity: var(--shade); }
.strip path { fill: var(--colour); }
.strip text { fill: #1f2328; font-size: 9px; font-weight: 600; }
.stagnation { --colour: var(--stagnation); } .decay { --colour: var(--decay); } .collapse { --colour: var(--collapse); }
.grid { stroke: var(--grid); } .zero { stroke: var(--muted); }
.limit { stroke: var(--alert); stroke-dasharray: 2 3; stroke-width: 1.5px; }
.marked { stroke: var(--ink); stroke-width: 1.5px; }
.halo { paint-order: stroke; stroke: var(--paper); stroke-width: 3px; fill: var(--alert); font-weight: 600; }
.line { stroke-width: 1.8px; stroke-linejoin: round; stroke-linecap: round; }
.line.thin { stroke-width: 1px; opacity: 0.4; }
.l0 { stroke: var(--l0); } .l1 { stroke: var(--l1); stroke-dasharray: 6 4; }
.l2 { stroke: var(--l2); stroke-dasharray: 1 4; }
.l3 { stroke: var(--l3); stroke-dasharray: 10 3 2 3; }
.l4 { stroke: var(--l4); stroke-dasharray: 3 2; }
.line.thin { stroke-dasharray: none; }
svg .cross { stroke: var(--alert); stroke-width: 2px; } svg .beyond { fill: var(--alert); }
.lanes { background: var(--paper); border: 1px solid var(--rule); border-radius: 6px;
  padding: 12px 16px 4px; margin: 0 0 14px; }
.lane { margin: 0 0 10px; }
.lane > span { font-size: 13px; color: var(--muted); }
.track { position: relative; height: 20px; background: var(--page); border-radius: 3px; }
.track i, .track b { position: absolute; top: 0; height: 20px; font-style: normal; font-weight: 600;
  font-size: 12px; line-height: 20px; white-space: nowrap; }
.track i { min-width: 2px; overflow: hidden; background-color: var(--colour); color: #1f2328; text-indent: 4px; }
.track i.decay { background-image: repeating-linear-gradient(135deg, #0000 0 7px, #0000001f 7px 9px); }
.track i.collapse { background-image: repeating-linear-gradient(45deg, #0000 0 4px, #00000026 4px 6px); }
.track i.acts { --colour: var(--l2); color: #fff; }
.track i.wait { height: 2px; top: 9px; background: var(--muted); }
.track b { transform: translateX(-50%); }
.track b.late { transform: translateX(-100%); } .track b.early { transform: none; }
.track.axis { background: none; height: 18px; }
.track.axis b { font-weight: 400; color: var(--muted); }
@media (max-width: 640px) {
  main { padding: 12px 10px 32px; }
  .verdict p { font-size: 16px; }
  thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  table, tbody, tr, td { display: block; width: auto; }
  table.same tr > :first-child, table.steps td:first-child { width: auto; }
  tr { border-top: 1px solid var(--rule); padding: 6px 0; }
  tbody tr:first-child { border-top: 0; }
  td { border: 0; padding: 2px 10px; }
  td::before { content: attr(data-title) " "; color: var(--muted); font-size: 12px; margin-right: 6px; }
  td:first-child { font-weight: 600; }
  td:first-child::before, table.steps td::before { content: none; }
  td:not(:last-child) { min-width: 0; }
}
@media print {
  @page { size: A4; margin: 14mm; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  :root { --page: #fff; }
  body { font-size: 10pt; }
  main { max-width: none; padding: 0; }
  h2, h3 { break-after: avoid; }
  h2 { margin-top: 18px; }
  figure, tr, .verdict, .lanes, li { break-inside: avoid; }
  .charts { grid-template-columns: 1fr 1fr; gap: 8px; }
  .verdict p { font-size: 13pt; }
  table { font-size: 9pt; }
  figcaption { font-size: 8pt; }
}
"""
