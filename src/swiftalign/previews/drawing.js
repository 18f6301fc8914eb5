const SVG = "http://www.w3.org/2000/svg";
const byId = (id) => document.getElementById(id);

function make(name, attributes = {}, ...children) {
  const drawn = ["svg", "g", "polyline", "polygon", "circle", "text"].includes(name);
  const node = drawn ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

function corners(target) {
  const p = target.points;
  if (target.kind !== "bbox" || p.length !== 2) return p;
  return [p[0], [p[1][0], p[0][1]], p[1], [p[0][0], p[1][1]]];
}

const path = (points) => points.map((point) => point.join(",")).join(" ");
const within = (value, low, high) => Math.max(low, Math.min(value, high));

function arrow([ax, ay], [bx, by], size) {
  const length = Math.hypot(bx - ax, by - ay) || 1;
  const x = (bx - ax) / length * size, y = (by - ay) / length * size;
  const mx = (ax + bx) / 2, my = (ay + by) / 2;
  const points = [[mx + x, my + y], [mx - x / 2 - y * .8, my - y / 2 + x * .8], [mx - x / 2 + y * .8, my - y / 2 - x * .8]];
  return make("polygon", {class: "arrow", points: path(points)});
}

function drawTarget(target, width, height, taken) {
  const unit = width / 280;
  const points = corners(target).map(([x, y]) => [x / 1000 * width, y / 1000 * height]);
  const group = make("g", {class: `${target.kind} ${target.status}`});
  const shape = {line: "polyline", point: "circle"}[target.kind] ?? "polygon";
  const [cx, cy] = points[0];
  const place = target.kind === "point" ? {cx, cy, r: 5 * unit} : {points: path(points)};
  for (const name of ["casing", target.kind === "point" ? "stroke dot" : "stroke"]) {
    group.append(make(shape, {class: name, ...place}));
  }
  if (target.kind === "line") {
    for (let i = 1; i < points.length; i++) group.append(arrow(points[i - 1], points[i], 6 * unit));
  }
  if (!["bbox", "point"].includes(target.kind)) {
    points.forEach(([x, y], index) => {
      if (points.length > 12 && index && index < points.length - 1) return;
      group.append(
        make("circle", {class: "dot", cx: x, cy: y, r: 6.5 * unit}),
        make("text", {class: "number", x, y, "font-size": 9 * unit}, String(index + 1)));
    });
  }
  const words = [target.label, target.note].filter(Boolean).join(" · ");
  const size = 11 * unit, long = words.length * size * .56;
  const [x, y] = freePlace(target.kind, points, [long, size], [width, height], taken);
  group.append(make("text", {class: "label", x, y, "font-size": size}, words));
  return group;
}

// The left end of a label's baseline: above or below the target, where no other label is; else the first candidate.
function freePlace(kind, points, [long, size], [width, height], taken) {
  const tops = kind === "bbox" ? [Math.min(...points.map((p) => p[1])), Math.max(...points.map((p) => p[1]))] : null;
  const left = Math.min(...points.map((p) => p[0]));
  const spots = tops ? tops.map((y) => [left + long / 2, y]) : points.slice(0, 12).sort((a, b) => a[1] - b[1]);
  const apart = kind === "bbox" ? .6 * size : .95 * size;
  const places = spots.flatMap(([x, y]) => [[x, y - apart], [x, y + apart + .8 * size]]).map(([x, y]) => [
    within(x - long / 2, .4 * size, Math.max(width - long - .4 * size, .4 * size)),
    within(y, 1.2 * size, height - .4 * size),
  ]);
  const lines = Array.from({length: Math.floor(height / size / 1.6)}, (_, i) => [places[0][0], (i + 1) * 1.6 * size]);
  const free = [...places, ...lines].find(([x, y]) => !taken.some(([left, base, wide]) =>
    x < left + wide + size && left < x + long + size && Math.abs(base - y) < 1.5 * size));
  const [x, y] = free ?? places[0];
  taken.push([x, y, long]);
  return [x, y];
}

function drawView(view, panel) {
  const {width, height} = panel;
  const words = panel.targets.map((t) => [t.kind, t.label, t.note].filter(Boolean).join(" ")).join("; ");
  const svg = make("svg", {viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img"});
  svg.setAttribute("aria-label", words || "no targets");
  const taken = [];
  svg.append(...panel.targets.map((target) => drawTarget(target, width, height, taken)));
  view.style.width = `min(100%, ${(75 * width / height).toFixed(2)}vh)`;
  view.replaceChildren(make("img", {src: panel.source, alt: panel.title, width, height}), svg);
}
