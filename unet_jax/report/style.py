"""How the report looks: light and dark by the reader's setting, wide and narrow."""

STYLE = '''
:root{--page:#fff;--text:#1b1e23;--soft:#5d6470;--line:#dfe2e7;--card:#f5f6f8;--link:#2f64a8}
@media(prefers-color-scheme:dark){:root{--page:#14161a;--text:#e4e6ea;--soft:#9aa1ad;--line:#31353d;--card:#1d2026;
--link:#8db8ee}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--text);font:16px/1.5 system-ui,-apple-system,'Segoe UI',sans-serif}
header,main{max-width:72rem;margin:auto;padding:0 1rem}
header{padding-top:2rem}h1{font-size:1.7rem;margin:0;overflow-wrap:anywhere}header p{margin:.2rem 0;color:var(--soft)}
@media(min-width:64rem){main{display:grid;grid-template-columns:1fr 1fr;column-gap:3rem}section{grid-column:1/-1}
#learning-curves{grid-column:1}#metrics{grid-column:2}#dice-of-every-case,#volumes{grid-column:auto}}
nav ul{display:flex;flex-wrap:wrap;gap:.2rem 1.1rem;list-style:none;padding:0;margin:.8rem 0 0;font-size:.9rem}
a{color:var(--link)}.every{max-height:28rem;overflow:auto}.every thead th{position:sticky;top:0;background:var(--page)}
.every th[scope=row]{overflow-wrap:anywhere;min-width:8rem}.every a{white-space:nowrap}
.copy{font:inherit;font-size:.82rem;color:inherit;background:var(--card);border:1px solid var(--soft);
border-radius:4px;padding:.2rem .6rem;cursor:pointer}:focus-visible{outline:3px solid var(--link);outline-offset:2px}
@media print{nav,.copy{display:none}.every{max-height:none;overflow:visible}}
section{min-width:0;border-top:1px solid var(--line);margin-top:2rem;padding-top:.4rem}
h2{font-size:1.2rem;margin:.8rem 0}h3{font-size:1rem;margin:1.2rem 0 .5rem}
.small,.todo,figcaption{color:var(--soft);font-size:.875rem}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(9rem,1fr));gap:.8rem;max-width:50rem}
.card{background:var(--card);border-left:5px solid var(--ink);border-radius:4px;padding:.7rem 1rem}
.card h3,.card p{margin:0}.card h3{font-weight:600;overflow-wrap:anywhere}
.card p{color:var(--soft);font-variant-numeric:tabular-nums}
.card span{white-space:nowrap}.card .big{font-size:2.2rem;line-height:1.25;font-weight:650;color:var(--text)}
.chart{display:block;width:100%;max-width:42rem;height:auto}
.wide{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.925rem}
th,td{text-align:left;padding:.4rem 1.1rem .4rem 0;border-bottom:1px solid var(--line);vertical-align:top}
th[scope=row]{font-weight:500}td b{display:block}td span{display:block;color:var(--soft);font-size:.82rem;
white-space:nowrap}
.plain td{overflow-wrap:anywhere}
.films{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,20rem),1fr));gap:1.2rem}
.volumes{grid-template-columns:repeat(auto-fill,minmax(min(100%,28rem),1fr))}
figure{margin:0;min-width:0}figure img{display:block;width:100%;height:auto;border-radius:4px;background:#000}
figure:target{grid-column:1/-1;max-width:56rem}figcaption{padding:.4rem 0;overflow-wrap:anywhere}
figcaption b{color:var(--text)}figcaption i{font-style:normal;white-space:nowrap;border:1px solid var(--line);
border-radius:1em;padding:0 .6em;margin-left:.3em}
pre{background:var(--card);border-radius:4px;padding:.8rem 1rem;overflow-x:auto;font-size:.82rem;line-height:1.45}
.wrap{white-space:pre-wrap;overflow-wrap:anywhere}
code{background:var(--card);border-radius:3px;padding:.1em .35em;font-size:.9em}
.notes{padding-left:1.2rem}summary{cursor:pointer;color:var(--link)}
'''
