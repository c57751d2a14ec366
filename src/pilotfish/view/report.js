// What the page does: draws the charts in the colours of light or dark, sorts tables, and while a run trains asks for
// what is new. Charts are drawn by Plotly, which is part of the page.

const root = document.documentElement;
const dark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (root.dataset.theme ?? (dark.matches ? "dark" : "light")) === "dark";
const colour = (name) => getComputedStyle(probe(name)).color;

function probe(name) { // a custom property's colour as the browser resolves light-dark()
  const element = document.getElementById("probe");
  element.style.color = `var(--${name})`;
  return element;
}

function layout(given) {
  const [ink, quiet, line] = ["ink", "quiet", "line"].map(colour);
  const axis = { gridcolor: line, linecolor: line, zerolinecolor: line, automargin: true, tickfont: { size: 11 } };
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: ink, size: 12 },
    margin: { l: 50, r: 8, t: 6, b: 36 }, hovermode: "x unified", uirevision: "kept",
    hoverlabel: { bgcolor: colour("raised"), bordercolor: line, font: { color: ink } },
    legend: { orientation: "h", y: -0.22, yanchor: "top", font: { size: 11, color: ink } },
    showlegend: given.showlegend,
    xaxis: { ...axis, ...given.xaxis, title: { ...given.xaxis.title, font: { size: 11, color: quiet } } },
    yaxis: { ...axis, exponentformat: "power", ...given.yaxis,
             title: { ...given.yaxis.title, font: { size: 11, color: quiet } } },
  };
}

const DASHES = ["solid", "dash", "dot", "dashdot"];
function trace({ role, style, ...given }) { // what a line is says what it looks like
  const palette = content.palette[isDark() ? "dark" : "light"];
  const color = palette[style % palette.length];
  const silent = { hoverinfo: "skip", showlegend: false };
  const said = { hovertemplate: "%{y:.4g}" };
  switch (role) {
    case "edge": return { ...given, ...silent, line: { width: 0 } };
    case "band": return { ...given, ...silent, line: { width: 0 }, fill: "tonexty", fillcolor: `${color}2a` };
    case "seed": return { ...given, ...silent, line: { width: 0.7, color }, opacity: 0.5 };
    case "bound": return { ...given, ...said, line: { width: 1.5, dash: "2px 2px", color: colour("bad") } };
    default: return { ...given, ...said, line: { width: 2.2, color, dash: DASHES[style % DASHES.length] } };
  }
}

function draw(figure) {
  const chart = content.charts[figure.dataset.chart];
  const plot = figure.querySelector(".plot");
  const log = figure.querySelector("button.log");
  const shown = layout(chart.layout);
  if (log.dataset.touched) shown.yaxis = { ...shown.yaxis, type: log.dataset.touched, range: undefined };
  log.setAttribute("aria-pressed", shown.yaxis.type === "log");
  Plotly.react(plot, chart.data.map(trace), shown, { responsive: true, displaylogo: false, displayModeBar: false });
}

const drawAll = () => document.querySelectorAll("figure[data-chart]").forEach(draw);

function sort(heading) {
  const table = heading.closest("table");
  const place = [...heading.parentNode.children].indexOf(heading);
  const down = heading.getAttribute("aria-sort") === "ascending";
  table.querySelectorAll("th").forEach((th) => th.removeAttribute("aria-sort"));
  heading.setAttribute("aria-sort", down ? "descending" : "ascending");
  const value = (row) => row.children[place].dataset.value;
  const order = (a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x === "" || y === "") return (x === "") - (y === ""); // what is not known stands last, whatever the order
    const numbers = !isNaN(x) && !isNaN(y);
    return (down ? -1 : 1) * (numbers ? x - y : x.localeCompare(y));
  };
  table.tBodies[0].append(...[...table.tBodies[0].rows].sort(order));
}

document.addEventListener("click", (event) => {
  const { target } = event;
  if (target.matches("button.log")) {
    target.dataset.touched = target.getAttribute("aria-pressed") === "true" ? "linear" : "log";
    draw(target.closest("figure"));
  } else if (target.matches("button.theme")) {
    root.dataset.theme = isDark() ? "light" : "dark";
    drawAll();
  } else if (target.matches("table.sortable th")) sort(target);
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && event.target.matches("table.sortable th")) sort(event.target);
});
dark.addEventListener("change", drawAll);

let content;
const keys = (within) => [...within.querySelectorAll("[data-chart]")].map((figure) => figure.dataset.chart).join();

function show(next) { // charts stay where they are, as far as they were zoomed, unless there are others
  content = next;
  if (next.html) {
    const fresh = document.createElement("template");
    fresh.innerHTML = next.html;
    if (keys(fresh.content) !== keys(document)) document.querySelector("main").innerHTML = next.html;
    else for (const part of fresh.content.querySelectorAll("[data-part]")) {
      const old = document.querySelector(`[data-part="${part.dataset.part}"]`);
      if (old.innerHTML !== part.innerHTML) old.innerHTML = part.innerHTML;
    }
  }
  drawAll();
}

async function follow() {
  try {
    show(await (await fetch("content.json", { cache: "no-store" })).json());
  } catch {
    document.getElementById("live").textContent = "The report is not served any more; this is its last state.";
    return;
  }
  setTimeout(follow, 3000);
}

async function library(packed) { // Plotly, as it is packed in this page
  const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  document.head.append(script);
}

library(document.getElementById("plotly").textContent.trim()).then(() => {
  show(JSON.parse(document.getElementById("content").textContent));
  document.body.dataset.drawn = "yes";
  if (document.getElementById("live")) setTimeout(follow, 3000);
});
