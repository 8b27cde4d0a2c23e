/*-------------------------------------------------------------------------
 *
 * report_style.c
 *	  The style sheet of the report: light and dark, wide and narrow, paper.
 *
 * Colour never stands alone: states are words, and what is not connected is
 * drawn dashed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "api/report.h"

const char	rctl_report_style[] =
/* colours */
":root{color-scheme:light dark;--page:#f4f5f7;--card:#fff;--ink:#1b2330;--dim:#5b6675;--rule:#dde1e7;"
"--ok:#15803d;--warning:#a85a00;--bad:#c81e1e;"
"--c0:#2563eb;--c1:#c2410c;--c2:#0f766e;--c3:#9333ea;--c4:#a16207;--c5:#be185d;--c6:#4d7c0f;--c7:#475569}\n"
"@media(prefers-color-scheme:dark){:root{--page:#10141b;--card:#181e27;--ink:#e4e8ee;--dim:#98a3b3;--rule:#2c3542;"
"--ok:#4ade80;--warning:#fbbf24;--bad:#f87171;"
"--c0:#60a5fa;--c1:#fb923c;--c2:#2dd4bf;--c3:#c084fc;--c4:#facc15;--c5:#f472b6;--c6:#a3e635;--c7:#94a3b8}}\n"
".c0{--c:var(--c0)}.c1{--c:var(--c1)}.c2{--c:var(--c2)}.c3{--c:var(--c3)}"
".c4{--c:var(--c4)}.c5{--c:var(--c5)}.c6{--c:var(--c6)}.c7{--c:var(--c7)}\n"
".ok{--m:var(--ok)}.warning{--m:var(--warning)}.bad{--m:var(--bad)}\n"
/* page */
"*{box-sizing:border-box}body{margin:0;background:var(--page);color:var(--ink);"
"font:15px/1.45 system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',sans-serif;"
"font-variant-numeric:tabular-nums;overflow-wrap:anywhere}\n"
"main{max-width:1180px;margin:0 auto;padding:20px 16px 48px}h1{font-size:22px;margin:0}"
"h2{font-size:16px;margin:0 0 10px}header p{margin:2px 0;color:var(--dim)}"
"section,.verdict{background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:16px;margin-top:16px}\n"
".verdict{border-left:5px solid var(--m)}.verdict b{color:var(--m)}.verdict ul{margin:8px 0 0;padding-left:20px}"
".verdict li::marker{color:var(--m)}.note{color:var(--dim);margin:6px 0 0}"
"code{font:13px/1.4 ui-monospace,'Liberation Mono',Menlo,Consolas,monospace}\n"
".tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(140px,1fr));gap:12px;margin:16px 0 0;padding:0;list-style:none}"
".tiles li{background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:10px 14px}"
".tiles span,.tiles small{display:block;color:var(--dim);font-size:13px}.tiles b{font-size:20px;font-weight:600}"
".tiles small{font-size:12px}\n"
/* topology */
".wide{overflow-x:auto}svg.topology{display:block;overflow:visible}"
".box{fill:var(--card);stroke:var(--rule)}.self .box{stroke:var(--ink)}.others .box,.foreign .box{stroke-dasharray:4 3}"
"rect.edge{fill:var(--m)}path.edge{fill:none;stroke:var(--m);stroke-width:2}path.edge.bad{stroke-dasharray:5 4}"
"svg text{font-family:inherit;fill:var(--ink);stroke:none}text.name{font-size:13px;font-weight:600}"
"text.line,text.bytes{font-size:11px;fill:var(--dim)}text.lag{font-size:12px;font-weight:600}"
"text.lag,text.bytes{text-anchor:middle}\n"
/* charts */
".charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr));gap:22px 28px}"
".chart{margin:0;min-width:0;break-inside:avoid}figcaption{margin-bottom:6px}figcaption span{color:var(--dim);font-size:13px}"
".plot{display:grid;grid-template-columns:auto 1fr;column-gap:6px;font-size:11px;color:var(--dim)}"
".plot .y{display:flex;flex-direction:column;justify-content:space-between;text-align:right;min-width:54px;margin:-7px 0;"
"white-space:nowrap}"
".plot svg{width:100%;height:140px;display:block;overflow:visible}"
".plot .x{grid-column:2;display:flex;justify-content:space-between;position:relative;margin-top:4px}"
".plot .mid{position:absolute;transform:translateX(-50%)}\n"
".grid,.now{stroke:var(--rule);fill:none}.curve{fill:none;stroke:var(--c,var(--c0));stroke-width:1.75;stroke-linejoin:round;stroke-linecap:round}"
".area{fill:var(--c,var(--c0));fill-opacity:.14;stroke:none}.now{stroke:var(--dim);stroke-dasharray:2 3}"
".forecast{stroke:var(--bad);stroke-width:1.75;stroke-dasharray:6 4;fill:none}"
".plot path,.spark path{vector-effect:non-scaling-stroke}"
".legend{list-style:none;display:flex;flex-wrap:wrap;gap:2px 14px;margin:6px 0 0;padding:0;font-size:12px}"
".legend li::before{content:'';display:inline-block;width:14px;height:0;border-top:3px solid var(--c);"
"margin-right:5px;vertical-align:middle}.legend .dashed{--c:var(--bad)}.legend .dashed::before{border-top-style:dashed}"
".spark{width:110px;height:22px;display:block}\n"
/* tables */
".rows{overflow-x:auto}.rows.many{max-height:560px;overflow:auto}table{border-collapse:collapse;width:100%;font-size:14px}"
"th{text-align:left;font-weight:600;color:var(--dim);font-size:12px;white-space:nowrap}"
".many th{position:sticky;top:0;background:var(--card)}"
"th,td{padding:6px 12px 6px 0;border-bottom:1px solid var(--rule);vertical-align:top}"
"tbody tr:last-child td{border-bottom:0}td.num,th.num{text-align:right;white-space:nowrap}td.time{white-space:nowrap}"
"td{overflow-wrap:break-word}td small{display:block;color:var(--dim)}"
".mood{color:var(--m);font-weight:600;white-space:nowrap}.mood::before{content:'';display:inline-block;width:8px;height:8px;"
"border-radius:50%;background:var(--m);margin-right:6px}\n"
"progress{width:150px;height:10px;accent-color:var(--c0);vertical-align:middle}footer{color:var(--dim);font-size:12px;margin-top:18px}\n"
"@media(min-width:641px){td:first-child{min-width:110px}"
"[data-label=Note],[data-label=Advice],[data-label=Message],[data-label=Event]{min-width:220px}}\n"
/* a row becomes a card on a phone */
"@media screen and (max-width:640px){main{padding:14px 10px 32px}section,.verdict{padding:12px}"
".tiles{grid-template-columns:1fr 1fr;gap:8px}.tiles b{font-size:17px}"
"thead{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}table,tbody{display:block}"
"tr{display:block;padding:8px 0;border-bottom:1px solid var(--rule)}tbody tr:last-child{border-bottom:0}"
"td,td.num{display:grid;grid-template-columns:110px 1fr;gap:0 8px;padding:2px 0;border:0;text-align:left;white-space:normal}"
"td:empty{display:none}td::before{content:attr(data-label);color:var(--dim);font-size:12px;padding-top:2px}"
"td>*{grid-column:2}}\n"
/* paper */
"@media print{:root{color-scheme:light;--page:#fff;--card:#fff;--ink:#000;--dim:#444;--rule:#bbb;"
"--ok:#15803d;--warning:#a85a00;--bad:#c81e1e;"
"--c0:#2563eb;--c1:#c2410c;--c2:#0f766e;--c3:#9333ea;--c4:#a16207;--c5:#be185d;--c6:#4d7c0f;--c7:#475569}"
"main{max-width:none;padding:0}body{font-size:11pt;print-color-adjust:exact;-webkit-print-color-adjust:exact}"
".rows.many{max-height:none;overflow:visible}tr,.chart,.verdict{break-inside:avoid}"
".wide{overflow:visible}svg.topology{max-width:100%;height:auto}}\n";
