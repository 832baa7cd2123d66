"""Style and script of the page, in it: it needs no network, and runs where only embedded scripts do."""

from __future__ import annotations

from .svg import PALETTE

STYLE = """
:root{color-scheme:light dark;--paper:#fff;--ink:#1c1c1c;--soft:#5b5b5b;--rule:#e3e3e3;--band:#f6f6f4;
--shade:#0006;
--q0:#00224e;--q1:#3f4e6d;--q2:#7c7b78;--q3:#bcaf6f;--q4:#e6d37c}
@media(prefers-color-scheme:dark){:root{--paper:#141516;--ink:#ececec;--soft:#a6a6a6;--rule:#33363a;
--band:#1d1f21;--shade:#fff6;
--q0:#fde737;--q1:#c9bd74;--q2:#94918e;--q3:#5f6570;--q4:#3a4a68}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
main,header{max-width:1320px;margin:auto;padding:0 16px}
h1{font-size:1.6rem;line-height:1.25;margin:24px 0 8px}
h2{font-size:1.25rem;margin:40px 0 4px}
h3{font-size:1rem;margin:16px 0 4px}
p,ul{max-width:75ch;margin:6px 0}
.soft,figcaption,.note{color:var(--soft);font-size:.875rem}
code,pre{font:.875rem/1.5 ui-monospace,monospace;overflow-wrap:anywhere;white-space:pre-wrap}
pre{background:var(--band);padding:8px 12px;border-radius:6px}
nav{display:flex;flex-wrap:wrap;gap:4px;padding:4px 0;background:var(--paper)}
nav button{flex:none;display:flex;align-items:center;gap:6px;font:inherit;font-size:.8125rem;color:inherit;
background:none;border:1px solid transparent;border-radius:6px;padding:4px 8px;min-height:32px;cursor:pointer}
nav button:hover,nav button[aria-pressed=true]{border-color:var(--soft);background:var(--band)}
nav svg{width:28px;height:10px}
@media(min-width:900px){.short{max-width:none;columns:2;column-gap:32px}
.short li{break-inside:avoid}nav{position:sticky;top:0;z-index:2;border-bottom:1px solid var(--rule)}
nav button{padding:1px 8px;min-height:26px}}
.grid-of{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,330px),1fr));gap:16px 24px}
figure{margin:8px 0;max-width:600px}
figure svg,.bars svg{display:block;width:100%;height:auto}
figcaption{color:var(--ink);font-weight:600}
figcaption span{font-weight:400;color:var(--soft)}
details{border-top:1px solid var(--rule);padding:4px 0}
summary{cursor:pointer;padding:6px 0;font-weight:600}
svg text{font:11px system-ui,sans-serif;fill:var(--soft)}
svg .label{fill:var(--ink)}
svg .halo{fill:var(--ink);stroke:var(--paper);stroke-width:3px;paint-order:stroke}
.grid{stroke:var(--rule)}.axis{stroke:var(--soft)}
.level{stroke:var(--soft);stroke-dasharray:1 3}
polyline{fill:none;stroke-linejoin:round;stroke-linecap:round}
.s{stroke-width:1.8;fill:none}.base{stroke-width:3.4}
.d1{stroke-dasharray:7 4}.d2{stroke-dasharray:1 4}.d3{stroke-dasharray:9 3 1 3}
.dim{opacity:.13}.lit{stroke-width:3.8}
.trial{stroke-width:1;opacity:.75}.q0{stroke:var(--q0);stroke-width:1.6}.q1{stroke:var(--q1)}
.q2{stroke:var(--q2)}.q3{stroke:var(--q3)}.q4{stroke:var(--q4)}
.pruned{stroke:var(--soft);stroke-dasharray:2 3;opacity:.45}
.kept{stroke:#d55e00;stroke-width:3;opacity:1}
.run{stroke-width:1.8;stroke:var(--ink)}.run.beside{stroke:#767676}.run.rate{stroke-dasharray:5 3}
.mark path{stroke:var(--soft);stroke-width:.7;opacity:.5}
.mark circle{fill:var(--ink);stroke:var(--paper)}.mark.undone circle{fill:var(--paper);stroke:var(--ink)}
.bars{display:grid;grid-template-columns:minmax(0,17rem) minmax(120px,360px);gap:6px 12px;align-items:center}
.bars svg text{fill:#fff;font-weight:600}.b0{fill:#0072b2}.b1{fill:#b04e00}.b2{fill:#00785a}
.key i{display:inline-block;width:22px;height:0;border-top:3px solid;vertical-align:middle;
margin:0 6px 0 12px}.key i.beside{color:#767676}.key i.rate{border-top-style:dashed}
.scroll{overflow-x:auto;margin:8px 0;
background:linear-gradient(90deg,transparent,var(--paper) 60%) 100%/40px 100% no-repeat local,
linear-gradient(90deg,transparent,var(--shade)) 100%/18px 100% no-repeat scroll}
table{border-collapse:collapse;font-size:.8125rem;font-variant-numeric:tabular-nums}
th,td{padding:4px 10px;text-align:right;border-bottom:1px solid var(--rule);white-space:nowrap}
th{font-weight:600;color:var(--soft);vertical-align:bottom}
.w{text-align:left}td.w{max-width:34rem;white-space:normal;overflow-wrap:break-word;min-width:8.5rem}
td:first-child,th:first-child{position:sticky;left:0;background:var(--paper);
box-shadow:1px 0 var(--rule)}
#tip{position:fixed;z-index:3;pointer-events:none;background:var(--ink);color:var(--paper);border-radius:4px;
padding:3px 8px;font-size:.8125rem;max-width:min(320px,90vw)}
@media(max-width:600px){main,header{padding:0 12px}.bars{grid-template-columns:1fr;gap:2px}
.bars svg{margin-bottom:8px}
td:first-child{max-width:9.5rem}}
""" + "".join(f".c{i}{{stroke:{color}}}" for i, color in enumerate(PALETTE))

SCRIPT = """
const lines=[...document.querySelectorAll('[data-arm]')],keys=[...document.querySelectorAll('[data-key]')];
const tip=document.getElementById('tip');let held=null;
function show(arm){for(const line of lines){const on=arm!==null&&line.dataset.arm===arm;
line.classList.toggle('dim',arm!==null&&!on);line.classList.toggle('lit',on)}}
const names=Object.fromEntries(keys.map(key=>[key.dataset.key,key.textContent]));
for(const key of keys){const arm=key.dataset.key;
key.onpointerenter=event=>{if(event.pointerType==='mouse')show(arm)};key.onpointerleave=()=>show(held);
key.onclick=()=>{held=held===arm?null:arm;
for(const other of keys)other.setAttribute('aria-pressed',held===other.dataset.key);show(held)}}
function say(text,event){tip.textContent=text;tip.hidden=false;
tip.style.left=Math.max(4,Math.min(event.clientX+12,innerWidth-tip.offsetWidth-4))+'px';
tip.style.top=Math.max(4,event.clientY-tip.offsetHeight-12)+'px'}
function nearest(svg,event){const box=svg.getBoundingClientRect(),view=svg.viewBox.baseVal;
const x=(event.clientX-box.left)*view.width/box.width,y=(event.clientY-box.top)*view.height/box.height;
let found=null,least=22*view.width/box.width;
for(const line of svg.querySelectorAll('[data-arm]')){if(held!==null&&line.dataset.arm!==held)continue;
[...line.querySelectorAll('polyline')].flatMap(p=>[...p.points])
.filter((point,i,all)=>i===all.length-1||point.x!==all[i+1].x).forEach((point,i)=>{
const far=Math.hypot(point.x-x,point.y-y);if(far<least){least=far;found=[line,i]}})}return found}
for(const svg of document.querySelectorAll('.compare svg')){
svg.onpointermove=event=>{const found=nearest(svg,event);
if(!found){tip.hidden=true;show(held);return}
const [line,i]=found,said=line.dataset.said.split('|');
say(names[line.dataset.arm]+': '+(said[i]||''),event);show(line.dataset.arm)};
svg.onpointerleave=()=>{tip.hidden=true;show(held)}}
for(const dot of document.querySelectorAll('.mark circle')){
const said=dot.textContent;dot.replaceChildren();
dot.onpointerenter=event=>say(said,event);dot.onpointerleave=()=>tip.hidden=true}
"""
